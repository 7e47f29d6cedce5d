"""What a way of fitting comes back with."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from jaxdescent.fit.encoding import Encoding


class PartFigures(NamedTuple):
    """How well some rows are predicted.

    Attributes:
      rows: how many.
      r2: ``1 - sum s (prediction - y)^2 / sum s (y - mean)^2`` about the part's own mean; None
        where its target does not vary.
      rmse: the root of the weighted mean of squared errors.
    """

    rows: int
    r2: float | None
    rmse: float


class Fitted(NamedTuple):
    """Weights, how well they predict, and everything to be said about them.

    Attributes:
      encoding: with the means that stand for missing values.
      weights: (features,), float64.
      intercept: of the prediction.
      parts: training rows, and held-out rows where there are some.
      details: what else is known, by name.
      notes: sentences for a person.
      rows_read: over all passes of the data's rows, that for levels left out.
      passes: how many these were.
      test_passes: how many there were of other data that are held out.
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


def part_of(rows: int, error: float, squares: float, weight: float) -> PartFigures:
    """From the sums of squared errors, of squares about the mean, and of weights."""
    r2 = 1 - error / squares if squares > 0 else None
    return PartFigures(rows, r2, math.sqrt(error / weight))
