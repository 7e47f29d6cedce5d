"""A source's blocks as chunks of equally many rows, all of them numbers of one dtype."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxdescent.data.arrow_types import array_of
from jaxdescent.data.chunk import Chunk, ChunkPart, place_in
from jaxdescent.data.entries import NONE, Coded
from jaxdescent.data.errors import DataError, need_arrow
from jaxdescent.data.protocol import Block, Source, located
from jaxdescent.data.sparse_decoding import SparseDecoding


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How columns become numbers.

    Attributes:
      numbers: columns that are features themselves.
      levels: for each categorical column of codes, how many levels it has.
      dtype: the dtype of the numbers.
      sparse: how other columns become sparse features.
      row_entries: about how many entries of sparse features a row has.
      whole: the columns of whole numbers among ``numbers``, none of which the dtype may round.
    """

    numbers: tuple[str, ...]
    levels: Mapping[str, int]
    dtype: np.dtype[Any]
    sparse: SparseDecoding = dataclasses.field(default_factory=SparseDecoding)
    row_entries: int = 0
    whole: frozenset[str] = frozenset()

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return [*self.numbers, *self.levels, *self.sparse.columns]

    @property
    def features(self) -> int:
        """How many features there are: the numbers, the levels of one column after another, then
        those of sparse and hashed columns.
        """
        return self._listed + self.sparse.features

    @property
    def _listed(self) -> int:
        return len(self.numbers) + sum(self.levels.values())

    @property
    def row_bytes(self) -> int:
        """About how many bytes a row takes as numbers."""
        size = self.dtype.itemsize
        entry = 4 + (size if self.sparse.listed else 0)
        return len(self.numbers) * size + 4 * len(self.levels) + self.row_entries * entry

    @property
    def hashed_entries(self) -> int:
        """About how many entries of a row are hashed."""
        return self.row_entries if self.sparse.hashed or self.sparse.words else 0

    @property
    def products(self) -> int:
        """How many numbers of a row are multiplied."""
        return len(self.numbers) + len(self.levels) + self.row_entries

    def chunks(self, source: Source, size: int, row: int = 0) -> Iterator[Chunk]:
        """Chunks of all rows from ``row`` on in their order, of ``size`` rows each but the last."""
        parts: list[ChunkPart] = []
        have, start, begin = 0, row, source.start_before(row)
        for block in located(source.from_row(begin), self.columns, size, begin):
            first = min(max(row - block.start, 0), block.rows)
            while first < block.rows:
                taken = min(block.rows - first, size - have)
                parts.append(ChunkPart(have, block.cut(first, first + taken)))
                have, first = have + taken, first + taken
                if have == size:
                    yield self._decoded(start, have, parts)
                    start, have, parts = start + have, 0, []
        if have:
            yield self._decoded(start, have, parts)

    def _decoded(self, start: int, rows: int, parts: list[ChunkPart]) -> Chunk:
        numbers = self._as_stored(parts)
        if numbers is None:  # In column-major order, as columns are read: nothing is transposed.
            numbers = np.empty((len(self.numbers), rows), self.dtype).T
            for j, name in enumerate(self.numbers):
                _fill(numbers[:, j], name, parts, is_whole=name in self.whole)
        coded, first = list[Coded](), len(self.numbers)
        for name, levels in self.levels.items():
            codes = np.empty(rows, np.int64)
            _fill(codes, name, parts)
            wrong = (codes < NONE) | (codes >= levels)
            if wrong.any():
                row = int(np.argmax(wrong))
                raise DataError(
                    f"{name!r} is {codes[row]} in {place_in(parts, row)}: codes of {levels:,} "
                    f"levels are from 0 to {levels - 1:,}, or -1 for none of them."
                )
            coded.append(Coded(first, levels, codes))
            first += levels
        pieces = (self.sparse.entries_of(each, self._listed, self.dtype) for _, each in parts)
        entries = [first.followed_by(others) for first, *others in zip(*pieces, strict=True)]
        return Chunk(start, self.numbers, numbers, coded, parts, self.features, entries)

    def _as_stored(self, parts: list[ChunkPart]) -> np.ndarray | None:
        """The numbers without a copy, where they are columns of one matrix; else None."""
        if len(parts) > 1:
            return None
        own = matrix_of([parts[0].block.columns[name] for name in self.numbers])
        if own is None or (self.whole and _may_be_rounded(own, self.dtype)):
            return None  # the way column by column names the column that would be rounded
        with np.errstate(over="ignore"):  # values that become infinite are refused later
            return own.astype(self.dtype, order="K", copy=False)


