"""The penalties that a search tries, their scores, and the state of a search by descents."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent.display import number

HELD_OUT = "held-out rows"

A_DECADE = 5
LOWEST, LOW, HIGH = -15, -9, 3
"""Powers of ten between which penalties are tried, as parts of the mean eigenvalue: from ``LOW`` to
``HIGH``, or from as low as ``LOWEST`` where a few columns are so long that the mean is theirs."""

NO_BETTER = 1e-6
"""Scores that differ by at most this part count as equal."""

BELOW = 4
"""Powers of ten that the path reaches below the median of the columns' squared lengths."""

TURNED, LOST = 5, 10
"""Penalties after the best one that end the path, five a decade: ``TURNED`` of them where the last
is worse by the factor ``CLEARLY``, ``LOST`` of them in any case."""

NUMBERS = ("width", "best_at", "iterations", "degrees", "scores")
"""The attributes of a search that is kept, beside its params."""

CLEARLY = 1.01


class Path(NamedTuple):
    """Penalties that were tried, and what each scored: the less the better."""

    penalties: np.ndarray  # from the smallest to the largest
    scores: np.ndarray  # the score of each penalty
    rule: str  # the rule by which penalties are scored, in words
    best: int  # the place of the best penalty
    is_cut: bool = False  # whether smaller penalties were to be tried, and could not be

    @property
    def is_at_end(self) -> bool:
        """Whether the scores still got better at the end of the path where the best is."""
        last = len(self.penalties) - 1
        if self.best not in (0, last):
            return False
        beside = self.scores[min(1, last)] if self.best == 0 else self.scores[last - 1]
        return self.is_cut or not beside <= self.scores[self.best] * (1 + NO_BETTER)

    @property
    def notes(self) -> list[str]:
        """Notes on the search, as sentences."""
        notes = [f"l2 was chosen among {len(self.penalties)} by {self.rule}."]
        if self.rule == HELD_OUT:
            notes.append("The held-out rows chose l2: their error is a little optimistic.")
        ends = f"{number(self.penalties[0])} to {number(self.penalties[-1])}"
        if self.is_cut:
            notes.append(
                f"Penalties below {number(self.penalties[0])} did not converge in this dtype: the "
                "path ends there."
            )
        if self.is_at_end:
            notes.append(
                f"The chosen l2 is at the end of the path, {ends}: a better one may lie beyond it."
            )
        return notes


def penalties_from(squares: np.ndarray) -> np.ndarray:
    """The penalties that are tried, from the smallest up, given the columns' squared lengths about
    their means, whose mean is the mean eigenvalue; 61 penalties where the lengths are alike.
    """
    varying = squares[squares > 0]
    if not varying.size:
        varying = np.ones(1)
    typical = float(np.mean(varying))
    below = int(np.floor(np.log10(float(np.median(varying)) / typical))) - BELOW
    low = max(min(LOW, below), LOWEST)
    return typical * np.logspace(low, HIGH, A_DECADE * (HIGH - low) + 1)


@dataclasses.dataclass
class SearchState:
    """The state of the search."""

    params: list[Any]  # the params of each target at the smallest penalty so far
    width: int  # how many penalties are tried at a time
    best: Any  # the params at the best penalty, whose place is ``best_at``
    # The scores of the penalties so far, the largest penalty first.
    scores: list[float] = dataclasses.field(default_factory=list)
    best_at: int = 0
    degrees: float = float("nan")  # the degrees of freedom there; NaN where they are not estimated
    iterations: int = 0  # how many iterations all descents took

    def add(self, score: float, params: list[Any], degrees: float) -> None:
        """Take in the score of the next penalty, with its params and degrees of freedom."""
        place = len(self.scores)
        if not self.scores or score < self.scores[self.best_at] * (1 - NO_BETTER):
            self.best, self.best_at, self.degrees = params[0], place, degrees
        self.scores.append(score)
        self.params = params

    @property
    def is_over(self) -> bool:
        """Whether the scores have risen for long enough to end the search."""
        if not self.scores:
            return False
        since, score = len(self.scores) - 1 - self.best_at, self.scores[-1]
        return since >= LOST or (since >= TURNED and score > CLEARLY * self.scores[self.best_at])

    def as_arrays(self) -> dict[str, Any]:
        """The state as arrays by name."""
        leaves = jax.tree.leaves((self.params, self.best))
        named = {f"leaf {place}": leaf for place, leaf in enumerate(leaves)}
        return {name: getattr(self, name) for name in NUMBERS} | named

    def restored(self, found: Mapping[str, Any]) -> SearchState:
        """The state from arrays by name; its params have the structure of these ones."""
        like, structure = jax.tree.flatten((self.params, self.best))
        leaves = [jnp.asarray(found[f"leaf {place}"]) for place in range(len(like))]
        params, best = jax.tree.unflatten(structure, leaves)
        return SearchState(params, best=best, **{name: found[name].tolist() for name in NUMBERS})


def generalised(rows: int, squares: float, free: float) -> float:
    """The score of generalised cross-validation, ``rows * RSS / free^2``: ``free`` is the number
    of rows less the degrees of freedom, one for the intercept among them.
    """
    return rows * squares / free**2 if free > 0 else np.inf
