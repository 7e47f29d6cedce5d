"""From columns to features: numbers as they are, levels and buckets as one-hot columns."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdescent.data import Block, DataError
from jaxdescent.fit.columns import Labels, Numbers, bucket_of, labels_of, numbers_of

NONE = -1
"""The code of a row whose value is missing, or is none of the levels."""


class Policy(NamedTuple):
    """What becomes of missing values, and of levels that were not there in training.

    Attributes:
      missing: "error", "drop" or "mean".
      unseen: "error" or "zero".
      is_fitting: whether the advice is to those who fit, or to those who predict.
    """

    missing: str = "error"
    unseen: str = "error"
    is_fitting: bool = True


@dataclasses.dataclass(frozen=True)
class Encoded:
    """The features of a block, before anything is multiplied.

    Attributes:
      numbers: a column each.
      codes: for each categorical column (rows,), :data:`NONE` for none.
      buckets: for each hashed column (rows,), places among the touched buckets, or :data:`NONE`.
      keep: the rows that are not dropped; None for all.
      unseen: how many values were none of the levels.
    """

    numbers: list[Numbers]
    codes: list[np.ndarray]
    buckets: list[np.ndarray]
    keep: np.ndarray | None
    unseen: int


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How columns become features, in the order of the weights.

    Attributes:
      numbers: columns that are features themselves.
      levels: the levels of each categorical column, a feature each.
      hashed: columns whose values share ``2**bits`` buckets.
      bits: of the buckets' number.
      buckets: those that some training row touched, sorted, a feature each.
      fills: what stands for a missing number, by column.
    """

    numbers: tuple[str, ...] = ()
    levels: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    hashed: tuple[str, ...] = ()
    bits: int = 0
    buckets: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    fills: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """Those that are read."""
        return [*self.numbers, *self.levels, *self.hashed]

    @property
    def labelled(self) -> list[str]:
        """Those that are read as text."""
        return [*self.levels, *self.hashed]

    @property
    def size(self) -> int:
        """How many features there are."""
        return len(self.numbers) + sum(map(len, self.levels.values())) + len(self.buckets)

    def feature_name(self, index: int) -> str:
        """What a weight belongs to."""
        if index < len(self.numbers):
            return self.numbers[index]
        index -= len(self.numbers)
        for column, levels in self.levels.items():
            if index < len(levels):
                return f"{column}={levels[index]}"
            index -= len(levels)
        return f"hash bucket {self.buckets[index]:,}"

    @functools.cached_property
    def _places(self) -> dict[str, dict[str, int]]:
        return {
            name: {level: index for index, level in enumerate(levels)}
            for name, levels in self.levels.items()
        }

    @functools.cached_property
    def _bucket_places(self) -> dict[int, int]:
        return {int(bucket): index for index, bucket in enumerate(self.buckets)}

    def encode(self, block: Block, policy: Policy, others: Sequence[Numbers] = ()) -> Encoded:
        """A block's features; rows where one of ``others`` is missing are dropped with the rest.

        Raises:
          DataError: for a missing value or an unseen level, with its row, unless the policy says
            what to do.
        """
        keep = np.ones(block.rows, bool) if policy.missing == "drop" else None

        def note(name: str, missing: np.ndarray | None) -> None:
            nonlocal keep
            if missing is None or not missing.any():
                return
            if policy.missing == "error":
                raise missing_value(block, name, int(np.argmax(missing)), policy)
            if keep is not None:
                keep &= ~missing

        for other in others:
            note("", other.missing)
        nan_is_missing = policy.missing != "error"
        numbers = []
        for name in self.numbers:
            number = numbers_of(block.columns[name], nan_is_missing=nan_is_missing)
            note(name, number.missing)
            numbers.append(number)
        labels = {name: labels_of(block.columns[name]) for name in self.labelled}
        for name, label in labels.items():
            note(name, label.codes < 0)
        unseen = 0
        codes, buckets = [], []
        for name, levels in self.levels.items():
            code, absent = _placed(labels[name], self._places[name].get)
            if absent.any() and policy.unseen == "error":
                row = int(np.argmax(absent))
                text = labels[name].texts[labels[name].codes[row]]
                raise DataError(
                    f"{name!r} is {text!r} in {block.place(row)}, which is none of the "
                    f"{len(levels):,} levels of the training rows: --unseen zero gives it the "
                    "weight zero."
                )
            unseen += int(absent.sum())
            codes.append(code)
        if self.hashed:
            place = self._bucket_places
            for name in self.hashed:
                # A bucket that no training row touched has the weight zero: nothing is unseen.
                code, _ = _placed(
                    labels[name],
                    lambda text, name=name: place.get(bucket_of(name, text, self.bits)),
                )
                buckets.append(code)
        kept = None if keep is None or keep.all() else np.flatnonzero(keep)
        return Encoded(numbers, codes, buckets, kept, unseen)

    def product(self, encoded: Encoded, weights: np.ndarray) -> np.ndarray:
        """Features times weights, (rows,), in float64."""
        total: Any = 0.0
        with np.errstate(invalid="ignore", over="ignore"):
            for name, number, weight in zip(self.numbers, encoded.numbers, weights, strict=False):
                values = number.values
                if number.missing is not None:
                    values = np.where(number.missing, self.fills.get(name, 0.0), values)
                total = total + np.multiply(values, float(weight), dtype=np.float64)
        start = len(self.numbers)
        for code, levels in zip(encoded.codes, self.levels.values(), strict=True):
            total = total + np.append(weights[start : start + len(levels)], 0.0)[code]
            start += len(levels)
        shared = np.append(weights[start:], 0.0)  # NONE is the last one
        for code in encoded.buckets:
            total = total + shared[code]
        return total


def missing_value(block: Block, name: str, row: int, policy: Policy) -> DataError:
    """The error that says where a value is missing."""
    advice = "fit with --missing mean to have means for such rows."
    if policy.is_fitting:
        advice = "--missing drop leaves such rows out, --missing mean puts the column's mean there."
    return DataError(f"{name!r} has no value in {block.place(row)}: {advice}")


def _placed(labels: Labels, place: Any) -> tuple[np.ndarray, np.ndarray]:
    """A code for each row, and which rows have a value without one."""
    places = np.array([NONE if (at := place(text)) is None else at for text in labels.texts] + [0])
    is_there = labels.codes >= 0
    codes = np.where(is_there, places[labels.codes], NONE)
    return codes, is_there & (codes == NONE)
