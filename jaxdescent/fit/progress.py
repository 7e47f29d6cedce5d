"""What a caller may see of a fit while it goes on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class ProgressListener:
    """Told of the plan before anything is read, and of progress; by default nothing is done."""

    def planned(self, lines: Sequence[str]) -> None:
        """What will be done, in two lines."""

    def begin(self, what: str, total: int | None, unit: str = "rows") -> None:
        """Something begins that takes so many rows, or other units, where that is known."""

    def advance(self, done: int) -> None:
        """So many of them are done."""

    def tell(self, state: str) -> None:
        """How it goes, in a few words: the loss, for example."""

    def iterated(self, value: float, above: float) -> None:
        """An iteration's value, and how far it is above the minimum: NaN where that is unknown."""

    def searched(self, penalties: np.ndarray, scores: np.ndarray, best: int) -> None:
        """The penalties that were tried, what each scored, and the place of the best."""

    @property
    def is_looking(self) -> bool:
        """Whether anybody wants to know of each iteration, which costs a little."""
        return False
