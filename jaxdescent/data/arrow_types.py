"""Arrow's types as kinds of columns."""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdescent.data.arrow import pa
from jaxdescent.data.protocol import Kind
from jaxdescent.data.times import holds_times, plain
from jaxdescent.rows.errors import DataError, listed

NAMELESS = re.compile(r"__index_level_\d+__")


def kind_of(arrow_type: Any) -> Kind:
    """The kind of a column of this type."""
    types = pa.types
    if types.is_dictionary(arrow_type):
        return Kind.TEXT if kind_of(arrow_type.value_type) is not Kind.OTHER else Kind.OTHER
    if types.is_floating(arrow_type) or types.is_decimal(arrow_type) or types.is_null(arrow_type):
        return Kind.NUMBER
    if types.is_integer(arrow_type) or types.is_boolean(arrow_type):
        return Kind.WHOLE
    is_text = types.is_string(arrow_type) or types.is_large_string(arrow_type)
    is_text = is_text or types.is_string_view(arrow_type) or holds_times(arrow_type)
    return Kind.TEXT if is_text else Kind.OTHER


def array_of(column: Any) -> Any:
    """A column as one array of Arrow; text is plain text, and dictionaries stay."""
    if isinstance(column, np.ndarray):
        # Arrow takes the machine's byte order alone.
        column = pa.array(column.astype(column.dtype.newbyteorder("="), copy=False))
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.cast(pa.string()) if pa.types.is_string_view(column.type) else column


def decoded(column: Any) -> Any:
    """A column as one array of Arrow without a dictionary."""
    column = array_of(column)
    if pa.types.is_dictionary(column.type):
        column = array_of(column.dictionary).take(column.indices)
    return column


def text_of(column: Any, name: object) -> Any:
    """An Arrow column as strings; times as :func:`jaxdescent.data.times.plain` writes them.

    Raises:
      DataError: for bytes that are not UTF-8, which some writers of Parquet pass for text.
    """
    texts = column.cast(pa.string())
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid as error:
        raise DataError(f"{name} holds text that is not UTF-8: convert the data.") from error
    return plain(texts) if holds_times(column.type) else texts


def kinds_of(schema: Any, name: Any = "the data") -> dict[str, Kind]:
    """The kinds of all columns of a schema but those without a name: in text these are an index
    that pandas or R wrote, or what follows a comma at the end of each line.
    """
    if not len(schema):
        raise DataError(f"{name} has no columns.")
    seen: dict[str, Kind] = {}
    nameless = {"", *_nameless_index(schema)}
    counts = collections.Counter(schema.names).items()
    twice = [each for each, count in counts if each and count > 1]
    if twice:
        raise DataError(
            f"{name} has more than one column called {listed(map(repr, twice))}: "
            "rename or remove all but one."
        )
    for field in schema:
        if field.name not in nameless:
            seen[field.name] = kind_of(field.type)
    if not seen:
        raise DataError(f"{name} has no columns but pandas' index, or ones without a name.")
    return seen


def _nameless_index(schema: Any) -> set[str]:
    """The columns in which pandas keeps an index without a name, such as the numbers of the rows
    that a selection left: they are no columns of the frame, and no features.
    """
    try:
        described = json.loads((schema.metadata or {})[b"pandas"])["index_columns"]
    except (KeyError, TypeError, ValueError):
        return set()
    names = (each for each in described if isinstance(each, str))
    return {name for name in names if NAMELESS.fullmatch(name)}


def common_kinds(
    first: Mapping[str, Any], other: Mapping[str, Any], first_name: str, other_name: str
) -> dict[str, Any]:
    """The kinds of columns that two files share, which must be the same but for their order. None
    is the kind of a column without any value, and agrees with every kind.
    """
    for left, right, here, there in (
        (first, other, first_name, other_name),
        (other, first, other_name, first_name),
    ):
        lacking = [name for name in left if name not in right]
        if lacking:
            raise DataError(
                f"the files have different columns: {there} has no {listed(map(repr, lacking))}, "
                f"which {here} has."
            )
    merged: dict[str, Kind | None] = {}
    for name, kind in first.items():
        if kind is None or other[name] is None:
            merged[name] = kind or other[name]
        elif kind is other[name] or (kind.is_number and other[name].is_number):
            merged[name] = kind if kind is other[name] else Kind.NUMBER
        else:
            raise DataError(
                f"the files have different columns: {name!r} is {kind} in {first_name} and "
                f"{other[name]} in {other_name}."
            )
    return merged
