"""The sums of products that a fit needs, in float64, and the minimiser that follows from them.

A squared error that follows from sums is a difference of terms that may be far larger: rounding is
bounded with each error, and the rows are read again for their own residuals where it could show.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxdescent import processes
from jaxdescent.fit.rows import TRAIN, Job, Rows, encoded_rows
from jaxdescent.rows import DataError
from jaxdescent.rows.errors import listed

EPS = float(np.finfo(np.float64).eps)

CONSTANT = 64 * EPS
"""A column whose centred squares are at most this part of its squares is constant."""

ULPS = 4
"""The rounding of a sum of products, as a part of the product of the columns' lengths, in eps."""

RANK = 1e-13
"""An eigenvalue of the matrix of correlations below this part of the largest one is rounding."""

DEPENDENT = 1e-13
"""A gradient along linearly dependent columns whose norm is below this part of its norm at zero
weights is the rounding error of an exact dependence."""

MOST_READINGS = 4
"""The most times that the rows are read again."""

CONVERGED, HIDDEN = 1e-10, 1e-8
"""The part of the gradient at zero weights that a solve may leave, and the part of a squared error
that rounding of the sums may hide, before the rows are read again."""


class ProductSums:
    """``sum_i s_i z_i z_i'`` for both parts, with z the features and the target less a shift, and a
    one.

    The shift of a number or the target is its mean in the first block: the terms stay small beside
    the spread. One-hot features are multiplied as sparse matrices.
    """

    def __init__(self, job: Job, held: int = 0) -> None:
        self.job, size = job, job.encoding.size
        self.side, numbers = size + 2, len(job.encoding.numbers)
        self.shift = np.zeros(size + 1)  # of the features and the target
        self.rows, self.dropped, self.unseen, self.readings = [0, 0], 0, 0, 0
        self.weighed = 0  # how many training rows have a weight above zero
        self.matrices = [np.zeros((self.side, self.side)) for _ in range(1 + job.is_tested)]
        # Dense columns are the numbers, the target and the one.
        self._dense = np.r_[0:numbers, size, size + 1]
        told = False
        for rows in encoded_rows(job, "adding up", held):
            if not told and len(rows.target):
                self.shift[self._dense[:-1]] = _first_means(rows)
                told = True
            for part, total in enumerate(self.matrices):
                self._add(rows.part(part), part, total)
            self.dropped, self.unseen = self.dropped + rows.dropped, self.unseen + rows.unseen
        if not processes.is_alone():
            shifts = processes.told_by_all(self.shift.tolist() if told else None)
            known = [each for each in shifts if each is not None]
            self._move(np.array(known[0] if known else self.shift))
            self.matrices = [processes.added(each) for each in self.matrices]
            own = [*self.rows, self.dropped, self.unseen, self.weighed]
            counts = np.sum(processes.told_by_all(own), axis=0).tolist()
            *self.rows, self.dropped, self.unseen, self.weighed = counts
        if not all(np.isfinite(total).all() for total in self.matrices):
            wide = np.diag(sum(self.matrices))[: job.encoding.size]
            names = [job.encoding.feature_name(int(j)) for j in np.flatnonzero(~np.isfinite(wide))]
            raise DataError(
                f"the values of {listed(map(repr, names)) or repr(job.target)} are too large: "
                "their squares overflow; divide them."
            )

    def _add(self, rows: Rows, part: int, total: np.ndarray) -> None:
        if not len(rows.target):
            return
        size, k = self.job.encoding.size, rows.numbers.shape[1]
        dense = np.empty((k + 2, len(rows.target)))
        np.subtract(rows.numbers.T, self.shift[:k, None], out=dense[:k])
        np.subtract(rows.target, self.shift[size], out=dense[k])
        dense[k + 1] = 1.0
        self.rows[part] += len(rows.target)
        weight = rows.weight
        if part == TRAIN:
            own = len(rows.target) if weight is None else np.count_nonzero(weight)
            self.weighed += int(own)
        others = rows.others
        if weight is not None:
            root = np.sqrt(weight)
            dense *= root
            others = None if others is None else others.multiply(root[:, None]).tocsr()
        with np.errstate(over="ignore", invalid="ignore"):
            products = dense @ dense.T
        if others is None:
            total += products
            return
        total[np.ix_(self._dense, self._dense)] += products
        across = (others.T @ dense.T).T  # (dense, others)
        total[self._dense, k:size] += across
        total[k:size, self._dense] += across.T
        square = (others.T @ others).tocoo()
        total[k + square.row, k + square.col] += square.data

    def _move(self, shift: np.ndarray) -> None:
        """Make the sums those about another shift."""
        moved = np.append(self.shift - shift, 0.0)
        for total in self.matrices:
            ones = total[-1].copy()
            change = np.multiply.outer(moved, ones)
            change = change + change.T + ones[-1] * np.multiply.outer(moved, moved)
            np.add(total, change, out=total)
        self.shift = shift

    def moments(self) -> Moments:
        """The sums of the training rows about their means, zeros for constant columns."""
        total = self.matrices[TRAIN]
        n, weight = self.side - 2, float(total[-1, -1])
        moved = total[-1, :-1] / weight
        mean = self.shift + moved
        centred = total[:-1, :-1] - weight * np.multiply.outer(moved, moved)
        gram, cross = centred[:n, :n], centred[:n, n].copy()
        rounding = weight * np.square(4 * EPS * mean[:n])
        still = gram.diagonal() <= np.maximum(CONSTANT * total.diagonal()[:n], rounding)
        gram[still], gram[:, still], cross[still] = 0, 0, 0
        squares = float(centred[n, n])
        if squares <= max(CONSTANT * total[n, n], weight * (4 * EPS * mean[n]) ** 2):
            squares = 0.0
        return Moments(gram, cross, squares, mean[:n], float(mean[n]), weight)

    def squared_error(self, part: int, weights: np.ndarray, b: float) -> tuple[float, float]:
        """``sum_i s_i (w.x_i + b - y_i)^2`` from the sums alone, and a bound on its rounding,
        ``ULPS eps (sum_j |r_j| |z_j|)^2`` with r the weights of the columns z in the residual.
        """
        constant = b + weights @ self.shift[:-1] - self.shift[-1]
        residual, total = np.concatenate([weights, [-1.0, constant]]), self.matrices[part]
        size = float(np.abs(residual) @ np.sqrt(np.maximum(total.diagonal(), 0)))
        return max(float(residual @ (total @ residual)), 0.0), ULPS * EPS * size**2

    def spread(self, part: int) -> tuple[float, float]:
        """The squares of a part's target about its own mean, and the sum of its weights."""
        total = self.matrices[part]
        weight = float(total[-1, -1])
        return float(total[-2, -2] - total[-2, -1] ** 2 / weight), weight

    def residuals(self, weights: np.ndarray, b: float) -> tuple[list[float], np.ndarray, float]:
        """By reading the rows again, with ``r_i = w.x_i + b - y_i``: each part's
        ``sum_i s_i r_i^2``; and of the training rows ``sum_i s_i (r_i - mean) (x_i - mean)``,
        (features,), and the mean of ``r_i``.
        """
        size, k = self.side - 2, len(self.job.encoding.numbers)
        constant = b + weights @ self.shift[:-1] - self.shift[-1]
        squares, products = np.zeros(len(self.matrices)), np.zeros(size + 1)
        for rows in encoded_rows(self.job, "reading residuals"):
            numbers = rows.numbers - self.shift[:k]
            residual = numbers @ weights[:k] + constant - (rows.target - self.shift[size])
            if rows.others is not None:
                residual += rows.others @ weights[k:]
            weighed = residual if rows.weight is None else residual * rows.weight
            own = np.zeros(len(residual), bool) if rows.is_test is None else rows.is_test
            for part in range(len(squares)):
                squares[part] += float(residual[own == part] @ weighed[own == part])
            weighed = np.where(own, 0.0, weighed)
            products[:k] += weighed @ numbers
            if rows.others is not None:
                products[k:size] += rows.others.T @ weighed
            products[-1] += weighed.sum()
        self.readings += 1
        errors, products = np.split(processes.added(np.append(squares, products)), [len(squares)])
        total = self.matrices[TRAIN]
        mean = float(products[-1] / total[-1, -1])
        return errors.tolist(), products[:-1] - mean * total[:size, -1], mean


