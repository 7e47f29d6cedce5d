"""Columns of one matrix, which are multiplied without a copy and without a look at each of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np


class MatrixColumns(Mapping[str, Any]):
    """The columns of a block by name: those of a matrix, each a view that is made when it is asked
    for, and others.

    Args:
      places: the number of the matrix's column by name.
      matrix: (rows, columns), in any order of storage.
      others: columns beside the matrix.
    """

    def __init__(
        self, places: Mapping[str, int], matrix: np.ndarray, others: Mapping[str, Any]
    ) -> None:
        self.places, self.matrix, self.others = places, matrix, others

    def __getitem__(self, name: str) -> Any:
        place = self.places.get(name)
        return self.others[name] if place is None else self.matrix[:, place]

    def __iter__(self) -> Iterator[str]:
        return itertools.chain(self.places, self.others)

    def __len__(self) -> int:
        return len(self.places) + len(self.others)

    def cut(self, rows: slice) -> MatrixColumns:
        """These rows of all columns."""
        others = {name: column[rows] for name, column in self.others.items()}
        return MatrixColumns(self.places, self.matrix[rows], others)


def matrix_of(columns: Mapping[str, Any], names: Sequence[str]) -> np.ndarray | None:
    """One view, (rows, names), of columns that are there, side by side in a matrix; else None."""
    if not isinstance(columns, MatrixColumns):
        return _matrix_of_views([columns.get(name) for name in names])
    span = span_of(columns.places, names)
    if span is None:
        return None
    made = columns.matrix[:, span]
    made.flags.writeable = False
    return made


def _matrix_of_views(columns: list[Any]) -> np.ndarray | None:
    """One view of the views that a loader of one's own gives, which names no matrix: a look at the
    address of each takes a microsecond.
    """
    first = columns[0] if columns else None
    if not isinstance(first, np.ndarray) or len(columns) < 2 or first.base is None:
        return None
    like = first.dtype, first.shape, first.strides
    for column in columns:
        is_alike = isinstance(column, np.ndarray) and column.base is first.base
        if not is_alike or (column.dtype, column.shape, column.strides) != like:
            return None
    at = [column.__array_interface__["data"][0] for column in columns]
    apart = at[1] - at[0]
    if apart <= 0 or any(after - before != apart for before, after in itertools.pairwise(at)):
        return None
    shape, strides = (first.shape[0], len(columns)), (first.strides[0], apart)
    return np.lib.stride_tricks.as_strided(first, shape, strides, writeable=False)


def span_of(places: Mapping[str, int], names: Sequence[str]) -> slice | None:
    """The places of these names, where they follow each other; else None."""
    at = list(map(places.get, names))
    if not at or at[0] is None or at != list(range(at[0], at[0] + len(at))):
        return None
    return slice(at[0], at[0] + len(at))
