"""A column of rows of which most features are zero."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np

from jaxdescent.data.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class SparseColumn:
    """The entries of some rows, in the order of the rows.

    Attributes:
      starts: (rows + 1,), where the entries of each row begin and the last one's end.
      index: (entries,), int64.
      values: (entries,), float64.
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


def row_ranges(starts: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows of about ``most`` entries; a longer row has its own range."""
    first, rows = 0, len(starts) - 1
    while first < rows:
        last = int(np.searchsorted(starts, starts[first] + most, "right")) - 1
        last = min(max(last, first + 1), rows)
        yield first, last
        first = last


def sparse_column(given: Any, name: str) -> SparseColumn:
    """A sparse column from a sparse matrix of SciPy, or from a sparse column.

    Raises:
      DataError: for values that are no real numbers.
    """
    if isinstance(given, SparseColumn):
        return given
    matrix = given.tocsr()
    if not np.isdtype(matrix.dtype, ("bool", "integral", "real floating")):
        raise DataError(f"{name} must hold real numbers, got dtype {matrix.dtype}: convert it.")
    values = matrix.data.astype(np.float64, copy=False)
    return SparseColumn(
        matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64, copy=False), values
    )
