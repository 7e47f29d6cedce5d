"""What a caller may see of a fit while it goes on."""

from __future__ import annotations

from collections.abc import Sequence


class Watch:
    """Told of the plan before anything is read, and of progress; by default nothing is done."""

    def planned(self, lines: Sequence[str]) -> None:
        """What will be done, in two lines."""

    def begin(self, what: str, rows: int | None) -> None:
        """A pass begins, over so many rows where that is known."""

    def advance(self, rows: int) -> None:
        """So many rows of the pass have been read."""
