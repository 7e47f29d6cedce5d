"""A source that wraps another source and changes some of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from jaxdescent.data.protocol import Source


class WrappedSource(Source):
    """A source that passes every call that a subclass does not change to the source it wraps, but
    where reading can begin.
    """

    def __init__(self, base: Source) -> None:
        self._wrap(base)

    def _wrap(self, base: Source) -> None:
        """Take over the facts of a source, of which a subclass changes its own."""
        self.base = base
        self.kinds, self.rows, self.form, self.files = base.kinds, base.rows, base.form, base.files
        self.can_restart, self.opened = base.can_restart, base.opened
        self.description, self.entries, self.looks = base.description, base.entries, base.looks

    def around(self, base: Source) -> Self:
        """A copy of this wrapper around another source."""
        new = self._with()
        new._wrap(base)
        return new

    def _read(self, names: Sequence[str]) -> Sequence[str]:
        """The columns of the wrapped source that these columns are made of."""
        return names

    def row_bytes(self, names: Sequence[str]) -> int:
        return self.base.row_bytes(self._read(names))

    def reading_bytes(self, names: Sequence[str], rows: int) -> int:
        return self.base.reading_bytes(self._read(names), rows)

    def text_bytes(self, name: str) -> int:
        return self.base.text_bytes(name)

    def can_share(self, parts: int) -> bool:
        return self.base.can_share(parts)

    def counted(self, part: int, parts: int, tell: Callable[[bytes], list[bytes]]) -> Source:
        return self.around(self.base.counted(part, parts, tell))

    def offering(self, names: Sequence[str], text: Sequence[str] = ()) -> Source:
        return self.around(self.base.offering(names, text))

    def fingerprint(self) -> str:
        return self.base.fingerprint()
