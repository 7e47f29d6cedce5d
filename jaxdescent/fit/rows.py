"""Rows that are ready for a fit: encoded, with targets and weights, and which are held out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np

from jaxdescent.data import Block, DataError, located, read_ahead
from jaxdescent.data.chunk import check_finite
from jaxdescent.data.decoding import NumberColumn, matrix_of, refuse_missing
from jaxdescent.data.filters import rows_of
from jaxdescent.data.hashing import finalised
from jaxdescent.fit.columns import as_numbers, missing_in
from jaxdescent.fit.encoding import Encoded, Policy
from jaxdescent.fit.job import Job
from jaxdescent.fit.roles import Roles

TRAIN, TEST = 0, 1


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a block, without those that are dropped.

    Attributes:
      block: these rows as they were read.
      kept: their places in the block that was read.
      read: how many rows that block has.
      encoded: the features of the rows.
      target: (rows,), in float64.
      weight: (rows,), in float64, or None for ones.
      is_test: (rows,), which rows are held out.
    """

    block: Block
    kept: slice | np.ndarray
    read: int
    encoded: Encoded
    target: np.ndarray
    weight: np.ndarray | None
    is_test: np.ndarray

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
    """Encode a block, refuse missing and wrong values, and choose which rows are held out.

    Args:
      block: the block.
      roles: the roles of the columns.
      missing: "error", "drop" or "mean".
      share: the share of the rows that is held out.
      seed: the seed by which these rows are chosen.
      is_other: whether the rows are of other data, all of which are held out.
    """
    read, kept, policy = block.rows, slice(None), Policy(missing, unseen="zero")
    is_test = np.full(read, is_other)
    if share and not is_other:
        is_test = is_held_out(block.start, read, share, seed)
    if missing == "drop":
        numbers = {*roles.own, *roles.features.numeric}
        found = (
            missing_in(block.columns[name], is_number=name in numbers)
            for name in (*numbers, *roles.features.labelled)
        )
        if lacking := [each for each in found if each is not None]:
            there = ~np.logical_or.reduce(lacking)
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
    encoded = roles.features.encode(block, policy)
    weights = weight[0] if weight else None
    return Rows(block, kept, read, encoded, target, weights, is_test[kept])


def read_rows(job: Job, at_once: int) -> Iterator[tuple[Rows, bool]]:
    """The rows of all sources, prepared on a thread of their own, and whether they are of other
    data that are held out.
    """
    roles, request = job.roles, job.request
    options: dict[str, Any] = {"missing": request.missing, "share": request.test}
    options |= {"roles": roles, "seed": request.seed}
    for part, source in enumerate(job.sources):
        job.watch.begin("held-out rows" if part else "reading", source.rows)
        prepare = functools.partial(prepared, is_other=part == TEST, **options)
        blocks = functools.partial(located, source, roles.columns, at_once, job.first_row)
        read = 0
        for rows in read_ahead(lambda prepare=prepare, blocks=blocks: map(prepare, blocks())):
            yield rows, part == TEST
            read += rows.read
            del rows
            job.watch.advance(read)
            job.memory.check()


def shifted_numbers(
    encoded: Encoded, shift: np.ndarray, dtype: Any, fills: np.ndarray | None = None
) -> np.ndarray:
    """The numbers less the shift, (rows, numbers); ``fills``, or zeros, where one is missing."""
    columns = [number.values for number in encoded.numbers]
    whole = matrix_of(columns)
    with np.errstate(over="ignore", invalid="ignore"):
        if whole is not None:
            made = np.empty_like(whole, dtype=dtype, order="K")
            np.subtract(whole, shift, out=made, casting="same_kind", dtype=np.float64)
        else:
            made = np.empty((len(columns), encoded.rows), dtype).T
            for j, values in enumerate(columns):
                made[:, j] = np.subtract(values, shift[j], dtype=np.float64)
    for j, number in enumerate(encoded.numbers):
        if number.missing is not None:
            made[number.missing, j] = 0.0 if fills is None else fills[j]
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
