"""CSV files, streamed: parsed a few megabytes at a time."""

from __future__ import annotations

import contextlib
import copy
import functools
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxdescent.data.arrow_types import common_kinds, kinds_of
from jaxdescent.data.csv_places import (
    CHUNK_BYTES,
    Places,
    is_packed,
    numbered,
    opened,
    places_of,
    too_long,
    wrong_width,
)
from jaxdescent.data.errors import DataError, need_arrow, one_line, reading
from jaxdescent.data.protocol import Block, Kind, Source

CHUNKS_HELD = 48
"""Bytes that parsing holds, in chunks: the text, its places, the columns, and chunks read ahead."""

END_BYTES = 1 << 12
"""The bytes of a file's end in which its last quotation mark is looked for."""

NOT_UTF_8 = "{} holds text that is not UTF-8: convert the file."

UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class CsvFiles(Source):
    """Some CSV files with a header each, one after another; ``.gz`` and ``.zst`` ones too.

    A column holds numbers or text, as its values in the first megabyte look. Whole numbers may be
    followed by others. An empty value is a missing one, as are NA, NaN and null.
    """

    def __init__(self, paths: Sequence[pathlib.Path]) -> None:
        need_arrow()
        self._paths = list(paths)
        self._kinds: dict[str, Kind] = {}
        self._booleans: list[set[str]] = []  # of each file
        self._names: list[list[str]] = []
        self._places: Places | None = None
        has_rows = False
        for index, path in enumerate(self._paths):
            with _parsing(path), self._opened(path, None, {}) as reader:
                kinds = kinds_of(reader.schema, path)
                others = [mark for mark in (";", "\t", "|") if mark in reader.schema.names[0]]
                if len(kinds) == 1 and others:
                    raise DataError(
                        f"{path}: commas must stand between columns, not {others[0]!r}."
                    )
                has_rows = has_rows or any(batch.num_rows for batch in reader)
                self._names.append(reader.schema.names)
                self._booleans.append({f.name for f in reader.schema if str(f.type) == "bool"})
            first = str(self._paths[0])
            before = self._kinds if index else kinds
            # A column that is text in one file is read as text in all files.
            text = [n for n in kinds if Kind.TEXT in (kinds[n], before.get(n))]
            kinds = kinds | dict.fromkeys(text, Kind.TEXT)
            before = {n: Kind.TEXT if n in text else kind for n, kind in before.items()}
            self._kinds = common_kinds(before, kinds, first, str(path))
        if not has_rows:
            raise DataError(f"{self._paths[0]} has a header and no rows.")

    def _opened(
        self,
        path: pathlib.Path,
        names: Sequence[str] | None,
        types: Any,
        byte: int = 0,
        header: Sequence[str] | None = None,
    ) -> Any:
        """A reader of a file from its beginning on, or from a byte after its header."""
        from pyarrow import csv

        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty.")
        with path.open("rb") as file:
            if file.read(2) in UTF_16:
                raise DataError(NOT_UTF_8.format(path))
        return csv.open_csv(
            opened(path, byte) if byte else path,
            # Only a reader without threads tells the row of what it cannot convert.
            read_options=csv.ReadOptions(
                block_size=CHUNK_BYTES, use_threads=False, column_names=header if byte else None
            ),
            # Otherwise rows after a quotation mark that is not closed may get lost.
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                include_columns=None if names is None else list(names),
                column_types=types,
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )

    @property
    def kinds(self) -> Mapping[str, Kind]:
        return self._kinds

    @property
    def rows(self) -> int | None:
        return None if self._places is None else self._places.rows

    @property
    def looks(self) -> int:
        return int(self._places is not None)

    def can_share(self, parts: int) -> bool:
        return True

    def counted(self, part: int, parts: int, tell: Callable[[bytes], list[bytes]]) -> Source:
        """The source with its rows counted, from the line ends in this part of the files' bytes;
        packed files are read whole.

        Raises:
          DataError: for rows of more or fewer values than columns, and line breaks within values.
        """
        new = copy.copy(self)
        new._places = places_of(self._paths, self._names, part, parts, tell)
        new._starts = [place.row for place in new._places.places]
        return new

    @property
    def form(self) -> str:
        return "CSV"

    @property
    def files(self) -> Sequence[pathlib.Path]:
        return self._paths

    def as_text(self, names: Sequence[str]) -> CsvFiles:
        new = copy.copy(self)
        new._kinds = {n: Kind.TEXT if n in names else kind for n, kind in self._kinds.items()}
        return new

    def first_text(self, name: str) -> str:
        for index, block in enumerate(self.as_text([name]).blocks([name], 1)):
            for row, value in enumerate(block.columns[name].to_pylist()):
                if value is None or not isinstance(value, str):
                    continue
                try:
                    float(value)
                except ValueError:
                    place = f"row {block.start_in_file + row + 1:,} of {block.file}"
                    return f"{place} holds {value!r}" if index or row else ""
        return ""

    def reading_bytes(self, names: Sequence[str], rows: int) -> int:
        return CHUNKS_HELD * CHUNK_BYTES

    def blocks(self, names: Sequence[str], rows: int) -> Iterator[Block]:
        import pyarrow as pa

        first = None
        if self._first and self._places is not None:
            first = self._places.places[self._starts.index(self._first)]
        each = zip(self._paths, self._names, self._booleans, strict=True)
        for index, (path, header, booleans) in enumerate(each):
            byte = start = 0
            if first is not None and index <= first.file:
                if index < first.file:
                    continue
                byte, start = first.byte, first.row_in_file
            types = {
                name: pa.string()
                if not self._kinds[name].is_number
                else pa.bool_()
                if name in booleans
                else pa.float64()
                for name in names
            }
            types.setdefault(header[-1], pa.string())
            last = None
            # The header counts as a row where it is read.
            parsing = functools.partial(_parsing, path, header, start if byte else -1)
            with parsing(), self._opened(path, list(types), types, byte, header) as reader:
                while True:
                    with parsing():
                        try:
                            batch = reader.read_next_batch()
                        except StopIteration:
                            break
                    last = batch.column(header[-1])[-1:].to_pylist() or last
                    columns = {name: batch.column(name) for name in names}
                    yield Block(columns, batch.num_rows, 0, path.name, start)
                    start += batch.num_rows
                _check_closed(path, last, start)


