"""Everything that least squares needs of the rows, added up in one pass: products of columns."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxdescent import processes
from jaxdescent.data import DataError
from jaxdescent.fit.encoding import Encoded, Encoding, Policy
from jaxdescent.fit.prepared import TEST, TRAIN, Prepared

BUFFER_BYTES = 1 << 22
"""Rows are widened and multiplied so many bytes at a time: they stay in a core's own cache."""


def products_side(encoding: Encoding, policy: Policy) -> int:
    """The side of a matrix of sums: features, what is missing of them, target and ones."""
    extra = len(encoding.numbers) if policy.missing == "mean" else 0
    return encoding.size + extra + 2


def buffer_rows(side: int) -> int:
    """How many rows are multiplied at a time."""
    # A product of as many rows as columns outweighs adding it up.
    return max(min(BUFFER_BYTES // (8 * side), 65536), 256, min(side, 2048))


class ProductSums:
    """``sum_i s_i z_i z_i'`` in float64 for both parts, with z the features less a shift, which of
    the numbers are missing (under "mean"), the target less its shift, and a one.

    The shift is the first block's means (of the first process): what is added up stays small beside
    the spread, and subtracting the means afterwards cancels little. The products are NumPy's, on
    the host: JAX would need 64-bit mode for the whole process, and compile for each block's size.
    """

    def __init__(self, encoding: Encoding, policy: Policy) -> None:
        self.encoding = encoding
        self.fills_means = policy.missing == "mean"
        self.side = products_side(encoding, policy)
        # Rows of the buffer are the columns that are not one-hot: numbers, marks, target and ones.
        numbers = len(encoding.numbers)
        self._dense = np.r_[0:numbers, encoding.size : self.side]
        self.matrices: list[np.ndarray | None] = [None, None]
        self.rows = [0, 0]
        self.dropped = 0
        self.unseen = 0
        self.shift: np.ndarray | None = None  # of the features and the target
        dense = self._dense.size
        self._buffer = np.empty((dense, buffer_rows(dense)))
        self._product = np.empty((dense, dense))

    def add(self, prepared: Prepared) -> None:
        """Add a block's rows.

        Raises:
          DataError: for NaN and infinity, with the row, and for values whose squares overflow.
        """
        if self.shift is None:
            self.shift = processes.array_of_first(self._means(prepared))
        self.dropped += prepared.dropped
        self.unseen += prepared.encoded.unseen
        for part in (TRAIN, TEST):
            count = prepared.rows_of(part)
            self.rows[part] += count
            rows = prepared.parts[part]
            most = self._buffer.shape[1]
            for start in range(0, count, most):
                stop = min(start + most, count)
                chosen = slice(start, stop) if rows is None else rows[start:stop]
                self._add_rows(prepared, chosen, stop - start, part)

    def finish(self) -> None:
        """Give back what only adding needs."""
        self._buffer = self._product = np.empty((0, 0))

    def put_together(self) -> None:
        """Add what the other processes of a fit have added up of their own rows."""
        if processes.is_alone():
            return
        counts = np.array([*self.rows, self.dropped, self.unseen])
        *self.rows, self.dropped, self.unseen = processes.added(counts).tolist()
        for part, own in enumerate(self.matrices):
            if any(processes.told_by_all(own is not None)):
                none = np.zeros((self.side, self.side))
                self.matrices[part] = processes.added(none if own is None else own)

    def _means(self, prepared: Prepared) -> np.ndarray:
        means = np.zeros(self.encoding.size + 1)
        rows = prepared.encoded.keep
        columns = [*prepared.encoded.numbers, prepared.target]
        places = [*range(len(columns) - 1), -1]
        with np.errstate(invalid="ignore", over="ignore"):
            for place, (values, missing) in zip(places, columns, strict=True):
                chosen = values if rows is None else values[rows]
                if missing is not None:
                    chosen = chosen[~(missing if rows is None else missing[rows])]
                mean = np.mean(chosen, dtype=np.float64) if chosen.size else 0.0
                means[place] = mean if np.isfinite(mean) else 0.0
        return means

    def _add_rows(
        self, prepared: Prepared, chosen: slice | np.ndarray, count: int, part: int
    ) -> None:
        assert self.shift is not None
        z = self._buffer[:, :count]
        encoded, shift = prepared.encoded, self.shift
        numbers = len(encoded.numbers)
        with np.errstate(invalid="ignore", over="ignore"):
            for j, number in enumerate(encoded.numbers):
                np.subtract(number.values[chosen], shift[j], out=z[j], dtype=np.float64)
                if self.fills_means:
                    marks = z[numbers + j]
                    marks[:] = 0 if number.missing is None else number.missing[chosen]
                    if number.missing is not None:
                        z[j][number.missing[chosen]] = 0
            target = prepared.target.values[chosen]
            np.subtract(target, shift[-1], out=z[-2], dtype=np.float64)
            z[-1] = 1
            if prepared.weight is not None:
                z *= np.sqrt(prepared.weight[chosen], dtype=np.float64)
            np.matmul(z, z.T, out=self._product)
        if not np.isfinite(self._product.diagonal()).all():
            raise not_finite(prepared, self.encoding, chosen)
        total = self.matrices[part]
        if total is None:
            total = self.matrices[part] = np.zeros((self.side, self.side))
        if self._dense.size == self.side:
            total += self._product
        else:
            total[np.ix_(self._dense, self._dense)] += self._product
            self._add_levels(encoded, chosen, z, total)

    def _add_levels(
        self, encoded: Encoded, chosen: slice | np.ndarray, z: np.ndarray, total: np.ndarray
    ) -> None:
        """One-hot columns are not written out: sums by level, and by pairs of levels."""
        flat = total.reshape(-1)  # a view: one index finds its place faster than two
        weight = np.square(z[-1])
        seen: list[tuple[np.ndarray, np.ndarray]] = []
        for code, multiplier, start, stop in self.encoding.entries(encoded):
            own = code[chosen]
            there = own >= 0
            own = np.where(there, own, 0)
            if multiplier is not None:  # ones become slopes
                there = np.where(there, multiplier[chosen], 0.0)
            for row, place in zip(z, self._dense, strict=True):
                values = row * z[-1] * there
                sums = np.bincount(own, weights=values, minlength=stop - start)
                total[start:stop, place] += sums
                total[place, start:stop] += sums
            position = own + start
            np.add.at(flat, position * (self.side + 1), weight * np.square(there, dtype=np.float64))
            for other, other_there in seen:
                both = weight * np.multiply(there, other_there, dtype=np.float64)
                np.add.at(flat, position * self.side + other, both)
                np.add.at(flat, other * self.side + position, both)
            seen.append((position, there))


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


@dataclasses.dataclass(frozen=True)
class CentredSums:
    """What the rows of one part say, about their own means.

    Attributes:
      rows: how many.
      weight: the sum of their weights.
      gram: (features, features), products of centred columns.
      cross: (features,), products with the centred target.
      squares: the centred target's with itself.
      mean: of the features.
      target_mean: of the target.
    """

    rows: int
    weight: float
    gram: np.ndarray
    cross: np.ndarray
    squares: float
    mean: np.ndarray
    target_mean: float


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


def moments(sums: ProductSums, part: int) -> CentredSums:
    """The sums about the part's own means."""
    assert sums.shift is not None
    total = filled(sums, part)
    weight = float(total[-1, -1])
    mean = total[-1, :-1] / weight
    centred = total[:-1, :-1] - weight * np.multiply.outer(mean, mean)
    return CentredSums(
        sums.rows[part],
        weight,
        centred[:-1, :-1],
        centred[:-1, -1],
        max(float(centred[-1, -1]), 0.0),
        mean[:-1] + sums.shift[:-1],
        float(mean[-1] + sums.shift[-1]),
    )


def squared_error(total: np.ndarray, shift: np.ndarray, weights: np.ndarray, b: float) -> float:
    """``sum_i s_i (w.x_i + b - y_i)^2`` from the sums alone."""
    constant = b + weights @ shift[:-1] - shift[-1]
    residual = np.concatenate([weights, [-1.0, constant]])
    return max(float(residual @ (total @ residual)), 0.0)
