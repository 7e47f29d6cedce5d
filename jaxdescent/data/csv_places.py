"""Where rows of CSV files begin: lines are counted part by part, and some bytes are noted at which
reading can begin.

A line is a row unless it is empty, a header, or a value between quotation marks has a line break.
Pyarrow counts the rows of a piece of lines with one more line appended: a number other than that of
the lines means that a value goes on after its line. If none does, no piece begins within a value.
"""

from __future__ import annotations

import codecs
import itertools
import json
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from jaxdescent.data.errors import DataError, need_arrow, one_line, reading

CHUNK_BYTES = 1 << 20
"""The bytes of text that are parsed at a time."""

PACKED = (".gz", ".zst")
"""Endings of the names of compressed files, which can only be read from their beginning."""

LINE_END = re.compile(rb"[\r\n]")

WRONG_WIDTH = re.compile(r"Row #(?P<row>\d+): Expected (?P<expected>\d+) columns, got (?P<got>\d+)")

ROW = re.compile(r"Row #(\d+)")

BROKEN = (
    "a {} between quotation marks has a line break, so that several processes cannot share the "
    "rows: write Parquet, or fit in one process"
)


class Place(NamedTuple):
    """A place where reading can begin.

    Attributes:
      file: the number of the file.
      byte: the byte of the unpacked file at which a line begins.
      row_in_file: how many rows of the file come before that line.
      row: how many rows of all files come before it.
    """

    file: int
    byte: int
    row_in_file: int
    row: int


def places_of(
    paths: Sequence[pathlib.Path],
    names: Sequence[Sequence[str]],
    part: int,
    parts: int,
    tell: Callable[[bytes], list[bytes]],
) -> tuple[int, list[Place]]:
    """How many rows some files have, and places in them; each process looks at a part of the bytes.

    Args:
      paths: the files.
      names: the columns of each.
      part: the number of this process's part.
      parts: how many parts there are.
      tell: exchanges bytes: returns those of every process, in the order of the parts.

    Raises:
      DataError: in all processes, for the first line that has not as many values as there are
        columns, and for line breaks within values.
    """
    pieces: list[tuple[int, int, int]] = []
    failure: tuple[int, str] | None = None
    for file, start, stop in _ranges(paths, part, parts):
        with reading(paths[file]):
            for byte, text in _pieces(paths[file], start, stop):
                try:
                    lines = _lines_of(text, names[file])
                except ValueError as error:
                    failure = file, one_line(error)
                    break
                if lines:
                    pieces.append((file, byte, lines))
        if failure is not None:
            break
    places: list[Place] = []
    # The first line of a file is its header, and no row.
    counts, total = [-1] * len(paths), 0
    for told in tell(json.dumps([pieces, failure]).encode()):
        pieces, failure = json.loads(told)
        for file, byte, lines in pieces:
            before = counts[file]
            counts[file] += lines
            if counts[file]:
                places.append(Place(file, 0 if before < 0 else byte, max(before, 0), total))
            total += counts[file] - max(before, 0)
        if failure is not None:
            # The number of the rows before the failure is known only now.
            file, message = failure
            ragged = wrong_width(paths[file], message, counts[file])
            told_of = f"{paths[file]} cannot be read: {numbered(message, counts[file])}."
            raise DataError(told_of) if ragged is None else ragged
    return total, places


def opened(path: pathlib.Path, byte: int) -> Any:
    """A file from this byte on, unpacked."""
    pa = need_arrow()
    if not is_packed(path):
        file = pa.OSFile(str(path))
        file.seek(byte)
        return file
    file = pa.input_stream(str(path))
    for first in range(0, byte, CHUNK_BYTES):
        file.read(min(CHUNK_BYTES, byte - first))
    return file


def is_packed(path: pathlib.Path) -> bool:
    """Whether a file is compressed, so that it can only be read from its beginning."""
    return path.name.lower().endswith(PACKED)


def numbered(message: str, before: int) -> str:
    """A message of pyarrow's with the row's number in the file: ``before`` rows come before the
    first that was parsed.
    """
    return ROW.sub(lambda found: f"row {int(found[1]) + before:,}", message, count=1)


