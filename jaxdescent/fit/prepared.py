"""Blocks that are ready for a fit, with weights, and which of their rows are held out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxdescent.data import Block, DataError, Source, located, read_ahead
from jaxdescent.data.decoding import NumberColumn, matrix_of
from jaxdescent.fit.columns import as_numbers
from jaxdescent.fit.encoding import Encoded, Encoding, Policy, missing_value
from jaxdescent.fit.job import Job
from jaxdescent.fit.roles import Roles

TRAIN, TEST = 0, 1


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A block that is ready to be added up.

    Attributes:
      block: the block as it was read.
      encoded: the block's features.
      target: the target.
      weight: the weight of each row, or None for ones.
      parts: the rows of the training part and of the held-out part; None for all.
    """

    block: Block
    encoded: Encoded
    target: NumberColumn
    weight: np.ndarray | None
    parts: tuple[np.ndarray | None, np.ndarray | None]

    @property
    def dropped(self) -> int:
        """How many rows are left out because a value is missing."""
        keep = self.encoded.keep
        return 0 if keep is None else self.block.rows - keep.size

    @property
    def means(self) -> np.ndarray:
        """The means of the numbers and of the target over the rows that are not left out, missing
        values apart; zero where a mean is not finite.
        """
        rows = slice(None) if self.encoded.keep is None else self.encoded.keep
        means: list[float] = []
        with np.errstate(invalid="ignore", over="ignore"):
            for values, missing in (*self.encoded.numbers, self.target):
                own = values[rows]
                there = own if missing is None else own[~missing[rows]]
                mean = float(np.mean(there, dtype=np.float64)) if there.size else 0.0
                means.append(mean if np.isfinite(mean) else 0.0)
        return np.asarray(means)

    def rows_of(self, part: int) -> int:
        """How many rows are in this part."""
        rows = self.parts[part]
        return self.block.rows if rows is None else rows.size


@dataclasses.dataclass(frozen=True)
class Preparing:
    """A function that prepares blocks.

    Attributes:
      share: the share of the rows that is held out.
      seed: the seed by which these rows are chosen.
      part: the part that all rows belong to where no share is held out.
    """

    roles: Roles
    policy: Policy
    share: float = 0.0
    seed: int = 0
    part: int = TRAIN

    @classmethod
    def of(cls, job: Job) -> Preparing:
        """The preparation of blocks for the passes of a fit."""
        policy = Policy(job.request.missing, unseen="zero")
        return cls(job.roles, policy, job.request.test, job.request.seed)

    @property
    def encoding(self) -> Encoding:
        """How columns become features."""
        return self.roles.features

    def __call__(self, block: Block) -> Prepared:
        """Encode a block, refuse missing and wrong values, and choose which rows are held out."""
        roles, policy = self.roles, self.policy
        drops = policy.missing == "drop"
        target = as_numbers(block.columns[roles.target], nan_is_missing=drops)
        others = [target]
        weight = None
        if roles.weights is not None:
            weight, missing = as_numbers(block.columns[roles.weights], nan_is_missing=drops)
            others.append(NumberColumn(weight, missing))
            wrong = (weight < 0) | ~np.isfinite(weight)
            if wrong.any():
                row = int(np.argmax(wrong))
                raise DataError(
                    f"weights must be finite and at least 0, got {weight[row]} for "
                    f"{roles.weights!r} in {block.place(row)}."
                )
        for name, column in zip(roles.own, others, strict=True):
            if column.missing is not None and not drops:
                row = int(np.argmax(column.missing))
                if policy.missing == "mean":
                    raise DataError(
                        f"{name!r} has no value in {block.place(row)}: --missing mean is for "
                        "features alone; --missing drop leaves such rows out."
                    )
                raise missing_value(block, name, row, policy)
        encoded = self.encoding.encode(block, policy, others)
        return Prepared(block, encoded, target, weight, self._parts(block, encoded.keep))

    def _parts(
        self, block: Block, keep: np.ndarray | None
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        none = np.zeros(0, np.int64)
        if not self.share:
            return (keep, none) if self.part == TRAIN else (none, keep)
        held_out = is_held_out(block.start, block.rows, self.share, self.seed)
        if keep is None:
            return np.flatnonzero(~held_out), np.flatnonzero(held_out)
        return keep[~held_out[keep]], keep[held_out[keep]]


def prepared_blocks(job: Job, preparing: Preparing, rows: int) -> Iterator[tuple[Prepared, bool]]:
    """The blocks of all sources, prepared on a thread of their own, and whether they are of other
    data that are held out.
    """
    names = job.roles.columns
    for part, source in enumerate(job.sources):
        job.watch.begin("held-out rows" if part else "reading", source.rows)
        own = dataclasses.replace(preparing, share=0.0, part=TEST) if part else preparing
        read = 0
        for prepared in _read_ahead(source, names, rows, job.first_row, own):
            yield prepared, part == TEST
            read += prepared.block.rows
            del prepared
            job.watch.advance(read)
            job.memory.check()


def _read_ahead(
    source: Source, names: Sequence[str], rows: int, first_row: int, preparing: Preparing
) -> Iterator[Prepared]:
    return read_ahead(lambda: map(preparing, located(source, names, rows, first_row)))


def shifted_numbers(
    encoded: Encoded,
    rows: slice | np.ndarray,
    shift: np.ndarray,
    dtype: Any,
    fills: np.ndarray | None = None,
) -> np.ndarray:
    """The numbers of some rows less the shift, (rows, numbers); ``fills``, or zeros, where one is
    missing.
    """
    whole = matrix_of([number.values for number in encoded.numbers])
    if whole is not None and isinstance(rows, slice):
        made = less(whole[rows], shift, dtype)
    else:
        count = len(range(encoded.rows)[rows]) if isinstance(rows, slice) else rows.size
        made = np.empty((len(encoded.numbers), count), dtype).T
        with np.errstate(over="ignore", invalid="ignore"):
            for j, number in enumerate(encoded.numbers):
                made[:, j] = np.subtract(number.values[rows], shift[j], dtype=np.float64)
    for j, number in enumerate(encoded.numbers):
        if number.missing is not None:
            made[number.missing[rows], j] = 0.0 if fills is None else fills[j]
    return made


def less(whole: np.ndarray, shift: np.ndarray, dtype: Any) -> np.ndarray:
    """A matrix less a shift of each column, in the memory order of the matrix."""
    made = np.empty_like(whole, dtype=dtype, order="K")
    with np.errstate(over="ignore", invalid="ignore"):
        np.subtract(whole, shift, out=made, casting="same_kind", dtype=np.float64)
    return made


def is_held_out(start: int, rows: int, share: float, seed: int) -> np.ndarray:
    """For rows ``start`` to ``start + rows``, whether each is held out, with this probability.

    The hash is SplitMix64's finaliser: the same row is held out in every run with the same seed.

    Reference: Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators".
    """
    number = np.arange(start, start + rows, dtype=np.uint64)
    # The products are meant to wrap around at 64 bits.
    with np.errstate(over="ignore"):
        state = number + np.uint64(seed) * np.uint64(0xD1B54A32D192ED03) + np.uint64(1)
        state = state * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)) * 2.0**-53 < share
