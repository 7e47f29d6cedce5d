"""Parquet files, read page by page: no row group is ever held as a whole."""

from __future__ import annotations

import copy
import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from jaxdescent.data.errors import reading
from jaxdescent.data.grouped_files import GroupedFiles
from jaxdescent.data.protocol import Block, Kind, Source

PAGE_BYTES = 3 << 20
"""What a column's open pages take: one as stored, one as decoded and a dictionary, of up to a
megabyte each by the format's default."""

BUFFER_BYTES = 1 << 16


class ParquetFiles(GroupedFiles):
    """Some Parquet files, one after another; only the columns asked for are read.

    pyarrow's dataset scanner decodes whole row groups, several at a time (260 MB for files whose
    batches of 64k rows are 5 MB); its file reader with buffered streams gives the same rows at the
    same speed from 60 MB. So it is the latter that reads.
    """

    def __init__(self, paths: Sequence[pathlib.Path]) -> None:
        super().__init__(paths)
        self._condition: Any = None
        self._as_read: frozenset[str] = frozenset()

    def _looked_at(self, path: pathlib.Path) -> tuple[Any, list[int]]:
        with self._opened(path) as file:
            metadata = file.metadata
            self._look_at(metadata)
            groups = range(metadata.num_row_groups)
            return file.schema_arrow, [metadata.row_group(group).num_rows for group in groups]

    def _opened(self, path: pathlib.Path, text: Sequence[str] = ()) -> Any:
        import pyarrow.parquet as pq

        return pq.ParquetFile(
            path,
            buffer_size=BUFFER_BYTES,
            pre_buffer=False,
            memory_map=False,
            read_dictionary=list(text),
        )

    def _look_at(self, metadata: Any) -> None:
        """The most that a column chunk's page can take, by its name."""
        for group in range(metadata.num_row_groups):
            row_group = metadata.row_group(group)
            for index in range(row_group.num_columns):
                column = row_group.column(index)
                name = column.path_in_schema.split(".")[0]
                size = min(2 * column.total_uncompressed_size, PAGE_BYTES)
                self._widths[name] = max(self._widths.get(name, 0), size)

    @property
    def form(self) -> str:
        return "Parquet"

    def reading_bytes(self, names: Sequence[str], rows: int) -> int:
        return int(sum(self._widths.get(name, PAGE_BYTES) for name in names))

    def blocks(self, names: Sequence[str], rows: int) -> Iterator[Block]:
        # Text comes as dictionaries, as it is stored: an entry of few levels takes four bytes.
        text = [n for n in names if self._kinds[n] is Kind.TEXT and n not in self._as_read]
        behind = 0
        for path in self._paths:
            with reading(path), self._opened(path, text) as file:
                before, behind = behind, behind + file.metadata.num_rows
                for start, groups in self._runs(path, file.metadata, self._first - before):
                    at = start
                    batches = file.iter_batches(
                        rows, row_groups=groups, columns=list(names), use_threads=True
                    )
                    while True:
                        with reading(path):
                            batch = next(batches, None)
                        if batch is None:
                            break
                        columns = {name: batch.column(name) for name in names}
                        yield Block(columns, batch.num_rows, 0, path.name, at)
                        at += batch.num_rows

    def as_read(self, names: Sequence[str]) -> Source:
        new = copy.copy(self)
        new._as_read = frozenset(names)
        return new

    def start_before(self, row: int) -> int:
        if self._condition is not None:
            return 0  # some groups are passed over
        return super().start_before(row)

    def skipping(self, condition: Any) -> ParquetFiles:
        new = copy.copy(self)
        new._condition = condition
        return new

    def _runs(
        self, path: pathlib.Path, metadata: Any, first: int
    ) -> Iterator[tuple[int, list[int]]]:
        """Groups of rows that follow each other, and the number of their first row: all groups from
        the row ``first`` on, or those that can hold rows that meet the conditions.
        """
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        starts = [0, *itertools.accumulate(sizes)]
        chosen = [g for g in self._possible(path, len(sizes)) if starts[g] >= first]
        for group in chosen:
            if group - 1 in chosen:
                continue
            stop = group
            while stop in chosen:
                stop += 1
            yield starts[group], list(range(group, stop))

    def _possible(self, path: pathlib.Path, groups: int) -> list[int]:
        if self._condition is None:
            return list(range(groups))
        import pyarrow as pa
        from pyarrow import dataset, fs

        fragment = dataset.ParquetFileFormat().make_fragment(str(path), fs.LocalFileSystem())

        def possible(condition: Any) -> set[int]:
            of_type = fragment.physical_schema.field(condition.column).type
            every = set(range(groups))
            try:
                expression = condition.expression(of_type)
                if expression is None:
                    return every
                left = fragment.subset(expression).row_groups
                return {group.id for group in left if _may_hold(group, condition, of_type)}
            except (pa.ArrowException, OverflowError):
                return every  # compared in another form, such as a huge integer

        return sorted(self._condition.chosen(possible))


def _may_hold(group: Any, condition: Any, of_type: Any) -> bool:
    """Whether a group of rows can hold one that meets a condition, by its least and its largest
    value: pyarrow passes over no group that has missing values.
    """
    try:
        bounds = group.statistics.get(condition.column)
    except ValueError:  # nanoseconds, which Python's own times cannot hold
        return True
    if bounds is None or bounds["min"] is None or bounds["max"] is None:
        return True
    return condition.may_be_met(bounds["min"], bounds["max"], of_type)
