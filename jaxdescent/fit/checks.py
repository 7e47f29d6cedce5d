"""What no way of fitting can do without: rows, weights, and a target that varies."""

from __future__ import annotations

import numpy as np

from jaxdescent.data import DataError
from jaxdescent.fit.request import Request


def check_rows(
    counts: tuple[int, int],
    weights: tuple[float, float],
    dropped: int,
    request: Request,
    *,
    is_tested: bool,
) -> None:
    """Refuse parts that are empty, or whose rows weigh nothing.

    Args:
      counts: training rows and held-out rows.
      weights: their sums.
      dropped: rows that were left out.
      request: what was asked for.
      is_tested: whether rows were to be held out.
    """
    train, test = counts
    without = f", {dropped:,} dropped for what is missing in them" if dropped else ""
    if train < 2:
        held_out = f" and {test:,} held out" if is_tested else ""
        raise DataError(f"at least 2 rows are needed to fit, got {train}{without}{held_out}.")
    if is_tested and not test:
        advice = f"raise --test, got {request.test:g}" if request.test else "--test-data is empty"
        raise DataError(f"none of the {train:,} rows was held out{without}: {advice}.")
    for part, weight in (("training", weights[0]), ("held-out", weights[1])):
        if weight <= 0 and (part == "training" or is_tested):
            raise DataError(f"the weights of all {part} rows are zero: there is nothing to fit.")


def check_target(name: str, rows: int, variance: float, mean: float) -> None:
    """Refuse a target that does not vary, beyond the rounding of its values."""
    if variance <= (4 * np.finfo(np.float64).eps * mean) ** 2:
        raise DataError(
            f"the target {name!r} is {mean:g} in all {rows:,} training rows, but for rounding: "
            "there is nothing to fit."
        )


def row_notes(dropped: int, unseen: int) -> list[str]:
    """What is to be said of rows and values that do not count."""
    notes: list[str] = []
    if dropped:
        notes.append(f"{dropped:,} rows were dropped for what is missing in them.")
    if unseen:
        notes.append(
            f"{unseen:,} values of held-out rows are levels or indices that no training row has: "
            "they count nothing."
        )
    return notes
