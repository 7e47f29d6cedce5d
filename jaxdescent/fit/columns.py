"""A column of a block as numbers, or as codes of the texts that it holds."""

from __future__ import annotations

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


class Labels:
    """A code for each row, -1 where the value is missing, and the text that a code stands for.

    Args:
      codes: (rows,), integers.
      texts: a list, or an array of Arrow, which becomes a list on first use.
    """

    def __init__(self, codes: np.ndarray, texts: Any) -> None:
        self.codes = codes
        self._texts = texts

    @functools.cached_property
    def texts(self) -> list[str]:
        """The text of each code."""
        return self._texts if isinstance(self._texts, list) else self._texts.to_pylist()

    def places(self, levels: Any) -> np.ndarray:
        """The place of each code's text among ``levels``, an array of Arrow; -1 where it is absent.

        Arrow looks them up: a dictionary of Python takes ten times as long for 100,000 of them.
        """
        found = importlib.import_module("pyarrow.compute").index_in(self.array, value_set=levels)
        return found.fill_null(-1).to_numpy(zero_copy_only=False)

    def used(self, rows: np.ndarray | None = None) -> Any:
        """The texts that occur in these rows, as an array of Arrow."""
        pa = need_arrow()
        codes = self.codes if rows is None else self.codes[rows]
        counts = np.bincount(codes[codes >= 0], minlength=len(self.array))
        return self.array.take(pa.array(np.flatnonzero(counts)))

    @property
    def array(self) -> Any:
        """The text of each code, as an array of Arrow."""
        pa = need_arrow()
        return pa.array(self._texts, pa.string()) if isinstance(self._texts, list) else self._texts


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
        self._known = pa.array([], pa.string())
        self._new: list[Any] = []

    def add(self, texts: Any) -> None:
        """Add texts, an array of Arrow or a list."""
        pa = need_arrow()
        self._new.append(pa.array(texts, pa.string()) if isinstance(texts, list) else texts)
        # Once the new texts outnumber the known ones, so that all joins together take a few passes.
        if sum(map(len, self._new)) > len(self._known):
            self._join()

    def sorted(self) -> tuple[str, ...]:
        """All different texts in their order."""
        self._join()
        return tuple(sorted(self._known.to_pylist()))

    def __len__(self) -> int:
        """How many texts are held; some of them may be equal."""
        return len(self._known) + sum(map(len, self._new))

    @property
    def bytes(self) -> int:
        """How many bytes the held texts take."""
        return self._known.nbytes + sum(each.nbytes for each in self._new)

    def _join(self) -> None:
        pa = need_arrow()
        both = pa.chunked_array([self._known, *self._new])
        self._known, self._new = both.unique(), []


def bucket_of(column: str, text: str, bits: int) -> int:
    """The place of a value among ``2**bits``: the same on every machine, for ever."""
    digest = hashlib.blake2b(f"{column}\0{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & ((1 << bits) - 1)