def _check_closed(path: pathlib.Path, last: Any, row: int) -> None:
    """Refuse a last value whose quotation mark is never closed, so that it reaches from its line to
    the file's end: pyarrow closes the mark there.
    """
    value = last[0] if last else None
    if not isinstance(value, str) or not re.search("[\r\n]", value):
        return
    end = b""
    with opened(path, 0) as file:
        if not is_packed(path):
            file.seek(max(path.stat().st_size - END_BYTES, 0))
        while more := file.read(CHUNK_BYTES):
            end = (end + more)[-END_BYTES:]
    marks = value.rstrip("\r\n").endswith('"') * 2 + 1  # one within a value is doubled
    if not end.rstrip(b"\r\n").endswith(b'"' * marks):
        raise DataError(
            f"{path}: row {row:,} has a quotation mark that is not closed up to the file's end: "
            "close it, or double it where it is part of the value."
        )


WRONG_VALUE = re.compile(
    r"In CSV column #(?P<column>\d+): (?:Row #(?P<row>\d+): )?CSV conversion error to "
    r"(?P<type>\w+).*: invalid value '(?P<value>.*)'",
    re.DOTALL,
)


@contextlib.contextmanager
def _parsing(path: pathlib.Path, names: Iterable[str] = (), before: int = -1) -> Iterator[None]:
    """A context that turns pyarrow's errors into a :class:`DataError` in plain words with the row's
    number; ``before`` rows come before the first that pyarrow counts.
    """
    try:
        with reading(path):
            yield
    except UnicodeError as error:  # in the header
        raise DataError(NOT_UTF_8.format(path)) from error
    except DataError as error:
        message = one_line(error.__cause__ or error)
        if "invalid UTF8" in message:
            raise DataError(NOT_UTF_8.format(path)) from error
        if "Empty CSV file" in message:
            raise DataError(f"{path} has no rows below its header.") from error
        ragged = wrong_width(path, message, before)
        if ragged is not None:
            raise ragged from error
        if "straddling object" in message:
            raise too_long(path) from error
        found = WRONG_VALUE.search(message)
        if not found:
            raise DataError(numbered(str(error), before)) from error
        row = f"row {int(found['row']) + before:,}, " if found["row"] else ""
        column = dict(enumerate(names)).get(int(found["column"]))
        where = f"column {int(found['column']) + 1}" if column is None else f"column {column!r}"
        raise DataError(
            f"{path}: {row}{where}: {found['value']!r} is not a number, as the column's first "
            "values are: correct it, or name the column in --categorical, --hash or --exclude."
        ) from error
