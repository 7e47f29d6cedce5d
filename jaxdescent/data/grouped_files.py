"""Files with Arrow's schemas, whose rows come in groups at which reading can begin."""

from __future__ import annotations

import abc
import bisect
import copy
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdescent.data.arrow_types import common_kinds, kinds_of, nulls_of
from jaxdescent.data.errors import DataError, need_arrow, reading
from jaxdescent.data.protocol import Kind, Source


class GroupedFiles(Source):
    """Some files, one after another; only the columns asked for are read."""

    def __init__(self, paths: Sequence[pathlib.Path]) -> None:
        need_arrow()
        self._paths = list(paths)
        self._kinds: dict[str, Kind] = {}
        self._rows = self._first = 0
        self._group_starts: list[int] = []
        self._widths: dict[str, float] = {}
        nothing: set[str] = set()  # columns that were empty in all files so far
        for index, path in enumerate(self._paths):
            with reading(path):
                schema, sizes = self._looked_at(path)
            kinds = kinds_of(schema, path)
            empty = nulls_of(schema)
            for size in sizes:
                self._group_starts.append(self._rows)
                self._rows += size
            # A column without any value has no type: it is what it is in other files.
            before = self._kinds if index else kinds
            kinds |= {name: before[name] for name in empty & before.keys()}
            nothing = empty if index == 0 else nothing
            before = before | {name: kinds[name] for name in nothing & kinds.keys()}
            nothing = nothing & empty
            self._kinds = common_kinds(before, kinds, str(self._paths[0]), str(path))
        if not self._rows:
            raise DataError(f"{self._paths[0]} has no rows.")

    @abc.abstractmethod
    def _looked_at(self, path: pathlib.Path) -> tuple[Any, list[int]]:
        """The schema of a file, and how many rows each of its groups has; notes ``_widths``."""

    @property
    def kinds(self) -> Mapping[str, Kind]:
        return self._kinds

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def files(self) -> Sequence[pathlib.Path]:
        return self._paths

    def start_before(self, row: int) -> int:
        starts = self._group_starts
        return starts[bisect.bisect_right(starts, row) - 1]

    def from_row(self, row: int) -> Source:
        new = copy.copy(self)
        new._first = row
        return new
