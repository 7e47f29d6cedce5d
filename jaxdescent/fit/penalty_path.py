"""A penalty by search where the rows are kept in memory: a path of descents from the largest one
down, each of which starts where the one before ended.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdescent.fit.solution import HELD_OUT, Path, penalties_from
from jaxdescent.regression import LinearRegression
from jaxdescent.result import Result, Status

FEWEST_PROBES, MOST_PROBES, PROBE_ROWS = 4, 32, 1 << 20
"""Random vectors by which the degrees of freedom are estimated where no rows are held out: as many
as have so many rows in all, within bounds."""

PROBE_SEED = 2**61

TURNED, LOST = 5, 10
"""Penalties after the best one, five a decade: so many that are all worse, the last by
:data:`CLEARLY`, or so many at all without a better one, end the path."""

CLEARLY = 1.01
BETTER = 1 - 1e-6


class Search(NamedTuple):
    """What a search found.

    Attributes:
      path: the penalties that were tried, and their scores.
      params: at the best one.
      degrees: of freedom at the best one, where they were estimated.
      iterations: of all descents.
    """

    path: Path
    params: dict[str, Any]
    degrees: float | None
    iterations: int


def search(
    objective: LinearRegression,
    squares: np.ndarray,
    start: Any,
    *,
    train: np.ndarray,
    held_out: np.ndarray | None,
    descend: Callable[[LinearRegression, Any], Result],
    tell: Callable[[int, str], None],
) -> Search:
    """The penalty of the least error on held-out rows, or by generalised cross-validation.

    The latter is ``rows * RSS / (rows - degrees - 1)^2``, where the degrees of freedom, the trace
    of the matrix that takes targets to predictions, are estimated as the mean of ``z . prediction
    of z`` over a few random vectors z of signs (Hutchinson), which take the targets' place in
    further descents.

    Args:
      objective: with one output, whose targets are of unit spread.
      squares: (features,), the diagonal of the Hessian without a penalty.
      start: params to begin from.
      train: (rows,), the weights of the training rows; zero for the others.
      held_out: (rows,), the weights of the held-out rows, or None.
      descend: minimises an objective from some params on.
      tell: is told how many penalties have been tried, and how it goes.

    References: Golub, Heath and Wahba (1979), "Generalized cross-validation as a method for
    choosing a good ridge parameter"; Hutchinson (1989), "A stochastic estimator of the trace of the
    influence matrix for Laplacian smoothing splines".
    """
    penalties = penalties_from(squares)
    targets = np.asarray(objective.y, np.float64)[:, None]
    if held_out is None:
        count = probes_for(len(targets))
        signs = np.random.default_rng(PROBE_SEED).integers(0, 2, (len(targets), count))
        targets = np.column_stack([targets, 2.0 * signs - 1.0])
    dtype = objective.y.dtype
    problems = [
        dataclasses.replace(objective, y=jnp.asarray(column.astype(dtype))) for column in targets.T
    ]
    params: list[Any] = [start] * len(problems)
    scores: list[float] = []
    best: tuple[float, Any, float | None] | None = None
    best_at, iterations, is_cut = 0, 0, False
    for index, l2 in enumerate(penalties[::-1]):
        results = [
            descend(dataclasses.replace(problem, l2=jnp.asarray(l2, dtype)), own)
            for problem, own in zip(problems, params, strict=True)
        ]
        iterations += sum(int(result.iterations) for result in results)
        done = [Status(int(result.status)) is Status.CONVERGED for result in results]
        if not all(done) and index:
            is_cut = True  # below it the dtype or the iterations do not suffice
            break
        params = [result.params for result in results]
        predicted = np.column_stack(
            [np.asarray(objective.predict(own, objective.X), np.float64) for own in params]
        )
        degrees = None
        if held_out is not None:
            error = np.square(predicted[:, 0] - targets[:, 0])
            score = float(held_out @ error / held_out.sum())
        else:
            score, degrees = _cross_validation(predicted, targets, train)
        scores.append(score)
        tell(index + 1, f"l2 {l2:.3g}, RMSE {np.sqrt(score):.4g} of the target's spread")
        if best is None or score < best[0] * BETTER:
            best, best_at = (score, params[0], degrees), index
        since = index - best_at
        if since >= LOST or (since >= TURNED and score > CLEARLY * best[0]):
            break
    assert best is not None
    rule = HELD_OUT
    if held_out is None:
        count = len(problems) - 1
        rule = f"generalised cross-validation, its trace estimated by {count} random vectors"
    tried = penalties[-len(scores) :]
    path = Path(tried, np.asarray(scores[::-1]), rule, len(scores) - 1 - best_at, is_cut=is_cut)
    return Search(path, best[1], best[2], iterations)


def probes_for(rows: int) -> int:
    """How many random vectors estimate the trace."""
    return min(max(PROBE_ROWS // rows, FEWEST_PROBES), MOST_PROBES)


def _cross_validation(
    predicted: np.ndarray, targets: np.ndarray, train: np.ndarray
) -> tuple[float, float]:
    """The score, and the degrees of freedom."""
    rows = int(np.count_nonzero(train))
    centred = predicted - (train @ predicted / train.sum())[None, :]
    own = np.sum((targets * centred)[train > 0, 1:], axis=0)
    degrees = float(np.mean(own))
    residual = float(train @ np.square(predicted[:, 0] - targets[:, 0]))
    free = rows - 1 - max(degrees, 0.0)
    return (rows * residual / free**2 if free > 0 else np.inf), degrees