def _first_means(rows: Rows) -> np.ndarray:
    """The means of the numbers and the target of some rows."""
    with np.errstate(over="ignore"):
        return np.append(rows.numbers.mean(axis=0), rows.target.mean())


class Moments(NamedTuple):
    """The sums that least squares needs, in float64 about the weighted means."""

    gram: np.ndarray  # (features, features)
    cross: np.ndarray  # (features,), with the centred target
    squares: float  # of the centred target
    means: np.ndarray  # (features,)
    target_mean: float
    weight: float  # the sum of the weights

    def scaled(self, *, standardize: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The numbers by which weights are multiplied before they are penalised, and the sums in
        these units.
        """
        scales = np.ones(len(self.gram))
        if standardize:
            spread = np.sqrt(self.gram.diagonal() / self.weight)
            scales = np.where(spread > 0, spread, 1.0)
        return scales, self.gram / np.multiply.outer(scales, scales), self.cross / scales


class Solution(NamedTuple):
    """Weights and an intercept, and how well they are known to minimise."""

    weights: np.ndarray
    intercept: float
    errors: list[float]  # each part's sum of squared errors
    penalty: float  # ``l2 |D w|^2``
    gradient_norm: float  # per unit of each column's length
    left: float  # how far the value may be above the minimum, along the directions that are seen
    is_done: bool  # whether this is as little as asked for, or rounding
    rank: int
    degrees_of_freedom: float  # ``trace(A (A + l2)^-1)`` with A the Hessian without the penalty
    is_constant: np.ndarray  # (features,), whether a column does not vary
    is_certain: bool  # whether no gradient is left along the directions without curvature


def solved(sums: ProductSums, data: Moments, l2: float, *, standardize: bool) -> Solution:
    """The minimiser of ``1/2 sum_i s_i (x_i.w + b - y_i)^2 + l2/2 |D w|^2``, with D the scales, by
    the spectrum of the Hessian scaled to a unit diagonal, refined once; and by the residuals of the
    rows where rounding of the sums may hide a part of the errors.

    Directions without curvature get zero: without a penalty the weights are those of least norm
    per column's length.
    """
    scales, hessian, cross = data.scaled(standardize=standardize)
    diagonal = hessian.diagonal().copy()
    is_constant = diagonal == 0
    lengths = np.sqrt(np.where(diagonal + l2 > 0, diagonal + l2, 1.0))
    np.fill_diagonal(hessian, diagonal + l2)
    hessian /= np.multiply.outer(lengths, lengths)
    cross = cross / lengths
    values, vectors = np.linalg.eigh(hessian)
    is_seen = values > max(RANK, 16 * values.size * EPS) * max(values[-1], 0)
    gain = np.where(is_seen, 1 / np.where(is_seen, values, 1), 0)

    def step(gradient: np.ndarray) -> np.ndarray:
        return vectors @ (gain * (vectors.T @ gradient))

    def unscaled(point: np.ndarray) -> np.ndarray:
        # Weights of constant columns would be the rounding of the spectrum.
        return np.where(is_constant, 0.0, point / lengths / scales)

    point = step(cross)
    point = point + step(cross - hessian @ point)
    gradient, weights = hessian @ point - cross, unscaled(point)
    intercept = float(data.target_mean - weights @ data.means)
    known = [sums.squared_error(part, weights, intercept) for part in range(len(sums.matrices))]
    errors, rounding = [error for error, _ in known], known[TRAIN][1]
    at_zeros = float(np.linalg.norm(cross))
    is_done = bool(np.linalg.norm(gradient) <= CONVERGED * at_zeros or at_zeros == 0)
    left = 0.5 * (float(gradient @ step(gradient)) + rounding)
    if any(bound > HIDDEN * error for error, bound in known):
        before = np.inf
        while True:
            errors, products, mean = sums.residuals(weights, intercept)
            gradient = (products / scales + l2 * scales * weights) / lengths
            gradient = np.where(is_constant, 0.0, gradient)
            left = 0.5 * float(gradient @ step(gradient) + data.weight * mean**2)
            penalty = l2 * float(np.sum(np.square(scales * weights)))
            is_done = left <= HIDDEN * (errors[TRAIN] + penalty)
            if is_done or left > before / 4 or sums.readings == MOST_READINGS:
                # The terms of the rows are rounded, and the intercept is.
                size = abs(intercept) + float(np.abs(weights) @ np.abs(data.means))
                floor = ULPS * EPS * rounding + data.weight * (EPS * size) ** 2
                is_done |= left <= 0.5 * floor
                break
            change, before = unscaled(step(gradient)), left
            weights, intercept = weights - change, intercept + float(change @ data.means) - mean
    penalty = l2 * float(np.sum(np.square(scales * weights)))
    lost = float(np.linalg.norm((vectors.T @ gradient)[gain == 0]))
    rank = degrees = int(np.count_nonzero(gain))
    if l2:  # A + l2 = lengths hessian lengths
        degrees = len(gain) - l2 * np.sum(np.square(vectors) @ gain / np.square(lengths))
    return Solution(
        weights, intercept, errors, penalty, float(np.linalg.norm(gradient)), left, is_done,
        rank, float(degrees), is_constant, lost <= DEPENDENT * at_zeros,
    )  # fmt: skip
