"""Everything that least squares needs of the rows, added up in one pass: products of columns."""

from __future__ import annotations

import numpy as np

from jaxdescent import processes
from jaxdescent.data import DataError, NormalSums
from jaxdescent.data.chunk import product_rows
from jaxdescent.fit.checks import RowCounts
from jaxdescent.fit.encoding import Encoding
from jaxdescent.fit.job import Job
from jaxdescent.fit.prepared import TRAIN, Prepared, shifted_numbers


def products_side(job: Job) -> int:
    """The side of a matrix of sums: features, marks of missing numbers, the target, and ones."""
    extra = len(job.encoding.numbers) if job.request.missing == "mean" else 0
    return job.encoding.size + extra + 2


class ProductSums:
    """``sum_i s_i z_i z_i'`` in float64 for both parts, with z the features less a shift, which of
    the numbers are missing (under "mean"), the target less its shift, and a one.

    The shift is the first block's means (of the first process): the sums' terms stay small beside
    the spread, and subtracting the means afterwards cancels little. The products are NumPy's, on
    the host: JAX would need 64-bit mode for the whole process, and compile for each block's size.
    """

    def __init__(self, job: Job) -> None:
        self._job, self.encoding = job, job.encoding
        self.fills_means = job.request.missing == "mean"
        self.side = products_side(job)
        # Coded columns are not written out.
        self._at_once = product_rows(self.side - self.encoding.size + len(self.encoding.numbers))
        self.matrices: list[np.ndarray | None] = [None, None]
        self.counts = RowCounts()
        self.shift: np.ndarray | None = None  # of the features and the target
        self.fills: np.ndarray | None = None  # means of the numbers less the shift

    def add(self, prepared: Prepared) -> None:
        """Add a block's rows.

        Raises:
          DataError: for NaN and infinity, with the row, and for values whose squares overflow.
        """
        if self.shift is None:
            self.shift = np.zeros(self.encoding.size + 1)
            self.shift[[*range(len(self.encoding.numbers)), -1]] = prepared.means
            self.shift = processes.array_of_first(self.shift)
        self.counts.add(prepared)
        for part, rows in enumerate(prepared.parts):
            count = prepared.rows_of(part)
            for start in range(0, count, self._at_once):
                chosen = slice(start, min(start + self._at_once, count))
                self._add_rows(prepared, chosen if rows is None else rows[chosen], part)

    def close(self) -> None:
        """Add the sums that the other processes of a fit have of their own rows, refuse rows that
        no fit can use, and put the training rows' means where numbers are missing.
        """
        for part, own in enumerate(self.matrices):
            if not processes.is_alone() and any(processes.told_by_all(own is not None)):
                none = np.zeros((self.side, self.side))
                self.matrices[part] = processes.added(none if own is None else own)
        self.counts.close(self._job)
        total = self.matrices[TRAIN]
        if self.fills_means and total is not None:
            size, numbers = self.encoding.size, len(self.encoding.numbers)
            weight = total[-1, -1] - total[size : size + numbers, -1]
            there = np.where(weight > 0, weight, 1)
            fills = self.fills = np.where(weight > 0, total[:numbers, -1] / there, 0.0)
            for part, own in enumerate(self.matrices):
                self.matrices[part] = None if own is None else _filled(own, fills, size)

    def moments(self) -> NormalSums:
        """The sums of the training rows about their means, after all rows."""
        total = self.matrices[TRAIN]
        assert total is not None
        assert self.shift is not None
        return NormalSums.about_means(total, self.shift, self.encoding.size)

    def squared_error(self, part: int, weights: np.ndarray, b: float) -> float:
        """``sum_i s_i (w.x_i + b - y_i)^2`` from the sums alone."""
        total = self.matrices[part]
        assert total is not None
        assert self.shift is not None
        constant = b + weights @ self.shift[:-1] - self.shift[-1]
        residual = np.concatenate([weights, [-1.0, constant]])
        return max(float(residual @ (total @ residual)), 0.0)

    def _add_rows(self, prepared: Prepared, rows: slice | np.ndarray, part: int) -> None:
        assert self.shift is not None
        encoded, count = prepared.encoded, len(self.encoding.numbers)
        numbers = shifted_numbers(encoded, rows, self.shift[:count], np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            target = prepared.target.values[rows] - self.shift[-1]
        marks = [
            np.zeros(target.size) if number.missing is None else number.missing[rows]
            for number in encoded.numbers
            if self.fills_means
        ]
        total = self.matrices[part]
        if total is None:
            total = self.matrices[part] = np.zeros((self.side, self.side))
        weight = None if prepared.weight is None else prepared.weight[rows]
        is_finite = np.isfinite(numbers).all() and np.isfinite(target).all()
        if is_finite:
            chunk = self.encoding.chunk(encoded, numbers, rows, prepared.block)
            chunk.add_products(weight, np.column_stack([*marks, target]), None, total)
        if not (is_finite and np.isfinite(total.diagonal()).all()):
            raise not_finite(prepared, self.encoding, rows)


def not_finite(prepared: Prepared, encoding: Encoding, chosen: slice | np.ndarray) -> DataError:
    """The error that says which value of these rows is NaN, infinite or too large."""
    block = prepared.block
    columns = zip(
        [*encoding.numbers, "the target"],
        [*prepared.encoded.numbers, prepared.target],
        strict=True,
    )
    for name, (values, _) in columns:
        wrong = ~np.isfinite(np.asarray(values, np.float64)[chosen])
        if wrong.any():
            where = np.arange(block.rows)[chosen]
            row = int(where[np.argmax(wrong)])
            what = "NaN" if np.isnan(values[row]) else "infinite"
            who = name if name == "the target" else repr(name)
            advice = "" if what == "infinite" else " or say --missing drop or mean"
            return DataError(f"{who} is {what} in {block.place(row)}: correct the data{advice}.")
    return DataError(
        f"values around {block.place(0)} are too large: their squares overflow; divide them."
    )


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
