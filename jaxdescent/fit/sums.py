"""Everything that least squares needs of the rows, added up in one pass: products of columns."""

from __future__ import annotations

import numpy as np

from jaxdescent import processes
from jaxdescent.data import DataError, NormalSums
from jaxdescent.data.chunk import product_rows
from jaxdescent.fit.encoded_rows import shifted_numbers
from jaxdescent.fit.encoding import Encoding, Policy
from jaxdescent.fit.prepared import TEST, TRAIN, Prepared


def products_side(encoding: Encoding, policy: Policy) -> int:
    """The side of a matrix of sums: features, marks of missing numbers, the target, and ones."""
    extra = len(encoding.numbers) if policy.missing == "mean" else 0
    return encoding.size + extra + 2


class ProductSums:
    """``sum_i s_i z_i z_i'`` in float64 for both parts, with z the features less a shift, which of
    the numbers are missing (under "mean"), the target less its shift, and a one.

    The shift is the first block's means (of the first process): the sums' terms stay small beside
    the spread, and subtracting the means afterwards cancels little. The products are NumPy's, on
    the host: JAX would need 64-bit mode for the whole process, and compile for each block's size.
    """

    def __init__(self, encoding: Encoding, policy: Policy) -> None:
        self.encoding = encoding
        self.fills_means = policy.missing == "mean"
        self.side = products_side(encoding, policy)
        # Coded columns are not written out.
        self._at_once = product_rows(self.side - encoding.size + len(encoding.numbers))
        self.matrices: list[np.ndarray | None] = [None, None]
        self.rows = [0, 0]
        self.dropped = 0
        self.unseen = 0
        self.shift: np.ndarray | None = None  # of the features and the target

    def add(self, prepared: Prepared) -> None:
        """Add a block's rows.

        Raises:
          DataError: for NaN and infinity, with the row, and for values whose squares overflow.
        """
        if self.shift is None:
            self.shift = np.zeros(self.encoding.size + 1)
            self.shift[[*range(len(self.encoding.numbers)), -1]] = prepared.means
            self.shift = processes.array_of_first(self.shift)
        self.dropped += prepared.dropped
        self.unseen += prepared.encoded.unseen
        for part in (TRAIN, TEST):
            count = prepared.rows_of(part)
            self.rows[part] += count
            rows = prepared.parts[part]
            for start in range(0, count, self._at_once):
                chosen = slice(start, min(start + self._at_once, count))
                self._add_rows(prepared, chosen if rows is None else rows[chosen], part)

    def put_together(self) -> None:
        """Add the sums that the other processes of a fit have of their own rows."""
        if processes.is_alone():
            return
        counts = np.array([*self.rows, self.dropped, self.unseen])
        *self.rows, self.dropped, self.unseen = processes.added(counts).tolist()
        for part, own in enumerate(self.matrices):
            if any(processes.told_by_all(own is not None)):
                none = np.zeros((self.side, self.side))
                self.matrices[part] = processes.added(none if own is None else own)

    def _add_rows(self, prepared: Prepared, rows: slice | np.ndarray, part: int) -> None:
        assert self.shift is not None
        encoded, count = prepared.encoded, len(self.encoding.numbers)
        shift, none = self.shift[:count], np.zeros(count)
        numbers = shifted_numbers(encoded, rows, shift, none, np.float64)
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


def fills_of(sums: ProductSums) -> np.ndarray | None:
    """Means of the numbers over the training rows where they are there, less the shift."""
    total = sums.matrices[TRAIN]
    if not sums.fills_means or total is None:
        return None
    size, numbers = sums.encoding.size, len(sums.encoding.numbers)
    weight = total[-1, -1] - total[size : size + numbers, -1]
    there = np.where(weight > 0, weight, 1)
    return np.where(weight > 0, total[:numbers, -1] / there, 0.0)


def filled(sums: ProductSums, part: int) -> np.ndarray:
    """A part's matrix of sums where missing values are replaced by means, exactly as if they had
    been known before the pass: ``z_j + fill_j * missing_j`` is linear in what was added up.
    """
    total = sums.matrices[part]
    assert total is not None
    fills = fills_of(sums)
    if fills is None:
        return total
    size, numbers = sums.encoding.size, len(fills)
    marks = slice(size, size + numbers)
    total = total.copy()
    total[:numbers] += fills[:, None] * total[marks]
    total[:, :numbers] += total[:, marks] * fills[None, :]
    kept = np.r_[0:size, size + numbers : sums.side]
    return total[np.ix_(kept, kept)]


def moments(sums: ProductSums, part: int) -> NormalSums:
    """The sums about the part's own means."""
    assert sums.shift is not None
    return NormalSums.about_means(filled(sums, part), sums.shift, sums.encoding.size)


def squared_error(total: np.ndarray, shift: np.ndarray, weights: np.ndarray, b: float) -> float:
    """``sum_i s_i (w.x_i + b - y_i)^2`` from the sums alone."""
    constant = b + weights @ shift[:-1] - shift[-1]
    residual = np.concatenate([weights, [-1.0, constant]])
    return max(float(residual @ (total @ residual)), 0.0)
