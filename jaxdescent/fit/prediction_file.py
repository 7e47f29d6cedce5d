"""Predictions written to a file, which is there as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxdescent.data import DataError
from jaxdescent.data.arrow import csv, pa, pq
from jaxdescent.data.arrow_types import decoded
from jaxdescent.data.decoding import values_of
from jaxdescent.rows.errors import check_room, one_line

COLUMN = "prediction"


@contextlib.contextmanager
def prediction_file(out: pathlib.Path, *, overwrite: bool) -> Iterator[Callable[..., None]]:
    """A function that appends predictions and the columns kept with them, by name; the file gets
    its name when all are written.
    """
    out = pathlib.Path(os.path.abspath(out))
    ending = out.suffix.lower()
    if ending not in (".parquet", ".csv"):
        raise DataError(f"{out} must end in .parquet or .csv.")
    check_room(out)
    if out.is_dir() or (out.exists() and not overwrite):
        raise DataError(f"{out} exists: name another file, or say --overwrite.")
    if out.exists() and not out.is_file():
        raise DataError(f"{out} is no file, and is not replaced by one: name another.")
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as room:
        path = pathlib.Path(room) / out.name
        try:
            with contextlib.ExitStack() as stack:
                writer: Any = None  # which needs the types of the first block
                schema: Any = None

                def write(predictions: np.ndarray, kept: Mapping[str, Any] | None = None) -> None:
                    nonlocal writer, schema
                    columns = {name: _plain(column) for name, column in (kept or {}).items()}
                    columns[COLUMN] = pa.array(np.ascontiguousarray(predictions, np.float64))
                    batch = pa.record_batch(list(columns.values()), names=list(columns))
                    try:
                        if writer is None:
                            schema = batch.schema
                            made = csv.CSVWriter if ending == ".csv" else pq.ParquetWriter
                            writer = stack.enter_context(made(path, schema))
                        writer.write_batch(_cast(batch, schema))
                    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                        raise DataError(
                            f"{ending} takes no such columns of --keep: {one_line(error)}."
                        ) from error

                yield write
            path.replace(out)
        except OSError as error:
            if isinstance(error, (FileNotFoundError, PermissionError)):
                raise
            raise DataError(f"{out} cannot be written: {error.strerror or error}.") from error


def _plain(column: Any) -> Any:
    """A column of a block as an array of Arrow without a dictionary, since each block would have
    its own; a column without any value becomes text.
    """
    column = decoded(column)
    return column.cast(pa.string()) if pa.types.is_null(column.type) else column


def _cast(batch: Any, schema: Any) -> Any:
    """A batch in the types of the first one, in which another file may store its columns.

    Raises:
      ArrowInvalid: where a type cannot hold the values: Arrow itself rounds floating-point numbers
        and decimals, and leaves out the time of a date.
    """
    found = batch.cast(schema)
    for name, given, cast in zip(schema.names, batch.columns, found.columns, strict=True):
        if cast.type == given.type or pa.types.is_string(cast.type):  # text holds every value
            continue
        back = cast.cast(given.type)
        if pa.types.is_floating(given.type):
            before, after = (values_of(each).values for each in (given, back))
            is_held = np.array_equal(before, after, equal_nan=True)
        else:
            is_held = given.equals(back)
        if not is_held:
            raise pa.ArrowInvalid(
                f"{name!r} is {given.type} in one file, and {cast.type} in the first, which cannot "
                "hold its values"
            )
    return found
