"""Some rows as numbers, and their terms in products: NumPy's arithmetic, slice by slice."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxdescent.data.entries import Coded, RowEntries, add_squares
from jaxdescent.data.errors import DataError
from jaxdescent.data.protocol import Block

SLICE_BYTES = 1 << 18
"""The bytes of a slice of rows that is multiplied at a time: it stays in a core's cache while a
mean is subtracted. The sums of slices are added in float64."""

PRODUCT_BYTES, MOST_PRODUCT_ROWS, LEAST_PRODUCT_ROWS, SQUARE = 1 << 22, 65536, 256, 2048
"""The bytes, and the most and fewest rows, that are widened to float64 and multiplied with
themselves at a time: they stay in a core's own cache. There are at least as many rows as columns,
up to ``SQUARE``, since the addition of a product would outweigh that of fewer rows."""


class ChunkPart(NamedTuple):
    """Some rows of a chunk as the source has them.

    Attributes:
      here: the place of the first of these rows in the chunk.
      block: the rows.
    """

    here: int
    block: Block

    @property
    def rows(self) -> slice:
        """The places of these rows in the chunk."""
        return slice(self.here, self.here + self.block.rows)


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Some rows as numbers.

    Attributes:
      start: the number of the first row.
      names: the names of the columns of numbers.
      numbers: (rows, columns), in any order of storage.
      coded: features of which each row has one at most, after the numbers.
      parts: the blocks that the rows are from.
      features: how many features there are: the numbers, the coded ones, and those of the entries.
      entries: the entries of sparse, hashed and text columns.
      whole: the chunk that these rows were taken from, in any order; None if there is none.
    """

    start: int
    names: tuple[str, ...]
    numbers: np.ndarray
    coded: list[Coded]
    parts: list[ChunkPart]
    features: int
    entries: list[RowEntries] = dataclasses.field(default_factory=list)
    whole: Chunk | None = None

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.numbers.shape[0]

    def take(self, rows: np.ndarray) -> Chunk:
        """A chunk of these rows, in their order."""
        return dataclasses.replace(
            self,
            numbers=self.numbers[rows],
            coded=[column[rows] for column in self.coded],
            entries=[entries[rows] for entries in self.entries],
            whole=self.whole or self,
        )

    def own(self, rows: np.ndarray | None) -> np.ndarray:
        """This chunk's part of a vector over all rows, in float64; None stands for ones."""
        if rows is None:
            return np.ones(self.rows)
        return rows[self.start : self.start + self.rows].astype(np.float64)

    def multiply(self, weights: np.ndarray, center: np.ndarray | None, made: np.ndarray) -> None:
        """Put ``(X - 1 center') @ weights`` into ``made``, (rows, k)."""
        with np.errstate(all="ignore"):
            for rows in self._slices():
                Z = self._centred(rows, center).astype(weights.dtype, copy=False)
                if weights.shape[1] == 1:  # BLAS has a product of its own for one column
                    np.dot(Z, weights[: len(self.names), 0], out=made[rows, 0])
                else:
                    np.matmul(Z, weights[: len(self.names)], out=made[rows])
            for column in (*self.coded, *self.entries):
                column.multiply(weights, made)
            if center is not None:
                for own in self._spans():
                    made -= center[own].astype(weights.dtype) @ weights[own]
        if not np.isfinite(made).all() and np.isfinite(weights).all():
            self.refuse_not_finite()

    def add(self, residual: np.ndarray, center: np.ndarray | None, total: np.ndarray) -> None:
        """Add ``(X - 1 center')' @ residual`` to ``total``, (features, k) in float64."""
        with np.errstate(all="ignore"):
            for rows in self._slices():
                Z = self._centred(rows, center).astype(residual.dtype, copy=False)
                if residual.shape[1] == 1:
                    total[: len(self.names), 0] += np.dot(residual[rows, 0], Z)
                else:
                    total[: len(self.names)] += Z.T @ residual[rows]
            for column in (*self.coded, *self.entries):
                column.add(residual, total)
            if center is not None:
                sums = residual.sum(axis=0, dtype=np.float64)
                for own in self._spans():
                    total[own] -= center[own, None] * sums
        if not np.isfinite(total).all() and np.isfinite(residual).all():
            self.refuse_not_finite()

    def add_squares(
        self, weight: np.ndarray | None, center: np.ndarray | None, total: np.ndarray
    ) -> None:
        """Add ``sum_i s_i (x_ij - center_j)^2`` to ``total``, (features,) in float64."""
        s = self.own(weight)
        for rows in self._slices():
            Z = self._centred(rows, center).astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):
                total[: Z.shape[1]] += np.square(Z).T @ s[rows]
        shared, pieces = Counter(column.first for column in self.coded), [*self.entries]
        for column in self.coded:
            if shared[column.first] == 1:
                column.add_squares(s, center, total)
            else:
                pieces.append(column.as_entries())
        add_squares(pieces, s, center, total)
        if not np.isfinite(total).all():
            self.refuse_not_finite()

    def add_products(
        self,
        weight: np.ndarray | None,
        targets: np.ndarray | None,
        shift: np.ndarray | None,
        total: np.ndarray,
    ) -> None:
        """Add ``sum_i s_i z_i z_i'`` to ``total``, where z is features and targets less the shift,
        and a one. The shift of coded features is zero: they are not written out, but added up by
        code and by pairs of codes.
        """
        dense = self._dense(total.shape[0])
        step = product_rows(dense.size)
        for first in range(0, self.rows, step):
            rows = slice(first, min(first + step, self.rows))
            Z = self._written_out(rows, targets, dense)
            if shift is not None:
                Z[:, :-1] -= shift[dense[:-1]]
            s = self.own(weight)[rows]
            root, signed = np.sqrt(np.abs(s)), Z
            with np.errstate(over="ignore", invalid="ignore"):
                if weight is not None:
                    Z *= root[:, None]
                if (s < 0).any():
                    signed = Z * np.sign(s)[:, None]
                product = Z.T @ signed
                if not self.coded:
                    total += product
                    continue
                total[np.ix_(dense, dense)] += product
                self._add_coded(rows, s, root[:, None] * signed, dense, total)

    def _add_coded(
        self, rows: slice, s: np.ndarray, Z: np.ndarray, dense: np.ndarray, total: np.ndarray
    ) -> None:
        """The products with coded features; Z has the others, multiplied by the weights s."""
        flat = total.reshape(-1)  # a view: one index finds its place faster than two
        seen: list[tuple[np.ndarray, np.ndarray]] = []
        for column in (column[rows] for column in self.coded):
            is_there = column.codes >= 0
            codes = np.where(is_there, column.codes, 0)
            x = is_there * (1.0 if column.values is None else column.values)
            for place, values in zip(dense, Z.T, strict=True):
                sums = np.bincount(codes, values * x, column.size)
                total[column.span, place] += sums
                total[place, column.span] += sums
            position = codes + column.first
            np.add.at(flat, position * (total.shape[0] + 1), s * np.square(x))
            for other, other_x in seen:
                both = s * (x * other_x)
                np.add.at(flat, position * total.shape[0] + other, both)
                np.add.at(flat, other * total.shape[0] + position, both)
            seen.append((position, x))

    def means(self, weight: np.ndarray | None, targets: np.ndarray | None) -> np.ndarray:
        """The weighted means of features and targets; plain ones if no weight is positive, and
        zeros of coded features.
        """
        s = self.own(weight)
        share = s / s.sum() if s.sum() > 0 else np.full(self.rows, 1 / self.rows)
        side = self.features + (0 if targets is None else targets.shape[1]) + 1
        means, dense = np.zeros(side), self._dense(side)
        for rows in self._slices():
            means[dense] += share[rows] @ self._written_out(rows, targets, dense)
        return means[:-1]

    def written_out(self) -> np.ndarray:
        """All features in float64, column by column."""
        entries = [*self.entries, *(column.as_entries() for column in self.coded)]
        whole = dataclasses.replace(self, coded=[], entries=entries)
        return whole._written_out(slice(None), None, np.arange(self.features + 1))[:, :-1]

    def _dense(self, side: int) -> np.ndarray:
        """The places among the first ``side`` ones that are not of coded features."""
        behind = max((column.span.stop for column in self.coded), default=len(self.names))
        return np.r_[0 : len(self.names), behind:side]

    def _written_out(
        self, rows: slice | np.ndarray, targets: np.ndarray | None, dense: np.ndarray
    ) -> np.ndarray:
        """These rows in float64, column by column: features, the targets, and a one, at these
        places among all; those of coded features are zero.
        """
        left_out = self.features + (0 if targets is None else targets.shape[1]) + 1 - dense.size
        made = np.zeros((dense.size, self.numbers[rows].shape[0])).T
        numbers = made[:, : len(self.names)]
        numbers[:] = self.numbers[rows]
        if not np.isfinite(numbers).all():
            self.refuse_not_finite()
        for entries in self.entries:
            taken = entries[rows]
            values = 1.0 if taken.values is None else taken.values
            np.add.at(made, (taken.row, taken.first - left_out + taken.index), values)
        if targets is not None:
            here = targets[self.start : self.start + self.rows]
            made[:, self.features - left_out : -1] = here[rows]
        made[:, -1] = 1
        return made

    def refuse_not_finite(self) -> None:
        """Raise if a value is NaN or infinite, with its row."""
        whole = self.whole or self
        for part in whole.parts:
            for j, name in enumerate(whole.names):
                check_finite(whole.numbers[part.rows, j], name, part.block)
        for entries in whole.entries:
            values = np.zeros(0) if entries.values is None else entries.values
            wrong = ~np.isfinite(values)
            if wrong.any():
                at = int(np.argmax(wrong))
                what = "NaN" if np.isnan(values[at]) else "infinite"
                place = place_in(whole.parts, entries.row[at])
                raise DataError(
                    f"{entries.name!r} has an entry that is {what} in {place}: correct the data."
                )

    def _spans(self) -> list[slice]:
        """The ranges of the features that are no columns of numbers, each of them once."""
        spans = {(each.first, each.first + each.size) for each in (*self.coded, *self.entries)}
        return [slice(*span) for span in sorted(spans)]

    def _slices(self) -> Iterator[slice]:
        step = self._slice_rows
        return (slice(i, min(i + step, self.rows)) for i in range(0, self.rows, step))

    @property
    def _slice_rows(self) -> int:
        width = self.numbers.itemsize * max(len(self.names), 1)
        return max(SLICE_BYTES // width, 1)

    def _centred(self, rows: slice, center: np.ndarray | None) -> np.ndarray:
        Z = self.numbers[rows]
        if center is None:
            return Z
        wide = np.result_type(Z.dtype, center.dtype)
        return Z.astype(wide) - center[: Z.shape[1]].astype(wide)


def place_in(parts: list[ChunkPart], row: int) -> str:
    """The file and number of a chunk's row in words, for messages."""
    part = next(part for part in reversed(parts) if part.here <= row)
    return part.block.place(row - part.here)


def product_rows(side: int) -> int:
    """How many rows of ``side`` columns are multiplied with themselves at a time."""
    fitting = min(PRODUCT_BYTES // (8 * side), MOST_PRODUCT_ROWS)
    return max(fitting, LEAST_PRODUCT_ROWS, min(side, SQUARE))


def check_finite(values: np.ndarray, name: str, block: Block) -> None:
    """Raise if one of a block's values is NaN or infinite."""
    wrong = ~np.isfinite(values)
    if wrong.any():
        row = int(np.argmax(wrong))
        what = "NaN" if np.isnan(values[row]) else "infinite"
        raise DataError(f"{name!r} is {what} in {block.place(row)}: correct the data.")
