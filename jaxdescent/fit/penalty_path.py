"""The search for a penalty: from the spectrum of the sums, or, where each penalty needs a descent,
on a path from the largest one down, on which each descent starts where the one before ended.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent.data import NormalSums
from jaxdescent.display import number
from jaxdescent.fit.job import Job
from jaxdescent.fit.plans import probes_for
from jaxdescent.fit.solution import penalised_sums
from jaxdescent.fit.vectors import Vectors
from jaxdescent.regression import LinearRegression
from jaxdescent.result import Result
from jaxdescent.status import Status

HELD_OUT = "held-out rows"

A_DECADE = 5
LOWEST, LOW, HIGH = -15, -9, 3
"""Powers of ten between which penalties are tried, as parts of the mean eigenvalue: from ``LOW`` to
``HIGH``, or from as low as ``LOWEST`` where a few columns are so long that the mean is theirs."""

NO_BETTER = 1e-6
"""Scores that differ by at most this part count as equal."""

BELOW = 4
"""Powers of ten that the path reaches below the median of the columns' squared lengths."""

PROBE_SEED = 2**61

TURNED, LOST = 5, 10
"""Penalties after the best one that end the path, five a decade: ``TURNED`` of them where the last
is worse by the factor ``CLEARLY``, ``LOST`` of them in any case."""

NUMBERS = ("width", "best_at", "iterations", "degrees", "scores")
"""The attributes of a search that is kept, beside its params."""

CLEARLY = 1.01
BETTER = 1 - 1e-6


class Path(NamedTuple):
    """Penalties that were tried, and what each scored: the less the better.

    Attributes:
      penalties: the penalties, from the smallest to the largest.
      scores: the score of each penalty.
      rule: the rule by which penalties are scored, in words.
      best: the place of the best penalty.
      is_cut: whether smaller penalties were to be tried, and could not be.
    """

    penalties: np.ndarray
    scores: np.ndarray
    rule: str
    best: int
    is_cut: bool = False

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


def path_by_sums(
    data: NormalSums,
    rows: int,
    *,
    standardize: bool,
    held_out: Callable[[np.ndarray, float], float] | None,
) -> Path:
    """The scores of many penalties, from one spectrum.

    Args:
      data: the sums of the training rows.
      rows: how many training rows there are.
      standardize: whether the penalty is on the weights of standardised features.
      held_out: the squared error of weights and an intercept on other rows; without it generalised
        cross-validation decides: ``rows * RSS / (rows - degrees - 1)^2``.

    Reference: Golub, Heath and Wahba (1979), "Generalized cross-validation as a method for
    choosing a good ridge parameter".
    """
    scales, _, matrix, cross = penalised_sums(data, standardize=standardize)
    values, vectors = np.linalg.eigh(matrix)
    values = np.maximum(values, 0)
    penalties = penalties_from(matrix.diagonal())
    along = vectors.T @ cross
    scores = np.empty(penalties.size)
    for index, l2 in enumerate(penalties):
        coordinates = along / (values + l2)
        if held_out is None:
            residual = data.squares - np.sum((2 * along - values * coordinates) * coordinates)
            degrees = np.sum(values / (values + l2))
            scores[index] = _generalised(rows, max(residual, 0.0), degrees)
        else:
            weights = vectors @ coordinates / scales
            scores[index] = held_out(
                weights, float(data.target_mean[0] - weights @ data.feature_mean)
            )
    rule = "generalised cross-validation" if held_out is None else HELD_OUT
    return Path(penalties, scores, rule, int(np.nanargmin(scores)))


class Tried(NamedTuple):
    """The results of descents at some penalties, in the order of the penalties.

    Attributes:
      params: for each penalty, the params of each target.
      predicted: for each penalty, a function that gives the prediction of each target, (rows,).
      is_done: whether all descents converged.
      iterations: how many iterations all descents took.
    """

    params: list[list[Any]]
    predicted: list[Callable[[int], Any]]
    is_done: bool
    iterations: int


Try = Callable[[np.ndarray, Sequence[float], list[Any]], Tried]
"""A function that minimises for targets (rows, targets) at penalties, from each target's params."""


@dataclasses.dataclass
class SearchState:
    """The state of the search.

    Attributes:
      params: the params of each target at the smallest penalty so far.
      width: how many penalties are tried at a time.
      scores: the scores of the penalties so far, the largest penalty first.
      best: the params at the best penalty, whose place is ``best_at``.
      degrees: the degrees of freedom there; NaN where they are not estimated.
      iterations: how many iterations all descents took.
    """

    params: list[Any]
    width: int
    best: Any
    scores: list[float] = dataclasses.field(default_factory=list)
    best_at: int = 0
    degrees: float = float("nan")
    iterations: int = 0

    def add(self, score: float, params: list[Any], degrees: float) -> None:
        """Take in the score of the next penalty, with its params and degrees of freedom."""
        place = len(self.scores)
        if not self.scores or score < self.scores[self.best_at] * BETTER:
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


