"""Sources from what a caller names: paths, tables, arrays and loaders."""

from __future__ import annotations

import glob
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from jaxdescent.rows.arrays import Arrays, open_npy
from jaxdescent.rows.errors import DataError, listed, path_of
from jaxdescent.rows.loaders import Loader
from jaxdescent.rows.source import Source

ENDINGS = {
    "Parquet": ".parquet .pq",
    "Arrow": ".arrow .feather .ipc",
    "CSV": ".csv .csv.gz .csv.zst",
    "NDJSON": ".ndjson .jsonl .ndjson.gz .jsonl.gz .ndjson.zst .jsonl.zst",
    ".npy": ".npy",
    "svmlight": ".svm .svm.gz .libsvm .libsvm.gz .svmlight .svmlight.gz",
}
"""The endings of the names of a form's files."""

FORMS = {end: form for form, endings in ENDINGS.items() for end in endings.split()}
"""The form of each ending."""

PACKED = (".gz", ".gzip", ".zst", ".zstd", ".bz2", ".xz", ".lz4", ".sz", ".br", ".zip", ".7z")
"""Endings of packed files. Behind the ending of a form they hold rows, which must not be lost."""

PATH_TYPES = (str, bytes, os.PathLike)


def open_source(data: Any, target_file: Any = None, where: str | None = None) -> Source:
    """A source of rows.

    Args:
      data: a path of a file or a folder, a pattern such as ``flights-*.parquet``, an address such
        as ``s3://bucket/rows.parquet``, or several of them; a data frame of Polars or pandas, or
        another object with ``__arrow_c_stream__``; a dictionary of NumPy arrays by name; a function
        that returns an iterator of blocks from a row on (:class:`jaxdescent.rows.loaders.Loader`);
        or a :class:`Source`.
      target_file: for ``.npy``: the file of the target, ``y.npy`` beside the features by default.
      where: a condition in SQL that rows have to meet: ``month <= 6 AND delay IS NOT NULL``.

    Raises:
      DataError: where nothing can be read from ``data``, or by ``where``, with the reason.
      ImportError: where Polars is needed, and is not installed.

    >>> import numpy as np
    >>> source = open_source({"X": np.ones((10, 2)), "y": np.arange(10.0)})
    >>> list(source.kinds), source.rows
    (['x0', 'x1', 'y'], 10)
    """
    if not isinstance(where, str | None):
        raise DataError(f"where must be a condition as text, got {type(where).__name__}.")
    source = _opened(data, target_file)
    if where is None:
        return source
    from jaxdescent.rows import frames

    return frames.where(source, where)


def _opened(data: Any, target_file: Any) -> Source:
    if isinstance(data, Source):
        return data
    if isinstance(data, Mapping):
        return Arrays(data)
    if hasattr(data, "__arrow_c_stream__") or hasattr(data, "collect_schema"):
        from jaxdescent.rows import frames

        return frames.table_source(data)
    if callable(data):
        return Loader(cast(Any, data))
    given = [data] if isinstance(data, PATH_TYPES) else data
    if (
        not isinstance(given, Sequence)
        or not given
        or not all(isinstance(path, PATH_TYPES) for path in given)
    ):
        raise DataError(
            "data must be a path, several of them, a table, a dictionary of arrays, a function "
            f"that returns blocks or a jaxdescent.rows.Source, got {type(data).__name__}."
        )
    files = [file for path in given for file in _files_of(path)]
    forms = {_form(file) for file in files}
    if len(forms) > 1:
        raise DataError(f"the files must be of one format, got {listed(sorted(forms))}.")
    local = [file for file in files if isinstance(file, pathlib.Path)]
    _refuse_twice(local)
    addresses = [file for file in files if isinstance(file, str)]
    twice = [address for address in addresses if addresses.count(address) > 1]
    if twice:
        raise DataError(f"{twice[0]} is named twice: name each address once.")
    form = forms.pop()
    if form in (".npy", "svmlight") and len(local) < len(files):
        raise DataError(f"{form} files are read from folders of this machine: copy them first.")
    if form == ".npy":
        return open_npy(local, None if target_file is None else path_of(target_file))
    if target_file is not None:
        raise DataError(
            f"--target-file goes with .npy alone, got {form}: name the target's column instead."
        )
    if form == "svmlight":
        from jaxdescent.rows.svmlight import SvmlightFiles

        return SvmlightFiles(local)
    from jaxdescent.rows import files as by_polars

    return by_polars.file_source(form, tuple(files))


def _form(file: pathlib.Path | str) -> str:
    """The form of a file by its name, which may say none."""
    name = str(file).lower()
    return next((form for ending, form in FORMS.items() if name.endswith(ending)), "")


def _files_of(given: Any) -> list[pathlib.Path | str]:
    """The files that a path, a pattern, a folder or an address names."""
    if isinstance(given, str) and "://" in given:
        if not _form(given.split("?", maxsplit=1)[0]):
            raise _unknown(given)
        return [given]
    path = path_of(given)
    if not path.exists() and glob.has_magic(str(path)):
        found = sorted(map(pathlib.Path, glob.glob(str(path), recursive=True)))
        if not found:
            raise DataError(f"{path}: no file has a name of this pattern.")
        return [file for each in found for file in _files_of(each)]
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder.")
    if path.is_dir():
        return list(_files_below(path))
    if not _form(path):
        raise _unknown(path)
    if not path.is_file():  # a pipe gives its rows once, and files are read more than once
        raise DataError(f"{path} is no file: write its rows to one.")
    return [path]


def _unknown(path: pathlib.Path | str) -> DataError:
    end = pathlib.Path(path).suffix or "nothing"
    return DataError(
        f"{path}: the name ends in {end!r}, which says no format that can be read: "
        f"{listed(FORMS, 20)}."
    )


def _files_below(folder: pathlib.Path) -> list[pathlib.Path]:
    if not os.access(folder, os.R_OK | os.X_OK):
        raise DataError(f"{folder}: no permission to read it.")
    found: list[pathlib.Path] = []
    for file in sorted(folder.rglob("*")):
        if any(part.startswith((".", "_")) for part in file.relative_to(folder).parts):
            continue
        if file.is_dir():
            if file.is_symlink():
                raise DataError(
                    f"{file} is a link to a folder, which is not followed: name the folder."
                )
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
        raise DataError(
            f"{folder}: the folder holds no file that can be read: {listed(FORMS, 20)}."
        )
    return found


def _refuse_twice(files: Sequence[pathlib.Path]) -> None:
    """Refuse files that cannot be read, and one that is named twice: its rows would count twice."""
    seen: dict[tuple[int, int], pathlib.Path] = {}
    for path in files:
        if not os.access(path, os.R_OK):
            raise DataError(f"{path}: no permission to read it.")
        status = path.stat()
        before = seen.setdefault((status.st_dev, status.st_ino), path)
        if before is not path:
            also = "" if before == path else f", as {before} too"
            raise DataError(f"{path} is named twice{also}: name each file once.")
