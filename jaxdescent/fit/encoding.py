"""The encoding of columns as features: numbers as they are, levels and buckets one-hot."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdescent.data import Block, DataError, SparseColumn
from jaxdescent.data.arrow import pa
from jaxdescent.data.chunk import Chunk
from jaxdescent.data.decoding import refuse_missing
from jaxdescent.data.entries import NONE, Coded, RowEntries, sparse_pieces
from jaxdescent.data.matrix_columns import matrix_of
from jaxdescent.fit.columns import Interaction, NumberColumn, View, bucket_of

ADVICE = "--missing drop leaves such rows out, --missing mean puts the column's mean there"
"""What to do about a missing value that a fit refuses."""

LEVEL_COPIES = 3
"""Copies of the levels' texts: Arrow's beside Python's, and the text of a model's file."""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """The features of a block, before anything is multiplied."""

    # The numbers: a block's matrix, none of which is missing, or column by column.
    stored: np.ndarray | list[NumberColumn]
    # For each categorical column, then for each hashed one: the place of each row's level or
    # touched bucket, and the number by which the one there is multiplied.
    coded: list[Coded]
    entries: list[RowEntries]  # the entries of the sparse column, if there is one
    rows: int  # how many rows these are
    unseen: int  # how many values were none of the levels

    @property
    def matrix(self) -> np.ndarray | None:
        """The numbers, none of which is missing, where the block has them as a matrix."""
        return self.stored if isinstance(self.stored, np.ndarray) else None

    @property
    def numbers(self) -> list[NumberColumn]:
        """The columns of numbers."""
        if isinstance(self.stored, list):
            return self.stored
        return [NumberColumn(column, None) for column in self.stored.T]

    @property
    def missing(self) -> list[tuple[int, np.ndarray]]:
        """The place of each number that lacks values, and the rows where it does, (rows,)."""
        columns = self.stored if isinstance(self.stored, list) else []
        return [(j, each.missing) for j, each in enumerate(columns) if each.missing is not None]


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How columns become features, in the order of the weights."""

    # Columns that are features themselves, or products of such columns.
    numbers: tuple[str, ...] = ()
    # The levels of each categorical column or interaction, a feature each.
    levels: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    hashed: tuple[str, ...] = ()  # columns and interactions whose values share ``2**bits`` buckets
    bits: int = 0  # the bits of a bucket's number
    # The buckets that some training row touched, sorted, a feature each.
    buckets: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    # By the name of a column of numbers, the mean that stands for missing ones.
    fills: Mapping[str, float] = dataclasses.field(default_factory=dict)
    sparse: str | None = None  # the column of sparse numbers, where there is one
    # The indices of the sparse column that some training row has, sorted, a feature each.
    indices: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    # The interactions among the names above, by name.
    interactions: Mapping[str, Interaction] = dataclasses.field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The encoding as a model's description holds it, without buckets and indices."""
        return {
            "numbers": self.numbers,
            "means_for_missing": self.fills,
            "levels": self.levels,
            "hashed": self.hashed,
            "bits": self.bits,
            "sparse": self.sparse,
            "interactions": {
                name: {"numbers": each.numbers, "levels": each.labels}
                for name, each in self.interactions.items()
            },
        }

    @classmethod
    def of_json(
        cls, content: Mapping[str, Any], buckets: np.ndarray, indices: np.ndarray
    ) -> Encoding:
        """The encoding from a model's description, with these buckets and indices."""
        return cls(
            numbers=tuple(content["numbers"]),
            levels={name: tuple(levels) for name, levels in content["levels"].items()},
            hashed=tuple(content["hashed"]),
            bits=content["bits"],
            buckets=buckets,
            fills={name: float(fill) for name, fill in content["means_for_missing"].items()},
            sparse=content.get("sparse"),
            indices=indices,
            interactions={
                name: Interaction(tuple(each["numbers"]), tuple(each["levels"]))
                for name, each in (content.get("interactions") or {}).items()
            },
        )

    def filled(self, means: np.ndarray) -> Encoding:
        """The encoding with means of the numbers, (numbers,), which stand for missing ones."""
        fills = dict(zip(self.numbers, map(float, means), strict=True))
        return dataclasses.replace(self, fills=fills)

    @functools.cached_property
    def made_of(self) -> dict[str, Interaction]:
        """For each name whose columns are features, the columns that it is made of."""
        plain = {name: Interaction((name,)) for name in self.numbers}
        plain |= {name: Interaction((), (name,)) for name in self.one_hot}
        return {name: self.interactions.get(name, each) for name, each in plain.items()}

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        sparse = [] if self.sparse is None else [self.sparse]
        return list(dict.fromkeys([*self.numeric, *self.labelled, *sparse]))

    @functools.cached_property
    def numeric(self) -> list[str]:
        """The columns that are read as numbers."""
        return list(dict.fromkeys(name for each in self.made_of.values() for name in each.numbers))

    @functools.cached_property
    def _multiplying(self) -> list[str]:
        """The columns that are read as numbers, and are no features themselves."""
        plain = set(self.numbers)
        return [name for name in self.numeric if name not in plain]

    @functools.cached_property
    def labelled(self) -> list[str]:
        """The columns that are read as text."""
        return list(dict.fromkeys(name for each in self.made_of.values() for name in each.labels))

    @property
    def one_hot(self) -> list[str]:
        """The names whose features are levels or buckets."""
        return [*self.levels, *self.hashed]

    @property
    def prepared_bytes(self) -> int:
        """Bytes that a row takes beside its numbers once it is encoded: its codes, and what is
        missing.
        """
        return 8 * (3 * len(self.labelled) + 3) + len(self.numbers)

    @property
    def level_bytes(self) -> int:
        """Bytes of the further copies of levels' texts that a fit makes."""
        texts = itertools.chain.from_iterable(self.levels.values())
        return LEVEL_COPIES * sum(len(text) * (1 if text.isascii() else 4) for text in texts)

    @property
    def sloped(self) -> list[str]:
        """The one-hot names whose ones are multiplied by numbers: slopes of levels."""
        return [name for name in self.one_hot if self.made_of[name].numbers]

    @property
    def spans(self) -> list[tuple[str, int, int]]:
        """Each one-hot name, the place of its first feature, and how many features it has; hashed
        names share their features.
        """
        found, first = list[tuple[str, int, int]](), len(self.numbers)
        for name, levels in self.levels.items():
            found.append((name, first, len(levels)))
            first += len(levels)
        return found + [(name, first, len(self.buckets)) for name in self.hashed]

    @property
    def size(self) -> int:
        """How many features there are."""
        listed = len(self.numbers) + sum(map(len, self.levels.values()))
        return listed + len(self.buckets) + len(self.indices)

    def feature_name(self, index: int) -> str:
        """The name of the feature at this place among the weights."""
        if index < len(self.numbers):
            return self.numbers[index]
        for column, first, size in self.spans:
            place = index - first
            if place < size and column in self.levels:
                return f"{column}={self.levels[column][place]}"
            if place < size:
                return f"hash bucket {self.buckets[place]:,}"
        return f"{self.sparse}{self.indices[index - self.size + len(self.indices)]}"

    @functools.cached_property
    def _known(self) -> dict[str, Any]:
        """The levels as arrays of Arrow, which looks texts up."""
        return {name: pa.array(levels, pa.string()) for name, levels in self.levels.items()}

    def encode(
        self, block: Block, missing: str = "error", unseen: str = "error", advice: str = ADVICE
    ) -> Encoded:
        """A block's features; under "drop" it has no rows that lack something. ``unseen``, "error"
        or "zero", is what becomes of levels and indices that no training row had, and ``advice``
        what to do about a missing value that is refused.
        """
        view = View(block, nan_is_missing=missing == "mean")
        numbers = _complete_matrix(block, self.numbers, nan_is_missing=missing == "mean")
        if missing == "error":
            for name in self.numeric if numbers is None else self._multiplying:
                refuse_missing(view.number(name).missing, name, block, advice)
            for name in self.labelled:
                refuse_missing(view.label(name).codes < 0, name, block, advice)
        if numbers is None:
            numbers = [view.numbers_of(self.made_of[name]) for name in self.numbers]
        unknown, coded = 0, list[Coded]()
        for name, first, size in self.spans:
            labels = view.labels_of(self.made_of[name])
            if name in self.levels:
                places = labels.places(self._known[name])
            else:
                buckets = [bucket_of(name, text, self.bits) for text in labels.texts]
                places = _places_among(self.buckets, np.array(buckets, np.int64))
            is_there = labels.codes >= 0
            codes = np.where(is_there, np.append(places, NONE)[labels.codes], NONE)
            absent = is_there & (codes == NONE)
            if name in self.levels:
                # A bucket that no training row touched has the weight zero: nothing is unseen.
                unknown += int(absent.sum())
            if unknown and unseen == "error":
                row = int(np.argmax(absent))
                raise DataError(
                    f"{name!r} is {labels.texts[labels.codes[row]]!r} in {block.place(row)}, which "
                    f"is none of the {size:,} levels of the training rows: --unseen zero gives it "
                    "the weight zero."
                )
            coded.append(Coded(first, size, codes, self._multiplier(name, view, block)))
        entries, more = self._entries(block, unseen)
        return Encoded(numbers, coded, entries, block.rows, unknown + more)

    def _entries(self, block: Block, unseen: str) -> tuple[list[RowEntries], int]:
        """The entries of the sparse column, and how many nonzero ones were left out because no
        training row has their index.
        """
        if self.sparse is None:
            return [], 0
        first, size = self.size - len(self.indices), len(self.indices)
        given: SparseColumn = block.columns[self.sparse]
        values = np.ones(given.index.size) if given.values is None else given.values
        if wrong := _first_wrong(values):
            at, what = wrong
            raise DataError(
                f"'{self.sparse}{given.index[at]}' is {what} in {block.place(given.row[at])}: "
                "correct the data."
            )
        place = _places_among(self.indices, given.index)
        here = place != NONE
        if here.all():
            return [RowEntries(given.starts, place, values, self.sparse, first, size)], 0
        unknown = ~here & (values != 0)
        if unseen == "error" and unknown.any():
            at = int(np.argmax(unknown))
            raise DataError(
                f"'{self.sparse}{given.index[at]}' in {block.place(given.row[at])} is none of the "
                f"{len(self.indices):,} indices of the training rows: --unseen zero gives it the "
                "weight zero."
            )
        starts = np.concatenate([[0], np.cumsum(here)])[given.starts]
        kept = RowEntries(starts, place[here], values[here], self.sparse, first, size)
        return [kept], int(unknown.sum())

    def _multiplier(self, name: str, view: View, block: Block) -> np.ndarray | None:
        """The numbers by which a one-hot column is multiplied, zero where one is missing."""
        made_of = self.made_of[name]
        if not made_of.numbers:
            return None
        number = view.numbers_of(made_of)
        values = np.asarray(number.values, np.float64)
        if number.missing is not None:
            values = np.where(number.missing, 0, values)
        if wrong := _first_wrong(values):
            row, what = wrong
            columns = " times ".join(map(repr, made_of.numbers))
            raise DataError(f"{columns} is {what} in {block.place(row)}: correct the data.")
        return values

    def product(self, encoded: Encoded, weights: np.ndarray) -> np.ndarray:
        """Features times weights, (rows,), in float64."""
        total = np.zeros((encoded.rows, 1))
        with np.errstate(invalid="ignore", over="ignore"):
            for name, number, weight in zip(self.numbers, encoded.numbers, weights, strict=False):
                values = number.values
                if number.missing is not None:
                    # A number of Python would be rounded to float32 with a column of that dtype.
                    fill = np.float64(self.fills.get(name, 0.0))
                    values = np.where(number.missing, fill, values)
                total[:, 0] += np.multiply(values, float(weight), dtype=np.float64)
            first, coded, entries = len(self.numbers), encoded.coded, encoded.entries
            for S in sparse_pieces(coded, entries, first, self.size, np.float64):
                total[:, 0] += S @ weights[first:]
        return total[:, 0]

    def chunk(self, encoded: Encoded, numbers: np.ndarray, block: Block) -> Chunk:
        """A chunk of the encoded rows of a block, whose numbers are given."""
        sparse = sparse_pieces(
            encoded.coded, encoded.entries, len(self.numbers), self.size, numbers.dtype
        )
        return Chunk(0, self.numbers, numbers, sparse, [block], self.size)


def _places_among(known: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The place of each key among sorted ones; NONE where it is absent."""
    if not known.size:
        return np.full(keys.size, NONE)
    place = np.searchsorted(known, keys)
    return np.where(np.take(known, place, mode="clip") == keys, place, NONE)


def _complete_matrix(
    block: Block, names: Sequence[str], *, nan_is_missing: bool
) -> np.ndarray | None:
    """The numbers of a block without a copy, where they are columns of one matrix, none of which is
    missing or widened before it is used; else None.
    """
    whole = matrix_of(block.columns, names)
    if whole is None or whole.dtype in (np.dtype(np.bool_), np.dtype(np.float16)):
        return None
    return None if nan_is_missing and np.isnan(whole).any() else whole


def _first_wrong(values: np.ndarray) -> tuple[int, str] | None:
    """The place of the first value whose square is not finite, and why."""
    with np.errstate(over="ignore", invalid="ignore"):
        wrong = ~np.isfinite(np.square(values))
    if not wrong.any():
        return None
    at = int(np.argmax(wrong))
    return at, "NaN" if np.isnan(values[at]) else "infinite or too large"
