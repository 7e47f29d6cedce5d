"""Text in the format of svmlight and libsvm: a line for each row, of which only entries other than
zero are written.
"""

from __future__ import annotations

import gzip
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxdescent.data.entries import SparseColumn
from jaxdescent.data.protocol import Block, Kind, Source
from jaxdescent.rows.errors import DataError, reading

CHUNK_BYTES = 1 << 20
"""The bytes of text that are parsed at a time."""

LONGEST_LINE = 1 << 26
"""The most bytes of a line; a file with a longer one is not of this format."""

CHUNKS_HELD = 24
"""Bytes that parsing holds, in chunks: the chunk's numbers as Python's and as NumPy's."""

MOST_COLUMNS = 1000
"""The most indices that become columns of numbers; with more, rows stay sparse."""

TARGET, FEATURES = "y", "x"

COLUMN = re.compile(rf"{FEATURES}(0|[1-9]\d*)")

LARGEST = 2**53
"""The largest index: larger ones cannot be told apart, since indices are read as float64."""


class SvmlightFiles(Source):
    """Some files of svmlight's format, one after another; ``.gz`` ones too.

    The target is called ``y``, the features x0, x1, ... by their indices as they are written, from
    zero or from one on. Up to :data:`MOST_COLUMNS` of them are columns of numbers; more are one
    sparse column ``x``. Comments after ``#``, and ``qid:`` entries, are passed over. The files are
    read through when they are opened, for the largest index.
    """

    form, looks = "svmlight text", 1

    def __init__(self, paths: Sequence[pathlib.Path]) -> None:
        self.files = list(paths)
        rows = entries = 0
        smallest, largest = LARGEST, -1
        for path in self.files:
            if path.stat().st_size == 0:
                raise DataError(f"{path} is empty.")
            for _, column, _ in _parsed(path):
                rows, entries = rows + len(column), entries + column.index.size
                if column.index.size:
                    smallest = min(smallest, int(column.index.min()))
                    largest = max(largest, int(column.index.max()))
        if not rows:
            raise DataError(f"{self.files[0]} has no rows.")
        self.rows, self.entries = rows, entries
        # The mean of a row: the length of single rows cannot be known beforehand.
        self._row_bytes = 32 * entries // rows + 16
        is_wide = largest - smallest >= MOST_COLUMNS
        names = [] if is_wide else [f"{FEATURES}{j}" for j in range(smallest, largest + 1)]
        self.kinds = _kinds(names)

    def offering(self, names: Sequence[str], text: Sequence[str] = ()) -> SvmlightFiles:
        numbers = [name for name in names if COLUMN.fullmatch(name)]
        if not numbers and FEATURES not in names:
            return self
        own = [name for name in self.kinds if COLUMN.fullmatch(name)] if numbers else []
        return self._with(kinds=_kinds([*own, *numbers]))

    def row_bytes(self, names: Sequence[str]) -> int:
        return self._row_bytes + 8 * len(names)

    def reading_bytes(self, names: Sequence[str], rows: int) -> int:
        return CHUNKS_HELD * CHUNK_BYTES

    def blocks(self, names: Sequence[str], rows: int) -> Iterator[Block]:
        for path in self.files:
            start = 0
            for target, column, lines in _parsed(path):
                for first in range(0, len(column), rows):
                    part = column[first : first + rows]
                    own = slice(first, first + len(part))
                    columns: dict[str, Any] = {TARGET: target[own], FEATURES: part}
                    columns |= _columns_of(part, [name for name in names if name not in columns])
                    # Lines are numbered as in an editor: comments and empty lines count.
                    yield Block(columns, len(part), 0, path.name, start + first, lines[own])
                start += len(column)


def _kinds(numbers: Sequence[str]) -> dict[str, Kind]:
    """The kinds of columns of numbers, or without any of the sparse column, and of the target."""
    own = dict.fromkeys(numbers, Kind.NUMBER) or {FEATURES: Kind.SPARSE}
    return own | {TARGET: Kind.NUMBER}


