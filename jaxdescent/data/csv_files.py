"""CSV files, streamed: parsed a megabyte at a time, each file from its beginning on."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from jaxdescent.data.arrow import csv, pa
from jaxdescent.data.arrow_types import common_kinds, kinds_of
from jaxdescent.data.protocol import Block, Kind, Source, blocks_of
from jaxdescent.data.wrapped import WrappedSource
from jaxdescent.rows.errors import DataError, one_line, reading

CHUNK_BYTES = 1 << 20
"""The bytes of text that are parsed at a time."""

CHUNKS_HELD = 48
"""Bytes that parsing holds, in chunks: the text, its places, the columns, and chunks read ahead."""

NUMBER_BYTES = 1 << 9
"""The bytes of a file's end in which a number's quotation mark is looked for."""

NOT_UTF_8 = "{} holds text that is not UTF-8: convert the file."

UTF_16 = (b"\xff\xfe", b"\xfe\xff")

PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd"}
"""Compressions by the first bytes of a file: by its name pyarrow knows ``.gz``, and no ``.GZ``."""


class CsvFiles(Source):
    """Some CSV files with a header each, one after another; ``.gz`` and ``.zst`` ones too.

    A column holds numbers or text, as its values in the first megabyte look. Whole numbers may be
    followed by others. An empty value is a missing one, as are NA, NaN and null.
    """

    form = "CSV"

    def __init__(self, paths: Sequence[pathlib.Path]) -> None:
        self.files, self.kinds = list(paths), {}
        self._schemas: list[Any] = []  # of each file
        kinds, has_rows = list[dict[str, Kind]](), False
        for path in self.files:
            with _parsing(path), _opened(path) as reader:
                kinds.append(kinds_of(reader.schema, path))
                others = [mark for mark in (";", "\t", "|") if mark in reader.schema.names[0]]
                if len(kinds[-1]) == 1 and others:
                    raise DataError(
                        f"{path}: commas must stand between columns, not {others[0]!r}."
                    )
                has_rows = has_rows or any(batch.num_rows for batch in reader)
                self._schemas.append(reader.schema)
        # A column that is text in one file is read as text in all files.
        text = {name for each in kinds for name, kind in each.items() if kind is Kind.TEXT}
        for path, each in zip(self.files, kinds, strict=True):
            own = each | dict.fromkeys(text & each.keys(), Kind.TEXT)
            self.kinds = common_kinds(self.kinds or own, own, str(self.files[0]), str(path))
        if not has_rows:
            raise DataError(f"{self.files[0]} has a header and no rows.")

    def can_share(self, parts: int) -> bool:
        return True

    def counted(self, part: int, parts: int, tell: Callable[[bytes], list[bytes]]) -> Source:
        """The source with its rows counted, those of every so many files in each process. Reading
        can begin at a file.

        Raises:
          DataError: in all processes, for rows of more or fewer values than columns.
        """
        own = range(part, len(self.files), parts)
        try:
            own_counts: Any = [sum(each.rows for each in self._of_file(index, [])) for index in own]
        except DataError as error:
            own_counts = str(error)
        counts = [0] * len(self.files)
        for each, found in enumerate(map(json.loads, tell(json.dumps(own_counts).encode()))):
            if isinstance(found, str):
                raise DataError(found)
            counts[each::parts] = found
        *starts, rows = itertools.accumulate(counts, initial=0)
        return self._with(_starts=starts, rows=rows, looks=1)

    def offering(self, names: Sequence[str], text: Sequence[str] = ()) -> CsvFiles:
        kinds = {n: Kind.TEXT if n in text else kind for n, kind in self.kinds.items()}
        return self._with(kinds=kinds)

    def reading_bytes(self, names: Sequence[str], rows: int) -> int:
        return CHUNKS_HELD * CHUNK_BYTES

    def blocks(self, names: Sequence[str], rows: int, begin: int = 0) -> Iterator[Block]:
        first = self._starts.index(begin)
        return itertools.chain.from_iterable(
            self._of_file(index, names) for index in range(first, len(self.files))
        )

    def _of_file(self, index: int, names: Sequence[str]) -> Iterator[Block]:
        path, schema = self.files[index], self._schemas[index]
        types = {
            name: pa.string()
            if not self.kinds[name].is_number
            else pa.bool_()
            if schema.field(name).type == pa.bool_()
            else pa.float64()
            for name in names
        }
        end, last, start = schema.names[-1], None, 0
        types.setdefault(end, pa.string())
        is_one = len(schema.names) == 1
        with _parsing(path, schema.names), _opened(path, types, is_one=is_one) as reader:
            for batch in reader:
                last = batch.column(end)[-1:].to_pylist() or last
                yield from blocks_of([batch], names, path.name, start)
                start += batch.num_rows
            _check_closed(path, last, start)


def _opened(
    path: pathlib.Path, types: dict[str, Any] | None = None, *, is_one: bool = False
) -> Any:
    """A reader of a file's columns with these types, or of all columns with types of their own.

    If the file ``is_one`` column, an empty line is a row whose value is missing.
    """
    reader = csv.open_csv(
        _unpacked(path),
        # Only a reader without threads tells the row of what it cannot convert.
        read_options=csv.ReadOptions(block_size=CHUNK_BYTES, use_threads=False),
        # Otherwise rows after a quotation mark that is not closed may get lost.
        parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=not is_one),
        convert_options=csv.ConvertOptions(
            include_columns=None if types is None else list(types),
            column_types=types or {},
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    if types is None and not is_one and len(reader.schema.names) == 1:
        return _opened(path, is_one=True)
    return reader


def _unpacked(path: pathlib.Path) -> Any:
    """A stream of a file's text."""
    with path.open("rb") as file:
        first = file.read(2)
    if not first:
        raise DataError(f"{path} is empty.")
    if first in UTF_16:
        raise DataError(NOT_UTF_8.format(path))
    return pa.input_stream(str(path), compression=PACKED.get(first, "detect"))


