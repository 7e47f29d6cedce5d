"""The minimiser of a penalised squared error from sums, refined by the rows where sums lose it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxdescent.data import NormalSums
from jaxdescent.fit.product_sums import ULPS, ProductSums
from jaxdescent.fit.rows import TRAIN

EPS = float(np.finfo(np.float64).eps)

RANK = 1e-13
"""An eigenvalue of the matrix of correlations below this part of the largest one is rounding, or
cannot be told from it: the sums are in float64, and hold the rounding errors of many rows."""

CONVERGED = 1e-10
"""A solve converged where the gradient's norm is at most this part of its norm at zero weights."""

HIDDEN = 1e-8
"""The most of a squared error that rounding of the sums may hide, and of the value that a solve
leaves above the minimum where the rows tell; with less the rows are read again."""

MOST_READINGS = 4
"""The most times that the rows are read again."""


class Solution(NamedTuple):
    """Weights and an intercept, and how well they are known to minimise."""

    weights: np.ndarray
    intercept: float
    errors: list[float]  # each part's sum of squared errors
    gradient: np.ndarray  # (features,), per unit of each column's length
    left: float  # how far the value may be above the minimum, along the directions that are seen
    is_done: bool  # whether this is as little as asked for, or rounding


class PenalisedSpectrum:
    """The spectrum of the Hessian of ``1/2 sum_i s_i (x_i.w + b - y_i)^2 + l2/2 |D w|^2``, with D
    the scales, about the means and scaled to a unit diagonal.

    Directions without curvature get zero: without a penalty the weights are those of least norm
    per column's length.
    """

    def __init__(self, data: NormalSums, l2: float, *, standardize: bool) -> None:
        self.data, self.l2 = data, l2
        self.scales, hessian, cross = penalised_sums(data, standardize=standardize)
        diagonal = hessian.diagonal().copy()
        self.is_constant = diagonal == 0
        np.fill_diagonal(hessian, diagonal + l2)
        lengths = np.sqrt(diagonal + l2)
        self.lengths = np.where(lengths > 0, lengths, 1.0)
        hessian /= self.lengths[:, None]
        hessian /= self.lengths[None, :]
        self.hessian, self.cross = hessian, cross / self.lengths
        values, self.vectors = np.linalg.eigh(hessian)
        is_seen = values > cutoff(values)
        self.gain = np.where(is_seen, 1 / np.where(is_seen, values, 1), 0)

    @property
    def rank(self) -> int:
        """The number of directions with curvature."""
        return int(np.count_nonzero(self.gain))

    @property
    def degrees_of_freedom(self) -> float:
        """``trace(A (A + l2)^-1)`` with A the Hessian without the penalty."""
        if self.l2 == 0:
            return float(self.rank)
        # A + l2 = lengths hessian lengths.
        inverse = np.square(self.vectors) @ self.gain / np.square(self.lengths)
        return float(self.lengths.size - self.l2 * np.sum(inverse))

    def penalty(self, weights: np.ndarray) -> float:
        """``l2 |D w|^2``."""
        return self.l2 * float(np.sum(np.square(self.scales * weights)))

    def lost_along(self, gradient: np.ndarray) -> float:
        """The norm of the gradient along the directions without curvature."""
        return float(np.linalg.norm((self.vectors.T @ gradient)[self.gain == 0]))

    def solved(self, sums: ProductSums) -> Solution:
        """The minimiser; a second solve with the residual refines the first, and others with the
        residuals of the rows, if rounding of the sums may hide a part of the errors.
        """
        scaled = self._step(self.cross)
        scaled = scaled + self._step(self.cross - self.hessian @ scaled)
        gradient, weights = self.hessian @ scaled - self.cross, self._unscaled(scaled)
        intercept = float(self.data.target_mean[0] - weights @ self.data.feature_mean)
        known = [sums.squared_error(part, weights, intercept) for part in range(len(sums.matrices))]
        errors, rounding = [error for error, _ in known], known[TRAIN][1]
        at_zeros = float(np.linalg.norm(self.cross))
        is_done = bool(np.linalg.norm(gradient) <= CONVERGED * at_zeros or at_zeros == 0)
        left = 0.5 * (float(gradient @ self._step(gradient)) + rounding)
        solution = Solution(weights, intercept, errors, gradient, left, is_done)
        if all(bound <= HIDDEN * error for error, bound in known):
            return solution
        return self._read_again(sums, solution, rounding)

    def _read_again(self, sums: ProductSums, solution: Solution, rounding: float) -> Solution:
        """Refined by the rows' residuals, and judged by them."""
        data, weights, intercept, before = self.data, solution.weights, solution.intercept, np.inf
        while True:
            errors, products, mean = sums.residuals(weights, intercept)
            gradient = products / self.scales + self.l2 * self.scales * weights
            gradient = np.where(self.is_constant, 0.0, gradient / self.lengths)
            step = self._step(gradient)
            left = 0.5 * float(gradient @ step + data.weight_total * mean**2)
            is_done = left <= HIDDEN * (errors[TRAIN] + self.penalty(weights))
            if is_done or left > before / 4 or sums.readings == MOST_READINGS:
                # The terms of the rows are rounded, and the intercept is.
                size = abs(intercept) + float(np.abs(weights) @ np.abs(data.feature_mean))
                floor = ULPS * EPS * rounding + data.weight_total * (EPS * size) ** 2
                is_done |= left <= 0.5 * floor
                return Solution(weights, intercept, errors, gradient, left, is_done)
            change, before = self._unscaled(step), left
            weights = weights - change
            intercept += float(change @ data.feature_mean) - mean

    def _step(self, gradient: np.ndarray) -> np.ndarray:
        return self.vectors @ (self.gain * (self.vectors.T @ gradient))

    def _unscaled(self, point: np.ndarray) -> np.ndarray:
        # Weights of constant columns would be the rounding of the spectrum.
        return np.where(self.is_constant, 0.0, point / self.lengths / self.scales)


def penalised_sums(
    data: NormalSums, *, standardize: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numbers by which weights are multiplied before they are penalised, and the sums in these
    units. Those of features that do not vary are zeros.
    """
    scales = np.ones(len(data.gram))
    if standardize:
        spread = np.sqrt(data.gram.diagonal() / data.weight_total)
        scales = np.where(spread > 0, spread, 1.0)
    return scales, data.gram / np.multiply.outer(scales, scales), data.cross[:, 0] / scales


def cutoff(values: np.ndarray) -> float:
    """The largest of the ascending eigenvalues of sums that may be rounding."""
    return max(RANK, 16 * values.size * EPS) * max(values[-1], 0)
