"""A fit's features as a source of numbers and codes, for a design whose rows stay in files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdescent.data import Block, Kind, Source, SparseColumn, located
from jaxdescent.data.decoding import matrix_of
from jaxdescent.data.entries import Coded
from jaxdescent.data.freeing import Passing
from jaxdescent.data.wrapped import WrappedSource
from jaxdescent.fit.encoding import Encoded, Encoding
from jaxdescent.fit.job import Job
from jaxdescent.fit.prepared import Preparing

BUCKETS = "the buckets of {}"
"""The name of the column that holds the codes or entries of all hashed columns."""

ENTRY_BYTES = 16
"""Bytes of an entry: an index and a value."""


class EncodedRows(WrappedSource):
    """The rows that count, column by column: numbers less a shift, means where one is missing, and
    the code of each row's level or bucket, or entries where a row has several or other ones.

    All rows of the data's own files are among them, held-out ones too, and none of other data.

    Args:
      job: the job of the fit.
      preparing: prepares blocks, and says which rows count.
      rows: how many rows count.
      at_once: how many rows are read at a time.
      shift: (numbers,), subtracted from the columns of numbers.
      fills: (numbers,), less the shift, which stand for missing numbers.
      dtype: the dtype of the numbers.
    """

    def __init__(
        self,
        job: Job,
        preparing: Preparing,
        *,
        rows: int,
        at_once: int,
        shift: np.ndarray,
        fills: np.ndarray,
        dtype: Any,
    ) -> None:
        self.rows_read = 0
        self._passing = Passing()
        self._job, self._preparing, self._rows = job, preparing, rows
        self._at_once, self._shift, self._fills, self._dtype = at_once, shift, fills, dtype
        super().__init__(job.source)

    @property
    def encoding(self) -> Encoding:
        """How columns become features."""
        return self._preparing.encoding

    def _wrap(self, base: Source) -> None:
        super()._wrap(base)
        self.rows = self._rows
        numbers = dict.fromkeys(self.encoding.numbers, Kind.NUMBER)
        codes = dict.fromkeys(self.categorical, Kind.WHOLE)
        self.kinds = numbers | codes | dict.fromkeys(self.sparse, Kind.SPARSE)

    @property
    def categorical(self) -> dict[str, int]:
        """How many levels each column of codes has."""
        encoding, levels = self.encoding, {}
        if not self._has_slopes:
            levels = {name: len(each) for name, each in encoding.levels.items()}
        if self._is_one_bucket and not self._has_slopes:
            levels |= dict.fromkeys(encoding.hashed, len(encoding.buckets))
        return levels

    @property
    def sparse(self) -> dict[str, int]:
        """How many features each column of entries has, in the order of the weights."""
        encoding, found = self.encoding, {}
        if self._has_slopes:
            found = {name: len(each) for name, each in encoding.levels.items()}
        if encoding.hashed and (self._has_slopes or not self._is_one_bucket):
            found[BUCKETS.format(", ".join(encoding.hashed))] = len(encoding.buckets)
        if encoding.sparse is not None:
            found[encoding.sparse] = len(encoding.indices)
        return found

    @property
    def _has_slopes(self) -> bool:
        return self.encoding.has_slopes

    @property
    def _is_one_bucket(self) -> bool:
        return len(self.encoding.hashed) == 1

    def row_bytes(self, names: Sequence[str]) -> int:
        kinds, itemsize = self.kinds, np.dtype(self._dtype).itemsize
        entries = ENTRY_BYTES * max(len(self.encoding.hashed), 1)
        sizes = {Kind.NUMBER: itemsize, Kind.WHOLE: 8, Kind.SPARSE: entries}
        return sum(sizes[kinds[name]] for name in names)

    def reading_bytes(self, names: Sequence[str], rows: int) -> int:
        del names, rows
        return self.base.reading_bytes(self._job.roles.columns, self._at_once)

    def blocks(self, names: Sequence[str], rows: int) -> Iterator[Block | Mapping[str, Any]]:
        del names  # a product needs all features
        columns, at_once = self._job.roles.columns, min(rows, self._at_once)
        row_bytes = self.base.row_bytes(columns)
        for block in located(self.base, columns, at_once):
            self._passing.add(block.rows * row_bytes)
            self._job.memory.check()
            self.rows_read += block.rows
            encoding, whole = self.encoding, None
            is_plain = not encoding.one_hot and encoding.sparse is None
            if is_plain and not encoding.interactions and not self._looks_for_missing:
                whole = matrix_of([block.columns[name] for name in encoding.numbers])
            if whole is not None:  # the pass before this one has checked all values
                yield self._named(less(whole, self._shift, self._dtype), [])
                continue
            encoded = self._preparing(block).encoded
            if encoded.keep is not None and not encoded.keep.size:
                continue
            numbers = shifted_numbers(encoded, encoded.kept, self._shift, self._fills, self._dtype)
            yield self._named(numbers, self._encoded(encoded))

    @property
    def _looks_for_missing(self) -> bool:
        return self._preparing.policy.missing != "error"

    def _named(self, numbers: np.ndarray, others: list[Any]) -> dict[str, Any]:
        named = {name: numbers[:, j] for j, name in enumerate(self.encoding.numbers)}
        return named | dict(zip([*self.categorical, *self.sparse], others, strict=False))

    def _encoded(self, encoded: Encoded) -> list[Any]:
        """Codes, and then entries, in the order of the features."""
        coded = [column[encoded.kept] for column in encoded.coded]
        count = len(self.encoding.levels)
        levels, hashed = coded[:count], coded[count:]
        found: list[Any] = [
            entries_of([column]) if self._has_slopes else column.codes for column in levels
        ]
        if hashed:
            is_code = self._is_one_bucket and not self._has_slopes
            found.append(hashed[0].codes if is_code else entries_of(hashed))
        for entries in (column[encoded.kept] for column in encoded.entries):
            assert entries.values is not None  # of a sparse column
            found.append(SparseColumn(entries.starts, entries.index, entries.values))
        return found


def entries_of(columns: list[Coded]) -> SparseColumn:
    """The entries of columns that share their features."""
    codes = np.stack([column.codes for column in columns], axis=1)
    there = codes >= 0
    starts = np.concatenate([[0], np.cumsum(np.count_nonzero(there, axis=1))])
    values = np.ones(codes.shape)
    for j, column in enumerate(columns):
        if column.values is not None:
            values[:, j] = column.values
    return SparseColumn(starts, codes[there], values[there])


def shifted_numbers(
    encoded: Encoded, rows: slice | np.ndarray, shift: np.ndarray, fills: np.ndarray, dtype: Any
) -> np.ndarray:
    """The numbers of some rows less the shift, (rows, numbers), ``fills`` where one is missing."""
    whole = matrix_of([number.values for number in encoded.numbers])
    if whole is not None and isinstance(rows, slice):
        made = less(whole[rows], shift, dtype)
    else:
        count = len(range(encoded.rows)[rows]) if isinstance(rows, slice) else rows.size
        made = np.empty((len(encoded.numbers), count), dtype).T
        with np.errstate(over="ignore", invalid="ignore"):
            for j, number in enumerate(encoded.numbers):
                made[:, j] = np.subtract(number.values[rows], shift[j], dtype=np.float64)
    for j, number in enumerate(encoded.numbers):
        if number.missing is not None:
            made[number.missing[rows], j] = fills[j]
    return made


def less(whole: np.ndarray, shift: np.ndarray, dtype: Any) -> np.ndarray:
    """A matrix less a shift of each column, in the memory order of the matrix."""
    made = np.empty_like(whole, dtype=dtype, order="K")
    with np.errstate(over="ignore", invalid="ignore"):
        np.subtract(whole, shift, out=made, casting="same_kind", dtype=np.float64)
    return made
