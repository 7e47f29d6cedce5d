"""The pass that finds the levels of categorical columns, and the buckets that hashed ones touch."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdescent import processes
from jaxdescent.data import DataError, SparseColumn, located, read_ahead
from jaxdescent.data.arrow import pa
from jaxdescent.data.times import time_of
from jaxdescent.fit.budget import (
    FINDING_COPIES,
    INDEX_BYTES,
    LEVEL_BYTES,
    SLACK_BYTES,
    reading_of,
)
from jaxdescent.fit.columns import View, bucket_of
from jaxdescent.fit.job import Job
from jaxdescent.fit.rows import complete_rows, is_held_out
from jaxdescent.kernels.memory import resident_bytes
from jaxdescent.rows.errors import listed

MOST_TEXT = 2**31 - 2**26
"""Bytes of the texts that one array of Arrow can hold, less what a block may add."""


def with_levels(job: Job) -> Job:
    """The job with the levels, buckets and indices of its features.

    Levels are those of training rows: one that occurs in held-out or dropped rows alone has no
    weight.
    """
    source, encoding, request, memory = job.source, job.encoding, job.request, job.memory
    names, sparse = encoding.one_hot, encoding.sparse
    drops = request.missing == "drop"
    columns = encoding.labelled + ([] if sparse is None else [sparse])
    columns = job.roles.columns if drops else columns
    indices = np.zeros(0, np.int64)
    source.check_restart(
        "categorical and hashed columns are read once for their levels and once to fit"
    )
    touched = np.zeros(1 << request.bits if encoding.hashed else 0, bool)
    base = resident_bytes() + SLACK_BYTES
    plan = memory.reading(source, columns, 32 * len(names), "finding the levels")
    freely = reading_of([source], columns, 32 * len(names), math.inf)
    found = {name: pa.chunked_array([], pa.string()) for name in encoding.levels}
    rows = 0
    job.watch.begin("finding levels", source.rows)
    for block in read_ahead(lambda: located(source, columns, plan.at_once, number=job.first_row)):
        is_used = complete_rows(block, job.roles) if drops else None
        if request.test:
            out = is_held_out(block.start, block.rows, request.test, request.seed)
            is_used = ~out if is_used is None else is_used & ~out
        train = None if is_used is None else np.flatnonzero(is_used)
        view = View(block)
        for name in names:
            texts = view.labels_of(encoding.made_of[name]).used(train)
            if name in found:
                found[name] = _joined(found[name], texts)
            else:
                buckets = [bucket_of(name, text, request.bits) for text in texts.to_pylist()]
                touched[buckets] = True
        if sparse is not None:
            own: SparseColumn = block.columns[sparse]
            own = own if train is None else own[train]
            indices = np.union1d(indices, own.index)
        rows += block.rows
        job.watch.advance(rows)
        levels = {name: (len(texts), texts.nbytes) for name, texts in found.items()}
        levels |= {} if sparse is None else {sparse: (indices.size, 0)}
        _check(job, levels, rows, base + plan.bytes, base + freely.bytes)
    if not processes.is_alone():
        content = json.dumps({name: _sorted(texts) for name, texts in found.items()})
        for text in processes.told_bytes_by_all(content.encode()):
            for name, levels in json.loads(text).items():
                found[name] = _joined(found[name], pa.array(levels, pa.string()))
    buckets, indices = _of_all(np.flatnonzero(touched)), _of_all(indices)
    if sparse is not None and not indices.size:
        raise DataError("no training row has any feature: there is nothing to fit.")
    levels = {name: _sorted(texts) for name, texts in found.items()}
    empty = [name for name, texts in levels.items() if not texts]
    if empty and drops:
        raise DataError(
            "no training row is complete: leave out columns whose values are missing (inspect "
            "counts them), or say --missing mean."
        )
    if empty:
        raise DataError(f"{empty[0]!r} has no value in any training row: name it in --exclude.")
    encoding = dataclasses.replace(encoding, levels=levels, buckets=buckets, indices=indices)
    return job._replace(roles=job.roles._replace(features=encoding))


def _joined(known: Any, texts: Any) -> Any:
    """Known texts and different ones, in a chunked array of Arrow: objects of Python would take ten
    times as long. Equal texts become one once the new ones outnumber the known, so that all joins
    together take a few passes.
    """
    joined = pa.chunked_array([*known.chunks, texts])
    return pa.chunked_array([joined.unique()]) if len(joined) > 2 * len(joined.chunk(0)) else joined


def _sorted(texts: Any) -> tuple[str, ...]:
    return tuple(sorted(texts.unique().to_pylist()))


def _of_all(places: np.ndarray) -> np.ndarray:
    """The buckets or indices that all processes of a fit found in their own rows, sorted."""
    told = processes.told_bytes_by_all(places.astype(np.int64).tobytes())
    return np.unique(np.concatenate([np.frombuffer(each, np.int64) for each in told]))


def _check(
    job: Job, levels: Mapping[str, tuple[int, int]], rows: int, reading: int, freely: int
) -> None:
    """Raise an error where the levels so far, and copies of them, leave too little for reading,
    with the column that takes most, and with the bytes of all levels if the column's other texts
    were as different, or its other rows had as many new indices.

    ``levels`` has for each column how many there are in the ``rows`` that were read, and the bytes
    of their texts. Beside the levels the process holds ``reading`` bytes, and would hold ``freely``
    if a larger limit let it read more at a time.
    """
    sparse = job.encoding.sparse
    needed = {
        name: (INDEX_BYTES if name == sparse else LEVEL_BYTES) * n + FINDING_COPIES * size
        for name, (n, size) in levels.items()
    }
    total = max(reading + sum(needed.values()), resident_bytes())
    if not needed:
        job.memory.check()
        return
    worst = max(needed, key=lambda name: needed[name])
    count, size = levels[worst]
    if size > MOST_TEXT:
        raise DataError(f"{worst!r} has levels of more than 2 GB of text: --hash takes it.")
    if job.memory.is_given and total > job.memory.limit:
        if worst == sparse:
            what, advice, growth = "indices", "raise it", (job.source.rows or 2 * rows) / rows
        else:
            what, advice, growth = "levels", "name it in --hash or --exclude", 2.0
            if in_all := job.source.text_bytes(worst) if worst in job.source.kinds else 0:
                growth = max(in_all / max(size, 1), 1.0)
        needed[worst] = int(growth * needed[worst])
        raise job.memory.refuse(
            f"finding the {what} of {worst!r}, which has {count:,} so far,",
            1.02 * (freely + sum(needed.values())),  # shown with three digits
            advice,
        )


TWICE = {
    " 00:00:00": (
        "day",
        lambda text: time_of(text) is not None,
        "some files hold dates and others dates with a time, convert one of them, or name the "
        "column in --date",
    ),
    ".0": (
        "number",
        lambda text: text.removeprefix("-").isdecimal(),
        "some files hold whole numbers and others have a point in them, as pandas writes those "
        "of a column with missing values, write all of them alike",
    ),
}
"""What a level may be twice, by the end that only one of its texts has: with a test of the text
without that end, and what to do about it.
"""


def notes_of_levels(levels: Mapping[str, Sequence[str]], rows: int) -> list[str]:
    """Notes on columns that have nearly as many levels as there are training rows, and on columns
    in which a day or a number is two levels.
    """
    notes = list[str]()
    many = [name for name, own in levels.items() if 2 * len(own) > rows]
    if many:
        counts = listed(f"{name!r} has {len(levels[name]):,} levels" for name in many)
        notes.append(
            f"{counts} in {rows:,} training rows: nearly every row has a weight of its own, which "
            "says nothing of other rows. Leave such columns out; of dates take --date "
            "COLUMN:month,weekday,hour,trend."
        )
    for name, own in levels.items():
        for end, (what, is_one, advice) in TWICE.items():
            longer = {text.removesuffix(end) for text in own if text.endswith(end)}
            if twice := [text for text in own if text in longer and is_one(text)]:
                count = f"a {what}" if len(twice) == 1 else f"each of {len(twice):,} {what}s"
                notes.append(
                    f"{name!r} has two levels for {count}, {twice[0]!r} and '{twice[0]}{end}': "
                    f"where {advice}."
                )
    return notes
