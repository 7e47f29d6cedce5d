"""Checks of every way of fitting: enough rows, usable weights, and a target that varies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxdescent import processes
from jaxdescent.data import DataError
from jaxdescent.fit.fitted import Fitted
from jaxdescent.fit.request import Request

LENGTHS = {"float32": (1e-15, 1e15), "float64": (1e-140, 1e140)}
"""The least and the most that a column's largest absolute value may be, so that sums of squares
are far from where the dtype underflows and overflows."""

WEIGHTS = {"float32": (1e-25, 1e25), "float64": (1e-140, 1e140)}
"""The least and the largest sum of rows' weights that is accepted."""


class Lengths:
    """The largest absolute value of each column of numbers that a descent multiplies: squares of
    numbers as small as 1e-23 are zero in float32, and the column would count as one of zeros.
    """

    def __init__(self, names: Sequence[str], dtype: Any) -> None:
        self._names, self._dtype = list(names), np.dtype(dtype).name
        self._most = np.zeros(len(self._names))

    def add(self, numbers: np.ndarray, others: Iterable[np.ndarray]) -> bool:
        """Take in (rows, columns) and further columns; return whether all values are finite."""
        if not len(numbers):
            return True
        sides = np.max(numbers, axis=0, initial=0), -np.min(numbers, axis=0, initial=0)
        more = [np.max(np.abs(each), initial=0) for each in others]
        most = np.concatenate([np.maximum(*sides), more]).astype(np.float64)
        self._most = np.maximum(self._most, most)
        return bool(np.isfinite(most).all())

    def check(self, shift: np.ndarray | None) -> None:
        """Refuse columns whose squares the dtype does not hold.

        ``shift``, (numbers,), was subtracted from the first columns: a constant column is left with
        the rounding errors of such numbers, which are not refused for being small.

        Raises:
          DataError: with the column, its numbers, and what to do.
        """
        if not processes.is_alone():
            told = processes.told_bytes_by_all(self._most.tobytes())
            self._most = np.max([np.frombuffer(each) for each in told], axis=0)
        least, most = LENGTHS[self._dtype]
        rounding = np.zeros(len(self._names))
        if shift is not None:
            rounding[: shift.size] = 8 * np.finfo(np.float64).eps * np.abs(shift)
        for name, own, noise in zip(self._names, self._most, rounding, strict=True):
            if own > noise and not least <= own <= most:
                advice = " or say --dtype float64" if self._dtype == "float32" else ""
                raise DataError(
                    f"the numbers of {name!r} are up to {own:.1g} from their mean, and "
                    f"{self._dtype} cannot hold their squares: multiply them by {1 / own:.0e}"
                    f"{advice}."
                )


def check_rows(
    counts: tuple[int, int],
    weights: tuple[float, float],
    dropped: int,
    request: Request,
    *,
    is_tested: bool,
    dtype: Any = np.float64,
) -> None:
    """Refuse parts that are empty, or whose rows weigh nothing.

    Args:
      counts: how many training rows and held-out rows there are.
      weights: the sums of the weights of both.
      dropped: how many rows were left out.
      request: the options of the fit.
      is_tested: whether rows were to be held out.
      dtype: the dtype in which weights are multiplied.
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
    least, most = WEIGHTS[np.dtype(dtype).name]
    if not least <= weights[0] <= most:
        raise DataError(
            f"the weights of the training rows add up to {weights[0]:.2g}, which is beyond "
            f"{np.dtype(dtype)}: multiply them by {train / weights[0]:.0e}, and --l2 too."
        )


def check_target(name: str, rows: int, variance: float, mean: float) -> None:
    """Refuse a target that does not vary, beyond the rounding of its values."""
    if variance <= (4 * np.finfo(np.float64).eps * mean) ** 2:
        raise DataError(
            f"the target {name!r} is {mean:g} in all {rows:,} training rows, but for rounding: "
            "there is nothing to fit."
        )


def row_notes(dropped: int, unseen: int) -> list[str]:
    """Notes on dropped rows, and on values that no training row had."""
    notes: list[str] = []
    if dropped:
        notes.append(f"{dropped:,} rows were dropped for what is missing in them.")
    if unseen:
        notes.append(
            f"{unseen:,} values of held-out rows are levels or indices that no training row has: "
            "they count nothing."
        )
    return notes


def check_figures(fitted: Fitted) -> None:
    """Refuse a fit that ended without numbers: it could be neither kept nor used."""
    figures = [fitted.intercept, *(part.rmse for part in fitted.parts)]
    if not (np.isfinite(fitted.weights).all() and np.isfinite(figures).all()):
        raise DataError(
            f"the fit ended {fitted.details['status']}, with weights or errors that are NaN or "
            "infinite: numbers that are very large or very small have to be divided, or say "
            "--dtype float64."
        )
