"""The job of a fit, which all ways of fitting share, what they return, and how to follow it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdescent.data import Source
from jaxdescent.fit.budget import Memory
from jaxdescent.fit.checkpoint import FitCheckpoint
from jaxdescent.fit.dates import Dates
from jaxdescent.fit.encoding import Encoding
from jaxdescent.fit.model import Model
from jaxdescent.fit.request import Request
from jaxdescent.fit.roles import Roles


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

    @property
    def is_looking(self) -> bool:
        """Whether the listener wants every single iteration, which costs a little."""
        return False


class Job(NamedTuple):
    """Everything that the ways of fitting share."""

    source: Source
    test_source: Source | None
    roles: Roles
    request: Request
    memory: Memory
    watch: ProgressListener
    fingerprint: str  # that of the data
    dates: dict[str, Dates]  # the columns of dates by name
    checkpoint: FitCheckpoint | None = None
    first_row: int = 0  # the number of the source's first row among those of all processes
    start: Model | None = None  # the model whose weights iterations begin at

    @property
    def encoding(self) -> Encoding:
        """How columns become features; levels are known after the pass that finds them."""
        return self.roles.features

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of iterations."""
        return np.dtype(self.request.dtype or "float32")

    @property
    def sources(self) -> list[Source]:
        """The source of the data, and that of other data that are held out."""
        return [self.source] if self.test_source is None else [self.source, self.test_source]

    @property
    def is_tested(self) -> bool:
        """Whether rows are held out."""
        return self.test_source is not None or self.request.test > 0


class Fitted(NamedTuple):
    """Weights, how well they predict, and the details and notes of the fit."""

    encoding: Encoding  # with the means that stand for missing values
    weights: np.ndarray
    intercept: float
    # By :func:`part_of` the figures of the training rows, and of held-out rows where some are.
    parts: list[dict[str, Any]]
    details: dict[str, Any]
    notes: list[str]
    rows_read: int  # how many rows of the data all passes read together, but the pass for levels
    passes: int = 1  # how many there were over the data, but the pass for levels,
    test_passes: int = 1  # and over other data that are held out


Predictions = Iterator[tuple[np.ndarray, np.ndarray, Sequence[np.ndarray | None]]]
"""Predictions and targets of some rows, (rows,), and the weights of the training rows and of the
held-out rows among them, zero for the others; None where no row is held out."""


def part_of(rows: int, error: float, squares: float, weight: float) -> dict[str, Any]:
    """How well some rows are predicted, by name, from the sums of weighted squared errors, of
    squares about the part's own mean, and of weights; R² is None where the target does not vary.
    """
    r2 = 1 - error / squares if squares > 0 else None
    return {"rows": rows, "r2": r2, "rmse": math.sqrt(error / weight)}
