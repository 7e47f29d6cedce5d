"""The headers of a Parquet file's pages, which tell how much a page holds before it is read:
pyarrow does not show them.

A header is a struct of Thrift's compact protocol, as parquet.thrift declares it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

DICTIONARY_PAGE = 2
DICTIONARY_ENCODINGS = (2, 8)


class Page(NamedTuple):
    """A page of a column."""

    bytes: int  # the bytes of its values, unpacked
    values: int  # how many these are
    is_dictionary: bool  # whether other pages point to them
    points: bool  # whether they are themselves places in a dictionary


def pages_of(file: Any, column: Any) -> Iterator[Page]:
    """The pages of a column in a row group; ``column`` is pyarrow's metadata of it."""
    starts = [column.data_page_offset, column.dictionary_page_offset]
    at = min(start for start in starts if start)
    stop = at + column.total_compressed_size
    while at < stop:
        file.seek(at)
        header = _struct(file)
        at = file.tell() + header[3]
        # A data page of the first or the second version, or a dictionary.
        about = header.get(5) or header.get(8) or header.get(7) or {}
        encoding = about.get(4 if 8 in header else 2)
        is_dictionary = header[1] == DICTIONARY_PAGE
        points = not is_dictionary and encoding in DICTIONARY_ENCODINGS
        yield Page(header[2], about.get(1, 0), is_dictionary, points)


def _struct(file: Any) -> dict[int, Any]:
    """The fields of a struct by their numbers, from the file's position on."""
    fields: dict[int, Any] = {}
    number = 0
    while byte := _byte(file):
        step, kind = byte >> 4, byte & 15
        number = number + step if step else _integer(file)
        fields[number] = _value(file, kind)
    return fields


def _value(file: Any, kind: int) -> Any:
    if kind in (1, 2):  # true and false
        return kind == 1
    if kind == 3:
        return _byte(file)
    if kind in (4, 5, 6):
        return _integer(file)
    if kind == 8:  # bytes, such as a page's least value
        return file.seek(_unsigned(file), os.SEEK_CUR)
    if kind == 12:
        return _struct(file)
    raise ValueError(f"a page's header has a field of kind {kind}")


def _integer(file: Any) -> int:
    value = _unsigned(file)
    return (value >> 1) ^ -(value & 1)


def _unsigned(file: Any) -> int:
    value = shift = 0
    while (byte := _byte(file)) > 127:
        value |= (byte & 127) << shift
        shift += 7
    return value | byte << shift


def _byte(file: Any) -> int:
    byte = file.read(1)
    if not byte:
        raise ValueError("a page's header is damaged")
    return byte[0]
