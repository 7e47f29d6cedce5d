"""A source's rows as chunks of numbers, and products with them: NumPy on the host, one pass each.

Rows are multiplied where they are read. Only vectors leave: no chunk is copied to a device, and
none is transposed, because BLAS takes the columns of Parquet and the rows of ``.npy`` as they lie.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdescent.data.chunk import Chunk, check_finite
from jaxdescent.data.decoding import Decoding, numbers_of
from jaxdescent.data.errors import DataError, check_columns, listed
from jaxdescent.data.freeing import return_what_was_freed
from jaxdescent.data.normal_sums import NormalSums
from jaxdescent.data.protocol import Kind, Source, located
from jaxdescent.data.read_ahead import BLOCKS_HELD, read_ahead
from jaxdescent.data.sparse_decoding import SparseDecoding

BLOCK_BYTES = 8 << 20
"""About what a chunk takes as numbers: longer ones are no faster, and three are held at a time."""

MOST_ROWS = 1 << 20
"""The most rows of a chunk, however narrow they are."""

BYTES_A_FEATURE, MOST_BLOCK_BYTES = 16, 64 << 20
"""Of many features blocks are larger: a product with each of them is a vector of as many numbers,
which should be few beside those of the block."""

LOOK_ROWS = 1024
"""The first rows, which tell about how many entries a row has."""

SECTIONS, LONGEST_SECTION = 16, 8
"""Chunks are read in an order other than theirs by sections of some that follow each other, because
reading ahead reads one more than is wanted: at least so many sections, of up to so many chunks."""

RETURNING = 64
"""After so many chunks, and at the end, memory that was freed is returned."""

FINGERPRINT_ROWS = 256
"""Rows that are part of a fingerprint, which tables in memory have no other of."""


class RowStream:
    """Chunks of as many rows each (but the last) of some columns, in the order of the source.

    Args:
      source: where the rows are.
      numbers: the columns that are features themselves.
      levels: for each categorical column of codes, how many levels it has, a feature each.
      dtype: float32 or float64, in which numbers are multiplied.
      sparse: other columns, and how they become features.

    Raises:
      DataError: for columns that are not there or no numbers, and a source that has no rows or
        gives them only once.
    """

    def __init__(
        self,
        source: Source,
        numbers: Sequence[str],
        levels: Mapping[str, int],
        dtype: Any,
        sparse: SparseDecoding | None = None,
    ) -> None:
        sparse = SparseDecoding() if sparse is None else sparse
        self.source = source.as_read(sparse.words) if sparse.words else source
        self.decoding = Decoding(tuple(numbers), dict(levels), np.dtype(dtype), sparse)
        self._check_columns()
        self.rows = self._counted() if source.rows is None else source.rows
        if not self.rows:
            raise DataError("the data have no rows.")
        if sparse.columns:
            self.decoding = dataclasses.replace(self.decoding, row_entries=self._row_entries())
        bytes_at_once = block_bytes(self.features)
        fitting = max(min(bytes_at_once // max(self.decoding.row_bytes, 1), MOST_ROWS), 1)
        self.block = min(fitting // 64 * 64 or fitting, self.rows)
        self.sections = self._sections()
        self.passes = 0
        self._stamps = source.stamps()
        self._lock = threading.RLock()
        self._reading: Iterator[Chunk] | None = None
        self._next = 0
        self._held: tuple[int, Chunk] | None = None
        self._taken: tuple[np.ndarray, list[tuple[np.ndarray, Chunk]]] | None = None
        self._watchers = 0
        self._failure: BaseException | None = None

    @property
    def features(self) -> int:
        """How many features there are: the numbers, then the levels of one column after another."""
        return self.decoding.features

    @property
    def blocks(self) -> int:
        """How many chunks there are."""
        return -(-self.rows // self.block)

    @property
    def held_bytes(self) -> int:
        """What reading and multiplying hold at their peak."""
        columns = self.decoding.columns
        row = self.source.row_bytes(columns) + self.decoding.row_bytes
        return BLOCKS_HELD * self.block * row + self.source.reading_bytes(columns, self.block)

    def size_of(self, index: int) -> int:
        """The rows of a chunk."""
        return min(self.block, self.rows - index * self.block)

    def fingerprint(self) -> str:
        """The columns, the sizes and both ends of the files, and some rows of the first chunk, as a
        digest: the same in another process.
        """
        decoding = self.decoding
        facts = decoding.numbers, list(decoding.levels.items()), str(decoding.dtype), self.rows
        last = self.size_of(0) - 1
        rows = np.linspace(0, last, min(FINGERPRINT_ROWS, last + 1), dtype=np.int64)
        digest = hashlib.sha256(f"{self.source.fingerprint()} {facts}".encode())
        if not decoding.sparse.columns:
            digest.update(np.ascontiguousarray(self.rows_at(rows)).tobytes())
            return f"{self.source.form} {digest.hexdigest()[:16]}"
        digest.update(repr(decoding.sparse).encode())
        chunk = self.chunk(0).take(rows)
        arrays = [chunk.numbers, *chunk.codes]
        for entries in chunk.entries:
            arrays += [entries.starts, entries.index]
            arrays += [] if entries.values is None else [entries.values]
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        return f"{self.source.form} {digest.hexdigest()[:16]}"

    # Products. Weights are (features, k), residuals (rows, k); a center is (features,).

    def product(self, weights: np.ndarray, center: np.ndarray | None) -> np.ndarray:
        """``(X - 1 center') @ weights``: (rows, k)."""
        made = np.empty((self.rows, weights.shape[1]), weights.dtype)
        for chunk in self._all():
            chunk.multiply(weights, center, made[chunk.start : chunk.start + chunk.rows])
        return made

    def block_product(
        self, index: int, weights: np.ndarray, center: np.ndarray | None
    ) -> np.ndarray:
        """The rows of one chunk in :meth:`product`."""
        made = np.empty((self.size_of(index), weights.shape[1]), weights.dtype)
        self.chunk(index).multiply(weights, center, made)
        return made

    def transposed_product(self, residual: np.ndarray, center: np.ndarray | None) -> np.ndarray:
        """``(X - 1 center')' @ residual``: (features, k), summed in float64."""
        total = np.zeros((self.features, residual.shape[1]))
        for chunk in self._all():
            chunk.add(residual[chunk.start : chunk.start + chunk.rows], center, total)
        return total.astype(residual.dtype)

    def block_transposed_product(
        self, index: int, residual: np.ndarray, center: np.ndarray | None
    ) -> np.ndarray:
        """One chunk's term in :meth:`transposed_product`."""
        total = np.zeros((self.features, residual.shape[1]))
        self.chunk(index).add(residual, center, total)
        return total.astype(residual.dtype)

    def rows_product(
        self, index: np.ndarray, weights: np.ndarray, center: np.ndarray | None
    ) -> np.ndarray:
        """The rows at these numbers in :meth:`product`, in their order."""
        made = np.empty((index.size, weights.shape[1]), weights.dtype)
        for places, chunk in self._rows_taken(index):
            own = np.empty((places.size, weights.shape[1]), weights.dtype)
            chunk.multiply(weights, center, own)
            made[places] = own
        return made

    def rows_transposed_product(
        self, index: np.ndarray, residual: np.ndarray, center: np.ndarray | None
    ) -> np.ndarray:
        """The terms of the rows at these numbers in :meth:`transposed_product`."""
        total = np.zeros((self.features, residual.shape[1]))
        for places, chunk in self._rows_taken(index):
            chunk.add(residual[places], center, total)
        return total.astype(residual.dtype)

    def _rows_taken(self, index: np.ndarray) -> list[tuple[np.ndarray, Chunk]]:
        """Rows by number: their places in ``index``, and they themselves; chunk by chunk."""
        with self._lock:
            # A step asks for several products with the same rows.
            if self._taken is not None and np.array_equal(self._taken[0], index):
                return self._taken[1]
            found: list[tuple[np.ndarray, Chunk]] = []
            for at in sorted({int(block) for block in np.unique(index // self.block)}):
                places = np.flatnonzero(index // self.block == at)
                found.append((places, self.chunk(at).take(index[places] - at * self.block)))
            self._taken = index.copy(), found
            return found

    def column_squares(self, weight: np.ndarray | None, center: np.ndarray | None) -> np.ndarray:
        """``sum_i s_i (x_ij - center_j)^2``: (features,), in float64."""
        total = np.zeros(self.features)
        for chunk in self._all():
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
        for chunk in self._all():
            if intercept and chunk.start == 0:
                shift = chunk.means(weight, targets)
            chunk.add_products(weight, targets, shift, total)
        return NormalSums.of(total, shift, self.features, intercept=intercept)

    def rows_at(self, index: np.ndarray) -> np.ndarray:
        """Rows by number, (indices, features); what lies behind the last of them is not read."""
        made = np.zeros((index.size, self.features), self.decoding.dtype)
        for at in sorted({int(i) // self.block for i in index}):
            places = index // self.block == at
            chunk = self.chunk(at)
            made[places] = chunk.written_out(index[places] - chunk.start, None)[:, :-1]
        return made

    def column(self, name: str) -> np.ndarray:
        """One column of numbers, (rows,), in the dtype: one pass that reads nothing else."""
        check_columns([name], self.source.kinds)
        if not self.source.kinds[name].is_number:
            raise DataError(f"{name!r} holds {self.source.kinds[name]}, and numbers are needed.")
        made, filled = np.empty(self.rows, self.decoding.dtype), 0
        self._check_unchanged()
        for block in read_ahead(lambda: located(self.source, [name], self._rows_of([name]))):
            values = numbers_of(block, name)
            check_finite(values, name, block, 0)
            self._check_rows(max(filled + block.rows, self.rows), self.rows)
            made[filled : filled + block.rows] = values
            filled += block.rows
        self._check_rows(filled, self.rows)
        return made

    # Reading.

    def chunk(self, index: int) -> Chunk:
        """A chunk; the next one costs reading it, another one those before it in its section."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            is_last = index + 1 == self.blocks
            is_held = self._held is not None and self._held[0] == index
            if self._held is not None and is_held and (not is_last or self._is_unchanged()):
                return self._held[1]
            section = self.sections[bisect.bisect_right(self.sections, index) - 1]
            if self._reading is None or index < self._next or section > self._next:
                self._begin(section)
            while True:
                at, chunk = self._next, self._following()
                if at == index:
                    self._held = index, chunk
                    if is_last:
                        self._end()
                    return chunk

    def close(self) -> None:
        """End the thread that reads ahead, and give back what it holds."""
        with self._lock:
            reading, self._reading, self._held, self._next = self._reading, None, None, 0
            self._taken = None
            if reading is not None:
                reading.close()  # pyright: ignore[reportAttributeAccessIssue]

    def _all(self) -> Iterator[Chunk]:
        return (self.chunk(index) for index in range(self.blocks))

    def _begin(self, at: int) -> None:
        self.close()
        self._check_unchanged()
        # The thread must not keep the stream: it ends with it.
        decoding, source, block = self.decoding, self.source, self.block
        self._reading, self._next = (
            read_ahead(lambda: decoding.chunks(source, block, at * block)),
            at,
        )

    def _following(self) -> Chunk:
        assert self._reading is not None
        chunk = next(self._reading, None)
        before = self._next * self.block
        found = before + (0 if chunk is None else chunk.rows)
        self._check_rows(found, before + self.size_of(self._next))
        assert chunk is not None  # the check has found some rows
        self._next += 1
        if not self._next % RETURNING or self._next == self.blocks:
            return_what_was_freed()
        return chunk

    def _end(self) -> None:
        """After the last chunk: nothing may follow, and the files are still what they were."""
        assert self._reading is not None
        self.passes += 1
        rest = next(self._reading, None)
        reading, self._reading, self._next = self._reading, None, 0
        reading.close()  # pyright: ignore[reportAttributeAccessIssue]
        self._check_unchanged()
        if rest is not None:
            self._check_rows(self.rows + rest.rows, self.rows)

    # Failures, and a reading that is to be given up.

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """While a program runs that asks for products: a failure is kept, and the products are NaN
        from then on, which ends a descent; what is kept is raised at the end.
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
        """Let a program that asks for products come to its end, from any thread."""
        self._failure = why

    def attempt(self, compute: Callable[[], Any], like: Any) -> Any:
        """``compute()``; where it fails and somebody watches, NaN of the shapes of ``like``."""
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
                if isinstance(like, tuple):  # a named one
                    return type(like)(*map(_nothing, like))
                return _nothing(like)

    # Checks.

    def _check_columns(self) -> None:
        kinds, decoding = self.source.kinds, self.decoding
        check_columns(decoding.columns, kinds)
        decoding.sparse.check(kinds)
        text = [name for name in decoding.numbers if not kinds[name].is_number]
        if text:
            raise DataError(
                f"{listed(map(repr, text))} {'hold' if len(text) > 1 else 'holds'} "
                f"{kinds[text[0]]}, and features must be numbers: leave it out, or replace it by "
                "codes from 0 on and say categorical={name: levels}."
            )
        coded = [name for name in decoding.levels if kinds[name] is not Kind.WHOLE]
        if coded:
            raise DataError(
                f"{coded[0]!r} holds {kinds[coded[0]]}, and the codes of a categorical column must "
                "be whole numbers: np.unique(values, return_inverse=True) gives levels and codes."
            )
        if not self.source.can_restart:
            raise DataError(
                "the rows are read once for each product, and this reader gives them only once: "
                "pass a table, or read it into one with reader.read_all()."
            )

    def _counted(self) -> int:
        names = self.decoding.columns[:1]
        blocks = located(self.source, names, self._rows_of(names))
        return sum(block.rows for block in blocks)

    def _row_entries(self) -> int:
        chunks = self.decoding.chunks(self.source, LOOK_ROWS)
        chunk = next(chunks, None)
        chunks.close()  # pyright: ignore[reportAttributeAccessIssue]
        if chunk is None:
            raise DataError("the data have no rows.")
        return -(-sum(entries.index.size for entries in chunk.entries) // chunk.rows)

    def _sections(self) -> tuple[int, ...]:
        """The first chunk of each section: one before which less than a chunk would be read in
        vain.
        """
        shortest = min(max(self.blocks // SECTIONS, 1), LONGEST_SECTION)
        sections = [0]
        for chunk in range(1, self.blocks):
            begin = self.source.start_before(chunk * self.block)
            if begin > (chunk - 1) * self.block and chunk - sections[-1] >= shortest:
                sections.append(chunk)
        return tuple(sections)

    def _rows_of(self, names: Sequence[str]) -> int:
        """How many rows of some columns are read at a time: a source may read others with them."""
        return max(min(BLOCK_BYTES // max(self.source.row_bytes(names), 1), MOST_ROWS), 1)

    def _is_unchanged(self) -> bool:
        return self.source.stamps() == self._stamps

    def _check_unchanged(self) -> None:
        if not self._is_unchanged():
            now = zip(self.source.files, self._stamps, self.source.stamps(), strict=True)
            changed = [str(path) for path, then, later in now if then != later]
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


def block_bytes(features: int) -> int:
    """About what a chunk takes, of rows of so many features."""
    return max(BLOCK_BYTES, min(BYTES_A_FEATURE * features, MOST_BLOCK_BYTES))


def _nothing(like: Any) -> np.ndarray:
    return np.full(like.shape, np.nan if np.issubdtype(like.dtype, np.floating) else 0, like.dtype)
