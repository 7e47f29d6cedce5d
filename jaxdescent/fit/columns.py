"""A column of a block as numbers, or as codes of the texts that it holds."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
from typing import Any

import numpy as np

from jaxdescent.data.arrow_types import array_of, decoded, text_of
from jaxdescent.data.decoding import NumberColumn, values_of
from jaxdescent.data.errors import need_arrow

MOST_BITS = 28
"""The most bits of a bucket's number."""


@dataclasses.dataclass(frozen=True)
class Labels:
    """A code for each row, and the text that a code stands for.

    Attributes:
      codes: (rows,), integers, -1 where the value is missing.
      array: the text of each code, as an array of Arrow.
    """

    codes: np.ndarray
    array: Any

    @functools.cached_property
    def texts(self) -> list[str]:
        """The text of each code."""
        return self.array.to_pylist()

    def places(self, levels: Any) -> np.ndarray:
        """The place of each code's text among ``levels``, an array of Arrow; -1 where it is absent.

        Arrow looks them up: a dictionary of Python takes ten times as long for 100,000 of them.
        """
        found = importlib.import_module("pyarrow.compute").index_in(self.array, value_set=levels)
        return found.fill_null(-1).to_numpy(zero_copy_only=False)

    def used(self, rows: np.ndarray | None = None) -> Any:
        """The texts that occur in these rows, as an array of Arrow."""
        codes = self.codes if rows is None else self.codes[rows]
        counts = np.bincount(codes[codes >= 0], minlength=len(self.array))
        return self.array.take(need_arrow().array(np.flatnonzero(counts)))


def as_numbers(column: Any, *, nan_is_missing: bool) -> NumberColumn:
    """A column as numbers and which of them are missing, without a copy where possible."""
    values, missing = values_of(column)
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    elif values.dtype == np.float16:
        values = values.astype(np.float32)  # sums of these would overflow
    if nan_is_missing and np.issubdtype(values.dtype, np.floating):
        is_nan = np.isnan(values)
        if is_nan.any():
            missing = is_nan if missing is None else missing | is_nan
    if missing is not None:
        values = np.where(missing, 0, values)
    return NumberColumn(values, missing)


def missing_in(column: Any, *, is_number: bool) -> np.ndarray | None:
    """Which values of a column are missing, NaN among them, (rows,); None where none is."""
    if is_number:
        return as_numbers(column, nan_is_missing=True).missing
    column = array_of(column)
    if need_arrow().types.is_dictionary(column.type) and column.dictionary.null_count:
        column = decoded(column)
    return column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None


def labels_of(column: Any, name: object = "a column") -> Labels:
    """The codes and texts of a column of texts, whole numbers, booleans or dates.

    Raises:
      DataError: for bytes that are no text, with the column's name.
    """
    pa = need_arrow()
    column = array_of(column)
    is_encoded = pa.types.is_dictionary(column.type)
    if is_encoded and (len(column.dictionary) > len(column) or column.dictionary.null_count):
        # A slice of a large table brings the whole dictionary along.
        column, is_encoded = decoded(column), False
    if not is_encoded:
        column = column.dictionary_encode()
    texts = text_of(column.dictionary, name)
    indices = column.indices
    if indices.null_count:
        indices = indices.cast(pa.int64()).fill_null(-1)
    return Labels(indices.to_numpy(zero_copy_only=False).astype(np.int64), texts)


class Texts:
    """The different texts of a column, found block by block: Arrow holds and compares them, since
    objects of Python would take ten times as long.
    """

    def __init__(self) -> None:
        pa = need_arrow()
        self._texts = pa.chunked_array([], pa.string())

    def add(self, texts: Any) -> None:
        """Add different texts, an array of Arrow."""
        pa = need_arrow()
        self._texts = pa.chunked_array([*self._texts.chunks, texts])
        # Once the new texts outnumber the known ones, so that all joins together take a few passes.
        if len(self._texts) > 2 * len(self._texts.chunk(0)):
            self._texts = pa.chunked_array([self._texts.unique()])

    def sorted(self) -> tuple[str, ...]:
        """All different texts in their order."""
        return tuple(sorted(self._texts.unique().to_pylist()))

    def __len__(self) -> int:
        """How many texts are held; some of them may be equal."""
        return len(self._texts)

    @property
    def bytes(self) -> int:
        """How many bytes the held texts take."""
        return self._texts.nbytes


def bucket_of(column: str, text: str, bits: int) -> int:
    """The place of a value among ``2**bits``: the same on every machine, for ever."""
    digest = hashlib.blake2b(f"{column}\0{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & ((1 << bits) - 1)
