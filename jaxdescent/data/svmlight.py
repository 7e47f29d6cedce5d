"""Text in the format of svmlight and libsvm: a line for each row, of which only entries other than
zero are written.
"""

from __future__ import annotations

import copy
import gzip
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxdescent.data.errors import DataError, reading
from jaxdescent.data.protocol import Block, Kind, Source
from jaxdescent.data.sparse_column import SparseColumn

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

    def offering(self, names: Sequence[str]) -> SvmlightFiles:
        new = copy.copy(self)
        numbers = [name for name in names if COLUMN.fullmatch(name)]
        if numbers or FEATURES in names:
            own = [name for name in self.kinds if COLUMN.fullmatch(name)] if numbers else []
            new.kinds = _kinds([*own, *numbers])
        return new

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
                    columns: dict[str, Any] = {}
                    for name in names:
                        if name == TARGET:
                            columns[name] = target[own]
                        elif name == FEATURES:
                            columns[name] = part
                    wanted = [name for name in names if name not in columns]
                    columns |= _columns_of(part, wanted)
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


def _rows_of(
    text: bytes, path: pathlib.Path, first_line: int
) -> tuple[np.ndarray, SparseColumn, np.ndarray]:
    if b"#" in text:
        text = COMMENT.sub(b"", text)
    if b"qid" in text:
        text = QUERY.sub(b"", text)
    codes = np.frombuffer(text, np.uint8)
    is_space = codes <= 32
    begins = ~is_space
    begins[1:] &= is_space[:-1]
    token_at = np.flatnonzero(begins)
    breaks = np.flatnonzero(codes == 10)
    line_of_token = np.searchsorted(breaks, token_at)
    is_label = np.ones(token_at.size, bool)
    is_label[1:] = line_of_token[1:] != line_of_token[:-1]
    colons = np.flatnonzero(codes == 58)
    token_of_colon = np.searchsorted(token_at, colons, side="right") - 1
    # Each token is a label without a colon, or an entry with one.
    is_right = np.array_equal(token_of_colon, np.flatnonzero(~is_label)) and b"_" not in text
    numbers = np.zeros(0)
    if is_right:
        try:
            parts = text.replace(b":", b" ").split()
            numbers = np.fromiter(map(float, parts), np.float64, len(parts))
        except ValueError:
            is_right = False
    is_right = is_right and numbers.size == token_at.size + colons.size
    if not is_right:
        raise _wrong_line(text, path, first_line)
    labels = np.flatnonzero(is_label)
    counts = np.diff(labels, append=token_at.size) - 1
    starts = np.concatenate([[0], np.cumsum(counts)])
    lines = line_of_token[labels] + first_line
    label_at = np.arange(labels.size) + 2 * starts[:-1]
    target = numbers[label_at]
    is_entry = np.ones(numbers.size, bool)
    is_entry[label_at] = False
    pairs = numbers[is_entry]
    index, values = pairs[::2], pairs[1::2]
    row = np.repeat(np.arange(labels.size), counts)
    with np.errstate(invalid="ignore"):
        wrong = ~((index >= 0) & (index < LARGEST) & (index == np.floor(index)))
    if wrong.any():
        at = int(np.argmax(wrong))
        shown = f"{index[at]:,.0f}" if index[at] == np.floor(index[at]) else f"{index[at]:g}"
        raise DataError(
            f"{path}: line {lines[row[at]] + 1:,}: an index must be a whole number from 0 to "
            f"{LARGEST - 1:,}, got {shown}."
        )
    column = SparseColumn(starts, index.astype(np.int64), values)
    order = np.lexsort((column.index, row)) if np.any(np.diff(column.index) <= 0) else None
    if order is not None:
        column = SparseColumn(starts, column.index[order], values[order])
        twice = (np.diff(column.index) == 0) & (np.diff(row) == 0)
        if twice.any():
            at = int(np.argmax(twice))
            raise DataError(
                f"{path}: line {lines[row[at]] + 1:,}: the index {column.index[at]:,} stands there "
                "twice."
            )
    return target, column, lines


def _wrong_line(text: bytes, path: pathlib.Path, first_line: int) -> DataError:
    """The error about the first wrong line, with its number and the reason."""
    for number, line in enumerate(text.split(b"\n"), start=first_line + 1):
        tokens = line.split()
        for place, token in enumerate(tokens):
            parts = token.split(b":")
            try:
                _ = [float(part) for part in parts]
                is_right = len(parts) == (2 if place else 1) and b"_" not in token
            except ValueError:
                is_right = False
            if not is_right:
                what = "a feature written as index:value" if place else "the target, a number"
                shown = token.decode("utf-8", "replace")[:40]
                return DataError(f"{path}: line {number:,}: expected is {what}, got {shown!r}.")
    return DataError(f"{path} is not in svmlight's format: expected are lines such as 1 3:0.5 7:2.")
