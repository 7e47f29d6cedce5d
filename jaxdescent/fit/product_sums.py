"""The sums of products that a fit needs, in float64, and what they cannot tell.

A squared error that follows from sums is a difference of terms that may be far larger: of a target
that is explained to eight digits nothing is left in float64. Rounding is bounded with each error,
and the rows can be read again for their own residuals.
"""

from __future__ import annotations

import numpy as np

from jaxdescent import processes
from jaxdescent.data import NormalSums
from jaxdescent.data.chunk import mirror
from jaxdescent.fit.job import Job
from jaxdescent.fit.plans import products_side
from jaxdescent.fit.rows import TRAIN, FirstPass, Rows, read_rows, shifted_numbers

ULPS = 4
"""The rounding of a sum of products, as a part of the product of the columns' lengths, in eps."""


class ProductSums:
    """``sum_i s_i z_i z_i'`` in float64 for both parts, with z the features less a shift, which of
    the numbers are missing (under "mean"), the target less its shift, and a one.

    The terms stay small beside the spread, and subtracting the means afterwards cancels little. The
    products are NumPy's, on the host: JAX would need 64-bit mode for the whole process, and compile
    for each block's size.
    """

    def __init__(self, job: Job, at_once: int) -> None:
        self.encoding, side = job.encoding, products_side(job)
        self._job, self._at_once = job, at_once
        self.readings = 0  # how many times the rows have been read again
        self._marks_missing = job.request.missing == "mean"
        # The sums of the training rows, and of the held-out rows where there are some; at the end
        # means stand for missing numbers.
        self.matrices = [np.zeros((side, side)) for _ in range(1 + job.is_tested)]
        self.counts = FirstPass(job, at_once, np.float64)
        for rows, numbers in self.counts:
            self._add(rows, numbers)
            del rows, numbers
        for total in self.matrices:
            mirror(total)
        self.matrices = [processes.added(own) for own in self.matrices]
        # (numbers,), these means less the shift; None where missing numbers have none.
        self.fills: np.ndarray | None = None
        if self._marks_missing:
            size, numbers = self.encoding.size, len(self.encoding.numbers)
            total = self.matrices[TRAIN]
            weight = total[-1, -1] - total[size : size + numbers, -1]
            there = np.where(weight > 0, weight, 1)
            self.fills = np.where(weight > 0, total[:numbers, -1] / there, 0.0)
            self.matrices = [_filled(own, self.fills, size) for own in self.matrices]
        unshifted = np.zeros(self.encoding.size - len(self.encoding.numbers))
        # Of the features and the target.
        self.shift = np.concatenate([self.counts.shift, unshifted, [self.counts.center]])

    def moments(self) -> NormalSums:
        """The sums of the training rows about their means."""
        total = self.matrices[TRAIN]
        return NormalSums.of(total, self.shift, self.encoding.size, intercept=True)

    def squared_error(self, part: int, weights: np.ndarray, b: float) -> tuple[float, float]:
        """``sum_i s_i (w.x_i + b - y_i)^2`` from the sums alone, and a bound on its rounding,
        ``ULPS eps (sum_j |r_j| |z_j|)^2`` with r the weights of the columns z in the residual.
        """
        constant = b + weights @ self.shift[:-1] - self.shift[-1]
        residual, total = np.concatenate([weights, [-1.0, constant]]), self.matrices[part]
        size = float(np.abs(residual) @ np.sqrt(total.diagonal()))
        rounding = ULPS * np.finfo(np.float64).eps * size**2
        return max(float(residual @ (total @ residual)), 0.0), rounding

    def residuals(self, weights: np.ndarray, b: float) -> tuple[list[float], np.ndarray, float]:
        """By reading the rows again, with ``r_i = w.x_i + b - y_i``: each part's
        ``sum_i s_i r_i^2``; and of the training rows ``sum_i s_i (r_i - mean) (x_i - mean)``,
        (features,), and the mean of ``r_i``.
        """
        counts, features = self.counts, self.encoding.size
        constant = b + weights @ self.shift[:-1] - self.shift[-1]
        squares, products = np.zeros(len(self.matrices)), np.zeros((features + 1, 1))
        for rows in read_rows(self._job, self._at_once):
            numbers = shifted_numbers(rows.encoded, counts.shift, np.float64, self.fills)
            chunk = self.encoding.chunk(rows.encoded, numbers, rows.block)
            residual = np.empty((chunk.rows, 1))
            chunk.multiply(weights[:, None], None, residual)
            residual += constant - (rows.target - counts.center)[:, None]
            for part in range(len(squares)):
                squares[part] += rows.weight_of(part) @ np.square(residual[:, 0])
            residual *= rows.weight_of(TRAIN)[:, None]
            chunk.add(residual, None, products[:-1])
            products[-1] += np.sum(residual)
            del rows, numbers, chunk
        self.readings += 1
        told = processes.added(np.append(squares, products))
        errors, products = np.split(told, [len(squares)])
        mean = float(products[-1] / self.matrices[TRAIN][-1, -1])
        return errors.tolist(), products[:-1] - mean * self.matrices[TRAIN][:features, -1], mean

    def _add(self, rows: Rows, numbers: np.ndarray) -> None:
        chunk = self.encoding.chunk(rows.encoded, numbers, rows.block)
        with np.errstate(over="ignore"):
            columns = [rows.target - self.counts.center]
        if self._marks_missing:
            missing = (number.missing for number in rows.encoded.numbers)
            marks = [np.zeros(chunk.rows) if mark is None else mark for mark in missing]
            columns = [*marks, *columns]
        targets = np.column_stack(columns)
        for part, total in enumerate(self.matrices):
            own = np.flatnonzero(rows.is_test == part)
            if own.size == chunk.rows:
                chunk.add_products(rows.weight, targets, None, total)
            elif own.size:
                weight = None if rows.weight is None else rows.weight[own]
                chunk.take(own).add_products(weight, targets[own], None, total)


def _filled(total: np.ndarray, fills: np.ndarray, size: int) -> np.ndarray:
    """A matrix of sums where missing values are replaced by means, exactly as if they had been
    known before the pass: ``z_j + fill_j * missing_j`` is linear in what was added up.
    """
    numbers = len(fills)
    marks = slice(size, size + numbers)
    total = total.copy()
    total[:numbers] += fills[:, None] * total[marks]
    total[:, :numbers] += total[:, marks] * fills[None, :]
    kept = np.r_[0:size, size + numbers : len(total)]
    return total[np.ix_(kept, kept)]
