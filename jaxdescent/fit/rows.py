"""The rows of a fit: encoded, with targets and weights, training and held-out ones apart."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdescent.fit.encoded import Encoded, encode, lacking_value, product
from jaxdescent.fit.encoding import Encoding
from jaxdescent.fit.memory import Memory
from jaxdescent.fit.options import Options
from jaxdescent.fit.progress import ProgressListener
from jaxdescent.rows import Block, DataError, Source
from jaxdescent.rows.errors import path_of
from jaxdescent.rows.hashing import finalised

TRAIN, TEST = 0, 1
"""The parts of the rows."""

END_BYTES = 4096
"""The last bytes of a file, which a fingerprint of the data covers."""


class Kept(NamedTuple):
    """The folder of an unfinished fit."""

    folder: pathlib.Path
    resume: bool

    @classmethod
    def of(cls, folder: Any, *, resume: bool) -> Kept:
        """The folder, refused where it holds other things."""
        path = path_of(folder)
        if path.exists() and (not path.is_dir() or (not resume and any(path.iterdir()))):
            raise DataError(
                f"{path} holds a fit, or other things: say --resume to go on with it, or name "
                "another folder."
            )
        return cls(path, resume)


class Job(NamedTuple):
    """What is fitted: sources, roles of columns, options."""

    source: Source
    test_source: Source | None
    encoding: Encoding
    target: str
    weights: str | None  # the column of the rows' weights
    options: Options
    memory: Memory
    watch: ProgressListener
    first_row: int = 0  # the number of the source's first row among those of all processes
    checkpoint: Kept | None = None

    @property
    def own(self) -> list[str]:
        """The columns that are no features: the target, and the weights."""
        return [self.target] if self.weights is None else [self.target, self.weights]

    @property
    def columns(self) -> list[str]:
        """All columns that are read."""
        return list(dict.fromkeys([*self.encoding.columns, *self.own]))

    @property
    def sources(self) -> list[Source]:
        """The source of the data, and that of other data that are held out."""
        return [self.source] if self.test_source is None else [self.source, self.test_source]

    @property
    def is_tested(self) -> bool:
        """Whether rows are held out."""
        return self.test_source is not None or self.options.test > 0


class Rows(NamedTuple):
    """Rows that are used, of one block or of a part of it."""

    numbers: np.ndarray  # (rows, numbers), float64
    others: Any  # (rows, others), a sparse matrix of SciPy, or None
    target: np.ndarray  # (rows,), float64
    weight: np.ndarray | None  # (rows,), float64
    is_test: np.ndarray | None  # (rows,); None where all are of the training
    unseen: int
    kept: np.ndarray  # (rows,), the places of these rows in their block
    read: int  # the rows of the block

    @property
    def dropped(self) -> int:
        """How many rows of the block were left out."""
        return self.read - len(self.kept)

    def product(self, weights: np.ndarray) -> np.ndarray:
        """Features times weights, (rows,)."""
        return product(self.numbers, self.others, weights)

    def part(self, part: int) -> Rows:
        """The rows of one part."""
        if self.is_test is None:
            return self if part == TRAIN else self._taken(np.zeros(0, np.intp))
        return self._taken(np.flatnonzero(self.is_test == part))

    def _taken(self, rows: np.ndarray) -> Rows:
        return self._replace(
            numbers=self.numbers.T.take(rows, axis=1).T,
            others=None if self.others is None else self.others[rows],
            target=self.target[rows],
            weight=None if self.weight is None else self.weight[rows],
            is_test=None,
            kept=self.kept[rows],
        )


def share_of(job: Job) -> Job:
    """The job of this process: a slice of the rows of each source."""
    number, count = jax.process_index(), jax.process_count()

    def cut(source: Source) -> tuple[Source, int]:
        rows = source.count()
        first, stop = (rows * at // count for at in (number, number + 1))
        return source.slice(first, stop - first), first

    source, first = cut(job.source)
    test_source = None if job.test_source is None else cut(job.test_source)[0]
    return job._replace(source=source, test_source=test_source, first_row=first)


def is_held_out(start: int, rows: int, share: float, seed: int) -> np.ndarray:
    """For rows ``start`` to ``start + rows``, whether each is held out, with this probability.

    It is decided by a hash: the same row is held out in every run with the same seed.
    """
    number = np.arange(start, start + rows, dtype=np.uint64)
    # The products are meant to wrap around at 64 bits.
    with np.errstate(over="ignore"):
        state = number + np.uint64(seed) * np.uint64(0xD1B54A32D192ED03) + np.uint64(1)
        state = finalised(state * np.uint64(0x9E3779B97F4A7C15))
    return (state >> np.uint64(11)) * 2.0**-53 < share


def blocks_of(job: Job, what: str, names: Sequence[str], *, width: int, held: int = 0) -> Iterator[
    tuple[Source, Block, bool]
]:  # fmt: skip
    """The blocks of all sources within the limit of memory, each with its source, and whether all
    of its rows are held out.
    """
    known = [source.rows for source in job.sources]
    job.watch.begin(what, None if None in known else sum(each or 0 for each in known))
    done = 0
    for source in job.sources:
        size = job.memory.block_rows(source, names, width, held)
        for block in source.blocks(names, size):
            yield source, block, source is job.test_source
            done += block.rows
            job.watch.advance(done)
            job.memory.check(what)


def encoded_rows(job: Job, what: str, held: int = 0) -> Iterator[Rows]:
    """All rows that are used, block by block.

    Raises:
      DataError: for values that cannot be used, with their row.
    """
    options, encoding = job.options, job.encoding
    width = 2 * encoding.row_bytes + 32
    for source, block, is_test in blocks_of(job, what, job.columns, width=width, held=held):
        unseen = "zero"  # of held-out rows; training rows have none
        encoded = encode(encoding, block, source, missing=options.missing, unseen=unseen)
        target, weight, kept = _own(job, source, block, encoded)
        out = None
        if options.test and not is_test:
            out = is_held_out(job.first_row + block.start, block.rows, options.test, options.seed)
        elif is_test:
            out = np.ones(block.rows, bool)
        numbers, others, counts = encoded.numbers, encoded.others, encoded.unseen
        if kept is not None:
            numbers, target = numbers[kept], target[kept]
            others = None if others is None else others[kept]
            weight = None if weight is None else weight[kept]
            out, counts = None if out is None else out[kept], counts[kept]
        places = np.arange(block.rows) if kept is None else np.flatnonzero(kept)
        yield Rows(numbers, others, target, weight, out, int(counts.sum()), places, block.rows)


def _own(
    job: Job, source: Source, block: Block, encoded: Encoded
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The targets and weights of a block, and which rows are kept; None for all."""
    drops, kept = job.options.missing == "drop", encoded.kept
    found = list[np.ndarray]()
    for name in job.own:
        values = block.numbers([name], np.float64)[:, 0]
        is_missing = np.isnan(values)
        if is_missing.any():
            if not drops:
                advice = "--missing drop leaves such rows out; means stand for features alone"
                raise lacking_value(name, block, source, int(np.argmax(is_missing)), advice)
            kept = ~is_missing if kept is None else kept & ~is_missing
        if np.isinf(values).any():
            place = source.place(block.start + int(np.argmax(np.isinf(values))))
            raise DataError(f"{name!r} is infinite in {place}: correct the data.")
        found.append(values)
    weight = found[1] if len(found) > 1 else None
    if weight is not None and (weight < 0).any():
        row = int(np.argmax(weight < 0))
        raise DataError(
            f"weights must be at least 0, got {weight[row]:g} for {job.weights!r} in "
            f"{source.place(block.start + row)}."
        )
    return found[0], weight, kept


