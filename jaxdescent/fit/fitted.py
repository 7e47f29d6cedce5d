"""The result of every way of fitting: weights, figures, and notes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdescent.data import DataError
from jaxdescent.fit.encoding import Encoding


class PartFigures(NamedTuple):
    """How well some rows are predicted.

    Attributes:
      rows: how many rows these are.
      r2: ``1 - sum s (prediction - y)^2 / sum s (y - mean)^2`` about the part's own mean; None
        where its target does not vary.
      rmse: the root of the weighted mean of squared errors.
    """

    rows: int
    r2: float | None
    rmse: float


class Fitted(NamedTuple):
    """Weights, how well they predict, and the details and notes of the fit.

    Attributes:
      encoding: the encoding, with the means that stand for missing values.
      weights: (features,), float64.
      intercept: the intercept of the prediction.
      parts: figures of the training rows, and of the held-out rows where there are some.
      details: further figures, by name.
      notes: sentences for a person.
      rows_read: how many rows of the data all passes read together, but the pass for levels.
      passes: how many passes over the data there were, but the pass for levels.
      test_passes: how many passes there were over other data that are held out.
    """

    encoding: Encoding
    weights: np.ndarray
    intercept: float
    parts: list[PartFigures]
    details: dict[str, Any]
    notes: list[str]
    rows_read: int
    passes: int = 1
    test_passes: int = 1


Predictions = Iterator[tuple[np.ndarray, np.ndarray, Sequence[np.ndarray | None]]]
"""Predictions and targets of some rows, (rows,), and the weights of the training rows and of the
held-out rows among them, zero for the others; None where no row is held out."""


def part_of(rows: int, error: float, squares: float, weight: float) -> PartFigures:
    """The figures from the sums of squared errors, of squares about the mean, and of weights."""
    r2 = 1 - error / squares if squares > 0 else None
    return PartFigures(rows, r2, math.sqrt(error / weight))


def check_figures(fitted: Fitted) -> None:
    """Refuse a fit that ended without numbers: it could be neither kept nor used."""
    figures = [fitted.intercept, *(part.rmse for part in fitted.parts)]
    if not (np.isfinite(fitted.weights).all() and np.isfinite(figures).all()):
        raise DataError(
            f"the fit ended {fitted.details['status']}, with weights or errors that are NaN or "
            "infinite: numbers that are very large or very small have to be divided, or say "
            "--dtype float64."
        )
