"""A source's rows as blocks of numbers, and products with them: NumPy on the host, one pass each.

Blocks are multiplied where they are read. Only vectors leave: no block is copied to a device, and
none is transposed, because BLAS takes the columns of Parquet and the rows of ``.npy`` as they lie.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdescent.data.errors import DataError, check_columns, listed, need_arrow
from jaxdescent.data.protocol import Block, Kind, Source, located
from jaxdescent.data.read_ahead import BLOCKS_HELD, read_ahead

BLOCK_BYTES = 8 << 20
"""About what a block takes as numbers: longer ones are no faster, and three are held at a time."""

SLICE_BYTES = 1 << 18
"""Rows are multiplied so many bytes at a time, which stay in a core's cache while a mean is
subtracted; the sums of slices are added in float64."""

MOST_ROWS = 1 << 20
"""The most rows of a block, however narrow they are."""

NONE = -1
"""The code of a row that has none of the levels."""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Some rows as numbers.

    Attributes:
      start: the number of the first row.
      numbers: (rows, columns), in any order of storage.
      codes: an integer for each row, of each categorical column.
      parts: the source's blocks that they are from, and the first row of each in this chunk.
    """

    start: int
    numbers: np.ndarray
    codes: list[np.ndarray]
    parts: list[tuple[int, int, Block]]  # first row here, first row there

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.numbers.shape[0]

    def place(self, row: int) -> str:
        """Where a row is, for people."""
        here, there, block = next(part for part in reversed(self.parts) if part[0] <= row)
        return block.place(there + row - here)


class NormalSums(NamedTuple):
    """What least squares needs of the rows, in float64 about the weighted means.

    Attributes:
      gram: (features, features), ``sum_i s_i (x_i - x_bar)(x_i - x_bar)'``.
      cross: (features, outputs), with the centred targets.
      squares: the squares of the centred targets, over all outputs.
      feature_mean: (features,); zeros without an intercept.
      target_mean: (outputs,); zeros without an intercept.
      weight_total: the sum of the weights.
      raw_diagonal: (features,), of the products before centring.
    """

    gram: np.ndarray
    cross: np.ndarray
    squares: float
    feature_mean: np.ndarray
    target_mean: np.ndarray
    weight_total: float
    raw_diagonal: np.ndarray


