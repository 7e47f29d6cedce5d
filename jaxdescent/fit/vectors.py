"""The vectors over the rows that the first pass of a fit by descent keeps beside the features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxdescent import processes
from jaxdescent.data import DataError
from jaxdescent.fit.checks import Lengths, RowCounts, check_target
from jaxdescent.fit.column_squares import ColumnSquares, deviations
from jaxdescent.fit.encoding import Encoded
from jaxdescent.fit.job import Job
from jaxdescent.fit.methods import AUTO
from jaxdescent.fit.prepared import TRAIN, Prepared, Preparing, prepared_blocks, shifted_numbers
from jaxdescent.fit.sums import not_finite


class Vectors:
    """Targets and weights of the rows that a descent multiplies, and counts of all rows, found in a
    first pass.

    Args:
      job: the job of the fit.
      rows: how many rows there are at most.
      has_others: whether the descent multiplies rows of other data, which are held out.
      shift: (numbers,), subtracted from the columns of numbers; the means of the first block by
        default.
    """

    def __init__(
        self, job: Job, rows: int, *, has_others: bool, shift: np.ndarray | None = None
    ) -> None:
        encoding = job.encoding
        self._job, self._has_others = job, has_others
        self.dtype = np.dtype(job.request.dtype or "float32")
        numbers = len(encoding.numbers)
        self.target = np.empty(rows)
        self._weight = np.empty(rows) if job.roles.weights is not None else None
        has_test = job.is_tested if has_others else job.request.test > 0
        self._is_test = np.zeros(rows, bool) if has_test else None
        self.shift = self.fills = np.zeros(numbers)
        self._given_shift = shift
        self._absent = np.zeros(numbers)  # the summed weights of the rows without the number
        has_moments = job.request.standardize or job.request.l2 == AUTO
        self._moments = ColumnSquares(encoding.size, self.dtype) if has_moments else None
        self._lengths = Lengths([*encoding.numbers, *encoding.sloped], self.dtype)
        self._sums = np.zeros(numbers)
        self.counts, self.filled = RowCounts(), 0

    def read_all(
        self,
        at_once: int,
        keep: Callable[[Encoded, np.ndarray, slice], None] = lambda encoded, numbers, place: None,
    ) -> None:
        """Make the pass, and refuse values and rows that no fit can use.

        ``keep`` gets the features of each block whose rows a descent multiplies, their numbers less
        the shift, (kept rows, numbers), zero where one is missing, and the place of the rows.
        """
        for prepared, is_other in prepared_blocks(self._job, Preparing.of(self._job), at_once):
            numbers = self._add(prepared)
            if self._has_others or not is_other:
                keep(prepared.encoded, numbers, self._place(prepared, numbers))
            del prepared, numbers
        self._close()

    def _add(self, prepared: Prepared) -> np.ndarray:
        """Count a block's rows, refuse values that cannot be used, and return its numbers."""
        encoded, rows = prepared.encoded, prepared.encoded.kept
        if not self.counts.read:
            # Every process must take part in the exchange, or none.
            given = self._given_shift
            own = prepared.means[:-1]
            self.shift = processes.array_of_first(own) if given is None else given
        numbers = shifted_numbers(encoded, rows, self.shift, self.dtype)
        target = np.asarray(prepared.target.values[rows], np.float64)
        slopes = [each.values[rows] for each in encoded.coded if each.values is not None]
        if not (self._lengths.add(numbers, slopes) and np.isfinite(target).all()):
            raise not_finite(prepared, self._job.encoding, rows)
        self.counts.add(prepared)
        return numbers

    def _place(self, prepared: Prepared, numbers: np.ndarray) -> slice:
        """Keep a block's target and weights, add up its numbers, and return where they are."""
        block, encoded = prepared.block, prepared.encoded
        rows, target = encoded.kept, prepared.target.values[encoded.kept]
        weight = np.ones(block.rows) if prepared.weight is None else prepared.weight
        train = np.zeros(block.rows, bool)
        chosen = prepared.parts[TRAIN]
        train[slice(None) if chosen is None else chosen] = True
        train = train[rows]
        place = slice(self.filled, self.filled + target.size)
        if place.stop > self.target.size:
            raise DataError("the data have more rows than when they were counted: fit again.")
        self.target[place] = target
        if self._weight is not None:
            self._weight[place] = weight[rows]
        if self._is_test is not None:
            self._is_test[place] = ~train
        self.filled = place.stop
        s = np.where(train, weight[rows], 0.0)
        if self._job.request.missing == "mean":
            self._sums += s @ numbers
            for j, number in enumerate(encoded.numbers):
                if number.missing is not None:
                    self._absent[j] += s[number.missing[rows]].sum()
        if self._moments is not None:
            chunk = self._job.encoding.chunk(encoded, numbers, rows, block)
            self._moments.add(chunk, s)
        return place

    def _close(self) -> None:
        """Cut off the places that dropped rows left, add the sums of other processes, and refuse
        rows, weights or a target that no fit can use.
        """
        job, kept = self._job, slice(0, self.filled)
        self._absent, self._sums = processes.added(np.stack([self._absent, self._sums]))
        self.counts.close(job, self.dtype)
        total = self.counts.weights[TRAIN]
        self._lengths.check(self.shift)
        self.target = self.target[kept]
        self._weight = None if self._weight is None else self._weight[kept]
        self._is_test = None if self._is_test is None else self._is_test[kept]
        weight = self.training_weight
        s = np.ones(self.filled) if weight is None else weight
        self.mean = float(processes.added(np.array([s @ self.target]))[0] / total)
        squares = processes.added(np.array([s @ np.square(self.target - self.mean)]))
        variance = float(squares[0]) / total
        check_target(job.roles.target, self.counts.rows[TRAIN], variance, self.mean)
        self.spread = float(np.sqrt(variance))
        there = total - self._absent
        is_there = there > 1e-12 * total
        self.fills = np.where(is_there, self._sums / np.where(is_there, there, 1.0), 0.0)
        self.scales: np.ndarray | None = None
        if self._moments is not None:
            self.squares = self._moments.squares(self.shift, self.fills, self._absent)
            if job.request.standardize:
                self.scales = deviations(self.squares, total)

    @property
    def units(self) -> dict[str, Any]:
        """The numbers by which rows are shifted and scaled, for a fit that is resumed."""
        units = {"shift": self.shift, "fills": self.fills, "mean": self.mean, "spread": self.spread}
        return units if self.scales is None else units | {"scales": self.scales}

    def use(self, units: Mapping[str, np.ndarray]) -> None:
        """Use the units of the fit that is resumed, bit for bit."""
        self.fills, self.scales = units["fills"], units.get("scales")
        self.mean, self.spread = float(units["mean"]), float(units["spread"])

    @property
    def penalised_squares(self) -> np.ndarray:
        """The training rows' features' squares about their means, (features,), in the units in
        which their weights are penalised.
        """
        return self.squares if self.scales is None else self.squares / np.square(self.scales)

    @property
    def training_weight(self) -> np.ndarray | None:
        """The weights of the training rows, (rows,), zero for held-out rows; None for ones."""
        if self._is_test is None:
            return self._weight
        return np.where(self._is_test, 0.0, 1.0 if self._weight is None else self._weight)

    @property
    def parts(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The weights of the training rows and of the held-out rows, (rows,) each, zero for the
        others; None where no row is held out.
        """
        every = np.ones(self.filled) if self._weight is None else self._weight
        if self._is_test is None:
            return every, None
        return np.where(self._is_test, 0.0, every), np.where(self._is_test, every, 0.0)
