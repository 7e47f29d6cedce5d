"""NumPy's arrays, in memory or in ``.npy`` files."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdescent.data.entries import SparseColumn, sparse_column
from jaxdescent.data.matrix_columns import MatrixColumns, span_of
from jaxdescent.data.protocol import Block, Kind, Source
from jaxdescent.rows.errors import DataError, reading

TARGET = "y"
"""The name of the target that has a file or an array of its own."""


def _kind(dtype: np.dtype[Any], name: object) -> Kind:
    if np.issubdtype(dtype, np.floating):
        return Kind.NUMBER
    # NumPy counts durations as integers.
    is_span = np.issubdtype(dtype, np.timedelta64)
    if (np.issubdtype(dtype, np.integer) and not is_span) or dtype == np.bool_:
        return Kind.WHOLE
    raise DataError(
        f"{name} must hold real numbers, got dtype {dtype}: convert it; text and dates come in a "
        "table, such as pandas.DataFrame(arrays)."
    )


class Arrays(Source):
    """Arrays by name, all with as many rows: one-dimensional ones as columns, and X with the
    columns x0, x1, ... where it is called ``X``. A sparse matrix of SciPy is one sparse column.
    """

    form = "arrays"

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self._columns: dict[str, Any] = {}
        self._places, self._matrix = dict[str, int](), None
        for name, given in arrays.items():
            if not isinstance(name, str):
                raise DataError(f"the names of arrays must be text, got {name!r}: rename it.")
            if hasattr(given, "tocsr") or isinstance(given, SparseColumn):
                self._columns[name] = sparse_column(given, name)
                continue
            if np.ma.is_masked(given):
                raise DataError(
                    f"{name} has masked values: pass {name}.filled(np.nan), and say what becomes "
                    "of missing ones."
                )
            array = np.asarray(given)
            if array.ndim == 2:
                own = {f"{name.lower()}{j}": array[:, j] for j in range(array.shape[1])}
                if self._matrix is None:
                    self._places, self._matrix = {each: j for j, each in enumerate(own)}, array
            elif array.ndim == 1:
                own = {name: array}
            else:
                raise DataError(f"{name} must have one or two dimensions, got {array.shape}.")
            twice = [column for column in own if column in self._columns]
            if twice:
                raise DataError(
                    f"{name} gives a column {twice[0]!r}, which is there already: rename one."
                )
            self._columns |= own
        self.kinds = {
            name: Kind.SPARSE if isinstance(each, SparseColumn) else _kind(each.dtype, name)
            for name, each in self._columns.items()
        }
        lengths = {name: len(array) for name, array in self._columns.items()}
        if len(set(lengths.values())) != 1:
            raise DataError(f"the arrays must have as many rows each, got {lengths or 'none'}.")
        self.rows = next(iter(lengths.values()))
        self._starts = range(self.rows)
        if not self.rows:
            raise DataError("the arrays have no rows.")

    def row_bytes(self, names: Sequence[str]) -> int:
        return 0  # blocks are views

    def blocks(self, names: Sequence[str], rows: int, begin: int = 0) -> Iterator[Block]:
        own = [name for name in names if name in self._places]
        span = span_of(self._places, own)
        others = names if span is None else [name for name in names if name not in self._places]
        places = {name: j for j, name in enumerate(own)}
        for start in self._starts[begin::rows]:
            here = slice(start, start + rows)
            columns = {name: self._columns[name][here] for name in others}
            if self._matrix is not None and span is not None:
                columns = MatrixColumns(places, self._matrix[here, span], columns)
            yield Block(columns, min(rows, len(self._starts) - start), 0, "", start)


class _NpyFile:
    """The header of a ``.npy`` file, and its rows by position."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        with reading(path), path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                header = np.lib.format.read_array_header_2_0
            self.shape, self.is_by_column, self.dtype = header(file)
            self.offset = file.tell()
        _kind(self.dtype, path)
        if len(self.shape) not in (1, 2) or 0 in self.shape:
            raise DataError(f"{path} must have shape (rows, columns), got {self.shape}.")
        self.rows = self.shape[0]
        self.columns = self.shape[1] if len(self.shape) == 2 else 1
        expected = self.offset + self.rows * self.columns * self.dtype.itemsize
        if path.stat().st_size < expected:
            raise DataError(
                f"{path} is truncated: its header asks for {expected:,} bytes, and it has "
                f"{path.stat().st_size:,}."
            )

    def read(self, start: int, rows: int, columns: slice | Sequence[int]) -> np.ndarray:
        """Some rows by position, read into memory of their own: (rows, columns). Of an array that
        is stored by columns no others are read.

        A memory map's pages would count as resident until the system wants them back, up to the
        whole file: a limit of memory could not be kept.
        """
        with reading(self.path), self.path.open("rb") as file:
            if not self.is_by_column:
                size = self.columns * self.dtype.itemsize
                file.seek(self.offset + start * size)
                block = np.fromfile(file, self.dtype, rows * self.columns)
                return block.reshape(rows, self.columns)[:, columns]
            chosen = range(self.columns)[columns] if isinstance(columns, slice) else columns
            block = np.empty((len(chosen), rows), self.dtype)
            for column, j in zip(block, chosen, strict=True):
                file.seek(self.offset + (j * self.rows + start) * self.dtype.itemsize)
                column[:] = np.fromfile(file, self.dtype, rows)
            return block.T


class NpyFiles(Source):
    """``X.npy`` with the columns x0, x1, ..., and the target y in a file beside it."""

    form = ".npy"

    def __init__(self, features: pathlib.Path, target: pathlib.Path | None = None) -> None:
        self._features = _NpyFile(features)
        self._target = None if target is None else _NpyFile(target)
        self.rows, self._starts = self._features.rows, range(self._features.rows)
        self.files = [features] if target is None else [features, target]
        kind = _kind(self._features.dtype, features)
        self._index = {f"x{j}": j for j in range(self._features.columns)}
        kinds = dict.fromkeys(self._index, kind)
        if self._target is not None:
            if self._target.columns != 1:
                raise DataError(
                    f"{target} must hold one number for each row, got shape {self._target.shape}."
                )
            if self._target.rows != self._features.rows:
                raise DataError(
                    f"{features} has {self._features.rows:,} rows and {target} has "
                    f"{self._target.rows:,}: they must have as many."
                )
            kinds[TARGET] = _kind(self._target.dtype, target)
        self.kinds = kinds

    def row_bytes(self, names: Sequence[str]) -> int:
        X = self._features
        columns = len(names) if X.is_by_column else X.columns
        return columns * X.dtype.itemsize + 16  # of the target

    def blocks(self, names: Sequence[str], rows: int, begin: int = 0) -> Iterator[Block]:
        X, y = self._features, self._target
        own = [name for name in names if name in self._index]
        index = span_of(self._index, own) or [self._index[name] for name in own]
        places = {name: j for j, name in enumerate(own)}
        for start in self._starts[begin::rows]:
            size, columns = min(rows, X.rows - start), dict[str, Any]()
            if y is not None and TARGET in names:
                columns[TARGET] = y.read(start, size, slice(1))[:, 0]
            if own:  # the target alone needs no features
                columns = MatrixColumns(places, X.read(start, size, index), columns)
            yield Block(columns, size, 0, X.path.name, start)
