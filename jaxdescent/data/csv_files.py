"""CSV files, streamed: parsed a few megabytes at a time."""

from __future__ import annotations

import contextlib
import copy
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxdescent.data.arrow_types import common_kinds, kinds_of
from jaxdescent.data.errors import DataError, need_arrow, one_line, reading
from jaxdescent.data.protocol import Block, Kind, Source

CHUNK_BYTES = 1 << 20
"""Text that is parsed at a time."""

CHUNKS_HELD = 48
"""Times a chunk that parsing holds: the text, its places, the columns, and what is read ahead."""

NOT_UTF_8 = "{} holds text that is not UTF-8: convert the file."

UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class CsvFiles(Source):
    """Some CSV files with a header each, one after another; ``.gz`` and ``.zst`` ones too.

    What a column holds is what its values in the first megabyte look like: numbers, or text. Whole
    numbers may be followed by others. An empty value is a missing one, as are NA, NaN and null.
    """

    def __init__(self, paths: Sequence[pathlib.Path]) -> None:
        need_arrow()
        self._paths = list(paths)
        self._kinds: dict[str, Kind] = {}
        self._booleans: list[set[str]] = []  # of each file
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
                self._booleans.append({f.name for f in reader.schema if str(f.type) == "bool"})
            first = str(self._paths[0])
            before = self._kinds if index else kinds
            # What is text in one file is read as text in all: numbers of others are text too.
            text = [n for n in kinds if Kind.TEXT in (kinds[n], before.get(n))]
            kinds = kinds | dict.fromkeys(text, Kind.TEXT)
            before = {n: Kind.TEXT if n in text else kind for n, kind in before.items()}
            self._kinds = common_kinds(before, kinds, first, str(path))
        if not has_rows:
            raise DataError(f"{self._paths[0]} has a header and no rows.")

    def _opened(self, path: pathlib.Path, names: Sequence[str] | None, types: Any) -> Any:
        from pyarrow import csv

        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty.")
        with path.open("rb") as file:
            if file.read(2) in UTF_16:
                raise DataError(NOT_UTF_8.format(path))
        return csv.open_csv(
            path,
            # Only a reader without threads tells the row of what it cannot convert.
            read_options=csv.ReadOptions(block_size=CHUNK_BYTES, use_threads=False),
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

        for path, booleans in zip(self._paths, self._booleans, strict=True):
            types = {
                name: pa.string()
                if not self._kinds[name].is_number
                else pa.bool_()
                if name in booleans
                else pa.float64()
                for name in names
            }
            start = 0
            with _parsing(path, self._kinds), self._opened(path, names, types) as reader:
                while True:
                    with _parsing(path, self._kinds):
                        try:
                            batch = reader.read_next_batch()
                        except StopIteration:
                            break
                    columns = {name: batch.column(name) for name in names}
                    yield Block(columns, batch.num_rows, 0, path.name, start)
                    start += batch.num_rows


WRONG_WIDTH = re.compile(r"Row #(?P<row>\d+): Expected (?P<expected>\d+) columns, got (?P<got>\d+)")

WRONG_VALUE = re.compile(
    r"In CSV column #(?P<column>\d+): (?:Row #(?P<row>\d+): )?CSV conversion error to "
    r"(?P<type>\w+).*: invalid value '(?P<value>.*)'",
    re.DOTALL,
)


@contextlib.contextmanager
def _parsing(path: pathlib.Path, names: Iterable[str] = ()) -> Iterator[None]:
    """Pyarrow's messages, with the row as people count it and without its own terms."""
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
        width = WRONG_WIDTH.search(message)
        if width:
            # It counts the header too.
            place = f"{path}: row {int(width['row']) - 1:,} has {int(width['got']):,} columns"
            advice = "is a quotation mark missing?"
            if width["expected"] == "1":
                advice = "commas stand between columns, and the first line names them."
            raise DataError(
                f"{place}, and the header {int(width['expected']):,}: {advice}"
            ) from error
        if "straddling object" in message:
            raise DataError(
                f"{path} has a row of more than {CHUNK_BYTES:,} bytes, which is not read as CSV: "
                "is a quotation mark missing?"
            ) from error
        found = WRONG_VALUE.search(message)
        if not found:
            raise
        # It counts the header too.
        row = f"row {int(found['row']) - 1:,}, " if found["row"] else ""
        column = dict(enumerate(names)).get(int(found["column"]))
        where = f"column {int(found['column']) + 1}" if column is None else f"column {column!r}"
        raise DataError(
            f"{path}: {row}{where}: {found['value']!r} is not a number, as the column's first "
            "values are: correct it, or name the column in --categorical, --hash or --exclude."
        ) from error
