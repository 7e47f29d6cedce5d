"""The first reading of all rows by any way of fitting, which refuses what no fit can use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxdescent import processes
from jaxdescent.data import DataError
from jaxdescent.fit.job import Job
from jaxdescent.fit.rows import TRAIN, Rows, read_rows, shifted_numbers

LENGTHS = {"float32": (1e-15, 1e15), "float64": (1e-140, 1e140)}
"""The least and the most that a column's largest absolute value may be, so that sums of squares
are far from where the dtype underflows and overflows."""

WEIGHTS = {"float32": (1e-25, 1e25), "float64": (1e-140, 1e140)}
"""The least and the largest sum of rows' weights that is accepted."""


class FirstPass:
    """All rows with their numbers less a shift, and counts of them, complete after the last one.

    The shift of a column is its mean in the first block (of the first process) that has a value of
    it: what is multiplied stays small beside the spread of the columns.

    Args:
      job: the job of the fit.
      at_once: how many rows are read at a time.
      dtype: the dtype of the numbers.
      shift: (numbers,), to use in place of the means.

    Attributes:
      shift: (numbers,), the shift of the numbers.
      rows: how many rows the training part and the held-out part have.
      weights: the sums of the weights of both.
      dropped: how many rows were left out because a value is missing.
      unseen: how many values are levels or indices that no training row has.
      read: how many rows this process has read.
      center: the shift of the target.
      lengths: the largest absolute value of each column that is multiplied.
    """

    def __init__(self, job: Job, at_once: int, dtype: Any, shift: np.ndarray | None = None) -> None:
        encoding = job.encoding
        self._job, self._at_once, self._dtype = job, at_once, dtype
        # The means that are known so far, of the numbers and the target; NaN where none is.
        self._means = np.full(len(encoding.numbers) + 1, np.nan)
        self._has_shift = shift is not None
        self.rows, self.weights = [0, 0], [0.0, 0.0]
        self.dropped = self.unseen = self.read = 0
        self.shift = np.zeros(len(encoding.numbers)) if shift is None else shift
        self.center = 0.0
        self.lengths = Lengths([*encoding.numbers, *encoding.sloped], dtype)

    def __iter__(self) -> Iterator[tuple[Rows, np.ndarray, bool]]:
        """Each block's rows, their numbers less the shift, (rows, numbers), zero where one is
        missing, and whether the rows are of other data that are held out.

        Raises:
          DataError: for NaN and infinity, with the row, too few rows, and weights of zero.
        """
        for rows, is_other in read_rows(self._job, self._at_once):
            # Of several processes, every one must take part in the exchange, or none.
            if not self._has_shift and (not self.read or processes.is_alone()):
                self._center(rows)
            numbers = shifted_numbers(rows.encoded, self.shift, self._dtype)
            slopes = [each.values for each in rows.encoded.coded if each.values is not None]
            if not (self.lengths.add(numbers, slopes) and np.isfinite(rows.target).all()):
                rows.refuse_not_finite(self._job.encoding.numbers)
            self._count(rows)
            yield rows, numbers, is_other
            del rows, numbers, slopes
        self._close()

    def _center(self, rows: Rows) -> None:
        """Take the shift of columns that had no value before from a block: their terms were zero,
        whatever the shift.
        """
        if np.isnan(self._means).any():
            for told in processes.told_bytes_by_all(rows.means.tobytes()):
                self._means = np.where(np.isnan(self._means), np.frombuffer(told), self._means)
            *shift, self.center = np.nan_to_num(self._means).tolist()
            self.shift = np.asarray(shift)

    def _count(self, rows: Rows) -> None:
        for part in range(2):
            own = rows.is_test == part
            count = int(np.count_nonzero(own))
            weight = count if rows.weight is None else np.sum(rows.weight[own])
            self.rows[part] += count
            self.weights[part] += float(weight)
        self.dropped += rows.read - rows.encoded.rows
        self.unseen += rows.encoded.unseen
        self.read += rows.read

    def _close(self) -> None:
        """Add what the other processes of a fit counted, and refuse parts that are empty, or whose
        rows weigh nothing in this dtype.
        """
        job, dtype = self._job, np.dtype(self._dtype)
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
        (least, most), total = WEIGHTS[dtype.name], self.weights[TRAIN]
        if not least <= total <= most:
            raise DataError(
                f"the weights of the training rows add up to {total:.2g}, which is beyond "
                f"{dtype}: multiply them by {train / total:.0e}, and --l2 too."
            )

    def check_target(self, variance: float, mean: float) -> None:
        """Refuse a target that does not vary, beyond the rounding of its values."""
        if variance <= (4 * np.finfo(np.float64).eps * mean) ** 2:
            raise DataError(
                f"the target {self._job.roles.target!r} is {mean:g} in all {self.rows[TRAIN]:,} "
                "training rows, but for rounding: there is nothing to fit."
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
