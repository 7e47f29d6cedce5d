"""Columns of a block as numbers, or as codes of the texts that they hold, and interactions of them:
products of numbers, crossed levels, and slopes for each level.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdescent.data import Block
from jaxdescent.data.arrow import pa, pc
from jaxdescent.data.arrow_types import array_of, decoded, text_of
from jaxdescent.data.decoding import NumberColumn, values_of

MOST_BITS = 28
"""The most bits of a bucket's number."""


SEPARATOR = ":"
"""The text between the columns of an interaction, and between the levels of a crossed level."""


@dataclasses.dataclass(frozen=True)
class Labels:
    """A code for each row, and the text that a code stands for."""

    codes: np.ndarray  # (rows,), integers, -1 where the value is missing
    array: Any  # the text of each code, as an array of Arrow

    @functools.cached_property
    def texts(self) -> list[str]:
        """The text of each code."""
        return self.array.to_pylist()

    def places(self, levels: Any) -> np.ndarray:
        """The place of each code's text among ``levels``, an array of Arrow; -1 where it is absent.

        Arrow looks them up: a dictionary of Python takes ten times as long for 100,000 of them.
        """
        found = pc.index_in(self.array, value_set=levels)
        return found.fill_null(-1).to_numpy(zero_copy_only=False)

    def used(self, rows: np.ndarray | None = None) -> Any:
        """The texts that occur in these rows, as an array of Arrow."""
        codes = self.codes if rows is None else self.codes[rows]
        counts = np.bincount(codes[codes >= 0], minlength=len(self.array))
        return self.array.take(pa.array(np.flatnonzero(counts)))


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
    if pa.types.is_dictionary(column.type) and column.dictionary.null_count:
        column = decoded(column)
    return column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None


def labels_of(column: Any, name: object = "a column") -> Labels:
    """The codes and texts of a column of texts, whole numbers, booleans or dates."""
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


class Interaction(NamedTuple):
    """The columns that are multiplied with each other, one-hot ones by their levels; a single one
    is a feature itself.
    """

    numbers: tuple[str, ...] = ()  # columns whose values are multiplied
    # Columns whose levels are crossed: a feature for each combination that occurs.
    labels: tuple[str, ...] = ()


class View:
    """The columns of a block as numbers and labels, each made once."""

    def __init__(self, block: Block, *, nan_is_missing: bool = True) -> None:
        columns = block.columns
        self.number = functools.cache(
            lambda name: as_numbers(columns[name], nan_is_missing=nan_is_missing)
        )
        self.label = functools.cache(lambda name: labels_of(columns[name], repr(name)))

    def numbers_of(self, made_of: Interaction) -> NumberColumn:
        """The numbers of a column, or the product of several in float64, missing where a factor is
        missing.
        """
        first, *others = map(self.number, made_of.numbers)
        if not others:
            return first
        values, missing = np.asarray(first.values, np.float64), first.missing
        with np.errstate(over="ignore", invalid="ignore"):
            for other in others:
                values = values * other.values
                if other.missing is not None:
                    missing = other.missing if missing is None else missing | other.missing
        return NumberColumn(values, missing)

    def labels_of(self, made_of: Interaction) -> Labels:
        """The labels of a column, or the crossed labels of an interaction."""
        return crossed([self.label(column) for column in made_of.labels])


def crossed(parts: Sequence[Labels]) -> Labels:
    """Labels of the combinations that occur, missing where a part is missing.

    A separator or a backslash in a level is written with a backslash before it, so that no two
    combinations have the same text.
    """
    if len(parts) == 1:
        return parts[0]
    written = list[Any]()
    for part in parts:
        texts = part.array
        for special in ("\\", SEPARATOR):
            texts = pc.replace_substring(texts, special, f"\\{special}")
        written.append(texts.take(pa.array(part.codes, mask=part.codes < 0)))
    return labels_of(pc.binary_join_element_wise(*written, SEPARATOR))


def bucket_of(column: str, text: str, bits: int) -> int:
    """The place of a value among ``2**bits``: the same on every machine, for ever."""
    digest = hashlib.blake2b(f"{column}\0{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & ((1 << bits) - 1)
