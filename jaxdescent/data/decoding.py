"""A source's blocks as chunks of equally many rows, all of them numbers of one dtype."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxdescent.data.arrow import pa
from jaxdescent.data.arrow_types import array_of, decoded
from jaxdescent.data.chunk import Chunk, placed
from jaxdescent.data.entries import NONE, Coded, RowEntries, SparseColumn, entries_of, sparse_pieces
from jaxdescent.data.matrix_columns import matrix_of
from jaxdescent.data.protocol import Block, Kind, Source, located
from jaxdescent.rows.errors import DataError, check_columns, listed
from jaxdescent.rows.hashing import places_of_numbers, places_of_texts

REPEATED = 2
"""A dictionary is hashed, and not each row's text, where a text is in this many rows or more."""


@dataclasses.dataclass(frozen=True, eq=False)
class Decoding:
    """How columns become numbers."""

    numbers: tuple[str, ...]  # columns that are features themselves
    levels: Mapping[str, int]  # for each categorical column of codes, how many levels it has
    dtype: np.dtype[Any]  # the dtype of the numbers
    # For each sparse column, how many features it has: its indices are their numbers.
    listed: Mapping[str, int] = dataclasses.field(default_factory=dict)
    # Columns of which each value is hashed to one of ``2**bits`` features.
    hashed: tuple[str, ...] = ()
    words: tuple[str, ...] = ()  # columns of text of which each word is hashed to one of these
    bits: int = 0  # ``hashed`` and ``words`` share ``2**bits`` features
    row_entries: int = 0  # about how many entries of listed and hashed features a row has
    # The columns of whole numbers among ``numbers``, none of which the dtype may round.
    whole: frozenset[str] = frozenset()

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return [*self.numbers, *self.levels, *self.sparse]

    @property
    def sparse(self) -> list[str]:
        """The columns of which a row has any number of entries."""
        return [*self.listed, *self.hashed, *self.words]

    @property
    def features(self) -> int:
        """How many features there are: the numbers, the levels of one column after another, those
        of sparse columns likewise, then the hashed ones.
        """
        hashed = 1 << self.bits if self.hashed or self.words else 0
        return len(self.numbers) + sum((*self.levels.values(), *self.listed.values())) + hashed

    @property
    def row_bytes(self) -> int:
        """About how many bytes a row takes: numbers, and an index and a value of each entry."""
        size = self.dtype.itemsize
        entries = len(self.levels) + self.row_entries
        return len(self.numbers) * size + entries * (4 + size)

    def check(self, kinds: Mapping[str, Kind]) -> None:
        """Raise a :class:`DataError` for columns that are not there, or cannot be decoded so."""
        check_columns(self.columns, kinds)
        roles = (
            (self.listed, {Kind.SPARSE}, "columns of sparse= must hold sparse numbers"),
            (
                self.hashed,
                {Kind.WHOLE, Kind.TEXT, Kind.SPARSE},
                "columns of hashed= must hold text, whole numbers or sparse numbers",
            ),
            (self.words, {Kind.TEXT}, "columns of words= must hold text"),
            (
                self.numbers,
                {Kind.NUMBER, Kind.WHOLE},
                "features must be numbers: leave it out, or replace it by codes from 0 on and say "
                "categorical={name: levels}",
            ),
            (
                self.levels,
                {Kind.WHOLE},
                "the codes of a categorical column must be whole numbers: "
                "np.unique(values, return_inverse=True) gives levels and codes",
            ),
        )
        for names, wanted, what in roles:
            wrong = [name for name in names if kinds[name] not in wanted]
            if wrong:
                shown = wrong if names is self.numbers else wrong[:1]
                verb = "hold" if len(shown) > 1 else "holds"
                raise DataError(f"{listed(map(repr, shown))} {verb} {kinds[wrong[0]]}, and {what}.")

    def chunks(self, source: Source, size: int, row: int = 0) -> Iterator[Chunk]:
        """Chunks of all rows from ``row`` on in their order, of ``size`` rows each but the last."""
        parts: list[Block] = []
        have, start = 0, row
        for block in located(source, self.columns, size, row):
            first = 0
            while first < block.rows:
                taken = min(block.rows - first, size - have)
                parts.append(block.cut(first, first + taken))
                have, first = have + taken, first + taken
                if have == size:
                    yield self._decoded(start, have, parts)
                    start, have, parts = start + have, 0, []
        if have:
            yield self._decoded(start, have, parts)

    def _decoded(self, start: int, rows: int, blocks: list[Block]) -> Chunk:
        numbers = self._as_stored(blocks)
        if numbers is None:  # In column-major order, as columns are read: nothing is transposed.
            numbers = np.empty((len(self.numbers), rows), self.dtype).T
            for own, block in placed(blocks):
                for j, name in enumerate(self.numbers):
                    fill(numbers[own, j], name, block, is_exact=name in self.whole)
        pieces = zip(*(self._entries_of(block) for block in blocks), strict=True)
        entries = [first.followed_by(others) for first, *others in pieces]
        sparse = sparse_pieces([], entries, len(self.numbers), self.features, self.dtype)
        return Chunk(start, self.numbers, numbers, sparse, blocks, self.features)

    def _as_stored(self, blocks: list[Block]) -> np.ndarray | None:
        """The numbers without a copy, where they are columns of one matrix; else None."""
        if len(blocks) > 1:
            return None
        own = matrix_of(blocks[0].columns, self.numbers)
        if own is None or (self.whole and _may_be_rounded(own, self.dtype)):
            return None  # the way column by column names the column that would be rounded
        with np.errstate(over="ignore"):  # values that become infinite are refused later
            return own.astype(self.dtype, order="K", copy=False)

    def _entries_of(self, block: Block) -> Iterator[RowEntries]:
        """The entries of a block's rows, column by column."""
        first, coded = len(self.numbers), list[Coded]()
        for name, size in self.levels.items():
            codes = complete_numbers(block, name)
            is_code = (codes >= NONE) & (codes < size)  # NaN is none
            if codes.dtype.kind == "f":  # whole numbers of CSV may be followed by others
                is_code &= codes == np.floor(codes)
            if not is_code.all():
                row = int(np.argmin(is_code))
                raise DataError(
                    f"{name!r} is {codes[row]} in {block.place(row)}: codes of {size:,} levels are "
                    f"from 0 to {size - 1:,}, or -1 for none of them."
                )
            coded.append(Coded(first, size, codes))
            first += size
        if coded:
            yield entries_of(coded)
        for name, size in self.listed.items():
            column = block.columns[name]
            outside = (column.index < 0) | (column.index >= size)
            if outside.any():
                at = int(np.argmax(outside))
                raise DataError(
                    f"{name!r} has the index {column.index[at]} in {block.place(column.row[at])}: "
                    f"those of {size:,} features are from 0 to {size - 1:,}."
                )
            yield RowEntries(column.starts, column.index, column.values, name, first, size)
            first += size
        for name in (*self.hashed, *self.words):
            own = hashed(block, name, self.bits, are_words=name in self.words)
            yield RowEntries(own.starts, own.index, own.values, name, first, 1 << self.bits)


