"""Sources over lazy frames of Polars: the only place that reads files and tables through it.

``LazyFrame.collect_batches`` is called unstable; :meth:`FrameSource.blocks` is its only caller.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from jaxdescent.rows.errors import DataError, listed, one_line
from jaxdescent.rows.source import Block, Kind, Source, equal_blocks
from jaxdescent.rows.stamps import Stamp, check_unchanged, checked_blocks

ROW = "__row__"
"""The name of the column that is added to find the place of a row."""

BATCH_NUMBERS = 1 << 21
"""The numbers of a data frame that is made of another source's blocks."""

File = pathlib.Path | str
Step = Callable[[pl.LazyFrame], pl.LazyFrame]


@dataclasses.dataclass(frozen=True, eq=False)
class FrameSource(Source):
    """Rows of a lazy frame, which Polars reads from files or tables in blocks.

    >>> source = table_source(pl.LazyFrame({"a": [1.0, 2.0, 3.0], "s": ["u", "v", "u"]}))
    >>> [block.numbers(["a"], "float32").tolist() for block in source.blocks(["a"], 2)]
    [[[1.0], [2.0]], [[3.0]]]
    >>> where(source, "a > 1").frame.collect().height
    2
    """

    # All rows of some files, whose columns are read as the types that are given by their names.
    scan: Callable[[Sequence[File], Mapping[str, Any]], pl.LazyFrame]
    form: str = "a table"
    files: tuple[File, ...] = ()  # paths, and addresses as text
    steps: tuple[Step, ...] = ()  # from all rows to these: conditions, expressions, slices
    types: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of columns of text files
    whole: tuple[str, ...] = ()  # columns of whole numbers that are read as floating point
    known_rows: int | None = None
    text_files: bool = False  # whether a column can be read as the text that stands there
    stamps: tuple[Stamp, ...] = ()  # of the files when they were opened

    @property
    def frame(self) -> pl.LazyFrame:
        return self._frame

    @functools.cached_property
    def _frame(self) -> pl.LazyFrame:
        return self._stepped(self.scan(self.files, self.types))

    @functools.cached_property
    def schema(self) -> pl.Schema:
        """The types of the columns."""
        check_unchanged(self.files, self.stamps)
        with polars_errors(self.name):
            return self.frame.collect_schema()

    @functools.cached_property
    def kinds(self) -> Mapping[str, Kind]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {
            name: Kind.WHOLE if name in self.whole and kind.is_numeric() else kind_of(kind)
            for name, kind in self.schema.items()
        }

    @property
    def name(self) -> str:
        """The file, or the form of the data, in words."""
        return str(self.files[0]) if len(self.files) == 1 else self.form

    @property
    def rows(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.known_rows

    def blocks(self, names: Sequence[str], size: int, row: int = 0) -> Iterator[Block]:
        expected = None if self.rows is None else max(self.rows - row, 0)
        found = equal_blocks(self._read(names, size, row), size)
        try:
            yield from checked_blocks(found, self.files, self.stamps, expected)
        except DataError as error:
            check_unchanged(self.files, self.stamps)
            raise self._of_text(names) or error from error.__cause__

    def _read(self, names: Sequence[str], size: int, row: int) -> Iterator[Block]:
        frame = self.frame.select(pl.col(list(names)))
        with polars_errors(self.name):
            frame = frame.slice(row) if row else frame
            batches = iter(frame.collect_batches(chunk_size=size, maintain_order=True))
        yield from _numbered(batches, row, self.name)

    def count(self) -> int:
        if self.rows is not None:
            return self.rows
        check_unchanged(self.files, self.stamps)
        return int(collected(self.frame.select(pl.len()), self.name).item())

    def slice(self, first: int, rows: int) -> FrameSource:
        known = self.rows
        if known is not None:
            known = max(min(rows, known - first), 0)
        return self.then(lambda frame: frame.slice(first, rows), known)

    def then(self, step: Step, rows: int | None) -> FrameSource:
        """The source whose frame is ``step`` of this one's, with ``rows`` rows where that is known.
        A step keeps columns that it does not know: it selects none.
        """
        return dataclasses.replace(self, steps=(*self.steps, step), known_rows=rows)

    def with_columns(self, *expressions: pl.Expr) -> FrameSource:
        """The source with further columns, each made of values of the same row."""
        return self.then(lambda frame: frame.with_columns(*expressions), self.rows)

    def as_text(self, names: Sequence[str]) -> FrameSource:
        if not self.text_files:
            return self
        types = {**self.types, **dict.fromkeys(names, pl.String)}
        whole = tuple(name for name in self.whole if name not in names)
        return dataclasses.replace(self, types=types, whole=whole)

    def place(self, row: int) -> str:
        if not self.files and not self.steps:
            return f"row {row + 1:,}"
        numbered = self._stepped(self.scan(self.files, self.types).with_row_index(ROW))
        return self._place_in_file(int(collected(numbered.slice(row, 1).select(ROW)).item()))

    def _place_in_file(self, number: int) -> str:
        """The row of all files with this number in words."""
        for path in self.files[:-1]:
            alone = self.scan([path], self.types).select(pl.len())
            rows = int(collected(alone, self.name).item())
            if number < rows:
                return f"row {number + 1:,} of {_name_of(path)}"
            number -= rows
        last = f" of {_name_of(self.files[-1])}" if self.files else ""
        return f"row {number + 1:,}{last}"

    def _of_text(self, names: Sequence[str]) -> DataError | None:
        """The error about the first text that is no value of its column's type, from a second
        reading of columns of text; None where there is none.
        """
        if not self.text_files:
            return None
        with polars_errors(self.name):
            plain = self.scan(self.files, {}).collect_schema()
        own = {name: plain[name] for name in names if name in plain and plain[name] != pl.String}
        frame = self.scan(self.files, dict.fromkeys(own, pl.String)).with_row_index(ROW)
        for name, kind in own.items():
            column = pl.col(name)
            if kind == pl.Boolean:
                number = pl.when(column.is_in(["true", "false"])).then(True)
            elif kind.is_temporal():
                number = column.str.to_datetime(strict=False)
            else:
                number = column.cast(kind, strict=False)
            wrong = frame.filter(column.is_not_null() & number.is_null()).select(ROW, name).head(1)
            found = collected(wrong, self.name)
            if found.height:
                row, value = found.row(0)
                return DataError(
                    f"{name!r} is {value[:40]!r} in {self._place_in_file(row)}: first rows hold "
                    f"{kind_of(kind)}s: correct it, or leave the column out."
                )
        return None

    def _stepped(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        for step in self.steps:
            frame = step(frame)
        return frame


def where(source: Source, condition: str) -> FrameSource:
    """The rows that meet a condition in SQL, such as ``month <= 6 AND carrier IN ('AA', 'UA')``.

    Raises:
      DataError: where the condition cannot be read, or names columns that are not there.
    """
    if not isinstance(source, FrameSource):
        if source.frame is None:
            raise DataError(f"sparse numbers take no condition ({source.form}): select the rows.")
        frame = source.frame
        source = FrameSource(lambda files, types: frame, source.form, known_rows=source.rows)
    columns = listed(source.kinds, 20)
    try:
        expression = pl.sql_expr(condition)
        kind = source.frame.select(expression.alias("met")).collect_schema()["met"]
    except pl.exceptions.PolarsError as error:
        said = one_line(re.split(r"\n|; valid", str(error))[0])
        raise DataError(f"where {condition!r}: {said}. The columns are {columns}.") from error
    if kind != pl.Boolean:
        raise DataError(
            f"where {condition!r} is {kind}, and a condition is true or false, such as "
            f"{next(iter(source.kinds))} IS NOT NULL. The columns are {columns}."
        )
    return source.then(lambda frame: frame.filter(expression), None)


def kind_of(kind: pl.DataType) -> Kind:
    """The kind of a column of this type."""
    if kind.is_integer() or kind == pl.Boolean:
        return Kind.WHOLE
    if kind.is_numeric() or kind == pl.Null:
        return Kind.NUMBER
    if kind.base_type() in {pl.String, pl.Categorical, pl.Enum}:
        return Kind.TEXT
    return Kind.DATE if kind.base_type() in {pl.Date, pl.Datetime} else Kind.OTHER


def collected(frame: pl.LazyFrame, form: str = "the data") -> pl.DataFrame:
    """A lazy frame's rows in memory, by the engine that reads in pieces."""
    with polars_errors(form):
        return frame.collect(engine="streaming")


def _name_of(file: File) -> str:
    return file.rsplit("/", maxsplit=1)[-1] if isinstance(file, str) else file.name


def _numbered(batches: Iterator[pl.DataFrame], start: int, form: str) -> Iterator[Block]:
    while True:
        with polars_errors(form):
            batch = next(batches, None)
        if batch is None:
            return
        yield Block(start, batch.height, batch)
        start += batch.height


@contextlib.contextmanager
def polars_errors(form: str) -> Iterator[None]:
    """A context that turns the errors of Polars into a :class:`DataError` of one line."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        said = one_line(str(error).split("\n\n")[0], 120)
        if re.search("more fields than|could not parse", said):
            said += (
                ": is a quotation mark missing, or a comma of a number not meant as a separator?"
            )
        raise DataError(f"{form} cannot be read: {said}.") from error


def table_source(table: Any) -> FrameSource:
    """The source of a table in memory: of Polars, of pandas, or with ``__arrow_c_stream__``."""
    form = f"a table of {type(table).__module__.split('.')[0]}"
    if isinstance(table, pl.LazyFrame):
        return FrameSource(lambda files, types: table, form)
    try:
        if isinstance(table, pl.DataFrame):
            frame = table
        elif hasattr(table, "reset_index"):  # of pandas: an index with a name is a column
            names = [name for name in table.index.names if name is not None]
            frame = pl.DataFrame(table.reset_index(names) if names else table)
        else:
            frame = pl.DataFrame(table)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{form} cannot be read: {one_line(error)}: give one with columns of different names, "
            "each of numbers, text, dates or truth values."
        ) from error
    if not frame.height:
        raise DataError("the table has no rows.")
    lazy = frame.lazy()
    return FrameSource(lambda files, types: lazy, form, known_rows=frame.height)


def frame_of(source: Source) -> pl.LazyFrame:
    """A lazy frame over the blocks of a source without sparse columns."""
    from polars.io.plugins import register_io_source

    def frames(names: Sequence[str], size: int) -> Iterator[pl.DataFrame]:
        for block in source.blocks(names, size):
            yield pl.DataFrame({name: np.ascontiguousarray(block.column(name)) for name in names})

    def read(
        names: list[str] | None, predicate: pl.Expr | None, rows: int | None, size: int | None
    ) -> Iterator[pl.DataFrame]:
        own = list(source.kinds) if names is None else names
        for frame in frames(own or list(source.kinds)[:1], BATCH_NUMBERS // max(len(own), 1)):
            made = frame if rows is None else frame.head(rows)
            rows = None if rows is None else rows - made.height
            yield (made if predicate is None else made.filter(predicate)).select(own)
            if rows == 0:
                return

    schema = next(frames(list(source.kinds), 1)).schema
    return register_io_source(read, schema=schema)
