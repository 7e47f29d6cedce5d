"""Sources of rows from paths, tables and arrays that a caller names; and tables in memory."""

from __future__ import annotations

import importlib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxdescent.data.arrays import Arrays, NpyFiles
from jaxdescent.data.arrow import pa
from jaxdescent.data.arrow_types import kinds_of
from jaxdescent.data.filters import Filtered
from jaxdescent.data.protocol import Block, Source, blocks_of, stamps_of
from jaxdescent.rows.errors import DataError, listed, one_line, path_of, reading

FORMATS = {
    "Parquet": ("parquet.ParquetFiles", ".parquet .pq"),
    "Arrow": ("grouped_files.ArrowFiles", ".arrow .feather"),
    "CSV": ("csv_files.CsvFiles", ".csv .csv.gz .csv.zst"),
    ".npy": ("arrays.NpyFiles", ".npy"),
    "svmlight": (
        "svmlight.SvmlightFiles",
        ".svm .svm.gz .libsvm .libsvm.gz .svmlight .svmlight.gz",
    ),
}
"""The class that reads a format's files, and the endings of their names. A module is imported for
files of its format: every program that descends loads this one."""

ENDINGS = {end: form for form, (_, endings) in FORMATS.items() for end in endings.split()}
"""The format of each ending."""

PACKED = (
    *(".gz", ".gzip", ".zst", ".zstd", ".bz2", ".bzip2", ".xz", ".lzma", ".lz", ".lz4", ".lzo"),
    *(".sz", ".snappy", ".br", ".z", ".zip", ".7z", ".rar"),
)
"""Endings of packed files. Behind the ending of a format they hold rows, which must not be lost."""

PATH_TYPES = (str, bytes, os.PathLike)

TABLE = "the table"


def open_source(data: Any, target_file: Any = None, where: str | None = None) -> Source:
    """A source of rows.

    Args:
      data: a path of a file or a folder, or several; an object with ``__arrow_c_stream__``, such as
        a table of pyarrow, polars, pandas or DuckDB; a dictionary of NumPy arrays by name; or a
        :class:`Source`.
      target_file: for ``.npy``: the file of the target, ``y.npy`` beside the features by default.
      where: a condition that rows have to meet (:func:`jaxdescent.data.filters.condition_of`).

    Raises:
      DataError: where nothing can be read from ``data``, with the reason.
      ImportError: where pyarrow is needed, and is not installed.
      TypeError: where a source does not say the kinds of its columns.
    """
    source = _opened(data, target_file)
    if not isinstance(where, str | None):
        raise DataError(f"--where must be a condition as text, got {type(where).__name__}.")
    return source if where is None else Filtered(source, where)


def _opened(data: Any, target_file: Any) -> Source:
    if isinstance(data, Source):
        if not hasattr(data, "kinds"):
            raise TypeError(
                f"{type(data).__name__} must have an attribute `kinds`: the Kind of each column by "
                "its name."
            )
        return data
    if hasattr(data, "__arrow_c_stream__"):
        return ArrowStream(data)
    if isinstance(data, Mapping):
        return Arrays(data)
    given = [data] if isinstance(data, PATH_TYPES) else data
    if (
        not isinstance(given, Sequence)
        or not given
        or not all(isinstance(path, PATH_TYPES) for path in given)
    ):
        raise DataError(
            "data must be a path, several of them, a table, a dictionary of arrays or a "
            f"jaxdescent.data.Source, got {type(data).__name__}."
        )
    return _open_files([path_of(path) for path in given], target_file)


def _open_files(paths: list[pathlib.Path], target_file: Any) -> Source:
    files = [file for path in paths for file in _files_below(path)]
    forms = {_form(path) for path in files}
    if len(forms) > 1:
        raise DataError(f"the files must be of one format, got {listed(sorted(forms))}.")
    seen: dict[tuple[int, int], pathlib.Path] = {}
    for path in files:
        try:
            str(path).encode()
        except UnicodeError as error:
            raise DataError(f"{path}: the name is not UTF-8: rename it.") from error
        if not os.access(path, os.R_OK):
            raise DataError(f"{path}: no permission to read it.")
        # A file under two names, such as a link, is listed once, or its rows would count twice.
        status = path.stat()
        before = seen.setdefault((status.st_dev, status.st_ino), path)
        if before is not path:
            also = "" if before == path else f", as {before} too"
            raise DataError(f"{path} is named twice{also}: name each file once.")
    form = forms.pop()
    before = stamps_of(files)
    if form == ".npy":
        source = _open_npy(files, target_file)
    elif target_file is None:
        module, name = FORMATS[form][0].split(".")
        source = getattr(importlib.import_module(f"jaxdescent.data.{module}"), name)(files)
    else:
        raise DataError(
            f"--target-file goes with .npy alone, got {form}: name the target's column instead."
        )
    source.opened = before if source.files == files else stamps_of(source.files)
    return source


