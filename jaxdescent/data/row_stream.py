"""A source's rows as chunks of numbers, and products with them: NumPy on the host, one pass each.

Rows are multiplied where they are read. Only vectors go to a device: no chunk is copied there, and
none is transposed, because BLAS takes the columns of Parquet and the rows of ``.npy`` as stored.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from jaxdescent.data.chunk import Chunk, mirror
from jaxdescent.data.chunk_reader import ChunkReader
from jaxdescent.data.decoding import Decoding
from jaxdescent.data.normal_sums import NormalSums
from jaxdescent.data.protocol import Kind, Source, located
from jaxdescent.data.read_ahead import BLOCKS_HELD
from jaxdescent.rows.errors import DataError, check_columns

BLOCK_BYTES = 8 << 20
"""About how many bytes a chunk takes: larger ones are no faster, and three are held at a time."""

MOST_ROWS = 1 << 20
"""The most rows of a chunk, however narrow they are."""

BYTES_A_FEATURE, MOST_BLOCK_BYTES = 16, 64 << 20
"""The bytes of a chunk per feature, and at most, where there are many features: a product with a
chunk is a vector over the features, which should be small beside the chunk."""

LOOK_ROWS = 1024
"""The number of first rows from which the entries of a row are estimated."""

FINGERPRINT_ROWS = 256
"""Rows that go into a fingerprint, since tables in memory have no files for one."""


class RowStream(ChunkReader):
    """Chunks of as many rows each (but the last) of some columns, in the order of the source."""

    def __init__(self, source: Source, decoding: Decoding) -> None:
        kinds = source.kinds
        decoding.check(kinds)
        # As float64, in which a file of text has its numbers, large whole numbers would be alike.
        whole = [name for name in decoding.hashed if kinds[name] is Kind.WHOLE]
        self.source = source = source.offering((), whole) if whole else source
        if not source.can_restart:
            raise DataError(
                "the rows are read once for each product, and this reader gives them only once: "
                "pass a table, or read it into one with reader.read_all()."
            )
        exact = frozenset(name for name in decoding.numbers if kinds[name] is Kind.WHOLE)
        self.decoding = dataclasses.replace(decoding, whole=exact)
        self.rows = self._counted() if source.rows is None else source.rows
        if not self.rows:
            raise DataError("the data have no rows.")
        if decoding.sparse:
            self.decoding = dataclasses.replace(self.decoding, row_entries=self._row_entries())
        bytes_at_once = block_bytes(self.features)
        fitting = max(min(bytes_at_once // max(self.decoding.row_bytes, 1), MOST_ROWS), 1)
        block = min(fitting // 64 * 64 or fitting, self.rows)
        super().__init__(source, self.decoding, self.rows, block)
        self._taken: tuple[np.ndarray, list[tuple[np.ndarray, Chunk]]] | None = None

    @property
    def features(self) -> int:
        """How many features there are: the numbers, then the levels of one column after another."""
        return self.decoding.features

    @property
    def held_bytes(self) -> int:
        """The bytes that reading and multiplying hold at their peak."""
        reading = self.source.reading_bytes(self.decoding.columns, self.block)
        return BLOCKS_HELD * self.block * self._row_bytes + reading

    def fingerprint(self) -> str:
        """A digest of the columns, the sizes and both ends of the files, and some rows of the first
        chunk; of a share without its rows. It does not depend on the process.
        """
        asked_for = dataclasses.replace(self.decoding, row_entries=0, whole=frozenset())
        digest = hashlib.sha256(f"{self.source.fingerprint()} {asked_for!r}".encode())
        if self.source.is_whole:
            digest.update(f" {self.rows}".encode())
            last = self.size_of(0) - 1
            rows = np.linspace(0, last, min(FINGERPRINT_ROWS, last + 1), dtype=np.int64)
            chunk = self.chunk(0).take(rows)
            sparse = (array for S in chunk.sparse for array in (S.indptr, S.indices, S.data))
            for array in (chunk.numbers, *sparse):
                digest.update(np.ascontiguousarray(array).tobytes())
        return f"{self.source.form} {digest.hexdigest()[:16]}"

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

    def close(self) -> None:
        with self._lock:
            super().close()
            self._taken = None

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
        mirror(total)
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

    def column(self, name: str) -> np.ndarray:
        """One column of numbers, (rows,), in the dtype: one pass that reads nothing else."""
        check_columns([name], self.source.kinds)
        if not self.source.kinds[name].is_number:
            raise DataError(f"{name!r} holds {self.source.kinds[name]}, and numbers are needed.")
        is_whole = self.source.kinds[name] is Kind.WHOLE
        whole = frozenset([name] if is_whole else [])
        decoding = Decoding((name,), {}, self.decoding.dtype, whole=whole)
        reader = ChunkReader(self.source, decoding, self.rows, self._rows_of([name]))
        made = np.empty(self.rows, self.decoding.dtype)
        for chunk in reader.all_chunks():
            own = chunk.numbers[:, 0]
            if not np.isfinite(own).all():
                chunk.refuse_not_finite()
            made[chunk.start : chunk.start + chunk.rows] = own
        return made

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
        own = chunk.sparse[bool(self.decoding.levels) :]  # without the codes
        return -(-sum(S.nnz for S in own) // chunk.rows)

    def _rows_of(self, names: Sequence[str]) -> int:
        """How many rows of some columns are read at a time: a source may read others with them."""
        return max(min(BLOCK_BYTES // max(self.source.row_bytes(names), 1), MOST_ROWS), 1)


def block_bytes(features: int) -> int:
    """About how many bytes a chunk takes whose rows have this many features."""
    return max(BLOCK_BYTES, min(BYTES_A_FEATURE * features, MOST_BLOCK_BYTES))
