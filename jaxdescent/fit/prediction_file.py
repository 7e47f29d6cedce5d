"""Predictions written to a file, which is there as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import queue
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from jaxdescent.rows import DataError
from jaxdescent.rows.errors import check_room, one_line, writing

COLUMN = "prediction"

PATIENCE = 0.1
"""Seconds after which it is looked at whether the writing has failed."""


@contextlib.contextmanager
def prediction_file(out: pathlib.Path, *, overwrite: bool) -> Iterator[Callable[..., None]]:
    """A function that writes an iterator of predictions, each with the data frame of the columns
    that are kept beside them; the file gets its name when all are written.
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
        yield lambda parts: _write(path, parts, out)
        path.replace(out)


def _write(path: pathlib.Path, parts: Iterator[tuple[Any, Any]], out: pathlib.Path) -> None:
    """Write the predictions: of CSV a block at a time; Parquet by Polars in another thread, since
    signals interrupt this one. Polars tells of a full disk when it has taken all blocks.
    """
    frames = (_framed(*part) for part in parts)
    first = next(frames, None)
    if first is None:
        raise DataError("there are no rows to predict: nothing was written.")
    if path.suffix.lower() == ".csv":
        try:
            with writing(out), path.open("wb") as file:
                first.write_csv(file)
                for frame in frames:
                    frame.cast(first.schema).write_csv(file, include_header=False)
        except pl.exceptions.PolarsError as error:
            raise DataError(f"{out} cannot be written: {one_line(error)}.") from error
        return
    handed: queue.Queue[pl.DataFrame | None] = queue.Queue(maxsize=1)

    def taken(*_: Any) -> Iterator[pl.DataFrame]:
        yield first
        while (frame := handed.get()) is not None:
            yield frame

    def hand(frame: pl.DataFrame | None) -> None:
        while not written.done():
            with contextlib.suppress(queue.Full):
                handed.put(frame, timeout=PATIENCE)
                return

    lazy = register_io_source(taken, schema=first.schema)
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(lazy.sink_parquet, path)
        try:
            for frame in frames:
                hand(frame.cast(first.schema))
                if written.done():  # it has failed
                    break
        finally:
            hand(None)
        try:
            written.result()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(f"{out} cannot be written: {one_line(error)}.") from error


def _framed(values: np.ndarray, kept: pl.DataFrame) -> pl.DataFrame:
    predicted = pl.Series(COLUMN, values)
    return kept.hstack([predicted]) if kept.width else predicted.to_frame()