def _ranges(
    paths: Sequence[pathlib.Path], part: int, parts: int
) -> Iterator[tuple[int, int, int | None]]:
    """The files in a part, each with its first byte and the byte after its last one; a packed file
    belongs as a whole to the part in which it begins.
    """
    sizes = [path.stat().st_size for path in paths]
    firsts = [0, *itertools.accumulate(sizes)]
    low, high = (firsts[-1] * at // parts for at in (part, part + 1))
    for file, (path, first, size) in enumerate(zip(paths, firsts, sizes, strict=False)):
        start, stop = max(low - first, 0), min(high - first, size)
        if start >= stop:
            continue
        if not is_packed(path):
            yield file, start, stop
        elif not start:
            yield file, 0, None


def _pieces(path: pathlib.Path, start: int, stop: int | None) -> Iterator[tuple[int, bytes]]:
    """The lines that begin from byte ``start`` to before ``stop``, in pieces of about
    :data:`CHUNK_BYTES`, each with the byte at which it begins.
    """
    for at, text in _lines_from(path, start):
        wanted = len(text) if stop is None else stop - at
        if wanted <= 0:
            return
        end = LINE_END.search(text, wanted - 1)
        yield at, text if end is None else text[: end.end()]


def _lines_from(path: pathlib.Path, start: int) -> Iterator[tuple[int, bytes]]:
    """Whole lines, the first of which begins at or after a byte, in pieces and with their bytes."""
    # A line begins after the end of another one, which may be the byte before.
    at, rest, is_line = max(start - 1, 0), b"", not start
    with opened(path, at) as file:
        while more := file.read(CHUNK_BYTES):
            text = rest + more
            if not is_line:
                end = LINE_END.search(text)
                cut = len(text) if end is None else end.end()
                at, text, is_line = at + cut, text[cut:], end is not None
            cut = max(text.rfind(b"\n"), text.rfind(b"\r")) + 1
            if cut:
                yield at, text[:cut]
            at, rest = at + cut, text[cut:]
            if len(rest) > 2 * CHUNK_BYTES:
                raise too_long(path)
    if rest:
        yield at, rest


def _lines_of(text: bytes, names: Sequence[str]) -> int:
    """How many lines a piece has, the empty ones not counted.

    Raises:
      ValueError: where a line has not as many values as there are columns, with its number; where a
        value or a name has a line break.
    """
    pa = need_arrow()
    from pyarrow import csv

    if any("\n" in name or "\r" in name for name in names):
        raise ValueError(BROKEN.format("name"))
    lines = sum(map(bool, text.removeprefix(codecs.BOM_UTF8).splitlines()))
    if not lines:
        return 0
    # A value that goes on after the last line would take in the line that is appended.
    more = b"\n" + b"," * (len(names) - 1) + b"0\n"
    reader = csv.open_csv(
        pa.BufferReader(text + more),
        read_options=csv.ReadOptions(
            block_size=len(text) + len(more), use_threads=False, column_names=list(names)
        ),
        convert_options=csv.ConvertOptions(
            include_columns=[names[0]], column_types={names[0]: pa.binary()}
        ),
    )
    if sum(batch.num_rows for batch in reader) != lines + 1:
        raise ValueError(BROKEN.format("value"))
    return lines


def too_long(path: pathlib.Path) -> DataError:
    """The error for a row that no chunk has room for."""
    return DataError(
        f"{path} has a row of more than {CHUNK_BYTES:,} bytes, which is not read as CSV: is a "
        "quotation mark missing?"
    )


def wrong_width(path: pathlib.Path, message: str, before: int) -> DataError | None:
    """The error for a row of more or fewer values than there are columns, if a message of pyarrow's
    tells of one; ``before`` rows come before the first that was parsed.
    """
    found = WRONG_WIDTH.search(message)
    if found is None:
        return None
    row, got, expected = int(found["row"]) + before, int(found["got"]), int(found["expected"])
    advice = "is a quotation mark missing?"
    if expected == 1:
        advice = "commas stand between columns, and the first line names them."
    return DataError(
        f"{path}: row {row:,} has {got:,} columns, and the header {expected:,}: {advice}"
    )
