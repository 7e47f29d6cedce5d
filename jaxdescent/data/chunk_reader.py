"""Chunks of a source's rows by number: read ahead on a thread, in order or section by section."""

from __future__ import annotations

import bisect
import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np

from jaxdescent.data.chunk import Chunk
from jaxdescent.data.decoding import Decoding
from jaxdescent.data.freeing import Passing
from jaxdescent.data.protocol import Source, changed_since, stamps_of
from jaxdescent.data.read_ahead import read_ahead
from jaxdescent.rows.errors import DataError, listed

SECTIONS, LONGEST_SECTION = 16, 8
"""Out of order, chunks are read by sections of consecutive ones, because reading ahead reads one
more than is wanted: at least ``SECTIONS`` of them, of up to ``LONGEST_SECTION`` chunks each."""


class ChunkReader:
    """Chunks of ``block`` rows each (but the last) of a source with the same rows each time."""

    def __init__(self, source: Source, decoding: Decoding, rows: int, block: int) -> None:
        self.source, self.decoding = source, decoding
        self.rows, self.block = rows, block
        self.sections = self._sections()
        self.passes = 0
        self._passing = Passing()
        self._row_bytes = source.row_bytes(decoding.columns) + decoding.row_bytes
        self._stamps = source.opened or stamps_of(source.files)
        self._lock = threading.RLock()
        self._reading: Generator[Chunk] | None = None
        self._next = 0
        self._held: tuple[int, Chunk] | None = None
        self._watchers = 0
        self._failure: BaseException | None = None

    @property
    def blocks(self) -> int:
        """How many chunks there are."""
        return -(-self.rows // self.block)

    def size_of(self, index: int) -> int:
        """How many rows a chunk has."""
        return min(self.block, self.rows - index * self.block)

    def chunk(self, index: int) -> Chunk:
        """A chunk: the next one is read alone, any other with those before it in its section."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            is_last = index + 1 == self.blocks
            if self._held is not None and self._held[0] == index:
                if is_last:
                    self._check_unchanged()
                return self._held[1]
            section = self.sections[bisect.bisect_right(self.sections, index) - 1]
            if self._reading is None or index < self._next or section > self._next:
                self._begin(section)
            chunk = self._following()
            while self._next <= index:
                chunk = self._following()
            self._held = index, chunk
            if is_last:
                self._end()
            return chunk

    def close(self) -> None:
        """End the thread that reads ahead, and drop the chunks that it holds."""
        with self._lock:
            reading, self._reading, self._held, self._next = self._reading, None, None, 0
            if reading is not None:
                reading.close()

    def all_chunks(self) -> Iterator[Chunk]:
        """All chunks in their order."""
        return (self.chunk(index) for index in range(self.blocks))

    def _begin(self, at: int) -> None:
        self.close()
        self._check_unchanged()
        # The thread must not refer to this reader, whose end must end the thread.
        decoding, source, block = self.decoding, self.source, self.block
        self._reading = read_ahead(lambda: decoding.chunks(source, block, at * block))
        self._next = at

    def _following(self) -> Chunk:
        assert self._reading is not None
        before = self._next * self.block
        try:
            chunk = next(self._reading, None)
            found = before + (0 if chunk is None else chunk.rows)
            self._check_rows(found, before + self.size_of(self._next))
        except Exception:  # of any type: pyarrow raises a KeyError where a column is gone
            self._check_unchanged()
            raise
        assert chunk is not None  # the check of the rows has passed
        self._next += 1
        self._passing.add(chunk.rows * self._row_bytes, is_last=self._next == self.blocks)
        return chunk

    def _end(self) -> None:
        """Check after the last chunk that no rows follow, and that the files have not changed."""
        assert self._reading is not None
        self.passes += 1
        rest = next(self._reading, None)
        reading, self._reading, self._next = self._reading, None, 0
        reading.close()
        self._check_unchanged()
        if rest is not None:
            self._check_rows(self.rows + rest.rows, self.rows)

    # Failures, and reading that is given up.

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

    def _sections(self) -> tuple[int, ...]:
        """The first chunk of each section: one before which less than a chunk has to be read and
        dropped.
        """
        shortest = min(max(self.blocks // SECTIONS, 1), LONGEST_SECTION)
        sections = [0]
        for chunk in range(1, self.blocks):
            begin = self.source.start_before(chunk * self.block)
            if begin > (chunk - 1) * self.block and chunk - sections[-1] >= shortest:
                sections.append(chunk)
        return tuple(sections)

    def _check_unchanged(self) -> None:
        changed = changed_since(self._stamps)
        if changed:
            raise DataError(
                f"{listed(changed)} changed since the design was made: make it again from files "
                "that nobody writes to."
            )

    def _check_rows(self, found: int, expected: int) -> None:
        if found != expected:
            now = "more" if found > expected else "fewer"
            raise DataError(
                f"the data had {self.rows:,} rows at first, and now have {now}: a source gives the "
                "same rows each time."
            )


def _nothing(like: Any) -> np.ndarray:
    return np.full(like.shape, np.nan if np.issubdtype(like.dtype, np.floating) else 0, like.dtype)