def file_bytes(source: Source) -> int:
    """The bytes of the files of a source."""
    return sum(os.stat(path).st_size for path in local_files(source))


def local_files(source: Source) -> list[pathlib.Path]:
    """The files of a source that are on this machine: no addresses."""
    return [path for path in source.files if not isinstance(path, str)]


def fingerprint(source: Source) -> str:
    """A digest of the columns of a source, and of its files' sizes and ends."""
    digest = hashlib.sha256(repr([*source.kinds.items(), source.rows]).encode())
    for path in local_files(source):
        size = os.stat(path).st_size
        with path.open("rb") as file:
            file.seek(max(size - END_BYTES, 0))
            digest.update(f"{size}".encode() + file.read())
    return f"sha256:{digest.hexdigest()}"


class Joined(Source):
    """The rows of two sources one after another."""

    def __init__(self, parts: list[Source]) -> None:
        self.parts, self.form, self.kinds = parts, parts[0].form, parts[0].kinds
        self.first = parts[0].count()
        self.rows = self.first + parts[1].count()
        self.files = tuple(file for part in parts for file in part.files)

    def blocks(self, names: Any, size: int, row: int = 0) -> Any:
        for number, part in enumerate(self.parts):
            begin = number * self.first
            own = max(row - begin, 0)
            if row < begin + part.count():
                for block in part.blocks(names, size, own):
                    yield dataclasses.replace(block, start=block.start + begin)

    def slice(self, first: int, rows: int) -> Source:
        raise NotImplementedError("held-out files are read from their first row on")

    def place(self, row: int) -> str:
        part = int(row >= self.first)
        return self.parts[part].place(row - part * self.first)