def _open_npy(files: list[pathlib.Path], target_file: Any) -> Source:
    target = None if target_file is None else path_of(target_file)
    if target is not None and not target.is_file():
        raise DataError(f"{target}: there is no such file.")
    own = None if target is None else target.resolve()
    features = [path for path in files if path.stem != "y" and path.resolve() != own]
    if len(features) != 1:
        raise DataError(
            f"of .npy one file of features is expected, got {len(features)}: pass X.npy alone, "
            "with y.npy beside it or by --target-file."
        )
    if target is None:
        beside = features[0].with_name("y.npy")
        target = beside if beside.is_file() else None
    return NpyFiles(features[0], target)


def _form(path: pathlib.Path) -> str:
    """The format of a file by its name, which may say none."""
    name = path.name.lower()
    return next((form for ending, form in ENDINGS.items() if name.endswith(ending)), "")


def _files_below(path: pathlib.Path) -> list[pathlib.Path]:
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder.")
    if not path.is_dir():
        if not _form(path):
            raise DataError(
                f"{path}: the name ends in {path.suffix or 'nothing'!r}, which says no format that "
                f"can be read: {listed(ENDINGS)}."
            )
        if not path.is_file():  # a pipe gives its rows once, and files are read more than once
            raise DataError(f"{path} is no file: write its rows to one.")
        return [path]
    if not os.access(path, os.R_OK | os.X_OK):
        raise DataError(f"{path}: no permission to read it.")
    found: list[pathlib.Path] = []
    for file in sorted(path.rglob("*")):
        if any(part.startswith((".", "_")) for part in file.relative_to(path).parts):
            continue
        if file.is_symlink() and file.is_dir():
            raise DataError(
                f"{file} is a link to a folder, which is not followed: name the folder."
            )
        if file.is_dir():
            continue
        if not _form(file):
            if file.suffix.lower() in PACKED and _form(file.with_suffix("")):
                raise DataError(
                    f"{file} is packed in a way that cannot be read: unpack it, or name the others."
                )
            continue
        if not file.is_file():
            what = "is no file" if file.exists() else "is a link to nothing"
            raise DataError(f"{file} {what}: remove it, or name the others.")
        if not file.with_name("model.json").exists():  # a model that is kept beside its data
            found.append(file)
    if not found:
        raise DataError(f"{path}: the folder holds no file that can be read: {listed(ENDINGS)}.")
    return found


class ArrowStream(Source):
    """An object with ``__arrow_c_stream__``: a table of pyarrow, polars, pandas or DuckDB.

    Each reading asks the object for a new stream. A reader, such as ``pyarrow.RecordBatchReader``,
    has only one.
    """

    def __init__(self, table: Any) -> None:
        self._table = table
        self.can_restart = not isinstance(table, pa.RecordBatchReader)
        self._is_read = False
        self.kinds = kinds_of((self._reader() if self.can_restart else table).schema, TABLE)
        self.form = f"a table of {type(table).__module__.split('.')[0]}"
        shape = getattr(table, "shape", None)
        self.rows = int(shape[0]) if isinstance(shape, tuple) and len(shape) == 2 else None
        if self.rows == 0:
            raise DataError("the table has no rows.")

    def _reader(self) -> Any:
        with reading(TABLE):
            try:
                return pa.RecordBatchReader.from_stream(self._table)
            except (TypeError, ValueError, NotImplementedError) as error:
                said = one_line("; ".join(map(str, error.args)))  # pandas adds the column
                raise DataError(
                    f"{TABLE} cannot be read: {said}: give one with columns of different names, "
                    "each of numbers, text, dates or truth values."
                ) from error

    def blocks(self, names: Sequence[str], rows: int) -> Iterator[Block]:
        if self._is_read and not self.can_restart:
            raise DataError(
                "a reader gives its rows only once, and they have been read: pass a table, or "
                "read it into one with reader.read_all()."
            )
        self._is_read = True
        with reading(TABLE):
            yield from blocks_of(self._reader() if self.can_restart else self._table, names)
