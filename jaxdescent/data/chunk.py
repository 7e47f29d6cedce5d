"""Some rows as numbers, and what they add to products: NumPy's arithmetic, slice by slice."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from jaxdescent.data.entries import Entries, add_squares
from jaxdescent.data.errors import DataError
from jaxdescent.data.protocol import Block

SLICE_BYTES = 1 << 18
"""Rows are multiplied so many bytes at a time, which stay in a core's cache while a mean is
subtracted; the sums of slices are added in float64."""

PRODUCT_ROWS = 2048
"""A product of a slice with itself has as many rows as columns, up to so many: fewer are slow."""

NONE = -1
"""The code of a row that has none of the levels."""


@dataclasses.dataclass(frozen=True)
class ChunkPart:
    """Where some rows of a chunk are from.

    Attributes:
      here: the first of these rows in the chunk.
      there: the same row in the source's block.
      block: that block.
    """

    here: int
    there: int
    block: Block


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Some rows as numbers.

    Attributes:
      start: the number of the first row.
      names: of the columns of numbers.
      numbers: (rows, columns), in any order of storage.
      levels: how many levels each categorical column has.
      codes: an integer for each row, of each categorical column.
      parts: where they are from.
      features: how many there are: the numbers, the levels of one column after another, and those
        of the entries.
      entries: of sparse, hashed and text columns.
      whole: the chunk that these rows were taken from, in any order; None if from none.
    """

    start: int
    names: tuple[str, ...]
    numbers: np.ndarray
    levels: Mapping[str, int]
    codes: list[np.ndarray]
    parts: list[ChunkPart]
    features: int
    entries: list[Entries] = dataclasses.field(default_factory=list)
    whole: Chunk | None = None

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.numbers.shape[0]

    def take(self, rows: np.ndarray) -> Chunk:
        """These rows, in their order."""
        return dataclasses.replace(
            self,
            numbers=self.numbers[rows],
            codes=[codes[rows] for codes in self.codes],
            entries=[entries.take(rows) for entries in self.entries],
            whole=self,
        )

    def place(self, row: int) -> str:
        """Where a row is, for people."""
        part = next(part for part in reversed(self.parts) if part.here <= row)
        return part.block.place(part.there + row - part.here)

    def own(self, rows: np.ndarray | None) -> np.ndarray:
        """This chunk's part of numbers for all rows, in float64; None stands for ones."""
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
            for codes, first, stop in self._coded():
                own = np.concatenate([weights[first:stop], np.zeros_like(weights[:1])])
                made += own[codes]  # NONE is the last one
                if center is not None:
                    made -= center[first:stop].astype(own.dtype) @ own[:-1]
            for entries in self.entries:
                entries.multiply(weights, made)
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
            for codes, first, stop in self._coded():
                for k in range(residual.shape[1]):
                    column = residual[:, k].astype(np.float64)
                    term = _by_level(codes, column, stop - first)
                    if center is not None:
                        term -= center[first:stop] * column.sum()
                    total[first:stop, k] += term
            for entries in self.entries:
                entries.add(residual, total)
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
        for codes, first, stop in self._coded():
            c = np.zeros(stop - first) if center is None else center[first:stop].astype(float)
            counts = _by_level(codes, s, stop - first)
            total[first:stop] += counts * (1 - c) ** 2 + (s.sum() - counts) * c**2
        add_squares(self.entries, s, center, total)
        if not np.isfinite(total).all():
            self.refuse_not_finite()

    def add_products(
        self,
        weight: np.ndarray | None,
        targets: np.ndarray | None,
        shift: np.ndarray,
        total: np.ndarray,
    ) -> None:
        """Add ``sum_i s_i z_i z_i'`` to ``total``, where z is features and targets less the shift,
        and a one.
        """
        step = max(self._slice_rows, min(total.shape[0], PRODUCT_ROWS))
        for first in range(0, self.rows, step):
            rows = slice(first, min(first + step, self.rows))
            Z = self.written_out(rows, targets)
            Z[:, :-1] -= shift
            with np.errstate(over="ignore", invalid="ignore"):
                total += Z.T @ (Z if weight is None else self.own(weight)[rows, None] * Z)

    def means(self, weight: np.ndarray | None, targets: np.ndarray | None) -> np.ndarray:
        """The weighted means of features and targets; plain ones if no weight is positive."""
        s = self.own(weight)
        share = s / s.sum() if s.sum() > 0 else np.full(self.rows, 1 / self.rows)
        parts = (share[rows] @ self.written_out(rows, targets)[:, :-1] for rows in self._slices())
        return np.sum(list(parts), axis=0)

    def written_out(self, rows: slice | np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        """These rows in float64, column by column: all features, the targets, and a one."""
        outputs = 0 if targets is None else targets.shape[1]
        count = self.numbers[rows].shape[0]
        made = np.zeros((self.features + outputs + 1, count)).T
        numbers = made[:, : len(self.names)]
        numbers[:] = self.numbers[rows]
        if not np.isfinite(numbers).all():
            self.refuse_not_finite()
        for codes, first, _ in self._coded():
            own = codes[rows]
            there = np.flatnonzero(own >= 0)
            made[there, first + own[there]] = 1
        for entries in self.entries:
            taken = entries.take(rows)
            values = 1.0 if taken.values is None else taken.values
            np.add.at(made, (taken.row, taken.first + taken.index), values)
        if targets is not None:
            here = targets[self.start : self.start + self.rows]
            made[:, self.features : -1] = here[rows]
        made[:, -1] = 1
        return made

    def refuse_not_finite(self) -> None:
        """Raise if a value is NaN or infinite, with its row."""
        if self.whole is not None:
            return self.whole.refuse_not_finite()
        for part, after in zip(self.parts, [*self.parts[1:], None], strict=True):
            rows = slice(part.here, self.rows if after is None else after.here)
            for j, name in enumerate(self.names):
                check_finite(self.numbers[rows, j], name, part.block, part.there)
        for entries in self.entries:
            if entries.values is None:
                continue
            wrong = ~np.isfinite(entries.values)
            if wrong.any():
                at = int(np.argmax(wrong))
                row = int(np.searchsorted(entries.starts, at, "right")) - 1
                what = "NaN" if np.isnan(entries.values[at]) else "infinite"
                raise DataError(
                    f"{entries.name!r} has an entry that is {what} in {self.place(row)}: correct "
                    "the data."
                )
        return None

    def _spans(self) -> list[slice]:
        """The features of the entries, each of them once."""
        spans = {(entries.first, entries.first + entries.size) for entries in self.entries}
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

    def _coded(self) -> Iterator[tuple[np.ndarray, int, int]]:
        first = len(self.names)
        for codes, levels in zip(self.codes, self.levels.values(), strict=True):
            yield codes, first, first + levels
            first += levels


def check_finite(values: np.ndarray, name: str, block: Block, first: int) -> None:
    """Raise if one of these values, which begin at a block's row ``first``, is NaN or infinite."""
    wrong = ~np.isfinite(values)
    if wrong.any():
        row = int(np.argmax(wrong))
        what = "NaN" if np.isnan(values[row]) else "infinite"
        raise DataError(f"{name!r} is {what} in {block.place(first + row)}: correct the data.")


def _by_level(codes: np.ndarray, values: np.ndarray, levels: int) -> np.ndarray:
    """The sum of the values of each level's rows, in float64 and in the order of the rows."""
    return np.bincount(codes + 1, values, minlength=levels + 1)[1:]
