"""NumPy's arrays, in memory or in ``.npy`` files."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdescent.data.errors import DataError, reading
from jaxdescent.data.protocol import Block, Kind, Source
from jaxdescent.data.sparse_column import SparseColumn, sparse_column

TARGET = "y"
"""The name of the target that has a file or an array of its own."""


def _kind(dtype: np.dtype[Any], name: object) -> Kind:
    if np.issubdtype(dtype, np.floating):
        return Kind.NUMBER
    # NumPy counts durations as integers.
    is_span = np.issubdtype(dtype, np.timedelta64)
    if (np.issubdtype(dtype, np.integer) and not is_span) or dtype == np.bool_:
        return Kind.WHOLE
    raise DataError(f"{name} must hold real numbers, got dtype {dtype}: convert it.")


class Arrays(Source):
    """Arrays by name, all with as many rows: one-dimensional ones as columns, and X with the
    columns x0, x1, ... where it is called ``X``. A sparse matrix of SciPy is one sparse column.
    """

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self._columns: dict[str, Any] = {}
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
        self._kinds = {
            name: Kind.SPARSE if isinstance(each, SparseColumn) else _kind(each.dtype, name)
            for name, each in self._columns.items()
        }
        lengths = {name: len(array) for name, array in self._columns.items()}
        if len(set(lengths.values())) != 1:
            raise DataError(f"the arrays must have as many rows each, got {lengths or 'none'}.")
        self._rows = next(iter(lengths.values()))
        self._starts = range(self._rows)
        if not self._rows:
            raise DataError("the arrays have no rows.")

    @property
    def kinds(self) -> Mapping[str, Kind]:
        return self._kinds

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def form(self) -> str:
        return "arrays"

    def row_bytes(self, names: Sequence[str]) -> int:
        return 0  # blocks are views

    def blocks(self, names: Sequence[str], rows: int) -> Iterator[Block]:
        for start in range(self._first, self._rows, rows):
            columns = {name: self._columns[name][start : start + rows] for name in names}
            yield Block(columns, min(rows, self._rows - start), 0, "", start)


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

    def read(self, file: Any, start: int, rows: int) -> np.ndarray:
        """Rows by position, (rows, columns), read into memory of their own.

        A memory map's pages would count as resident until the system wants them back, up to the
        whole file: a limit of memory could not be kept.
        """
        if not self.is_by_column or self.columns == 1:
            size = self.columns * self.dtype.itemsize
            file.seek(self.offset + start * size)
            block = np.fromfile(file, self.dtype, rows * self.columns)
            return block.reshape(rows, self.columns)
        block = np.empty((self.columns, rows), self.dtype)
        for j in range(self.columns):
            file.seek(self.offset + (j * self.rows + start) * self.dtype.itemsize)
            block[j] = np.fromfile(file, self.dtype, rows)
        return block.T


class NpyFiles(Source):
    """``X.npy`` with the columns x0, x1, ..., and the target y in a file beside it."""

    def __init__(self, features: pathlib.Path, target: pathlib.Path | None = None) -> None:
        self._features = _NpyFile(features)
        self._target = None if target is None else _NpyFile(target)
        self._starts = range(self._features.rows)
        kind = _kind(self._features.dtype, features)
        self._index = {f"x{j}": j for j in range(self._features.columns)}
        self._kinds = dict.fromkeys(self._index, kind)
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
            self._kinds[TARGET] = _kind(self._target.dtype, target)

    @property
    def kinds(self) -> Mapping[str, Kind]:
        return self._kinds

    @property
    def rows(self) -> int:
        return self._features.rows

    @property
    def form(self) -> str:
        return ".npy"

    @property
    def files(self) -> Sequence[pathlib.Path]:
        return [file.path for file in (self._features, self._target) if file is not None]

    def row_bytes(self, names: Sequence[str]) -> int:
        # Whole rows of features are read, whichever are asked for, and 16 bytes of the target.
        return self._features.columns * self._features.dtype.itemsize + 16

    def blocks(self, names: Sequence[str], rows: int) -> Iterator[Block]:
        X, y = self._features, self._target
        name = X.path.name
        own = [n for n in names if n in self._index]
        with reading(X.path), X.path.open("rb") as x_file:
            y_file = None if y is None else y.path.open("rb")
            try:
                for start in range(self._first, X.rows, rows):
                    size = min(rows, X.rows - start)
                    columns = {}
                    if own:  # the target alone needs no features
                        with reading(X.path):
                            block = X.read(x_file, start, size)
                        columns = {n: block[:, self._index[n]] for n in own}
                    if y is not None and y_file is not None and TARGET in names:
                        with reading(y.path):
                            columns[TARGET] = y.read(y_file, start, size)[:, 0]
                    yield Block(columns, size, 0, name, start)
            finally:
                if y_file is not None:
                    y_file.close()