def complete_numbers(block: Block, name: str) -> np.ndarray:
    """A column as an array of numbers, without a copy where it can be had so."""
    values, missing = values_of(block.columns[name])
    refuse_missing(missing, name, block)
    return values


def hashed(block: Block, name: str, bits: int, *, are_words: bool) -> SparseColumn:
    """The hashed features of each row, of ``2**bits``: one of its text or whole number, those of
    its words, or those of its sparse numbers, which have their values.
    """
    column, key = block.columns[name], {"column": name, "bits": bits}
    if isinstance(column, SparseColumn):
        return dataclasses.replace(column, index=places_of_numbers(column.index, **key))
    is_repeated = False
    if not isinstance(column, np.ndarray) or column.dtype.kind not in "biuf":
        column = array_of(column)
        if pa.types.is_dictionary(column.type):
            texts = column.dictionary
            is_repeated = len(texts) * REPEATED <= len(column) and not texts.null_count
            # Whole numbers are hashed as such, however they are stored.
            is_repeated &= not pa.types.is_integer(texts.type)
            column = column if is_repeated else decoded(column)
        if column.null_count:
            refuse_missing(column.is_null().to_numpy(zero_copy_only=False), name, block)
        if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
            column = column.to_numpy(zero_copy_only=False)
    if isinstance(column, np.ndarray):
        places = places_of_numbers(column, **key)
        return SparseColumn(np.arange(len(column) + 1), places, None)
    texts = (column.dictionary if is_repeated else column).cast(pa.large_string())
    starts, places = places_of_texts(*bytes_of(texts), **key, are_words=are_words)
    found = SparseColumn(starts, places, None)
    return found[column.indices.to_numpy(zero_copy_only=False)] if is_repeated else found


def refuse_missing(
    missing: np.ndarray | None,
    name: str,
    block: Block,
    advice: str = "leave out such rows, or fill them, before they are streamed",
) -> None:
    """Raise if a value of a column is missing, with its row and what to do.

    ``missing`` tells which rows lack it, (rows,); None for none of them.
    """
    if missing is not None and missing.any():
        place = block.place(int(np.argmax(missing)))
        raise DataError(f"{name!r} has no value in {place}: {advice}.")


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
    column, missing = array_of(column), None
    types = pa.types
    if types.is_decimal(column.type) or types.is_null(column.type):
        column = column.cast(pa.float64())
    if column.null_count:
        missing = column.is_null().to_numpy(zero_copy_only=False)
        column = column.fill_null(False if types.is_boolean(column.type) else 0)
    if types.is_boolean(column.type):
        return NumberColumn(column.to_numpy(zero_copy_only=False), missing)
    # Arrow's to_numpy imports pandas where that is installed, which takes a third of a second.
    return NumberColumn(np.from_dlpack(column), missing)


def fill(into: np.ndarray, name: str, block: Block, *, is_exact: bool = False) -> None:
    """Put a block's column of numbers into an array of another dtype.

    Raises:
      DataError: for a missing value; and where it has to be exact, for the first number that the
        dtype would round: ids and times would become alike.
    """
    values = complete_numbers(block, name)
    with np.errstate(over="ignore", invalid="ignore"):
        into[:] = values
        if not is_exact or not _may_be_rounded(values, into.dtype):
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


def refuse_rounded(block: Block, name: str, who: str) -> None:
    """Refuse whole numbers of CSV that may be rounded, since they are read as float64; the message
    begins with ``who`` reads the column.
    """
    values = values_of(block.columns[name]).values
    is_long = np.abs(values) >= 2.0**53 if values.dtype.kind == "f" else np.zeros(1, bool)
    if is_long.any():
        raise DataError(
            f"{who} as a number, which in {block.place(int(np.argmax(is_long)))} may have more "
            "digits than float64 holds: leave it out, or write the data as Parquet."
        )


def bytes_of(texts: Any) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of large texts of Arrow, one after another, and where each text begins, without a
    copy.
    """
    _, offsets, text = texts.buffers()
    if offsets is None or not len(texts):
        return np.zeros(0, np.uint8), np.zeros(len(texts) + 1, np.int64)
    at = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    whole = np.zeros(0, np.uint8) if text is None else np.frombuffer(text, np.uint8)
    return whole[at[0] : at[-1]], at - at[0]
