"""Columns of text, whole numbers and sparse numbers as entries of hashed or listed features."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxdescent.data import hashing
from jaxdescent.data.arrow_types import array_of
from jaxdescent.data.entries import RowEntries
from jaxdescent.data.errors import DataError, need_arrow
from jaxdescent.data.protocol import Block, Kind

REPEATED = 2
"""A dictionary is hashed, and not each row's text, where a text is in this many rows or more."""


@dataclasses.dataclass(frozen=True)
class SparseDecoding:
    """How columns become sparse features, most of which are zero in a row.

    Attributes:
      listed: for each sparse column, how many features it has: its indices are their numbers.
      hashed: columns of which each value is hashed to one of ``2**bits`` features.
      words: columns of text of which each word is hashed to one of these features.
      bits: ``hashed`` and ``words`` share ``2**bits`` features.
    """

    listed: Mapping[str, int] = dataclasses.field(default_factory=dict)
    hashed: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    bits: int = 0

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return [*self.listed, *self.hashed, *self.words]

    @property
    def features(self) -> int:
        """How many features there are: those of one listed column after another, then the hashed
        ones.
        """
        return sum(self.listed.values()) + (1 << self.bits if self.hashed or self.words else 0)

    def check(self, kinds: Mapping[str, Kind]) -> None:
        """Raise a :class:`DataError` for columns that cannot be decoded so."""
        asked = {
            "sparse": (self.listed, {Kind.SPARSE}, "sparse numbers"),
            "hashed": (
                self.hashed,
                {Kind.WHOLE, Kind.TEXT, Kind.SPARSE},
                "text, whole numbers or sparse numbers",
            ),
            "words": (self.words, {Kind.TEXT}, "text"),
        }
        for option, (names, wanted, what) in asked.items():
            for name in names:
                if kinds[name] not in wanted:
                    raise DataError(
                        f"{name!r} holds {kinds[name]}, and columns of {option}= must hold {what}."
                    )

    def entries_of(self, block: Block, first: int, dtype: np.dtype[Any]) -> Iterator[RowEntries]:
        """The entries of a block's rows, column by column; ``first`` is the number of the first
        feature.

        Raises:
          DataError: for a missing value, and an index that is none of the features, with their row.
        """
        for name, size in self.listed.items():
            column = block.columns[name]
            outside = (column.index < 0) | (column.index >= size)
            if outside.any():
                at = int(np.argmax(outside))
                row = column.row[at]
                raise DataError(
                    f"{name!r} has the index {column.index[at]} in {block.place(row)}: those of "
                    f"{size:,} features are from 0 to {size - 1:,}."
                )
            index = column.index.astype(np.int32)
            values = _cast(column.values, dtype)
            yield RowEntries(column.starts, index, values, name, first, size)
            first += size
        for name in [*self.hashed, *self.words]:
            yield self._hashed(name, block, first, dtype)

    def _hashed(self, name: str, block: Block, first: int, dtype: np.dtype[Any]) -> RowEntries:
        of, key = (name, first, 1 << self.bits), {"column": name, "bits": self.bits}
        column = block.columns[name]
        if hasattr(column, "starts"):
            index = hashing.places_of_numbers(column.index, **key)
            return RowEntries(column.starts, index, _cast(column.values, dtype), *of)
        if not isinstance(column, np.ndarray):
            column = _arrow(column, name, block)
        if isinstance(column, np.ndarray):
            index = hashing.places_of_numbers(column, **key)
            return RowEntries(np.arange(block.rows + 1), index, None, *of)
        codes = None
        if need_arrow().types.is_dictionary(column.type):
            codes, column = column.indices.to_numpy(zero_copy_only=False), column.dictionary
        text, offsets = _bytes_of(column)
        if name in self.words:
            starts, index = hashing.places_of_words(text, offsets, **key)
        else:
            index = hashing.places_of_texts(text, offsets, **key)
            starts = np.arange(len(offsets))
        entries = RowEntries(starts, index, None, *of)
        return entries if codes is None else entries[codes]


def _cast(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    with np.errstate(over="ignore"):  # values that become infinite are refused later
        return values.astype(dtype, copy=False)


def _arrow(column: Any, name: str, block: Block) -> Any:
    """A column as Arrow text, as a dictionary of few texts, or as a NumPy array of numbers."""
    pa = need_arrow()
    types, column = pa.types, array_of(column)
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise DataError(
            f"{name!r} has no value in {block.place(row)}: leave out such rows, or fill "
            "them, before they are streamed."
        )
    if types.is_dictionary(column.type):
        texts = column.dictionary
        if len(texts) * REPEATED <= len(column) and not texts.null_count:
            return pa.DictionaryArray.from_arrays(column.indices, texts.cast(pa.large_string()))
        column = column.cast(column.type.value_type)
    if types.is_integer(column.type) or types.is_boolean(column.type):
        return column.to_numpy(zero_copy_only=False)
    is_plain = types.is_string(column.type) or types.is_large_string(column.type)
    return column if is_plain else column.cast(pa.large_string())


def _bytes_of(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of the texts, one after another, and where each text begins, without a copy."""
    is_large = need_arrow().types.is_large_string(column.type)
    _, offsets, text = column.buffers()
    width = np.int64 if is_large else np.int32
    if offsets is None or not len(column):
        return np.zeros(0, np.uint8), np.zeros(len(column) + 1, np.int64)
    at = np.frombuffer(offsets, width)[column.offset : column.offset + len(column) + 1]
    whole = np.zeros(0, np.uint8) if text is None else np.frombuffer(text, np.uint8)
    return whole[at[0] : at[-1]], at.astype(np.int64) - at[0]
