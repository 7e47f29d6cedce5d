"""Rows that are ready for a fit: encoded, with targets and weights, and which are held out; and the
first reading of all rows by any way of fitting, which refuses what no fit can use.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from jaxdescent import processes
from jaxdescent.data import Block, DataError, located, read_ahead
from jaxdescent.data.chunk import check_finite
from jaxdescent.data.decoding import NumberColumn, refuse_missing
from jaxdescent.data.filters import rows_of
from jaxdescent.fit.columns import as_numbers, missing_in
from jaxdescent.fit.encoding import Encoded
from jaxdescent.fit.job import Job
from jaxdescent.fit.roles import Roles
from jaxdescent.rows.hashing import finalised

TRAIN, TEST = 0, 1

LENGTHS = {"float32": (1e-15, 1e15), "float64": (1e-140, 1e140)}
"""The least and the most that a column's largest absolute value may be, so that sums of squares
are far from where the dtype underflows and overflows."""

WEIGHTS = {"float32": (1e-25, 1e25), "float64": (1e-140, 1e140)}
"""The least and the largest sum of rows' weights that is accepted."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a block, without those that are dropped."""

    # These rows as they were read; the block starts at the number of the first one that was read.
    block: Block
    kept: slice | np.ndarray  # their places in the block that was read
    read: int  # how many rows that block has
    encoded: Encoded  # the features of the rows
    target: np.ndarray  # (rows,), in float64
    weight: np.ndarray | None  # (rows,), in float64, or None for ones
    is_test: np.ndarray  # (rows,), which rows are held out
    is_other: bool  # whether the rows are of other data, all of which are held out

    @property
    def means(self) -> np.ndarray:
        """The means of the numbers and of the target over the rows that count, or over all where
        none does, missing values apart; NaN without any value, and zero where a mean is not finite.

        Less its mean, a column that is constant in the rows that count is zero in sums over them,
        and no rounding error of sums that cancel.
        """
        counts = self.weight_of(TRAIN) > 0
        means: list[float] = []
        with np.errstate(invalid="ignore", over="ignore"):
            for values, missing in (*self.encoded.numbers, NumberColumn(self.target, None)):
                there = np.ones(values.size, bool) if missing is None else ~missing
                own = values[there & counts if (there & counts).any() else there]
                mean = float(np.mean(own, dtype=np.float64)) if own.size else np.nan
                means.append(mean if np.isfinite(mean) or not own.size else 0.0)
        return np.asarray(means)

    def weight_of(self, part: int) -> np.ndarray:
        """The weights of the rows of a part, (rows,), zero for the others."""
        return np.where(self.is_test == part, 1.0 if self.weight is None else self.weight, 0.0)

    def refuse_not_finite(self, names: tuple[str, ...]) -> NoReturn:
        """Say which number or target is NaN, infinite or too large."""
        for who, (values, _) in zip(map(repr, names), self.encoded.numbers, strict=True):
            check_finite(values, who, self.block, or_say=" or say --missing drop or mean")
        check_finite(self.target, "the target", self.block, or_say=" or say --missing drop")
        raise DataError(
            f"values around {self.block.place(0)} are too large: their squares overflow; divide "
            "them."
        )


def prepared(
    block: Block,
    roles: Roles,
    missing: str,
    *,
    share: float = 0.0,
    seed: int = 0,
    is_other: bool = False,
) -> Rows:
    """Encode a block, refuse missing and wrong values, and choose by the seed which share of the
    rows is held out; of other data all are.
    """
    read, kept = block.rows, slice(None)
    is_test = np.full(read, is_other)
    if share and not is_other:
        is_test = is_held_out(block.start, read, share, seed)
    if missing == "drop" and (there := complete_rows(block, roles)) is not None:
        kept, block = np.flatnonzero(there), rows_of(block, roles.columns, there)
    own = [as_numbers(block.columns[name], nan_is_missing=False) for name in roles.own]
    for given, _ in own[1:]:
        wrong = (given < 0) | ~np.isfinite(given)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"weights must be finite and at least 0, got {given[row]} for "
                f"{roles.weights!r} in {block.place(row)}."
            )
    advice = "--missing drop leaves such rows out, and --missing mean is for features alone"
    for name, (_, absent) in zip(roles.own, own, strict=True):
        refuse_missing(absent, name, block, advice)
    target, *weight = (np.asarray(given, np.float64) for given, _ in own)
    encoded = roles.features.encode(block, missing, unseen="zero")
    weights = weight[0] if weight else None
    return Rows(block, kept, read, encoded, target, weights, is_test[kept], is_other)


def complete_rows(block: Block, roles: Roles) -> np.ndarray | None:
    """Which rows of a block lack nothing that a fit reads, (rows,); None where all are complete."""
    numbers = {*roles.own, *roles.features.numeric}
    found = (
        missing_in(block.columns[name], is_number=name in numbers)
        for name in (*numbers, *roles.features.labelled)
    )
    lacking = [each for each in found if each is not None]
    return ~np.logical_or.reduce(lacking) if lacking else None


def read_rows(job: Job, at_once: int) -> Iterator[Rows]:
    """The rows of all sources, prepared on a thread of their own."""
    roles, request = job.roles, job.request
    options: dict[str, Any] = {"missing": request.missing, "share": request.test}
    options |= {"roles": roles, "seed": request.seed}
    for part, source in enumerate(job.sources):
        job.watch.begin("held-out rows" if part else "reading", source.rows)
        prepare = functools.partial(prepared, is_other=part == TEST, **options)
        blocks = functools.partial(located, source, roles.columns, at_once, number=job.first_row)
        read = 0
        for rows in read_ahead(lambda prepare=prepare, blocks=blocks: map(prepare, blocks())):
            yield rows
            read += rows.read
            del rows
            job.watch.advance(read)
            job.memory.check()


