"""The vectors over the rows that the first pass of a fit by descent keeps beside the features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxdescent import processes
from jaxdescent.data import DataError
from jaxdescent.data.chunk import Chunk
from jaxdescent.fit.budget import ReadingPlan
from jaxdescent.fit.encoding import Encoded
from jaxdescent.fit.job import Job
from jaxdescent.fit.request import AUTO
from jaxdescent.fit.rows import TEST, TRAIN, FirstPass, Rows
from jaxdescent.rows.hashing import finalised

EXACT = 64 * np.finfo(float).eps
"""Squares about the mean that add up to less than this part of the sum of squares are rounding."""


class Vectors:
    """Targets and weights of the rows that a descent multiplies, and counts of all rows, found in a
    first pass, which refuses values and rows that no fit can use.

    Args:
      keep: gets the features of each block, their numbers less the shift, (rows, numbers), zero
        where one is missing, and the place of the rows, among which are those of other data, held
        out. None for a descent that reads features again, of the data's own rows alone.
      shift: (numbers,), subtracted from the columns of numbers; the means of the first block by
        default.
    """

    def __init__(
        self,
        job: Job,
        plan: ReadingPlan,
        keep: Callable[[Encoded, np.ndarray, slice], None] | None = None,
        shift: np.ndarray | None = None,
    ) -> None:
        encoding, request, rows = job.encoding, job.request, plan.rows
        self._job = job
        self.counts = FirstPass(job, plan.at_once, job.dtype, shift)  # of all rows, and the shift
        self.target, self.filled = np.empty(rows), 0  # (rows,), in float64
        has_test = request.test > 0 if keep is None else job.is_tested
        is_weighted = has_test or job.roles.weights is not None
        # (rows,), the weights, zero for rows that are held out, or None for ones; and those of the
        # rows that are held out, zero for the others, or None where none is.
        self.weight = np.empty(rows) if is_weighted else None
        self.held_out = np.empty(rows) if has_test else None
        # The sums of the numbers, and the weights of the rows without each of them.
        self._sums, self._absent = np.zeros((2, len(encoding.numbers)))
        has_moments = request.standardize or request.l2 == AUTO
        self._moments = ColumnSquares(encoding.size, job.dtype) if has_moments else None
        self._digest = None if job.checkpoint is None else RowsDigest()
        for own, numbers in self.counts:
            if self._digest is not None:
                self._digest.add(own)
            if keep is not None or not own.is_other:
                place = self._place(own, numbers)
                if keep is not None:
                    keep(own.encoded, numbers, place)
            del own, numbers
        self._close()

    def _place(self, rows: Rows, numbers: np.ndarray) -> slice:
        """Keep a block's target and weights, add up its numbers, and return where they are."""
        encoded = rows.encoded
        place = slice(self.filled, self.filled + rows.target.size)
        if place.stop > self.target.size:
            raise DataError("the data have more rows than when they were counted: fit again.")
        self.filled = place.stop
        self.target[place] = rows.target
        s = rows.weight_of(TRAIN)
        if self.weight is not None:
            self.weight[place] = s
        if self.held_out is not None:
            self.held_out[place] = rows.weight_of(TEST)
        if self._job.request.missing == "mean":
            self._sums += s @ numbers
            for j, missing in encoded.missing:
                self._absent[j] += s[missing].sum()
        if self._moments is not None:
            self._moments.add(self._job.encoding.chunk(encoded, numbers, rows.block), s)
        return place

    def _close(self) -> None:
        """Cut off the places that dropped rows left, add the sums of other processes, and refuse
        numbers or a target that no fit can use.
        """
        if self._digest is not None and self._job.checkpoint is not None:
            self._job.checkpoint.compare_rows(self._digest.of_all())
        counts, kept = self.counts, slice(0, self.filled)
        self.target = self.target[kept]
        self.weight = None if self.weight is None else self.weight[kept]
        self.held_out = None if self.held_out is None else self.held_out[kept]
        absent, sums = processes.added(np.stack([self._absent, self._sums]))
        total, s = counts.weights[TRAIN], self.parts[TRAIN]
        # The mean of the training rows' targets, and below their standard deviation.
        self.mean = float(processes.added(np.array([s @ self.target]))[0] / total)
        squares = processes.added(np.array([s @ np.square(self.target - self.mean)]))
        variance = float(squares[0]) / total
        counts.check_target(variance, self.mean)
        self.spread = float(np.sqrt(variance))
        there = total - absent
        is_there = there > 1e-12 * total
        # (numbers,), the means that stand for missing numbers, less the shift.
        self.fills = np.where(is_there, sums / np.where(is_there, there, 1.0), 0.0)
        self.scales: np.ndarray | None = None  # (features,), which divide features; None for ones
        if self._moments is not None:  # where the penalty needs them
            # (features,), of the training rows about their means of the features; then divided by
            # the scales.
            self.squares = self._moments.squares(total, counts.shift, self.fills, absent)
            if self._job.request.standardize:
                self.scales = np.sqrt(np.where(self.squares > 0, self.squares / total, 1.0))
                self.squares = self.squares / np.square(self.scales)

    @property
    def units(self) -> dict[str, Any]:
        """The numbers by which rows are shifted and scaled, for a fit that is resumed."""
        units = {"shift": self.counts.shift, "fills": self.fills}
        units |= {"mean": self.mean, "spread": self.spread}
        return units if self.scales is None else units | {"scales": self.scales}

    def use(self, units: Mapping[str, np.ndarray]) -> None:
        """Use the units of the fit that is resumed, bit for bit."""
        self.fills, self.scales = units["fills"], units.get("scales")
        self.mean, self.spread = float(units["mean"]), float(units["spread"])

    @property
    def parts(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The weights of the training rows and of the held-out rows, (rows,) each, zero for the
        others; None where no row is held out.
        """
        return np.ones(self.filled) if self.weight is None else self.weight, self.held_out


class ColumnSquares:
    """``sum_i s_i x_ij`` and ``sum_i s_i x_ij^2`` of all features, in float64; the first ones are
    columns of numbers, and one that varies within the rounding of their dtype counts as constant.
    """

    def __init__(self, features: int, dtype: Any) -> None:
        self.first, self.second = np.zeros(features), np.zeros(features)
        self._eps = float(np.finfo(dtype).eps)

    def add(self, chunk: Chunk, weight: np.ndarray) -> None:
        """Add rows, and their weights, (rows,)."""
        chunk.add(weight[:, None], None, self.first[:, None])
        chunk.add_squares(weight, None, self.second)

    def squares(
        self, total: float, shift: np.ndarray, fills: np.ndarray, absent: np.ndarray
    ) -> np.ndarray:
        """``sum_i s_i (x_ij - mean_j)^2`` over the rows of all processes, (features,); zero where a
        column does not vary.

        Args:
          total: the sum of the weights of all rows.
          shift: (numbers,), subtracted from the numbers before: a column that varies by less than
            float64 rounds such numbers counts as constant.
          fills: (numbers,), which stand for missing numbers, which were added as zeros.
          absent: (numbers,), the sum of the weights of the rows without the number.
        """
        first, second = processes.added(np.stack([self.first, self.second]))
        numbers = slice(0, shift.size)
        first[numbers] += absent * fills
        second[numbers] += absent * np.square(fills)
        mean = first / total
        squares = second - first * mean
        least = EXACT * second
        rounding = np.maximum(
            self._eps * np.abs(mean[numbers]), np.finfo(float).eps * np.abs(mean[numbers] + shift)
        )
        least[numbers] = np.maximum(least[numbers], total * np.square(4 * rounding))
        return np.where(squares > least, squares, 0.0)


class RowsDigest:
    """A digest of numbered rows, by which a fit that is resumed knows that they are those of then:
    the sum of a hash of each row, which depends neither on the blocks that were read nor on the
    processes that read them.
    """

    def __init__(self) -> None:
        self._sum = np.zeros(1, np.uint64)

    def add(self, rows: Rows) -> None:
        """Add the features, targets and weights of a block."""
        first = rows.block.start
        number = np.arange(first, first + rows.read, dtype=np.uint64)[rows.kept]
        columns = [rows.target, rows.is_test, rows.weight]
        for values, missing in rows.encoded.numbers:
            columns += [values, missing]
        for coded in rows.encoded.coded:
            columns += [coded.codes, coded.values]
        with np.errstate(over="ignore"):  # products and sums are meant to wrap around at 64 bits
            state = number + number + np.uint64(rows.is_other)
            for column in columns:
                state = _stirred(state, 0 if column is None else _words(column))
            for entries in rows.encoded.entries:
                own = _stirred(finalised(_words(entries.index)), _words(entries.values))
                sums = np.concatenate([[np.uint64(0)], np.cumsum(finalised(own), dtype=np.uint64)])
                state = _stirred(state, np.diff(sums[entries.starts]))
            self._sum += finalised(state).sum(dtype=np.uint64)

    def of_all(self) -> str:
        """The digest of the rows of all processes."""
        return f"{int(processes.added(self._sum)[0]):016x}"


def _words(column: np.ndarray) -> np.ndarray:
    """Each number of a column as a word of 64 bits."""
    dtype = np.float64 if np.issubdtype(column.dtype, np.floating) else np.int64
    return np.ascontiguousarray(column, dtype).view(np.uint64)


def _stirred(state: np.ndarray, words: Any) -> np.ndarray:
    """The states of rows after one more word of each."""
    words = np.asarray(words, np.uint64)
    return (state ^ words ^ (words >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
