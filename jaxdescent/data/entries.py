"""The entries of rows of which most features are zero, one in each row or any number, and their
terms in products.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxdescent.data.sparse_column import SparseColumn, row_ranges

SLICE_ENTRIES = 1 << 16
"""How many entries are multiplied at a time: they stay in a core's cache. The sums of slices are
added in float64."""


NONE = -1
"""The code of a row that has none of the features."""


@dataclasses.dataclass(frozen=True)
class Coded:
    """Some features of which each row has one at most.

    Attributes:
      first: the number of the first of the features among all.
      size: how many features these are.
      codes: (rows,), integers from 0 to ``size - 1``, or :data:`NONE`.
      values: (rows,), or None for ones.
    """

    first: int
    size: int
    codes: np.ndarray
    values: np.ndarray | None = None

    @property
    def span(self) -> slice:
        """The features among all."""
        return slice(self.first, self.first + self.size)

    def __getitem__(self, rows: slice | np.ndarray) -> Coded:
        """The codes of these rows, in their order."""
        values = None if self.values is None else self.values[rows]
        return dataclasses.replace(self, codes=self.codes[rows], values=values)

    def multiply(self, weights: np.ndarray, made: np.ndarray) -> None:
        """Add ``X @ weights`` to ``made``, (rows, k); weights are those of all features."""
        own = np.concatenate([weights[self.span], np.zeros_like(weights[:1])])[self.codes]
        if self.values is not None:
            own *= self.values[:, None]
        made += own  # NONE takes the last row, of zeros

    def add(self, residual: np.ndarray, total: np.ndarray) -> None:
        """Add ``X' @ residual`` to ``total``, (features, k) in float64."""
        for k in range(residual.shape[1]):
            column = residual[:, k].astype(np.float64)
            total[self.span, k] += self._sums(
                column if self.values is None else column * self.values
            )

    def _sums(self, values: np.ndarray) -> np.ndarray:
        """The sum of values of each feature's rows, in float64 and in the order of the rows."""
        return np.bincount(self.codes + 1, values, minlength=self.size + 1)[1:]

    def add_squares(self, s: np.ndarray, center: np.ndarray | None, total: np.ndarray) -> None:
        """Add ``sum_i s_i (x_ij - center_j)^2`` to ``total``, (features,) in float64, where no
        other column has these features: entries take several times as long.
        """
        c = np.zeros(self.size) if center is None else center[self.span].astype(np.float64)
        x = 1.0 if self.values is None else self.values
        total[self.span] += self._sums(s * np.square(x - np.append(c, 0.0)[self.codes]))
        # Rounding must not bring these sums of squares below zero.
        total[self.span] += np.maximum(s.sum() - self._sums(s), 0) * c**2

    def as_entries(self) -> RowEntries:
        """The codes as entries."""
        is_there = self.codes >= 0
        starts = np.concatenate([[0], np.cumsum(is_there)])
        values = None if self.values is None else self.values[is_there]
        return RowEntries(starts, self.codes[is_there], values, "", self.first, self.size)


@dataclasses.dataclass(frozen=True, eq=False)
class RowEntries(SparseColumn):
    """The nonzero entries of some rows in some features; one that a row has twice counts twice.

    Attributes:
      index: (entries,), int32, from 0 to ``size - 1``.
      values: (entries,), or None for ones.
      name: the name of the column that the entries are from.
      first: the number of the first of the features among all.
      size: how many features these are.
    """

    name: str
    first: int
    size: int

    @property
    def span(self) -> slice:
        """The features among all."""
        return slice(self.first, self.first + self.size)

    def in_dtype(self, dtype: Any) -> RowEntries:
        """The entries with values of this dtype."""
        values = None if self.values is None else self.values.astype(dtype, copy=False)
        return dataclasses.replace(self, index=self.index.astype(np.int32), values=values)

    def multiply(self, weights: np.ndarray, made: np.ndarray) -> None:
        """Add ``X @ weights`` to ``made``, (rows, k); weights are those of all features."""
        for k in range(weights.shape[1]):
            own = np.ascontiguousarray(weights[self.span, k])
            for rows, there, entries in self._slices():
                # "clip" saves a copy: places are known to be in range.
                terms = np.take(own, self.index[entries].astype(np.intp), mode="clip")
                if self.values is not None:
                    terms *= self.values[entries]
                begins = self.starts[:-1][rows][there] - entries.start
                if begins.size:
                    made[rows, k][there] += np.add.reduceat(terms, begins)

    def add(self, residual: np.ndarray, total: np.ndarray) -> None:
        """Add ``X' @ residual`` to ``total``, (features, k) in float64."""
        for k in range(residual.shape[1]):
            own = total[self.span, k]
            for rows, there, entries in self._slices():
                counts = np.diff(self.starts[rows.start : rows.stop + 1])[there]
                terms = np.repeat(residual[rows, k][there].astype(np.float64), counts)
                if self.values is not None:
                    terms *= self.values[entries]
                np.add.at(own, self.index[entries].astype(np.intp), terms)

    def _slices(self) -> Iterator[tuple[slice, np.ndarray | slice, slice]]:
        """About :data:`SLICE_ENTRIES` entries at a time: rows, which have entries, the entries."""
        for first, last in row_ranges(self.starts, SLICE_ENTRIES):
            counts = np.diff(self.starts[first : last + 1])
            there = slice(None) if counts.all() else np.flatnonzero(counts)
            entries = slice(int(self.starts[first]), int(self.starts[last]))
            yield slice(first, last), there, entries


def add_squares(
    pieces: Sequence[RowEntries], s: np.ndarray, center: np.ndarray | None, total: np.ndarray
) -> None:
    """Add ``sum_i s_i (x_ij - center_j)^2`` of features that several columns may share.

    Args:
      pieces: entries of the same rows.
      s: (rows,), in float64.
      center: (features,), or None for zeros.
      total: (features,), in float64, of all features.
    """
    by_place: dict[tuple[int, int], list[RowEntries]] = {}
    for piece in pieces:
        by_place.setdefault((piece.first, piece.size), []).append(piece)
    for (first, size), group in by_place.items():
        row = np.concatenate([piece.row for piece in group])
        index = np.concatenate([piece.index for piece in group])
        ones = [np.ones(p.index.size) if p.values is None else p.values for p in group]
        x = np.concatenate(ones, dtype=np.float64)
        place = row * size + index
        if np.any(place[1:] <= place[:-1]):  # a row may have a feature twice
            order = np.argsort(place, kind="stable")
            begins = np.flatnonzero(np.diff(place[order], prepend=-1))
            x, own = np.add.reduceat(x[order], begins), order[begins]
            row, index = row[own], index[own]
        with np.errstate(over="ignore", invalid="ignore"):
            c = 0.0
            if center is not None:
                c = center[first : first + size].astype(np.float64)
                x = x - c[index]
                # Rounding must not bring these sums of squares below zero.
                others = np.maximum(s.sum() - np.bincount(index, s[row], size), 0)
                total[first : first + size] += others * c**2
            total[first : first + size] += np.bincount(index, s[row] * np.square(x), size)
