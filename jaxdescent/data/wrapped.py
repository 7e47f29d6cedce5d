"""A source that wraps another source and changes some of it."""

from __future__ import annotations

import copy
import pathlib
from collections.abc import Mapping, Sequence
from typing import Self

from jaxdescent.data.protocol import Kind, Source, Stamps


class WrappedSource(Source):
    """A source that passes every call that a subclass does not change to the source it wraps."""

    def __init__(self, base: Source) -> None:
        self.base = base

    def around(self, base: Source) -> Self:
        """A copy of this wrapper around another source."""
        new = copy.copy(self)
        new.base = base
        return new

    @property
    def kinds(self) -> Mapping[str, Kind]:
        return self.base.kinds

    @property
    def rows(self) -> int | None:
        return self.base.rows

    def _read(self, names: Sequence[str]) -> Sequence[str]:
        """The columns of the wrapped source that these columns are made of."""
        return names

    def row_bytes(self, names: Sequence[str]) -> int:
        return self.base.row_bytes(self._read(names))

    def reading_bytes(self, names: Sequence[str], rows: int) -> int:
        return self.base.reading_bytes(self._read(names), rows)

    @property
    def form(self) -> str:
        return self.base.form

    @property
    def files(self) -> Sequence[pathlib.Path]:
        return self.base.files

    @property
    def can_restart(self) -> bool:
        return self.base.can_restart

    @property
    def description(self) -> str:
        return self.base.description

    def as_text(self, names: Sequence[str]) -> Source:
        return self.around(self.base.as_text(names))

    def as_read(self, names: Sequence[str]) -> Source:
        return self.around(self.base.as_read(names))

    def first_text(self, name: str) -> str:
        return self.base.first_text(name)

    @property
    def opened(self) -> Stamps | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.opened

    def offering(self, names: Sequence[str]) -> Source:
        return self.around(self.base.offering(names))

    @property
    def entries(self) -> int:
        return self.base.entries

    @property
    def looks(self) -> int:
        return self.base.looks

    def text_bytes(self, name: str) -> int:
        return self.base.text_bytes(name)

    def fingerprint(self) -> str:
        return self.base.fingerprint()
