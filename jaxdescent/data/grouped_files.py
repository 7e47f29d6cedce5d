"""Files with Arrow's schemas, whose rows come in groups at which reading can begin; and Arrow's own
files, ``.arrow`` and ``.feather``, read batch by batch.
"""

from __future__ import annotations

import abc
import contextlib
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxdescent.data.arrow import pa
from jaxdescent.data.arrow_types import common_kinds, kinds_of
from jaxdescent.data.parquet_pages import Page
from jaxdescent.data.protocol import Block, Kind, Source, blocks_of
from jaxdescent.rows.errors import DataError, reading

PAGES_HELD = 3
"""Copies of a page that reading holds: as stored, as unpacked and as decoded."""

TEXT_COPIES = 8
"""Copies of a block's text that pyarrow holds beside the block, while it builds the block and finds
the different texts."""


SMALL_BYTES = 1 << 20
"""Parquet's default size of a page and of a dictionary; smaller columns count as one page."""

MOST_OPENED = 64
"""How many times a file is opened at most for the look: a packed column is unpacked by it, and so
few are at a time; opening takes as long as there are columns."""


class ColumnExtent(NamedTuple):
    """The most bytes that parts of a column take."""

    page: int = 0  # the bytes of a page, unpacked: the part that is read at once
    dictionary: int = 0  # the bytes of the values that pages point to
    value: float = 0.0  # the mean bytes of a value in a page
    levels: float = 0.0  # the bytes of a dictionary for each row of its group of rows
    points: bool = True  # whether all pages point to small dictionaries
    bytes: int = 0  # the bytes of all pages

    def including(self, page: Page) -> ColumnExtent:
        """The extent with one more page, without its bytes."""
        is_small = page.bytes <= 2 * SMALL_BYTES if page.is_dictionary else page.points
        return self._replace(
            page=self.page if page.is_dictionary else max(self.page, page.bytes),
            dictionary=max(self.dictionary, page.bytes) if page.is_dictionary else self.dictionary,
            value=max(self.value, page.bytes / max(page.values, 1)),
            points=self.points and is_small,
        )


class GroupedFiles(Source):
    """Some files, one after another; only the columns asked for are read."""

    def __init__(self, paths: Sequence[pathlib.Path]) -> None:
        self.files = list(paths)
        rows = 0
        self._groups: list[list[int]] = []  # of each file the numbers of its groups' first rows
        self._extents: dict[str, ColumnExtent] = {}
        common: dict[str, Any] = {}
        for path in self.files:
            with reading(path):
                schema, sizes = self._looked_at(path)
            *starts, rows = itertools.accumulate(sizes, initial=rows)
            self._groups.append(starts)
            kinds = kinds_of(schema, path)
            # A column without any value has no type: it takes that of the other files.
            nulls = {field.name for field in schema if pa.types.is_null(field.type)}
            kinds |= dict.fromkeys(nulls & kinds.keys())
            common = common_kinds(common or kinds, kinds, str(self.files[0]), str(path))
        self.kinds = {name: kind or Kind.NUMBER for name, kind in common.items()}
        if not rows:
            raise DataError(f"{self.files[0]} has no rows.")
        self.rows, self._starts = rows, list(itertools.chain(*self._groups))

    @abc.abstractmethod
    def _looked_at(self, path: pathlib.Path) -> tuple[Any, list[int]]:
        """The schema of a file, and how many rows each of its groups has."""

    def blocks(self, names: Sequence[str], rows: int, begin: int = 0) -> Iterator[Block]:
        for path, starts in zip(self.files, self._groups, strict=True):
            groups = {g: at - starts[0] for g, at in enumerate(starts) if at >= begin}
            with reading(path):
                yield from self._blocks(path, groups, names, rows)

    @abc.abstractmethod
    def _blocks(
        self, path: pathlib.Path, groups: Mapping[int, int], names: Sequence[str], rows: int
    ) -> Iterator[Block]:
        """The blocks of a file's groups, of which the numbers of their first rows are given."""

    def _extents_of(self, names: Sequence[str]) -> list[ColumnExtent]:
        return [self._extents[name] for name in names]

    def row_bytes(self, names: Sequence[str]) -> int:
        own = super().row_bytes(names)
        return own + sum(int(extent.value) for extent in self._extents_of(self._long(names)))

    def reading_bytes(self, names: Sequence[str], rows: int) -> int:
        # At once are read the dictionaries of all groups that these rows are in.
        pages = sum(
            extent.page + max(extent.dictionary, int(rows * extent.levels))
            for extent in self._extents_of(names)
        )
        long = self._extents_of(self._long(names))
        texts = sum(int(TEXT_COPIES * rows * extent.value) for extent in long)
        return PAGES_HELD * pages + texts

    def text_bytes(self, name: str) -> int:
        return self._extents_of([name])[0].bytes

    def _long(self, names: Sequence[str]) -> list[str]:
        """Those columns that are text which blocks hold in full rather than as dictionary
        indices.
        """
        text = [name for name in names if self.kinds[name] is Kind.TEXT]
        extents = zip(text, self._extents_of(text), strict=True)
        return [name for name, extent in extents if not extent.points]


class ArrowFiles(GroupedFiles):
    """Some files of Arrow's IPC format. A batch is read as a whole, as a page of Parquet is."""

    form = "Arrow"

    def _looked_at(self, path: pathlib.Path) -> tuple[Any, list[int]]:
        # A memory map that is closed again holds no memory, and uncompressed batches are not read
        # at all.
        with pa.memory_map(str(path)) as file:
            schema = _opened(file, path).schema
            sizes = list[int]()
            at_once = max(-(-len(schema) // MOST_OPENED), 1)
            for first in range(0, len(schema), at_once):
                fields = range(len(schema))[first : first + at_once]
                reader = _opened(file, path, fields)
                for group in range(reader.num_record_batches):
                    batch = reader.get_batch(group)
                    if first == 0:
                        sizes.append(batch.num_rows)
                    for field, column in zip(batch.schema, batch, strict=True):
                        points = pa.types.is_dictionary(field.type)
                        page = Page(column.nbytes, len(column), False, points)
                        known = self._extents.get(field.name, ColumnExtent()).including(page)
                        self._extents[field.name] = known._replace(bytes=known.bytes + page.bytes)
        return schema, sizes

    def _blocks(
        self, path: pathlib.Path, groups: Mapping[int, int], names: Sequence[str], rows: int
    ) -> Iterator[Block]:
        with contextlib.closing(pa.OSFile(str(path))) as file:
            schema = _opened(file, path).schema
            reader = _opened(file, path, [schema.get_field_index(name) for name in names])
            for group, start in groups.items():
                yield from blocks_of([reader.get_batch(group)], names, path.name, start)


def _opened(file: Any, path: pathlib.Path, fields: Sequence[int] = ()) -> Any:
    try:
        options = pa.ipc.IpcReadOptions(included_fields=sorted(fields))
        return pa.ipc.open_file(file, options=options)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{path} cannot be read: it is no file of Arrow's IPC format, which is not its format "
            "for streams and not the first version of Feather: write it anew."
        ) from error
