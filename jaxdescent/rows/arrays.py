"""Sources of NumPy's arrays, in memory or in ``.npy`` files, and of sparse matrices of SciPy."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdescent.rows.errors import DataError, reading
from jaxdescent.rows.source import Block, Kind, Source
from jaxdescent.rows.stamps import checked_blocks, stamp_of

TARGET = "y"
"""The name of the target that has a file of its own."""


class Arrays(Source):
    """Arrays by name with as many rows each: one-dimensional ones are columns, ``X`` of two has the
    columns x0, x1, ..., and a sparse matrix of SciPy is one sparse column.
    """

    form = "arrays"

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self._columns: dict[str, Any] = {}
        self._matrix: np.ndarray | None = None
        self._index: dict[str, int] = {}
        kinds: dict[str, Kind] = {}
        lengths: dict[str, int] = {}
        for name, given in arrays.items():
            if not isinstance(name, str):
                raise DataError(f"the names of arrays must be text, got {name!r}: rename it.")
            array = _array(name, given)
            own = {name: array}
            if hasattr(array, "tocsr") or array.ndim == 1:
                self._columns[name] = array
            elif array.ndim == 2:
                own = {f"{name.lower()}{j}": array[:, j] for j in range(array.shape[1])}
                if self._matrix is None:
                    self._matrix, self._index = array, {each: j for j, each in enumerate(own)}
                else:
                    self._columns |= own
            else:
                raise DataError(f"{name} must have one or two dimensions, got {array.shape}.")
            twice = [column for column in own if column in kinds]
            if twice:
                raise DataError(
                    f"{name} gives a column {twice[0]!r}, which is there already: rename one."
                )
            kinds |= dict.fromkeys(own, array_kind(array.dtype, name, array))
            lengths[name] = array.shape[0]
        if len(set(lengths.values())) != 1:
            raise DataError(f"the arrays must have as many rows each, got {lengths or 'none'}.")
        self.kinds, self.rows = kinds, next(iter(lengths.values()))
        if not self.rows:
            raise DataError("the arrays have no rows.")

    def blocks(self, names: Sequence[str], size: int, row: int = 0) -> Iterator[Block]:
        assert self.rows is not None
        columns = {name: self._columns[name] for name in names if name in self._columns}
        for start in range(row, self.rows, size):
            here = slice(start, min(start + size, self.rows))
            own = {name: column[here] for name, column in columns.items()}
            matrix = None if self._matrix is None else self._matrix[here]
            yield Block(start, here.stop - start, own, matrix, self._index)

    def slice(self, first: int, rows: int) -> Arrays:
        here = slice(first, first + rows)
        new = object.__new__(Arrays)
        vars(new).update(vars(self))
        new._columns = {name: column[here] for name, column in self._columns.items()}
        new._matrix = None if self._matrix is None else self._matrix[here]
        new.rows = len(range(self.rows or 0)[here])
        return new


def _array(name: str, given: Any) -> Any:
    if hasattr(given, "tocsr"):
        return given.tocsr()
    if np.ma.is_masked(given):
        raise DataError(
            f"{name} has masked values: pass {name}.filled(np.nan), and say what becomes of "
            "missing ones."
        )
    return np.asarray(given)


def array_kind(dtype: np.dtype[Any], name: object, array: Any = None) -> Kind:
    """The kind of an array's values, which must be numbers."""
    is_real = np.isdtype(dtype, ("bool", "integral", "real floating"))  # durations are none
    if not is_real:
        raise DataError(
            f"{name} must hold real numbers, got dtype {dtype}: convert it; text and dates come in "
            "a table, such as polars.DataFrame(arrays)."
        )
    if hasattr(array, "tocsr"):
        return Kind.SPARSE
    return Kind.NUMBER if np.isdtype(dtype, "real floating") else Kind.WHOLE


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
        self.kind = array_kind(self.dtype, path)
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

    def read(self, start: int, rows: int, columns: slice) -> np.ndarray:
        """Some rows by position, read into memory of their own: (rows, columns). Of an array that
        is stored by columns no others are read.

        A memory map's pages would count as resident until the system wants them back, up to the
        whole file: a limit of memory could not be kept.
        """
        with reading(self.path), self.path.open("rb") as file:
            if not self.is_by_column:
                file.seek(self.offset + start * self.columns * self.dtype.itemsize)
                block = np.fromfile(file, self.dtype, rows * self.columns)
                return block.reshape(rows, self.columns)[:, columns]
            chosen = range(self.columns)[columns]
            block = np.empty((len(chosen), rows), self.dtype)
            for column, j in zip(block, chosen, strict=True):
                file.seek(self.offset + (j * self.rows + start) * self.dtype.itemsize)
                column[:] = np.fromfile(file, self.dtype, rows)
            return block.T


class NpyFiles(Source):
    """``X.npy`` with the columns x0, x1, ..., and the target y in a file beside it."""

    form = ".npy"

    def __init__(self, features: pathlib.Path, target: pathlib.Path | None = None) -> None:
        self._features = X = _NpyFile(features)
        self._target = None if target is None else _NpyFile(target)
        self.files = (features,) if target is None else (features, target)
        self._stamps = tuple(map(stamp_of, self.files))
        self._first, self.rows = 0, X.rows
        self.kinds = {f"x{j}": X.kind for j in range(X.columns)}
        if self._target is not None:
            if self._target.columns != 1:
                raise DataError(
                    f"{target} must hold one number for each row, got shape {self._target.shape}."
                )
            if self._target.rows != X.rows:
                raise DataError(
                    f"{features} has {X.rows:,} rows and {target} has {self._target.rows:,}: they "
                    "must have as many."
                )
            self.kinds[TARGET] = self._target.kind

    def blocks(self, names: Sequence[str], size: int, row: int = 0) -> Iterator[Block]:
        return checked_blocks(self._read(names, size, row), self.files, self._stamps, None)

    def _read(self, names: Sequence[str], size: int, row: int) -> Iterator[Block]:
        assert self.rows is not None
        X, y = self._features, self._target
        own = [int(name[1:]) for name in names if name != TARGET]
        span = slice(min(own), max(own) + 1) if own else slice(0)
        index = {f"x{j}": j - span.start for j in range(X.columns)[span]} if own else {}
        for start in range(row, self.rows, size):
            rows, at = min(size, self.rows - start), self._first + start
            columns = {}
            if y is not None and TARGET in names:
                columns[TARGET] = y.read(at, rows, slice(1))[:, 0]
            matrix = X.read(at, rows, span) if own else None
            yield Block(start, rows, columns, matrix, index)

    def slice(self, first: int, rows: int) -> NpyFiles:
        new = object.__new__(NpyFiles)
        vars(new).update(vars(self))
        new._first, new.rows = self._first + first, len(range(self.rows or 0)[first : first + rows])
        return new

    def place(self, row: int) -> str:
        return f"row {self._first + row + 1:,} of {self._features.path.name}"


def open_npy(files: Sequence[pathlib.Path], target: pathlib.Path | None) -> NpyFiles:
    """The source of a file of features, with its target in another file or in ``y.npy`` beside."""
    if target is not None and not target.is_file():
        raise DataError(f"{target}: there is no such file.")
    own = None if target is None else target.resolve()
    features = [path for path in files if path.stem != TARGET and path.resolve() != own]
    if len(features) != 1:
        raise DataError(
            f"of .npy one file of features is expected, got {len(features)}: pass X.npy alone, "
            "with y.npy beside it or by --target-file."
        )
    if target is None:
        beside = features[0].with_name(f"{TARGET}.npy")
        target = beside if beside.is_file() else None
    return NpyFiles(features[0], target)
