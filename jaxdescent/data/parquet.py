"""Parquet files, read page by page: no row group is ever held as a whole."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdescent.data.arrow import pa, pq
from jaxdescent.data.conditions import ColumnBounds, Condition
from jaxdescent.data.grouped_files import SMALL_BYTES, ColumnExtent, GroupedFiles
from jaxdescent.data.parquet_pages import Page, pages_of
from jaxdescent.data.protocol import Block, Kind, blocks_of
from jaxdescent.rows.errors import reading

MOST_LOOKED = 100
"""The most comparisons of a condition that are made with statistics of row groups: many more would
take longer than reading the groups."""

BUFFER_BYTES = 1 << 16

DICTIONARIES = {"PLAIN_DICTIONARY", "RLE_DICTIONARY"}
"""The encodings of a column some of whose pages point to a dictionary."""


class ParquetFiles(GroupedFiles):
    """Some Parquet files, one after another; only the columns asked for are read.

    pyarrow's dataset scanner decodes whole row groups, several at a time (260 MB for files whose
    batches of 64k rows are 5 MB); its file reader with buffered streams gives the same rows at the
    same speed from 60 MB. So this class uses the file reader.
    """

    form = "Parquet"

    _condition: Condition | None = None

    def _looked_at(self, path: pathlib.Path) -> tuple[Any, list[int]]:
        with self._opened(path) as file:
            metadata = file.metadata
            groups = range(metadata.num_row_groups)
            return file.schema_arrow, [metadata.row_group(group).num_rows for group in groups]

    def _opened(self, path: pathlib.Path, text: Sequence[str] = ()) -> Any:
        return pq.ParquetFile(
            path,
            buffer_size=BUFFER_BYTES,
            pre_buffer=False,
            read_dictionary=list(text),
            page_checksum_verification=True,  # of pages that have one
        )

    def _extents_of(self, names: Sequence[str]) -> list[ColumnExtent]:
        unknown = [name for name in names if name not in self._extents]
        if unknown:
            self._extents |= self._looked_up(unknown)
        return super()._extents_of(names)

    def _looked_up(self, names: Sequence[str]) -> dict[str, ColumnExtent]:
        """The extents from all pages of text columns, and from the first ones of each row group of
        columns of numbers, whose pages are alike: of all columns at once, since the metadata of
        thousands take seconds.
        """
        extents = dict.fromkeys(names, ColumnExtent())
        for path in self.files:
            with reading(path), self._opened(path) as parquet, path.open("rb") as file:
                of_file = parquet.metadata
                for group in map(of_file.row_group, range(of_file.num_row_groups)):
                    for column in map(group.column, range(group.num_columns)):
                        parts = column.path_in_schema
                        name = parts if parts in self.kinds else parts.split(".")[0]
                        if name in extents and column.num_values:
                            extents[name] = self._including(column, extents[name], name, file)
        return extents

    def _including(self, column: Any, extent: ColumnExtent, name: str, file: Any) -> ColumnExtent:
        """The extent with a column's pages in one more row group, of which pyarrow's metadata are
        given.
        """
        size, is_text = column.total_uncompressed_size, self.kinds[name] is Kind.TEXT
        # A block takes the rows of many small groups. Text without a dictionary is all in its pages
        # then, and of one with a dictionary the headers tell how long it is.
        points = is_text and not DICTIONARIES.isdisjoint(column.encodings)
        pages = iter([Page(size, column.num_values, False, not is_text)])
        if size > SMALL_BYTES or points:
            pages = itertools.islice(pages_of(file, column), None if is_text else 2)
        for page in pages:
            extent = extent.including(page)
            if page.is_dictionary and is_text:
                levels = max(extent.levels, page.bytes / column.num_values)
                extent = extent._replace(levels=levels)
        return extent._replace(bytes=extent.bytes + size)

    def _blocks(
        self, path: pathlib.Path, groups: Mapping[int, int], names: Sequence[str], rows: int
    ) -> Iterator[Block]:
        # Text comes as dictionaries where it is stored so: an entry of few levels takes four bytes.
        # Of other text pyarrow would keep all different values of a group of rows.
        text = [n for n in names if self.kinds[n] is Kind.TEXT]
        long = self._long(text)
        with self._opened(path, [name for name in text if name not in long]) as file:
            chosen = enumerate(group for group in self._possible(file) if group in groups)
            for _, run in itertools.groupby(chosen, lambda each: each[1] - each[0]):
                following = [group for _, group in run]
                batches = file.iter_batches(rows, row_groups=following, columns=list(names))
                yield from blocks_of(batches, names, path.name, groups[following[0]])

    def skipping(self, condition: Condition) -> ParquetFiles:
        return self._with(_condition=condition)

    def _possible(self, file: Any) -> Sequence[int]:
        """The row groups that can hold rows that meet the condition, by their statistics."""
        groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
        condition = self._condition
        if not groups or condition is None or len(condition.comparisons) > MOST_LOOKED:
            return range(len(groups))
        paths = [groups[0].column(index).path_in_schema for index in range(groups[0].num_columns)]
        bounds = dict[str, ColumnBounds]()
        for name in condition.columns:
            columns = [None] * len(groups)  # a nested column is not stored as one
            if name in paths:
                columns = [group.column(paths.index(name)) for group in groups]
            bounds[name] = _bounds_of(columns, file.schema_arrow.field(name).type)
        return np.flatnonzero(condition.is_possible(bounds)).tolist()


def _bounds_of(columns: Sequence[Any], of_type: Any) -> ColumnBounds:
    """The bounds of a column in some row groups, from its metadata in each."""
    known = [None if column is None else column.statistics for column in columns]
    nulls = [None if own is None or not own.has_null_count else own.null_count for own in known]
    can_lack = [count != 0 or pa.types.is_floating(of_type) for count in nulls]  # NaN is missing
    has_values = [
        count is None or count < column.num_values
        for count, column in zip(nulls, columns, strict=True)
    ]
    least = most = pa.nulls(len(columns), of_type)
    # Neither Python nor Arrow holds some bounds, such as timestamps of nanoseconds.
    with contextlib.suppress(pa.ArrowException, OverflowError, ValueError):
        if not pa.types.is_time64(of_type):  # Python's times have no nanoseconds
            there = [own if own is not None and own.has_min_max else None for own in known]
            ends = ([own and own.min for own in there], [own and own.max for own in there])
            least, most = (pa.array(each, of_type) for each in ends)
    return ColumnBounds(least, most, pa.array(can_lack), pa.array(has_values))
