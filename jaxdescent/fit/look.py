"""One pass over the rows before a fit: levels, buckets, means and dates; and the look of
``inspect`` at all columns.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from jaxdescent import processes
from jaxdescent.fit.dates import Dates, times_of
from jaxdescent.fit.encoding import Encoding, frame_of
from jaxdescent.fit.memory import Memory
from jaxdescent.fit.progress import ProgressListener
from jaxdescent.fit.rows import Job, blocks_of, is_held_out
from jaxdescent.rows import Block, DataError, Kind, Source
from jaxdescent.rows.errors import listed
from jaxdescent.rows.hashing import buckets_of

FIRST_ROWS = 3


def learned(job: Job) -> tuple[Job, int]:
    """The job whose encoding knows the levels, buckets, indices, means and dates of the training
    rows, and how many passes that took.
    """
    passes, encoding, options = 0, job.encoding, job.options
    if encoding.dates:
        job, passes = job._replace(encoding=_dated(job)), 1
        encoding = job.encoding
    needs_means = options.missing == "mean" and bool(encoding.numbers)
    if encoding.one_hot or encoding.sparse is not None or needs_means:
        job, passes = job._replace(encoding=_learned(job)), passes + 1
    return job, passes


def _dated(job: Job) -> Encoding:
    """The encoding with the first and the last date of the rows of all processes."""
    dates, spans = dict[str, Dates](job.encoding.dates), dict[str, tuple[int, int]]()
    for _, block, _ in blocks_of(job, "looking at dates", list(dates), width=8):
        frame = frame_of(block, list(dates))
        job.encoding.check_dates(frame, block, is_known=False)
        for name in dates:
            zone = getattr(frame.schema[name], "time_zone", None)
            dates[name] = dates[name]._replace(zone=zone)
            instants = times_of(name, frame.schema[name], None)[0].to_physical()
            first, last = frame.select(instants.min().alias("a"), instants.max().alias("b")).row(0)
            if first is not None:
                known = spans.get(name, (first, last))
                spans[name] = min(first, known[0]), max(last, known[1])
    found = dict(dates)
    everyone = processes.told_by_all(spans)
    for name, each in dates.items():
        own = [one[name] for one in everyone if name in one]
        if not own:
            raise DataError(f"{name!r} has no value in any row: leave it out of --date.")
        first, last = min(each[0] for each in own), max(each[1] for each in own)
        found[name] = each._replace(first=first, last=last)
    return dataclasses.replace(job.encoding, dates=found)


def _training(job: Job, names: Sequence[str]) -> Iterator[tuple[Block, np.ndarray]]:
    """The blocks of the data, and which of their rows are used to fit."""
    alone = job._replace(test_source=None)
    complete = [*job.encoding.numbers, *job.encoding.one_hot]
    width = 32 * len(names)
    for _, block, _ in blocks_of(alone, "finding levels and means", names, width=width):
        is_used = np.ones(block.rows, bool)
        if job.options.missing == "drop":
            made = job.encoding.made(block, complete) if complete else None
            parts = [] if made is None else [each.is_null().to_numpy() for each in made]
            is_used &= ~np.logical_or.reduce([is_used & False, *parts])
            is_used &= ~np.isnan(block.numbers(job.own, np.float64)).any(axis=1)
        if job.options.test:
            first = job.first_row + block.start
            is_used &= ~is_held_out(first, block.rows, job.options.test, job.options.seed)
        yield block, is_used


def _learned(job: Job) -> Encoding:
    encoding, options, memory = job.encoding, job.options, job.memory
    found = {name: pl.Series(name, [], pl.String) for name in encoding.levels}
    touched = np.zeros(1 << options.bits if encoding.hashed else 0, bool)
    indices, sums = np.zeros(0, np.int64), np.zeros((2, len(encoding.numbers)))
    needs_means = options.missing == "mean"
    rows = 0
    for block, is_used in _training(job, job.columns):
        rows += int(is_used.sum())
        made = encoding.made(block, encoding.one_hot) if encoding.one_hot else None
        for name in encoding.one_hot:
            assert made is not None
            texts = made[name].filter(pl.Series(is_used)).drop_nulls()
            if name in found:
                found[name] = pl.concat([found[name], texts.unique()]).unique()
                said = f"finding the levels of {name!r}, which has {len(found[name]):,} so far,"
                memory.check(said, "name it in --hash or --exclude, or raise --memory")
            else:
                touched[buckets_of(texts, name, options.bits)[1]] = True
        if encoding.sparse is not None:
            own = block.column(encoding.sparse)[np.flatnonzero(is_used)]
            indices = np.union1d(indices, own.indices)
        if needs_means and encoding.numbers:
            values = encoding.made(block, encoding.numbers).to_numpy().astype(np.float64)
            weight = is_used * 1.0
            if job.weights is not None:
                weight *= np.nan_to_num(block.numbers([job.weights], np.float64)[:, 0])
            is_there = ~np.isnan(values)
            sums += weight @ np.where(is_there, values, 0.0), weight @ is_there
    known = _of_everyone({name: each.to_list() for name, each in found.items()})
    if not sum(processes.told_by_all(rows)):
        raise DataError(
            "no training row is complete: leave out columns whose values are missing (inspect "
            "counts them), or say --missing mean."
            if options.missing == "drop"
            else "no row is left to fit: at least 2 rows are needed."
        )
    empty = [name for name, levels in known.items() if not levels]
    if empty:
        raise DataError(f"{empty[0]!r} has no value in any training row: name it in --exclude.")
    indices = _union(indices)
    if encoding.sparse is not None and not indices.size:
        raise DataError("no training row has any feature: there is nothing to fit.")
    total, weight = processes.added(sums)
    fills = {}
    if needs_means:
        means = np.where(weight > 0, total / np.where(weight > 0, weight, 1), 0.0)
        fills = dict(zip(encoding.numbers, means.tolist(), strict=True))
    return dataclasses.replace(
        encoding,
        levels=known,
        buckets=_union(np.flatnonzero(touched)),
        indices=indices,
        fills=fills,
    )


def _of_everyone(levels: Mapping[str, list[str]]) -> dict[str, tuple[str, ...]]:
    """The levels that all processes found, sorted."""
    told = [levels]
    if not processes.is_alone():
        told = map(json.loads, processes.told_bytes_by_all(json.dumps(levels).encode()))
    found: dict[str, set[str]] = {name: set() for name in levels}
    for each in told:
        for name, own in each.items():
            found[name].update(own)
    return {name: tuple(sorted(own)) for name, own in found.items()}


def _union(places: np.ndarray) -> np.ndarray:
    """The buckets or indices that all processes found, sorted."""
    told = processes.told_bytes_by_all(places.astype(np.int64).tobytes())
    return np.unique(np.concatenate([np.frombuffer(each, np.int64) for each in told]))


def notes_of_levels(levels: Mapping[str, Sequence[str]], rows: int) -> list[str]:
    """Notes on columns that have nearly as many levels as there are training rows."""
    many = [name for name, own in levels.items() if 2 * len(own) > rows]
    if not many:
        return []
    counts = listed(f"{name!r} has {len(levels[name]):,} levels" for name in many)
    return [
        f"{counts} in {rows:,} training rows: nearly every row has a weight of its own, which says "
        "nothing of other rows. Leave such columns out; of dates take --date "
        "COLUMN:month,weekday,hour,trend."
    ]


class SeenColumn(NamedTuple):
    """The kind, missing values and first values of one column, as ``inspect`` shows them."""

    kind: str  # what the column can be used as, in words
    # How many values are missing; None for sparse numbers, where unwritten ones are zero.
    missing: int | None
    first: list[Any]  # the values in the first rows; None where one is missing


class DataLook(NamedTuple):
    """How many rows there are, and the kind and values of each column."""

    rows: int
    columns: dict[str, SeenColumn]


def look_at(source: Source, memory: Memory, watch: ProgressListener) -> DataLook:
    """Look at all columns in one pass."""
    names, rows, found = list(source.kinds), 0, dict[str, SeenColumn]()
    plain = [name for name in names if source.kinds[name] is not Kind.SPARSE]
    watch.begin("looking", source.rows)
    for block in source.blocks(names, memory.block_rows(source, names, 8 * len(names))):
        frame = frame_of(block, plain)
        if not rows:
            for name, kind in source.kinds.items():
                first = [] if name not in plain else frame[name].head(FIRST_ROWS).to_list()
                first = [None if isinstance(v, float) and math.isnan(v) else v for v in first]
                missing = 0 if name in plain else None
                found[name] = SeenColumn(_in_words(kind, frame, name), missing, first)
        for name in plain:
            column = frame[name]
            count = column.null_count()
            if column.dtype.is_float():
                count += int(column.is_nan().sum())
            found[name] = found[name]._replace(missing=(found[name].missing or 0) + count)
        rows += block.rows
        watch.advance(rows)
        memory.check()
    return DataLook(rows, found)


def _in_words(kind: Kind, frame: pl.DataFrame, name: str) -> str:
    """The kind of a column in words, dates as text included."""
    if kind is Kind.TEXT and frame.schema[name] == pl.String:
        head = frame.select(pl.col(name).drop_nulls().head(FIRST_ROWS))
        if (
            head.height
            and head.select(times_of(name, pl.String(), None)[1]).to_series().null_count() == 0
        ):
            return "dates as text"
    return str(kind)