def search_by_descents(
    job: Job,
    objective: LinearRegression,
    vectors: Vectors,
    start: Any,
    attempt: Try,
    *,
    width: int,
) -> tuple[Path, SearchState]:
    """The path to the penalty of the least error on held-out rows, or by generalised
    cross-validation, and the state of the search at its end.

    The latter is ``rows * RSS / (rows - degrees - 1)^2``, where the degrees of freedom, the trace
    of the matrix that takes targets to predictions, are estimated as the mean of ``z . prediction
    of z`` over a few random vectors z of signs (Hutchinson), which take the targets' place in
    further descents.

    Args:
      job: the job of the fit.
      objective: an objective with one output, whose targets are of unit spread.
      vectors: the vectors over the rows, with the diagonal of the Hessian without a penalty.
      start: params to begin from.
      attempt: minimises for some penalties from some params on.
      width: how many penalties are tried at a time: those that do not converge together are tried
        in halves.

    References: Golub, Heath and Wahba (1979), "Generalized cross-validation as a method for
    choosing a good ridge parameter"; Hutchinson (1989), "A stochastic estimator of the trace of the
    influence matrix for Laplacian smoothing splines".
    """
    downwards, checkpoint = penalties_from(vectors.penalised_squares)[::-1], job.checkpoint
    job.watch.begin("searching", downwards.size, "penalties at most")
    train, held_out = vectors.parts
    targets = np.asarray(objective.y)[:, None]
    if held_out is None:
        count = probes_for(len(targets))
        signs = np.random.default_rng(PROBE_SEED).integers(0, 2, (len(targets), count), np.int8)
        targets = np.column_stack([targets, (2 * signs - 1).astype(targets.dtype)])
    course, is_cut = SearchState([start] * targets.shape[1], width, start), False
    found = {} if checkpoint is None else checkpoint.kept_search()
    if found:
        course = course.restored(found)
    while len(course.scores) < downwards.size and not course.is_over:
        if checkpoint is not None:
            checkpoint.stop_if_asked(f"the search with {len(course.scores):,} penalties tried")
        first = len(course.scores)
        penalties = downwards[first : first + course.width]
        tried = attempt(targets, penalties.tolist(), course.params)
        course.iterations += tried.iterations
        if not tried.is_done and (first or penalties.size > 1):
            if penalties.size == 1:
                is_cut = True  # the dtype or the iterations do not suffice for smaller penalties
                break
            course.width = -(-penalties.size // 2)
            continue
        for l2, params, predicted in zip(penalties, tried.params, tried.predicted, strict=True):
            if held_out is not None:
                error = np.square(np.asarray(predicted(0), np.float64) - targets[:, 0])
                score, degrees = float(held_out @ error / held_out.sum()), float("nan")
            else:
                score, degrees = _cross_validation(predicted, targets, train)
            course.add(score, params, degrees)
            job.watch.advance(len(course.scores))
            job.watch.tell(f"l2 {l2:.3g}, RMSE {score**0.5:.4g} of the target's spread")
            job.memory.check()
            if course.is_over:
                break
        if checkpoint is not None:
            checkpoint.keep_search(course.as_arrays())
    rule = HELD_OUT
    if held_out is None:
        count = targets.shape[1] - 1
        rule = f"generalised cross-validation, its trace estimated by {count} random vectors"
    count = len(course.scores)
    path = Path(
        downwards[:count][::-1],
        np.asarray(course.scores[::-1]),
        rule,
        count - 1 - course.best_at,
        is_cut=is_cut,
    )
    job.watch.searched(path.penalties, path.scores, path.best)
    return path, course


def has_converged(result: Result) -> bool:
    """Whether a descent has converged."""
    return Status(int(result.status)) is Status.CONVERGED


def _cross_validation(
    predicted: Callable[[int], Any], targets: np.ndarray, train: np.ndarray
) -> tuple[float, float]:
    """The score of generalised cross-validation, and the degrees of freedom."""
    rows, total = int(np.count_nonzero(train)), train.sum()
    once, traces = (train > 0).astype(np.float64), []
    for place in range(1, targets.shape[1]):
        own = np.asarray(predicted(place), np.float64)
        own = own - train @ own / total
        traces.append(float(once @ (own * targets[:, place])))
    degrees = float(np.mean(traces))
    error = np.square(np.asarray(predicted(0), np.float64) - targets[:, 0])
    return _generalised(rows, float(train @ error), max(degrees, 0.0)), degrees


def _generalised(rows: int, squares: float, degrees: float) -> float:
    """The score of generalised cross-validation."""
    free = rows - 1 - degrees
    return rows * squares / free**2 if free > 0 else np.inf
