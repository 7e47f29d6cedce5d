"""Files with Arrow's schemas, whose rows come in groups at which reading can begin."""

from __future__ import annotations

import abc
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxdescent.data.arrow_types import common_kinds, kinds_of, nulls_of
from jaxdescent.data.errors import DataError, need_arrow, reading
from jaxdescent.data.protocol import Kind, Source

PAGES_HELD = 3
"""Copies of a page that reading holds: as stored, as unpacked and as decoded."""

TEXT_COPIES = 8
"""Copies of a block's text that pyarrow holds beside the block, while it builds the block and finds
the different texts."""


class ColumnExtent(NamedTuple):
    """The most bytes that parts of a column take.

    Attributes:
      page: the bytes of a page, unpacked: the part that is read at once.
      dictionary: the bytes of the values that pages point to.
      value: the mean bytes of a value in a page.
      points: whether all pages point to small dictionaries.
      bytes: the bytes of all pages.
    """

    page: int = 0
    dictionary: int = 0
    value: float = 0.0
    points: bool = True
    bytes: int = 0


class GroupedFiles(Source):
    """Some files, one after another; only the columns asked for are read."""

    def __init__(self, paths: Sequence[pathlib.Path]) -> None:
        need_arrow()
        self.files, self.kinds = list(paths), {}
        rows = 0
        self._group_starts: list[int] = []
        self._extents: dict[str, ColumnExtent] = {}
        nothing: set[str] = set()  # columns that were empty in all files so far
        for index, path in enumerate(self.files):
            with reading(path):
                schema, sizes = self._looked_at(path)
            kinds = kinds_of(schema, path)
            empty = nulls_of(schema)
            for size in sizes:
                self._group_starts.append(rows)
                rows += size
            # A column without any value has no type: it takes that of the other files.
            before = self.kinds if index else kinds
            kinds |= {name: before[name] for name in empty & before.keys()}
            nothing = empty if index == 0 else nothing
            before = {**before, **{name: kinds[name] for name in nothing & kinds.keys()}}
            nothing = nothing & empty
            self.kinds = common_kinds(before, kinds, str(self.files[0]), str(path))
        if not rows:
            raise DataError(f"{self.files[0]} has no rows.")
        self.rows, self._starts = rows, self._group_starts

    @abc.abstractmethod
    def _looked_at(self, path: pathlib.Path) -> tuple[Any, list[int]]:
        """The schema of a file, and how many rows each of its groups has."""

    @abc.abstractmethod
    def _extent(self, name: str) -> ColumnExtent:
        """The bytes that parts of a column take."""

    def row_bytes(self, names: Sequence[str]) -> int:
        own = super().row_bytes(names)
        return own + sum(int(self._extent(name).value) for name in names if self._is_long(name))

    def reading_bytes(self, names: Sequence[str], rows: int) -> int:
        total = 0
        for name in names:
            extent = self._extent(name)
            total += PAGES_HELD * (extent.page + extent.dictionary)
            if self._is_long(name):
                total += int(TEXT_COPIES * rows * extent.value)
        return total

    def text_bytes(self, name: str) -> int:
        return self._extent(name).bytes

    def _is_long(self, name: str) -> bool:
        """Whether a column is text that blocks hold in full rather than as dictionary indices."""
        return self.kinds[name] is Kind.TEXT and not self._extent(name).points
