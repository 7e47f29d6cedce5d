"""What follows a fit: its plan, its stages, iterations and the search for a penalty."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class ProgressListener:
    """Gets the plan of a fit before anything is read, and its progress; by default does nothing."""

    def planned(self, lines: Sequence[str]) -> None:
        """The plan of the fit, in a few lines."""

    def begin(self, what: str, total: int | None, unit: str = "rows") -> None:
        """A stage begins, of ``total`` rows or other units; None where the total is unknown."""

    def advance(self, done: int) -> None:
        """``done`` rows, or other units, of the stage are done."""

    def tell(self, state: str) -> None:
        """The state of the stage in a few words: the loss, for example."""

    def iterated(self, value: float, above: float) -> None:
        """An iteration's value, and how far it is above the minimum: NaN where that is unknown."""

    def searched(self, penalties: np.ndarray, scores: np.ndarray, best: int) -> None:
        """The penalties that were tried, what each scored, and the place of the best."""