def _columns_of(part: SparseColumn, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of numbers, from one pass over the entries."""
    if not names:
        return {}
    index = np.array([int(name[len(FEATURES) :]) for name in names])
    order = np.argsort(index)
    place = np.minimum(np.searchsorted(index[order], part.index), index.size - 1)
    here = index[order][place] == part.index
    dense = np.zeros((len(names), len(part)))
    dense[order[place[here]], part.row[here]] = part.values[here]
    return dict(zip(names, dense, strict=True))


def _parsed(path: pathlib.Path) -> Iterator[tuple[np.ndarray, SparseColumn, np.ndarray]]:
    """Targets, entries, and the numbers of lines, counted from zero, chunk by chunk."""
    line = 0
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    with reading(path), opened(path, "rb") as file:
        while text := file.read(CHUNK_BYTES) + file.readline(LONGEST_LINE):
            if len(text) >= CHUNK_BYTES + LONGEST_LINE:
                raise DataError(f"{path} has a line of more than {LONGEST_LINE:,} bytes.")
            found = _rows_of(text, path, line)
            if len(found[1]):
                yield found
            line += text.count(b"\n")


COMMENT, QUERY = re.compile(rb"#[^\n]*"), re.compile(rb"[ \t]qid:[^ \t\r\n]*")

LINE = re.compile(rb"\s*+(?:%b(?:\s++%b:%b)*+\s*+)?+" % ((rb"[^\s:_(]++",) * 3))
"""A line with anything for numbers: NumPy, which reads them, notices others sooner."""


def _rows_of(
    text: bytes, path: pathlib.Path, first_line: int
) -> tuple[np.ndarray, SparseColumn, np.ndarray]:
    if b"#" in text:
        text = COMMENT.sub(b"", text)
    if b"qid" in text:
        text = QUERY.sub(b"", text)
    written = text.split(b"\n")
    is_row = np.array([bool(line.strip()) for line in written])
    lines, counts = first_line + np.flatnonzero(is_row), [line.count(b":") for line in written]
    starts = np.concatenate([[0], np.cumsum(np.array(counts)[is_row])])
    try:
        numbers = np.fromstring(text.replace(b":", b" ").strip(), sep=" ")
    except (ValueError, DeprecationWarning):
        numbers = np.zeros(0)
    if numbers.size != lines.size + 2 * starts[-1] or not all(map(LINE.fullmatch, written)):
        raise _wrong_line(written, path, first_line)
    is_target = np.zeros(numbers.size, bool)
    is_target[np.arange(lines.size) + 2 * starts[:-1]] = True
    target, pairs = numbers[is_target], numbers[~is_target]
    index, values = pairs[::2], pairs[1::2]
    row = np.repeat(np.arange(lines.size), np.diff(starts))
    with np.errstate(invalid="ignore"):
        is_index = (index >= 0) & (index < LARGEST) & (index == np.floor(index))
    if not is_index.all():
        raise _wrong_line(written, path, first_line)
    column = SparseColumn(starts, index.astype(np.int64), values)
    is_same = np.diff(row) == 0  # as the row of the entry before
    if np.any(is_same & (np.diff(column.index) <= 0)):
        order = np.lexsort((column.index, row))
        column = SparseColumn(starts, column.index[order], values[order])
        is_twice = is_same & (np.diff(column.index) == 0)
        if is_twice.any():
            at = int(np.argmax(is_twice))
            where = f"{path}: line {lines[row[at]] + 1:,}"
            raise DataError(f"{where} has the index {column.index[at]:,} twice.")
    return target, column, lines


def _wrong_line(written: Sequence[bytes], path: pathlib.Path, first_line: int) -> DataError:
    """The error about the first of some lines, or of a line's entries, that is wrong by itself: of
    two halves the one that is wrong is halved again.
    """
    half, parts = len(written) // 2, list[tuple[int, bytes]]()
    if half:
        parts = [(0, b"\n".join(written[:half])), (half, b"\n".join(written[half:]))]
    else:
        target, *entries = written[0].split()
        half = len(entries) // 2
        if half:
            parts = [(0, b" ".join([target, *own])) for own in (entries[:half], entries[half:])]
    for after, part in parts:
        try:
            _rows_of(part, path, first_line + after)
        except DataError as error:
            return error
    shown = written[0].decode("utf-8", "replace").strip()[:40]
    return DataError(
        f"{path}: line {first_line + 1:,} has {shown!r}: expected is a target and features, such "
        f"as 1 3:0.5 7:2, whose indices are whole numbers from 0 to {LARGEST - 1:,}."
    )