def first_text(source: Source, name: str) -> str:
    """The place of the first value that is none, in a column of CSV files that begins with numbers,
    or with true and false; empty for other data.
    """
    while isinstance(source, WrappedSource):
        source = source.base
    if not isinstance(source, CsvFiles):
        return ""
    kind = None
    for index, block in enumerate(source.offering((), [name]).blocks([name], 1)):
        for row, value in enumerate(block.columns[name].to_pylist()):
            if not isinstance(value, str) or value in ("0", "1"):  # these are of both kinds
                continue
            own = bool if value.lower() in ("true", "false") else None
            with contextlib.suppress(ValueError):
                own = own or type(float(value))
            kind = kind or own
            if own is None or own is not kind:
                place = f"row {block.start_in_file + row + 1:,} of {block.file}"
                return f"{place} holds {value!r}" if index or row else ""
    return ""


def _check_closed(path: pathlib.Path, last: Any, row: int) -> None:
    """Refuse a last value whose quotation mark is never closed, so that it reaches to the file's
    end: pyarrow closes the mark there.
    """
    value = last[0] if last else None
    if isinstance(value, str):
        # A mark within a value is doubled, and behind a value that is closed stands one more. A
        # value of nothing but line ends, closed before as many of them, looks open from its end.
        written = f'"{value}'.encode().replace(b'"', b'""')[1:]
        is_long = re.search("[\r\n]", value) is not None
        end = _end_of(path, 1 + 2 * len(written), is_long=is_long)
        opened = [mark + written for mark in (b",", b"\r", b"\n")]
        closed = [mark + written for mark in opened]
        is_open = end.endswith(tuple(opened)) and not end.endswith(tuple(closed))
    else:
        end = _end_of(path, NUMBER_BYTES, is_long=False)
        is_open = re.search(rb'[,\r\n]"[^",\r\n]*\Z', end) is not None
    if is_open:
        raise DataError(
            f"{path}: row {row:,} has a quotation mark that is not closed up to the file's end: "
            "close it, or double it where it is part of the value."
        )


def _end_of(path: pathlib.Path, length: int, *, is_long: bool) -> bytes:
    """The last bytes of a file's text. A packed file is unpacked for them a second time, which is
    done for a value that ``is_long``: rows may be lost in it. Otherwise there are none.
    """
    end = b""
    with path.open("rb") as plain:
        if plain.read(2) not in PACKED:
            plain.seek(max(plain.seek(0, os.SEEK_END) - length, 0))
            return plain.read()
    if is_long:
        with _unpacked(path) as file:  # its length is unknown
            while more := file.read(CHUNK_BYTES):
                end = (end + more)[-length:]
    return end


WRONG_VALUE = re.compile(
    r"In CSV column #(?P<column>\d+): (?:Row #(?P<row>\d+): )?CSV conversion error to "
    r"(?P<type>\w+).*: invalid value '(?P<value>.*)'",
    re.DOTALL,
)


WRONG_WIDTH = re.compile(r"Row #(?P<row>\d+): Expected (?P<expected>\d+) columns, got (?P<got>\d+)")

ROW = re.compile(r"Row #(\d+)")


@contextlib.contextmanager
def _parsing(path: pathlib.Path, names: Iterable[str] = ()) -> Iterator[None]:
    """A context that turns pyarrow's errors into a :class:`DataError` in plain words with the row's
    number: pyarrow counts the header as a row.
    """
    try:
        with reading(path):
            yield
    except UnicodeError as error:  # in the header
        raise DataError(NOT_UTF_8.format(path)) from error
    except DataError as error:
        plain = _in_plain_words(path, one_line(error.__cause__ or error), list(names))
        counted = ROW.sub(lambda row: f"row {int(row[1]) - 1:,}", str(error), count=1)
        raise DataError(plain or counted) from error


def _in_plain_words(path: pathlib.Path, message: str, names: Sequence[str]) -> str:
    """What a message of pyarrow says of a file with these columns; empty for other messages."""
    if "invalid UTF8" in message:
        return NOT_UTF_8.format(path)
    if "Empty CSV file" in message:
        return f"{path} has no rows below its header."
    if "straddling object" in message:
        return (
            f"{path} has a row of more than {CHUNK_BYTES:,} bytes, which is not read as CSV: is a "
            "quotation mark missing?"
        )
    if found := WRONG_WIDTH.search(message):
        row, expected = int(found["row"]) - 1, int(found["expected"])
        advice = "is a quotation mark missing?"
        if expected == 1:
            advice = "commas stand between columns, and the first line names them."
        got = int(found["got"])
        return f"{path}: row {row:,} has {got:,} columns, and the header {expected:,}: {advice}"
    if found := WRONG_VALUE.search(message):
        row = f"row {int(found['row']) - 1:,}, " if found["row"] else ""
        number = int(found["column"])
        column = repr(names[number]) if number < len(names) else number + 1
        wrong = "neither true nor false" if found["type"] == "bool" else "not a number"
        return (
            f"{path}: {row}column {column}: {found['value']!r} is {wrong}, as the column's "
            "first values are: correct it, or name the column in --categorical, --hash or "
            "--exclude."
        )
    return ""
