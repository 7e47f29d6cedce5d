"""The penalties that a search for l2 tries, and their scores by the sums of one pass."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxdescent.display import number
from jaxdescent.fit.rows import TEST
from jaxdescent.fit.sums import EPS, Moments, ProductSums

HELD_OUT = "held-out rows"

A_DECADE = 5
LOWEST, LOW, HIGH = -15, -9, 3
"""Powers of ten between which penalties are tried, as parts of the mean eigenvalue: from ``LOW`` to
``HIGH``, or from as low as ``LOWEST`` where a few columns are so long that the mean is theirs."""

BELOW = 4
"""Powers of ten that the path reaches below the median of the columns' squared lengths."""

NO_BETTER = 1e-6
"""Scores that differ by at most this part count as equal."""

ROUGH = 1e-13
"""An eigenvalue below this part of the largest one is rounding."""


class Path(NamedTuple):
    """Penalties that were tried, and what each scored: the less the better."""

    penalties: np.ndarray  # from the smallest to the largest
    scores: np.ndarray  # the score of each penalty
    rule: str  # the rule by which penalties are scored, in words
    best: int  # the place of the best penalty

    @property
    def notes(self) -> list[str]:
        """Notes on the search, as sentences."""
        notes = [f"l2 was chosen among {len(self.penalties)} by {self.rule}."]
        if self.rule == HELD_OUT:
            notes.append("The held-out rows chose l2: their error is a little optimistic.")
        last = len(self.penalties) - 1
        beside = self.scores[min(1, last)] if self.best == 0 else self.scores[last - 1]
        if self.best in (0, last) and not beside <= self.scores[self.best] * (1 + NO_BETTER):
            ends = f"{number(self.penalties[0])} to {number(self.penalties[-1])}"
            notes.append(
                f"The chosen l2 is at the end of the path, {ends}: a better one may lie beyond it."
            )
        return notes


def penalties_from(squares: np.ndarray, a_decade: int = A_DECADE) -> np.ndarray:
    """The penalties that are tried, from the smallest up, given the columns' squared lengths about
    their means, whose mean is the mean eigenvalue.
    """
    varying = squares[squares > 0]
    if not varying.size:
        varying = np.ones(1)
    typical = float(np.mean(varying))
    below = int(np.floor(np.log10(float(np.median(varying)) / typical))) - BELOW
    low = max(min(LOW, below), LOWEST)
    return typical * np.logspace(low, HIGH, a_decade * (HIGH - low) + 1)


def path_by_sums(sums: ProductSums, data: Moments, *, standardize: bool) -> Path:
    """The scores of many penalties on held-out rows, or by generalised cross-validation, ``rows *
    RSS / (rows - 1 - degrees of freedom)^2``, from one spectrum.

    Reference: Golub, Heath and Wahba (1979), "Generalized cross-validation as a method for
    choosing a good ridge parameter".
    """
    scales, matrix, cross = data.scaled(standardize=standardize)
    penalties = penalties_from(matrix.diagonal())
    values, vectors = np.linalg.eigh(matrix)
    values, along = np.maximum(values, 0), vectors.T @ cross
    # The rows can be met: their squares and degrees of freedom are no differences of rounded sums.
    is_tested, rows = sums.job.is_tested, sums.weighed
    most, floor = rows - 1, max(ROUGH, 16 * values.size * EPS) * values[-1]
    is_met = 0 < most <= values.size and values[-most] > floor
    if is_met:
        values, along, vectors = values[-most:], along[-most:], vectors[:, -most:]
    scores, hidden = np.empty(penalties.size), np.zeros(penalties.size, bool)
    for index, l2 in enumerate(penalties):
        coordinates = along / (values + l2)
        weights = vectors @ coordinates / scales
        intercept = float(data.target_mean - weights @ data.means)
        squares, rounding = sums.squared_error(TEST * is_tested, weights, intercept)
        hidden[index] = squares <= rounding
        if is_tested:
            scores[index] = squares
            continue
        free = most - np.sum(values / (values + l2))
        if is_met:
            free, hidden[index] = np.sum(l2 / (values + l2)), False
            squares = np.sum(np.square(l2 * coordinates) / values)
        scores[index] = rows * squares / free**2 if free > 0 else np.inf
    rule = HELD_OUT if is_tested else "generalised cross-validation"
    # Of penalties whose errors rounding hides the smallest is chosen.
    best = np.argmax(hidden) if hidden.any() else np.nanargmin(scores)
    return Path(penalties, scores, rule, int(best))
