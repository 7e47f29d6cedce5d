"""A column of rows of which most features are zero."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxdescent.data.errors import DataError


class SparseColumn:
    """The entries of some rows, in the order of the rows.

    Attributes:
      starts: (rows + 1,), where the entries of each row begin and the last one's end.
      index: (entries,), int64.
      values: (entries,), float64.
    """

    def __init__(self, starts: np.ndarray, index: np.ndarray, values: np.ndarray) -> None:
        self.starts, self.index, self.values = starts, index, values

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, rows: slice | np.ndarray) -> SparseColumn:
        """The entries of these rows, in their order."""
        return SparseColumn(*rows_taken(self.starts, self.index, self.values, rows))

    def filter(self, met: Any) -> SparseColumn:
        """The entries of the rows for which ``met`` is true."""
        return self[np.flatnonzero(np.asarray(met))]

    @property
    def row(self) -> np.ndarray:
        """The row of each entry, (entries,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))


def rows_taken(
    starts: np.ndarray, index: np.ndarray, values: Any, rows: slice | np.ndarray
) -> tuple[np.ndarray, np.ndarray, Any]:
    """The starts of some rows, and the entries of these rows, in the order of the rows;
    ``values`` may be None for ones. Entries of consecutive rows are not copied.
    """
    if isinstance(rows, slice):
        begin, end, step = rows.indices(len(starts) - 1)
        end = max(end, begin)
        if step == 1:
            own: Any = slice(int(starts[begin]), int(starts[end]))
            own_values = None if values is None else values[own]
            return starts[begin : end + 1] - starts[begin], index[own], own_values
        rows = np.arange(begin, end, step)
    counts = starts[rows + 1] - starts[rows]
    begins = np.concatenate([[0], np.cumsum(counts)])
    # For each entry of the result, in the order of the rows, its place in the arrays given.
    own = np.arange(begins[-1]) + np.repeat(starts[rows] - begins[:-1], counts)
    return begins, index[own], None if values is None else values[own]


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