class RowStream:
    """Blocks of as many rows each (but the last) of some columns, in the order of the source.

    Args:
      source: where the rows are.
      numbers: the columns that are features themselves.
      levels: for each categorical column of codes, how many levels it has, a feature each.
      dtype: float32 or float64, in which numbers are multiplied.

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
    ) -> None:
        self.source, self.numbers, self.levels = source, tuple(numbers), dict(levels)
        self.dtype = np.dtype(dtype)
        check_columns(self.columns, source.kinds)
        self._check_kinds()
        if not source.can_restart:
            raise DataError(
                "the rows are read once for each product, and this reader gives them only once: "
                "pass a table, or read it into one with reader.read_all()."
            )
        self.rows = self._count() if source.rows is None else source.rows
        if not self.rows:
            raise DataError("the data have no rows.")
        width = len(self.numbers) * self.dtype.itemsize + 4 * len(self.levels)
        fitting = max(min(BLOCK_BYTES // width, MOST_ROWS), 1)
        self.block = min(fitting // 64 * 64 or fitting, self.rows)
        self.slice = max(min(SLICE_BYTES // width, self.block), 1)
        self.passes = 0
        self._stamps = source.stamps()
        self._lock = threading.RLock()
        self._reading: Iterator[Chunk] | None = None
        self._next = 0
        self._held: tuple[int, Chunk] | None = None
        self._watchers = 0
        self._failure: BaseException | None = None

    @property
    def columns(self) -> list[str]:
        """Those that are read."""
        return [*self.numbers, *self.levels]

    @property
    def features(self) -> int:
        """How many features there are: the numbers, then the levels of one column after another."""
        return len(self.numbers) + sum(self.levels.values())

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return -(-self.rows // self.block)

    @property
    def row_bytes(self) -> int:
        """What a row takes as numbers."""
        return len(self.numbers) * self.dtype.itemsize + 4 * len(self.levels)

    @property
    def held_bytes(self) -> int:
        """What reading and multiplying hold at their peak."""
        read = self.source.row_bytes(self.columns) + self.row_bytes
        return BLOCKS_HELD * self.block * read + self.source.reading_bytes(self.columns, self.block)

    def size_of(self, index: int) -> int:
        """The rows of a block."""
        return min(self.block, self.rows - index * self.block)

    # Products. Weights are (features, k), residuals (rows, k); a center is (features,).

    def product(self, weights: np.ndarray, center: np.ndarray | None) -> np.ndarray:
        """``(X - 1 center') @ weights``: (rows, k)."""
        made = np.empty((self.rows, weights.shape[1]), weights.dtype)
        for index in range(self.blocks):
            first = index * self.block
            self._multiply(self.chunk(index), weights, center, made[first : first + self.block])
        return made

    def block_product(
        self, index: int, weights: np.ndarray, center: np.ndarray | None
    ) -> np.ndarray:
        """The rows of one block in :meth:`product`."""
        made = np.empty((self.size_of(index), weights.shape[1]), weights.dtype)
        self._multiply(self.chunk(index), weights, center, made)
        return made

    def transposed_product(self, residual: np.ndarray, center: np.ndarray | None) -> np.ndarray:
        """``(X - 1 center')' @ residual``: (features, k), summed in float64."""
        total = np.zeros((self.features, residual.shape[1]))
        for index in range(self.blocks):
            first = index * self.block
            self._add(self.chunk(index), residual[first : first + self.block], center, total)
        return total.astype(residual.dtype)

    def block_transposed_product(
        self, index: int, residual: np.ndarray, center: np.ndarray | None
    ) -> np.ndarray:
        """One block's term in :meth:`transposed_product`."""
        total = np.zeros((self.features, residual.shape[1]))
        self._add(self.chunk(index), residual, center, total)
        return total.astype(residual.dtype)

    def column_squares(self, weight: np.ndarray | None, center: np.ndarray | None) -> np.ndarray:
        """``sum_i s_i (x_ij - center_j)^2``: (features,), in float64."""
        total = np.zeros(self.features)
        for chunk in self._all():
            s = _of_rows(weight, chunk)
            for rows in self._slices(chunk):
                Z = self._centred(chunk, rows, center).astype(np.float64)
                total[: Z.shape[1]] += np.square(Z).T @ s[rows]
            for codes, first, stop in self._coded(chunk):
                counts = _by_level(codes, s, stop - first)
                if center is None:
                    total[first:stop] += counts
                else:
                    c = center[first:stop].astype(np.float64)
                    total[first:stop] += counts * (1 - c) ** 2 + (s.sum() - counts) * c**2
        return total

    def normal_sums(
        self, weight: np.ndarray | None, targets: np.ndarray | None, *, intercept: bool
    ) -> NormalSums:
        """Everything that least squares needs, in one pass; targets are (rows, outputs) or None.

        Sums are about the first block's means, so that little cancels when they are moved to the
        means of all rows.
        """
        outputs = 0 if targets is None else targets.shape[1]
        side = self.features + outputs + 1
        total, shift = np.zeros((side, side)), np.zeros(side - 1)
        for chunk in self._all():
            s = _of_rows(weight, chunk)
            y = None if targets is None else targets[chunk.start : chunk.start + chunk.rows]
            if intercept and chunk.start == 0:
                share = s / s.sum() if s.sum() > 0 else np.full(chunk.rows, 1 / chunk.rows)
                for rows in self._slices(chunk):
                    shift += share[rows] @ self._wide(chunk, rows, y)[:, :-1]
            for rows in self._slices(chunk):
                Z = self._wide(chunk, rows, y)
                Z[:, :-1] -= shift
                total += Z.T @ (s[rows, None] * Z)
        if not np.isfinite(total).all():
            raise DataError("the values are too large: their squares overflow; divide them.")
        n = self.features
        weight_total = total[-1, -1]
        raw = np.diagonal(total)[:n] + weight_total * shift[:n] ** 2
        raw = raw + 2 * shift[:n] * total[:n, -1]
        if intercept:
            moved = total[-1, :-1] / weight_total
            total[:-1, :-1] -= weight_total * np.multiply.outer(moved, moved)
            shift = shift + moved
        return NormalSums(
            total[:n, :n],
            total[:n, n:-1],
            float(np.trace(total[n:-1, n:-1])),
            shift[:n],
            shift[n:],
            float(weight_total),
            raw,
        )

    def rows_at(self, index: np.ndarray) -> np.ndarray:
        """Rows by number, (indices, features); what lies behind the last of them is not read."""
        made = np.zeros((index.size, self.features), self.dtype)
        for at in sorted({int(i) // self.block for i in index}):
            chunk = self.chunk(at)
            for place in np.flatnonzero(index // self.block == at):
                row = int(index[place]) - chunk.start
                made[place] = self._wide(chunk, slice(row, row + 1), None)[0, :-1]
        return made

    def column(self, name: str) -> np.ndarray:
        """One column of numbers, (rows,), in the dtype: one pass that reads nothing else."""
        check_columns([name], self.source.kinds)
        if not self.source.kinds[name].is_number:
            raise DataError(f"{name!r} holds {self.source.kinds[name]}, and numbers are needed.")
        made, filled = np.empty(self.rows, self.dtype), 0
        blocks = read_ahead(lambda: located(self.source, [name], MOST_ROWS))
        with contextlib.closing(blocks):  # pyright: ignore[reportArgumentType]
            for block in blocks:
                values = _numbers(block, name)
                _refuse_not_finite(values, name, block, 0)
                self._check_rows(max(filled + block.rows, self.rows), self.rows)
                made[filled : filled + block.rows] = values
                filled += block.rows
        self._check_rows(filled, self.rows)
        return made

    # Reading.

    def chunk(self, index: int) -> Chunk:
        """A block; the next one costs reading it, another one all that lie before it."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._held is not None and self._held[0] == index:
                if index + 1 < self.blocks or self._is_unchanged():
                    return self._held[1]
            if self._reading is None or index < self._next:
                self._begin()
            while True:
                at, chunk = self._next, self._following()
                if at == index:
                    self._held = index, chunk
                    if self._next == self.blocks:
                        self._end()
                    return chunk

    def close(self) -> None:
        """End the thread that reads ahead, and give back what it holds."""
        with self._lock:
            reading, self._reading, self._held, self._next = self._reading, None, None, 0
            if reading is not None:
                reading.close()  # pyright: ignore[reportAttributeAccessIssue]

    def _all(self) -> Iterator[Chunk]:
        return (self.chunk(index) for index in range(self.blocks))

    def _begin(self) -> None:
        self.close()
        self._check_unchanged()
        self.passes += 1
        self._reading = read_ahead(self._chunks)

    def _following(self) -> Chunk:
        assert self._reading is not None
        chunk = next(self._reading, None)
        rows = 0 if chunk is None else chunk.rows
        self._check_rows(
            self._next * self.block + rows, self._next * self.block + self.size_of(self._next)
        )
        assert chunk is not None  # the check has found some rows
        self._next += 1
        return chunk

    def _end(self) -> None:
        """After the last block: nothing may follow, and the files are still what they were."""
        assert self._reading is not None
        rest = next(self._reading, None)
        reading, self._reading, self._next = self._reading, None, 0
        reading.close()  # pyright: ignore[reportAttributeAccessIssue]
        self._check_unchanged()
        if rest is not None:
            self._check_rows(self.rows + rest.rows, self.rows)

    def _chunks(self) -> Iterator[Chunk]:
        parts: list[tuple[int, int, Block]] = []
        have = start = 0
        for block in located(self.source, self.columns, self.block):
            first = 0
            while first < block.rows:
                taken = min(block.rows - first, self.block - have)
                parts.append((have, first, block))
                have, first = have + taken, first + taken
                if have == self.block:
                    yield self._decoded(start, have, parts)
                    start, have, parts = start + have, 0, []
        if have:
            yield self._decoded(start, have, parts)

    def _decoded(self, start: int, rows: int, parts: list[tuple[int, int, Block]]) -> Chunk:
        numbers = None
        if len(parts) == 1:
            _, there, block = parts[0]
            numbers = _matrix_of([block.columns[name] for name in self.numbers])
            if numbers is not None:
                numbers = numbers[there : there + rows].astype(self.dtype, order="K", copy=False)
        if numbers is None:  # Column after column, as they are read: no transposition.
            numbers = np.empty((len(self.numbers), rows), self.dtype).T
            for j, name in enumerate(self.numbers):
                self._fill(numbers[:, j], name, parts)
        codes = []
        for name, levels in self.levels.items():
            own = np.empty(rows, np.int64)
            self._fill(own, name, parts)
            chunk = Chunk(start, numbers, [], parts)
            wrong = (own < NONE) | (own >= levels)
            if wrong.any():
                row = int(np.argmax(wrong))
                raise DataError(
                    f"{name!r} is {own[row]} in {chunk.place(row)}: codes of {levels:,} levels are "
                    f"from 0 to {levels - 1:,}, or -1 for none of them."
                )
            codes.append(own.astype(np.int32))
        return Chunk(start, numbers, codes, parts)

    def _fill(self, into: np.ndarray, name: str, parts: list[tuple[int, int, Block]]) -> None:
        ends = [here for here, _, _ in parts[1:]] + [into.shape[0]]
        for (here, there, block), end in zip(parts, ends, strict=True):
            into[here:end] = _numbers(block, name)[there : there + end - here]

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
                if isinstance(like, tuple):
                    return tuple(np.full(each.shape, np.nan, each.dtype) for each in like)
                return np.full(like.shape, np.nan, like.dtype)

    # The arithmetic of a block.

    def _multiply(
        self, chunk: Chunk, weights: np.ndarray, center: np.ndarray | None, made: np.ndarray
    ) -> None:
        n = len(self.numbers)
        with np.errstate(all="ignore"):
            for rows in self._slices(chunk):
                Z = self._centred(chunk, rows, center)
                np.matmul(Z.astype(weights.dtype, copy=False), weights[:n], out=made[rows])
            for codes, first, stop in self._coded(chunk):
                own = np.concatenate([weights[first:stop], np.zeros_like(weights[:1])])
                made += own[codes]
                if center is not None:
                    made -= center[first:stop].astype(own.dtype) @ own[:-1]
        if not np.isfinite(made).all() and np.isfinite(weights).all():
            self._refuse_not_finite(chunk)

    def _add(
        self, chunk: Chunk, residual: np.ndarray, center: np.ndarray | None, total: np.ndarray
    ) -> None:
        n = len(self.numbers)
        with np.errstate(all="ignore"):
            for rows in self._slices(chunk):
                Z = self._centred(chunk, rows, center).astype(residual.dtype, copy=False)
                total[:n] += Z.T @ residual[rows]
            for codes, first, stop in self._coded(chunk):
                for k in range(residual.shape[1]):
                    column = residual[:, k].astype(np.float64)
                    term = _by_level(codes, column, stop - first)
                    if center is not None:
                        term -= center[first:stop] * column.sum()
                    total[first:stop, k] += term
        if not np.isfinite(total).all() and np.isfinite(residual).all():
            self._refuse_not_finite(chunk)

    def _slices(self, chunk: Chunk) -> Iterator[slice]:
        return (slice(i, min(i + self.slice, chunk.rows)) for i in range(0, chunk.rows, self.slice))

    def _centred(self, chunk: Chunk, rows: slice, center: np.ndarray | None) -> np.ndarray:
        Z = chunk.numbers[rows]
        if center is None:
            return Z
        wide = np.result_type(Z.dtype, center.dtype)
        return Z.astype(wide) - center[: Z.shape[1]].astype(wide)

    def _coded(self, chunk: Chunk) -> Iterator[tuple[np.ndarray, int, int]]:
        first = len(self.numbers)
        for codes, levels in zip(chunk.codes, self.levels.values(), strict=True):
            yield codes, first, first + levels
            first += levels

    def _wide(self, chunk: Chunk, rows: slice, targets: np.ndarray | None) -> np.ndarray:
        """These rows in float64, with all features written out, the targets, and a one."""
        outputs = 0 if targets is None else targets.shape[1]
        count = chunk.numbers[rows].shape[0]
        made = np.zeros((count, self.features + outputs + 1))
        made[:, : len(self.numbers)] = chunk.numbers[rows]
        if not np.isfinite(made[:, : len(self.numbers)]).all():
            self._refuse_not_finite(chunk)
        for codes, first, _ in self._coded(chunk):
            own = codes[rows]
            there = np.flatnonzero(own >= 0)
            made[there, first + own[there]] = 1
        if targets is not None:
            made[:, self.features : -1] = targets[rows]
        made[:, -1] = 1
        return made

    # Checks.

    def _check_kinds(self) -> None:
        kinds = self.source.kinds
        text = [name for name in self.numbers if not kinds[name].is_number]
        if text:
            raise DataError(
                f"{listed(map(repr, text))} {'hold' if len(text) > 1 else 'holds'} "
                f"{kinds[text[0]]}, and features must be numbers: leave it out, or replace it by "
                "codes from 0 on and say categorical={name: levels}."
            )
        coded = [name for name in self.levels if kinds[name] is not Kind.WHOLE]
        if coded:
            raise DataError(
                f"{coded[0]!r} holds {kinds[coded[0]]}, and the codes of a categorical column must "
                "be whole numbers: np.unique(values, return_inverse=True) gives levels and codes."
            )

    def _count(self) -> int:
        names = self.columns[:1]
        return sum(block.rows for block in located(self.source, names, MOST_ROWS))

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

    def _refuse_not_finite(self, chunk: Chunk) -> None:
        """Name the value that is NaN or infinite; nothing if there is none in this chunk."""
        for j, name in enumerate(self.numbers):
            for here, there, block in chunk.parts:
                end = min(chunk.rows, here + block.rows - there)
                _refuse_not_finite(chunk.numbers[here:end, j], name, block, there)


def _refuse_not_finite(values: np.ndarray, name: str, block: Block, first: int) -> None:
    wrong = ~np.isfinite(values)
    if wrong.any():
        row = int(np.argmax(wrong))
        what = "NaN" if np.isnan(values[row]) else "infinite"
        raise DataError(f"{name!r} is {what} in {block.place(first + row)}: correct the data.")


def _of_rows(weight: np.ndarray | None, chunk: Chunk) -> np.ndarray:
    """The weights of a chunk's rows, in float64."""
    if weight is None:
        return np.ones(chunk.rows)
    return weight[chunk.start : chunk.start + chunk.rows].astype(np.float64)


def _by_level(codes: np.ndarray, values: np.ndarray, levels: int) -> np.ndarray:
    """The sum of the values of each level's rows, in float64 and in the order of the rows."""
    return np.bincount(codes + 1, values, minlength=levels + 1)[1:]


def _numbers(block: Block, name: str) -> np.ndarray:
    """A column as an array of numbers, without a copy where it can be had so.

    Raises:
      DataError: for a missing value, with its row.
    """
    column = block.columns[name]
    if isinstance(column, np.ndarray):
        return column
    pa = need_arrow()
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise DataError(
            f"{name!r} has no value in {block.place(row)}: leave out such rows, or fill them, "
            "before they are streamed."
        )
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    return column.to_numpy(zero_copy_only=False)


def _matrix_of(columns: list[Any]) -> np.ndarray | None:
    """One view of columns that lie side by side in a matrix, (rows, columns); else None."""
    first = columns[0] if columns else None
    if not isinstance(first, np.ndarray) or len(columns) < 2 or first.base is None:
        return None
    like = first.dtype, first.shape, first.strides
    if any(not isinstance(c, np.ndarray) or (c.dtype, c.shape, c.strides) != like for c in columns):
        return None
    # Whether one lies after another tells their address, and whether they share an owner.
    at = [column.__array_interface__["data"][0] for column in columns]
    apart = at[1] - at[0]
    is_even = all(after - before == apart for before, after in zip(at, at[1:], strict=False))
    if apart <= 0 or not is_even or any(c.base is not first.base for c in columns):
        return None
    strides = first.strides[0], apart
    return np.lib.stride_tricks.as_strided(
        first, (first.shape[0], len(columns)), strides, writeable=False
    )
