"""The headers of a Parquet file's pages, which tell how much a page holds before it is read:
pyarrow does not show them.

A header is a struct of Thrift's compact protocol, as parquet.thrift declares it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

HEADER_BYTES = 1 << 10
"""The bytes that are first read of a page; a header with long statistics takes more."""

DICTIONARY_PAGE = 2
DICTIONARY_ENCODINGS = (2, 8)


class Page(NamedTuple):
    """A page of a column.

    Attributes:
      bytes: the bytes of its values, unpacked.
      values: how many values it has.
      is_dictionary: whether it holds the values that other pages point to.
      points: whether its values are places in a dictionary.
    """

    bytes: int
    values: int
    is_dictionary: bool
    points: bool


def pages_of(file: Any, column: Any) -> Iterator[Page]:
    """The pages of a column in a row group; ``column`` is pyarrow's metadata of it."""
    starts = [column.data_page_offset, column.dictionary_page_offset]
    at = min(start for start in starts if start)
    stop = at + column.total_compressed_size
    while at < stop:
        header, size = _header(file, at)
        # A data page of the first or the second version, or a dictionary.
        about = header.get(5) or header.get(8) or header.get(7) or {}
        encoding = about.get(4 if 8 in header else 2)
        is_dictionary = header[1] == DICTIONARY_PAGE
        points = not is_dictionary and encoding in DICTIONARY_ENCODINGS
        yield Page(header[2], about.get(1, 0), is_dictionary, points)
        at += size + header[3]


def _header(file: Any, at: int) -> tuple[dict[int, Any], int]:
    """The fields of the header at a byte of the file, and how many bytes the header has."""
    size = HEADER_BYTES
    while True:
        file.seek(at)
        text = file.read(size)
        try:
            return _struct(text, 0)
        except IndexError:
            if len(text) < size:
                raise ValueError("a page's header is damaged") from None
            size *= 16


def _struct(text: bytes, at: int) -> tuple[dict[int, Any], int]:
    fields: dict[int, Any] = {}
    number = 0
    while text[at]:
        step, kind = text[at] >> 4, text[at] & 15
        number, at = (number + step, at + 1) if step else _integer(text, at + 1)
        fields[number], at = _value(text, at, kind)
    return fields, at + 1


def _value(text: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in (1, 2):  # true and false
        return kind == 1, at
    if kind == 3:
        return text[at], at + 1
    if kind in (4, 5, 6):
        return _integer(text, at)
    if kind == 8:  # bytes, such as a page's least value
        size, at = _unsigned(text, at)
        text[at + size - 1 : at + size][0]  # raises where more has to be read
        return None, at + size
    if kind == 12:
        return _struct(text, at)
    raise ValueError(f"a page's header has a field of kind {kind}")


def _integer(text: bytes, at: int) -> tuple[int, int]:
    value, at = _unsigned(text, at)
    return (value >> 1) ^ -(value & 1), at


def _unsigned(text: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (text[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if text[at - 1] < 128:
            return value, at
