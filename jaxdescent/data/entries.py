"""The entries of rows of which most features are zero, one in each row or any number."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from jaxdescent.rows.errors import DataError

NONE = -1
"""The code of a row that has none of the features."""


@dataclasses.dataclass(frozen=True, eq=False)
class SparseColumn:
    """The entries of some rows, in the order of the rows.

    Attributes:
      starts: (rows + 1,), where the entries of each row begin and the last one's end.
      index: (entries,), int64.
      values: (entries,), float64; None for ones.
    """

    starts: np.ndarray
    index: np.ndarray
    values: Any

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, rows: slice | np.ndarray) -> Self:
        """The entries of these rows, in their order; those of consecutive rows are not copied."""
        if isinstance(rows, slice):
            begin, end, step = rows.indices(len(self))
            end = max(end, begin)
            if step == 1:
                begins = self.starts[begin : end + 1]
                return self._with(begins - begins[0], slice(int(begins[0]), int(begins[-1])))
            rows = np.arange(begin, end, step)
        counts = self.starts[rows + 1] - self.starts[rows]
        begins = np.concatenate([[0], np.cumsum(counts)])
        # For each entry of the result, in the order of the rows, its place among the entries here.
        return self._with(
            begins, np.arange(begins[-1]) + np.repeat(self.starts[rows] - begins[:-1], counts)
        )

    def _with(self, starts: np.ndarray, own: slice | np.ndarray) -> Self:
        values = None if self.values is None else self.values[own]
        return dataclasses.replace(self, starts=starts, index=self.index[own], values=values)

    @property
    def row(self) -> np.ndarray:
        """The row of each entry, (entries,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def followed_by(self, others: Sequence[Self]) -> Self:
        """The entries of these rows, and then of those of other columns."""
        if not others:
            return self
        pieces = [self, *others]
        counts = np.concatenate([np.diff(each.starts) for each in pieces])
        values = [each.values for each in pieces if each.values is not None]
        return dataclasses.replace(
            self,
            starts=np.concatenate([[0], np.cumsum(counts)]),
            index=np.concatenate([each.index for each in pieces]),
            values=np.concatenate(values) if values else None,
        )


@dataclasses.dataclass(frozen=True)
class Coded:
    """Some features of which each row has one at most."""

    first: int  # the number of the first of the features among all
    size: int  # how many features these are
    codes: np.ndarray  # (rows,), integers from 0 to ``size - 1``, or :data:`NONE`
    values: np.ndarray | None = None  # (rows,), or None for ones


@dataclasses.dataclass(frozen=True, eq=False)
class RowEntries(SparseColumn):
    """The nonzero entries of some rows in some features; one that a row has twice counts twice.

    The indices are integers from 0 to ``size - 1``; they and the values may be of another dtype.
    """

    name: str  # the name of the column that the entries are from
    first: int  # the number of the first of the features among all
    size: int  # how many features these are

    def in_dtype(self, dtype: Any) -> RowEntries:
        """The entries with values of this dtype."""
        with np.errstate(over="ignore"):  # values that become infinite are refused later
            values = None if self.values is None else self.values.astype(dtype, copy=False)
        return dataclasses.replace(
            self, index=self.index.astype(np.int32, copy=False), values=values
        )


def sparse_pieces(
    coded: Sequence[Coded], entries: Sequence[RowEntries], first: int, features: int, dtype: Any
) -> list[Any]:
    """Sparse matrices of SciPy whose sum are all features from ``first`` on: one of all coded
    features, which follow each other or are shared, and one of each column of entries.
    """
    if not coded and not entries:
        return []  # dense rows need no SciPy
    from scipy.sparse import csr_array

    pieces = list[Any]()
    for each in [entries_of(coded), *entries] if coded else entries:
        own = each.in_dtype(dtype)
        starts, index = own.starts, own.index
        if index.size < 2**31 and features - first < 2**31:
            starts = starts.astype(np.int32)
        else:
            index = index.astype(np.int64)
        if each.first > first:
            index = index + index.dtype.type(each.first - first)
        values = np.ones(index.size, dtype) if own.values is None else own.values
        pieces.append(csr_array((values, index, starts), (len(each), features - first)))
    return pieces


def entries_of(columns: Sequence[Coded]) -> RowEntries:
    """The entries of columns whose features follow each other, or are shared."""
    first, values = columns[0].first, None
    index = np.empty((len(columns[0].codes), len(columns)), np.int32)
    for each, own in zip(columns, index.T, strict=True):
        np.add(each.codes, each.first - first, out=own, dtype=np.int32, casting="unsafe")
        if each.codes.min(initial=0) < 0:  # looked for first, which is faster than to replace
            own[each.codes < 0] = NONE
    sloped = [each.values for each in columns if each.values is not None]
    if sloped:
        ones = np.ones_like(sloped[0])
        given = [ones if each.values is None else each.values for each in columns]
        values = np.stack(given, axis=1).ravel()
    starts = np.arange(0, index.size + 1, len(columns))
    if index.min(initial=0) < 0:
        there = index >= 0
        starts = np.concatenate([[0], np.cumsum(np.count_nonzero(there, axis=1))])
        index, values = index[there], None if values is None else values[there.ravel()]
    size = columns[-1].first + columns[-1].size - first
    return RowEntries(starts, index.ravel(), values, "", first, size)


def sparse_column(given: Any, name: str) -> SparseColumn:
    """A sparse column from a sparse matrix of SciPy, or from a sparse column."""
    if isinstance(given, SparseColumn):
        return given
    matrix = given.tocsr()
    if not np.isdtype(matrix.dtype, ("bool", "integral", "real floating")):
        raise DataError(f"{name} must hold real numbers, got dtype {matrix.dtype}: convert it.")
    values = matrix.data.astype(np.float64, copy=False)
    return SparseColumn(
        matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64, copy=False), values
    )
