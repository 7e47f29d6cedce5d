"""A source's rows as chunks of numbers, read ahead on a thread, and products with them: one pass
each.

Rows are multiplied where they are read, by NumPy on the host. Only vectors go to a device.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import numpy as np

from jaxdescent.designs.decoding import Decoder
from jaxdescent.designs.normal_sums import NormalSums
from jaxdescent.designs.row_chunk import Chunk
from jaxdescent.rows.ahead import read_ahead
from jaxdescent.rows.errors import DataError, check_columns
from jaxdescent.rows.source import Source

BLOCK_BYTES = 8 << 20
"""About how many bytes a chunk takes: larger ones are no faster, and three are held at a time."""

MOST_ROWS = 1 << 20
"""The most rows of a chunk, however narrow they are."""

BYTES_A_FEATURE, MOST_BLOCK_BYTES = 16, 64 << 20
"""The bytes of a chunk per feature, and at most, where there are many features: a product with a
chunk is a vector over the features, which should be small beside the chunk."""

HELD = 3
"""Chunks in memory: one that is multiplied, one that waits, and one that is read."""

SECTIONS, LONGEST_SECTION = 16, 8
"""Out of order, chunks are read by sections of consecutive ones, because reading ahead reads one
more than is wanted: at least ``SECTIONS`` of them, of up to ``LONGEST_SECTION`` chunks each."""

FINGERPRINT_ROWS = 256
"""Rows that go into a fingerprint, since tables in memory have no files for one."""


class RowReader:
    """Chunks of ``block`` rows each (but the last) of a source with the same rows each time.

    Args:
      source: the rows.
      decoding: how columns become features.
      block: the rows of a chunk; as many as fit :data:`BLOCK_BYTES` by default.
      whole: the source that these rows are a slice of, and the number of their first row there.
      keeps: whether chunks stay in memory after they were read once.
    """

    def __init__(
        self,
        source: Source,
        decoding: Decoder,
        block: int | None = None,
        whole: tuple[Source, int] | None = None,
        *,
        keeps: bool = False,
    ) -> None:
        self.source, self.decoding = source, decoding
        self.whole, self.first = whole or (source, 0)
        self.rows = source.count()
        if not self.rows:
            raise DataError("the data have no rows.")
        if block is None:
            size = max(BLOCK_BYTES, min(BYTES_A_FEATURE * decoding.features, MOST_BLOCK_BYTES))
            fitting = max(min(size // max(decoding.row_bytes, 1), MOST_ROWS), 1)
            block = min(fitting // 64 * 64 or fitting, self.rows)
        self.block, self.passes = block, 0
        self._lock = threading.RLock()
        self._reading: Generator[Chunk] | None = None
        self._next = 0
        self._held: dict[int, Chunk] = {}
        self._keeps = keeps
        self._taken: tuple[np.ndarray, list[tuple[np.ndarray, Chunk]]] | None = None
        self._watchers = 0
        self._failure: BaseException | None = None

    @property
    def features(self) -> int:
        """How many features there are."""
        return self.decoding.features

    @property
    def blocks(self) -> int:
        """How many chunks there are."""
        return -(-self.rows // self.block)

    @property
    def held_bytes(self) -> int:
        """The bytes that reading and multiplying hold at their peak."""
        return HELD * self.block * (self.decoding.row_bytes + 8 * len(self.decoding.columns))

    @property
    def sections(self) -> tuple[int, ...]:
        """The first chunk of each section: one with which reading can begin. A source whose number
        of rows is not known is read from its beginning.
        """
        if self.source.rows is None:
            return (0,)
        return tuple(range(0, self.blocks, min(max(self.blocks // SECTIONS, 1), LONGEST_SECTION)))

    def size_of(self, index: int) -> int:
        """How many rows a chunk has."""
        return min(self.block, self.rows - index * self.block)

    def chunk(self, index: int) -> Chunk:
        """A chunk: the next one is read alone, any other with those before it in its section."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if index in self._held:
                return self._held[index]
            section = self.sections[bisect.bisect_right(self.sections, index) - 1]
            if self._reading is None or index < self._next or section > self._next:
                self._begin(section)
            while index not in self._held:
                self._read_next()
            return self._held[index]

    def all_chunks(self) -> Iterator[Chunk]:
        """All chunks in their order."""
        return (self.chunk(index) for index in range(self.blocks))

    def close(self) -> None:
        """End the thread that reads ahead, and drop the chunks that it holds."""
        with self._lock:
            reading, self._reading, self._next, self._taken = self._reading, None, 0, None
            if not self._keeps:
                self._held = {}
            if reading is not None:
                reading.close()

    def _begin(self, at: int) -> None:
        self.close()
        # The thread must not refer to this reader, whose end must end the thread.
        decoding, source, block = self.decoding, self.source, self.block
        whole, first, names = self.whole, self.first, decoding.columns or list(source.kinds)[:1]

        def chunks() -> Iterator[Chunk]:
            for each in source.blocks(names, block, at * block):
                yield decoding.chunk(each, whole, first + each.start)

        self._reading, self._next = read_ahead(chunks), at

    def _read_next(self) -> None:
        assert self._reading is not None
        chunk, index = next(self._reading, None), self._next
        found = index * self.block + (0 if chunk is None else chunk.rows)
        self._check_rows(found, index * self.block + self.size_of(index))
        assert chunk is not None  # the check of the rows has passed
        self._next, is_last = index + 1, index + 1 == self.blocks
        if is_last:
            rest, reading = next(self._reading, None), self._reading
            self._reading, self._next = None, 0
            reading.close()
            if rest is not None:
                self._check_rows(self.rows + rest.rows, self.rows)
            self.passes += 1
        self._held = {**self._held, index: chunk} if self._keeps else {index: chunk}

    def _check_rows(self, found: int, expected: int) -> None:
        if found != expected:
            now = "more" if found > expected else "fewer"
            raise DataError(
                f"the data had {self.rows:,} rows at first, and now have {now}: a source gives the "
                "same rows each time."
            )

    def multiplied(
        self,
        operand: np.ndarray,
        center: np.ndarray | None,
        *,
        is_transposed: bool,
        chosen: int | np.ndarray | None = None,
        rows: int | None = None,
    ) -> np.ndarray:
        """``(X - 1 center') @ operand``, (rows, k), or with the transpose, (features, k), which is
        summed in float64. Of X are ``chosen`` a chunk by its number, some rows by their numbers, or
        all: ``rows`` of them, which are zeros after the last one of the source.
        """
        rows = self.rows if rows is None else rows
        side, wide = (self.features, np.float64) if is_transposed else (rows, operand.dtype)
        made = np.zeros((side, operand.shape[1]), wide)
        for places, chunk in self._chosen(chosen):
            if is_transposed:
                chunk.add(operand[places], center, made)
                continue
            own = made[places]  # a view, except for rows by number
            chunk.multiply(operand, center, own)
            if isinstance(chosen, np.ndarray):
                made[places] = own
        return made.astype(operand.dtype, copy=False)

    def _chosen(
        self, chosen: int | np.ndarray | None
    ) -> Iterable[tuple[slice | np.ndarray, Chunk]]:
        """Chunks, or rows of them, and their places among those that are chosen."""
        if isinstance(chosen, np.ndarray):
            return self._rows_taken(chosen)
        if chosen is None:
            return ((slice(each.start, each.start + each.rows), each) for each in self.all_chunks())
        return [(slice(self.size_of(chosen)), self.chunk(chosen))] if chosen < self.blocks else []

    def _rows_taken(self, index: np.ndarray) -> list[tuple[np.ndarray, Chunk]]:
        """Rows by number, chunk by chunk: their places in ``index``, and the rows as a chunk."""
        with self._lock:
            # A step asks for several products with the same rows.
            if self._taken is not None and np.array_equal(self._taken[0], index):
                return self._taken[1]
            found: list[tuple[np.ndarray, Chunk]] = []
            for at in np.unique(index // self.block).tolist():
                places = np.flatnonzero(index // self.block == at)
                found.append((places, self.chunk(at).take(index[places] - at * self.block)))
            self._taken = index.copy(), found
            return found

    def column_squares(self, weight: np.ndarray | None, center: np.ndarray | None) -> np.ndarray:
        """``sum_i s_i (x_ij - center_j)^2``: (features,), in float64."""
        total = np.zeros(self.features)
        for chunk in self.all_chunks():
            chunk.add_squares(weight, center, total)
        return total

    def normal_sums(
        self, weight: np.ndarray | None, targets: np.ndarray | None, *, intercept: bool
    ) -> NormalSums:
        """Everything that least squares needs, in one pass; targets are (rows, outputs) or None.

        Sums are about the first chunk's means, so that little cancels when they are moved to the
        means of all rows.
        """
        outputs = 0 if targets is None else targets.shape[1]
        side = self.features + outputs + 1
        total, shift = np.zeros((side, side)), np.zeros(side - 1)
        for chunk in self.all_chunks():
            if intercept and chunk.start == 0:
                shift = chunk.means(weight, targets)
            chunk.add_products(weight, targets, shift, total)
        return NormalSums.of(total, shift, self.features, intercept=intercept)

    def gram_of(
        self, directions: np.ndarray, weight: np.ndarray | None, center: np.ndarray
    ) -> np.ndarray:
        """``V'(X - 1 center')' S (X - 1 center') V``, (k, k) in float64, for directions V of
        (features, k), less the product of the means that the center's rounding leaves.
        """
        side = directions.shape[1]
        total = np.zeros((side + 1, side + 1))
        for chunk in self.all_chunks():
            image = np.ones((chunk.rows, side + 1))
            chunk.multiply(directions, center, image[:, :side])
            total += image.T @ (chunk.own(weight)[:, None] * image)
        sums, whole = total[:side, side], total[side, side]
        return total[:side, :side] - (np.outer(sums, sums) / whole if center.any() else 0)

    def rows_at(self, index: np.ndarray) -> np.ndarray:
        """Rows by number, (indices, features), and zeros for numbers that no row has; rows after
        the last of them are not read.
        """
        made = np.zeros((index.size, self.features), self.decoding.dtype)
        there = np.flatnonzero((index >= 0) & (index < self.rows))
        for places, chunk in self._rows_taken(index[there]):
            made[there[places]] = chunk.written_out()
        return made

    def column(self, name: str, decoding: Decoder) -> np.ndarray:
        """The first column of another decoding, (rows,): one pass that reads nothing else."""
        check_columns([name], self.source.kinds)
        if not self.source.kinds[name].is_number:
            raise DataError(f"{name!r} holds {self.source.kinds[name]}, and numbers are needed.")
        made = np.empty(self.rows, self.decoding.dtype)
        found = 0
        for block in self.source.blocks([name], self.block):
            chunk = decoding.chunk(block, self.whole, self.first + block.start)
            found += chunk.rows
            self._check_rows(found, min(found, self.rows))
            own = chunk.numbers[:, 0]
            if not np.isfinite(own).all():
                chunk.refuse()
            made[chunk.start : chunk.start + chunk.rows] = own
        self._check_rows(found, self.rows)
        return made

    def fingerprint(self) -> str:
        """A digest of the columns and of some rows of the first chunk; of a part of the rows
        without its rows. It does not depend on the process.
        """
        columns = [(name, str(self.source.kinds[name])) for name in self.decoding.columns]
        digest = hashlib.sha256(f"{columns} {self.features} {self.decoding.dtype}".encode())
        if self.source is self.whole:
            digest.update(f" {self.rows}".encode())
            last = self.size_of(0) - 1
            rows = np.linspace(0, last, min(FINGERPRINT_ROWS, last + 1), dtype=np.int64)
            chunk = self.chunk(0).take(rows)
            sparse = (array for S in chunk.sparse for array in (S.indptr, S.indices, S.data))
            for array in (chunk.numbers, *sparse):
                digest.update(np.ascontiguousarray(array).tobytes())
        return f"{self.source.form} {digest.hexdigest()[:16]}"

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """A context for a program that asks for products: an error is kept, products are NaN from
        then on, which ends a descent, and the error is raised at the end.
        """
        with self._lock:
            self._watchers += 1
        try:
            yield
        finally:
            with self._lock:
                self._watchers -= 1
                failure = self._failure
                if not self._watchers:
                    self._failure = None
                    if self._reading is not None:
                        self.close()
        if failure is not None:
            raise failure

    def give_up(self, why: BaseException) -> None:
        """Make all further products fail with this error, from any thread, to end a program."""
        self._failure = why

    def attempt(self, compute: Callable[[], Any], like: Any) -> Any:
        """``compute()``; where it fails within :meth:`watched`, NaN of the shapes of ``like``."""
        with self._lock:
            try:
                if self._failure is not None:
                    raise self._failure
                return compute()
            except BaseException as error:
                self.close()
                if not self._watchers:
                    raise
                self._failure = self._failure or error
                if isinstance(like, tuple):  # a NamedTuple
                    return type(like)(*map(_nothing, like))
                return _nothing(like)


def _nothing(like: Any) -> np.ndarray:
    return np.full(like.shape, np.nan if np.issubdtype(like.dtype, np.floating) else 0, like.dtype)