def shifted_numbers(
    encoded: Encoded, shift: np.ndarray, dtype: Any, fills: np.ndarray | None = None
) -> np.ndarray:
    """The numbers less the shift, (rows, numbers); ``fills``, or zeros, where one is missing."""
    whole = encoded.matrix
    with np.errstate(over="ignore", invalid="ignore"):
        if whole is not None:
            made = np.empty_like(whole, dtype=dtype, order="K")
            return np.subtract(whole, shift, out=made, casting="same_kind", dtype=np.float64)
        made = np.empty((len(encoded.numbers), encoded.rows), dtype).T
        for j, number in enumerate(encoded.numbers):
            made[:, j] = np.subtract(number.values, shift[j], dtype=np.float64)
    for j, missing in encoded.missing:
        made[missing, j] = 0.0 if fills is None else fills[j]
    return made


def is_held_out(start: int, rows: int, share: float, seed: int) -> np.ndarray:
    """For rows ``start`` to ``start + rows``, whether each is held out, with this probability.

    It is decided by a hash: the same row is held out in every run with the same seed.
    """
    number = np.arange(start, start + rows, dtype=np.uint64)
    # The products are meant to wrap around at 64 bits.
    with np.errstate(over="ignore"):
        state = number + np.uint64(seed) * np.uint64(0xD1B54A32D192ED03) + np.uint64(1)
        state = finalised(state * np.uint64(0x9E3779B97F4A7C15))
    return (state >> np.uint64(11)) * 2.0**-53 < share


class FirstPass:
    """All rows with their numbers less a shift, and counts of them, complete after the last one.

    The shift of a column is its mean in the first block (of the first process) that has a value of
    it, or else the one that is given: what is multiplied stays small beside the spread of the
    columns. ``shift`` is that of the numbers, (numbers,), and ``center`` that of the target.
    """

    def __init__(self, job: Job, at_once: int, dtype: Any, shift: np.ndarray | None = None) -> None:
        encoding = job.encoding
        self._job, self._at_once, self._dtype = job, at_once, dtype
        # The means that are known so far, of the numbers and the target; NaN where none is.
        numbers = len(encoding.numbers)
        self._means = np.full(numbers + 1, np.nan) if shift is None else np.append(shift, 0.0)
        # Of the training part and of the held-out part: how many rows, and the sum of the weights.
        self.rows, self.weights = [0, 0], [0.0, 0.0]
        # How many training rows have a weight above zero, how many rows were left out because a
        # value is missing, how many values are levels or indices that no training row has, and how
        # many rows this process has read.
        self.weighed = self.dropped = self.unseen = self.read = 0
        self._lengths = Lengths([*encoding.numbers, *encoding.sloped], dtype)
        self._of_target = Lengths([job.roles.target], np.float64)

    def __iter__(self) -> Iterator[tuple[Rows, np.ndarray]]:
        """Each block's rows, and their numbers less the shift, (rows, numbers), zero where one is
        missing. NaN and infinity are refused, too few rows, and weights of zero.
        """
        for rows in read_rows(self._job, self._at_once):
            # Of several processes, every one must take part in the exchange, or none.
            if not self.read or processes.is_alone():
                self._center(rows)
            numbers = shifted_numbers(rows.encoded, self.shift, self._dtype)
            slopes = [each.values for each in rows.encoded.coded if each.values is not None]
            with np.errstate(over="ignore"):
                target = rows.target[:, None] - self.center
            if not (self._lengths.add(numbers, slopes) and self._of_target.add(target, [])):
                rows.refuse_not_finite(self._job.encoding.numbers)
            for part in range(2):
                own = rows.is_test == part
                count = int(np.count_nonzero(own))
                weight = count if rows.weight is None else np.sum(rows.weight[own])
                self.rows[part] += count
                self.weights[part] += float(weight)
            self.weighed += int(np.count_nonzero(rows.weight_of(TRAIN)))
            self.dropped += rows.read - rows.encoded.rows
            self.unseen += rows.encoded.unseen
            self.read += rows.read
            yield rows, numbers
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

    def _close(self) -> None:
        """Add what the other processes of a fit counted, and refuse parts that are empty, or whose
        rows weigh nothing in this dtype, and columns whose squares it does not hold.
        """
        job, dtype = self._job, np.dtype(self._dtype)
        counts = np.array([*self.rows, self.weighed, self.dropped, self.unseen])
        train, test, self.weighed, self.dropped, self.unseen = processes.added(counts).tolist()
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
        self._lengths.check(self.shift)
        self._of_target.check(np.array([self.center]))

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
    """The largest absolute value of each column of numbers that a fit multiplies: squares of
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
        """
        told = processes.told_bytes_by_all(self._most.tobytes())
        self._most = np.max([np.frombuffer(each) for each in told], axis=0)
        least, most = LENGTHS[self._dtype]
        rounding = np.zeros(len(self._names))
        rounding[: shift.size] = 8 * np.finfo(np.float64).eps * np.abs(shift)
        for name, own, noise in zip(self._names, self._most, rounding, strict=True):
            if own > noise and not least <= own <= most:
                advice = " or say --dtype float64" if self._dtype == "float32" else ""
                factor = min(1 / float(own), 1e300)  # subnormal numbers have no finite inverse
                raise DataError(
                    f"the numbers of {name!r} are up to {own:.1g} from their mean, and "
                    f"{self._dtype} cannot hold their squares: multiply them by {factor:.0e}"
                    f"{advice}."
                )
