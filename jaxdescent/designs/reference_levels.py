"""Which weights of several categorical designs the data leave free, and which levels fix them.

Two factors, such as workers and firms, are a graph: their levels are its nodes and each row is an
edge. In a connected component every row has a level of either factor, so that a number added to all
its levels of the one and taken off all its levels of the other changes no prediction. Each
component is one free constant; each further factor brings at least one more, and an intercept
another. A regression without a penalty then has many minima: iterations from zeros find the one of
least norm, and a reference level for each constant makes the minimum unique.

Reference: Abowd, Creecy and Kramarz (2002), "Computing person and firm effects using linked
longitudinal employer-employee data".
"""

from __future__ import annotations

import numpy as np


def references(
    factors: dict[str, tuple[np.ndarray, int]], *, intercept: bool
) -> dict[str, np.ndarray]:
    """One level for each constant that the data leave free, by the name of its factor.

    Args:
      factors: codes and the number of levels by name, -1 for rows without a level. The first two
        factors are taken as a graph; for each further factor only the constant that it shares with
        these is counted, so that with three factors or more other constants may be free.
      intercept: whether a constant is added to all rows.
    """
    chosen: dict[str, np.ndarray] = {}
    names = list(factors)
    complete = [name for name in names if np.all(factors[name][0] >= 0)]
    if len(names) > 1:
        first, second = names[:2]
        chosen[second] = _one_of_each_component(*factors[first], *factors[second])
    for name in names[2:]:
        # The columns of a complete factor add up to ones, as those of another complete factor do.
        if name in complete and complete[0] != name:
            chosen[name] = _by_frequency(*factors[name])[:1]
    if intercept and complete:
        name = complete[0]
        codes, levels = factors[name]
        taken = chosen.get(name, np.zeros(0, np.int64))
        free = _by_frequency(codes, levels)
        if taken.size:
            # Two levels of one component would fix its constant twice, and none the intercept's.
            component = components(*factors[names[0]], codes, levels)[1]
            free = free[~np.isin(component[free], component[taken])]
        chosen[name] = np.concatenate([taken, free[:1]])
    return {name: np.sort(levels) for name, levels in chosen.items() if levels.size}


def components(
    first: np.ndarray, first_levels: int, second: np.ndarray, second_levels: int
) -> tuple[np.ndarray, np.ndarray]:
    """The connected component of each level of both factors, by number; levels that no row has are
    components of their own.
    """
    # JAX requires SciPy, whose import takes a fifth of a second.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    both, nodes = (first >= 0) & (second >= 0), first_levels + second_levels
    edges = first[both].astype(np.int64), second[both].astype(np.int64) + first_levels
    graph = coo_array((np.ones(len(edges[0]), bool), edges), (nodes, nodes))
    label = connected_components(graph, directed=False)[1]
    return label[:first_levels], label[first_levels:]


def _one_of_each_component(
    first: np.ndarray, first_levels: int, second: np.ndarray, second_levels: int
) -> np.ndarray:
    """The most frequent level of the second factor in each component whose constant is free."""
    of_first, of_second = components(first, first_levels, second, second_levels)
    is_free = np.zeros(first_levels + second_levels, bool)
    is_free[of_second[second[(first >= 0) & (second >= 0)]]] = True
    # A row with a level of only one of the factors determines the component's constant.
    is_free[of_first[first[(first >= 0) & (second < 0)]]] = False
    is_free[of_second[second[(second >= 0) & (first < 0)]]] = False
    order = _by_frequency(second, second_levels)
    _, place = np.unique(of_second[order], return_index=True)
    best = order[np.sort(place)]
    return best[is_free[of_second[best]]]


def _by_frequency(codes: np.ndarray, levels: int) -> np.ndarray:
    """All levels, the most frequent first."""
    return np.argsort(-np.bincount(codes[codes >= 0], minlength=levels), kind="stable")