def complete_numbers(block: Block, name: str) -> np.ndarray:
    """A column as an array of numbers, without a copy where it can be had so.

    Raises:
      DataError: for a missing value, with its row.
    """
    values, missing = values_of(block.columns[name])
    if missing is not None:
        raise DataError(
            f"{name!r} has no value in {block.place(int(np.argmax(missing)))}: leave out such "
            "rows, or fill them, before they are streamed."
        )
    return values


class NumberColumn(NamedTuple):
    """The values of a column, and which of them are missing: None where none is."""

    values: np.ndarray
    missing: np.ndarray | None


def values_of(column: Any) -> NumberColumn:
    """A column of numbers as an array, zero where one is missing, and which ones are missing.

    Nothing is copied where that is possible; decimals become float64.
    """
    if isinstance(column, np.ndarray):
        return NumberColumn(column, None)
    pa, column, missing = need_arrow(), array_of(column), None
    types = pa.types
    if types.is_decimal(column.type) or types.is_null(column.type):
        column = column.cast(pa.float64())
    if column.null_count:
        missing = column.is_null().to_numpy(zero_copy_only=False)
        column = column.fill_null(False if types.is_boolean(column.type) else 0)
    return NumberColumn(column.to_numpy(zero_copy_only=False), missing)


def fill_exactly(into: np.ndarray, values: np.ndarray, name: str, block: Block) -> None:
    """Put a block's whole numbers into an array of another dtype.

    Raises:
      DataError: for the first one that the dtype would round: ids and times would become alike.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        into[:] = values
        if not _may_be_rounded(values, into.dtype):
            return
        wrong = (into.astype(values.dtype) != values) & np.isfinite(into)
        if np.issubdtype(values.dtype, np.floating):  # CSV's, which may be rounded already
            wrong |= (np.abs(values) >= 2.0**53) & np.isfinite(values)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"{name!r} is {int(values[row])} in {block.place(row)}, and {into.dtype} would "
            "round it: subtract a whole number near all of its values, stream it as levels or "
            "hashed, or stream float64 with JAX's 64-bit mode."
        )


def _may_be_rounded(values: np.ndarray, dtype: np.dtype[Any]) -> bool:
    """Whether values are beyond the range in which a floating dtype holds all whole numbers."""
    if not np.issubdtype(dtype, np.floating) or not values.size:
        return False
    most = 2 ** (np.finfo(dtype).nmant + 1) - 1
    return bool(np.max(values) > most or np.min(values) < -most)


def _fill(into: np.ndarray, name: str, parts: list[ChunkPart], *, is_whole: bool = False) -> None:
    for part in parts:
        values = complete_numbers(part.block, name)
        if is_whole:
            fill_exactly(into[part.rows], values, name, part.block)
            continue
        with np.errstate(over="ignore"):
            into[part.rows] = values


def matrix_of(columns: list[Any]) -> np.ndarray | None:
    """One view, (rows, columns), of columns that are side by side in a matrix; else None."""
    first = columns[0] if columns else None
    if not isinstance(first, np.ndarray) or len(columns) < 2 or first.base is None:
        return None
    like = first.dtype, first.shape, first.strides
    for column in columns:
        is_alike = isinstance(column, np.ndarray) and column.base is first.base
        if not is_alike or (column.dtype, column.shape, column.strides) != like:
            return None
    # The addresses tell whether columns follow each other.
    at = [column.__array_interface__["data"][0] for column in columns]
    apart = at[1] - at[0]
    if apart <= 0 or any(after - before != apart for before, after in itertools.pairwise(at)):
        return None
    shape, strides = (first.shape[0], len(columns)), (first.strides[0], apart)
    return np.lib.stride_tricks.as_strided(first, shape, strides, writeable=False)
