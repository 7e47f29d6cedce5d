"""What a caller may see of a fit while it goes on."""

from __future__ import annotations

from collections.abc import Sequence


class Watch:
    """Told of the plan before anything is read, and of progress; by default nothing is done."""

    def planned(self, lines: Sequence[str]) -> None:
        """What will be done, in two lines."""

    def begin(self, what: str, total: int | None, unit: str = "rows") -> None:
        """Something begins that takes so many rows, or other units, where that is known."""

    def advance(self, done: int) -> None:
        """So many of them are done."""

    def tell(self, state: str) -> None:
        """How it goes, in a few words: the loss, for example."""

    @property
    def is_looking(self) -> bool:
        """Whether anybody wants to know of each iteration, which costs a little."""
        return False
