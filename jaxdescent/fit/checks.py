"""Checks of every way of fitting: enough rows, usable weights, and a target that varies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxdescent import processes
from jaxdescent.data import DataError
from jaxdescent.fit.fitted import Fitted
from jaxdescent.fit.job import Job
from jaxdescent.fit.prepared import TRAIN, Prepared

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

    def check(self, shift: np.ndarray) -> None:
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
        rounding[: shift.size] = 8 * np.finfo(np.float64).eps * np.abs(shift)
        for name, own, noise in zip(self._names, self._most, rounding, strict=True):
            if own > noise and not least <= own <= most:
                advice = " or say --dtype float64" if self._dtype == "float32" else ""
                raise DataError(
                    f"the numbers of {name!r} are up to {own:.1g} from their mean, and "
                    f"{self._dtype} cannot hold their squares: multiply them by {1 / own:.0e}"
                    f"{advice}."
                )


class RowCounts:
    """How many rows a pass has met, and what they weigh.

    Attributes:
      rows: how many rows the training part and the held-out part have.
      weights: the sums of the weights of both.
      dropped: how many rows were left out because a value is missing.
      unseen: how many values are levels or indices that no training row has.
      read: how many rows this process has read.
    """

    def __init__(self) -> None:
        self.rows, self.weights = [0, 0], [0.0, 0.0]
        self.dropped = self.unseen = self.read = 0

    def add(self, prepared: Prepared) -> None:
        """Count a block's rows."""
        weight = np.ones(prepared.block.rows) if prepared.weight is None else prepared.weight
        for part, own in enumerate(prepared.parts):
            self.rows[part] += prepared.rows_of(part)
            self.weights[part] += float(np.sum(weight if own is None else weight[own]))
        self.dropped += prepared.dropped
        self.unseen += prepared.encoded.unseen
        self.read += prepared.block.rows

    def close(self, job: Job, dtype: Any = np.float64) -> None:
        """Add what the other processes of a fit counted, and refuse parts that are empty, or whose
        rows weigh nothing in this dtype.
        """
        counts = np.array([*self.rows, self.dropped, self.unseen])
        train, test, self.dropped, self.unseen = processes.added(counts).tolist()
        self.rows, self.weights = [train, test], processes.added(np.array(self.weights)).tolist()
        without = f", {self.dropped:,} dropped for what is missing in them" if self.dropped else ""
        if train < 2:
            held_out = f" and {test:,} held out" if job.is_tested else ""
            raise DataError(f"at least 2 rows are needed to fit, got {train}{without}{held_out}.")
        if job.is_tested and not test:
            share = job.request.test
            advice = f"raise --test, got {share:g}" if share else "--test-data is empty"
            raise DataError(f"none of the {train:,} rows was held out{without}: {advice}.")
        for part, weight in zip(("training", "held-out"), self.weights, strict=True):
            if weight <= 0 and (part == "training" or job.is_tested):
                raise DataError(
                    f"the weights of all {part} rows are zero: there is nothing to fit."
                )
        (least, most), total = WEIGHTS[np.dtype(dtype).name], self.weights[TRAIN]
        if not least <= total <= most:
            raise DataError(
                f"the weights of the training rows add up to {total:.2g}, which is beyond "
                f"{np.dtype(dtype)}: multiply them by {train / total:.0e}, and --l2 too."
            )

    @property
    def notes(self) -> list[str]:
        """Notes on dropped rows, and on values that no training row had."""
        notes: list[str] = []
        if self.dropped:
            notes.append(f"{self.dropped:,} rows were dropped for what is missing in them.")
        if self.unseen:
            notes.append(
                f"{self.unseen:,} values of held-out rows are levels or indices that no training "
                "row has: they count nothing."
            )
        return notes


def check_target(name: str, rows: int, variance: float, mean: float) -> None:
    """Refuse a target that does not vary, beyond the rounding of its values."""
    if variance <= (4 * np.finfo(np.float64).eps * mean) ** 2:
        raise DataError(
            f"the target {name!r} is {mean:g} in all {rows:,} training rows, but for rounding: "
            "there is nothing to fit."
        )


def check_figures(fitted: Fitted) -> None:
    """Refuse a fit that ended without numbers: it could be neither kept nor used."""
    figures = [fitted.intercept, *(part.rmse for part in fitted.parts)]
    if not (np.isfinite(fitted.weights).all() and np.isfinite(figures).all()):
        raise DataError(
            f"the fit ended {fitted.details['status']}, with weights or errors that are NaN or "
            "infinite: numbers that are very large or very small have to be divided, or say "
            "--dtype float64."
        )
