"""The encoding of columns as features: numbers as they are, levels and buckets one-hot.

What a feature is made of are expressions of Polars, which follow from the roles of the columns that
a model keeps.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from jaxdescent.fit.dates import TREND, Dates, check_zone, columns_made, part_of, times_of
from jaxdescent.rows import Block, DataError

SEPARATOR = ":"
"""The text between the columns of an interaction, and between the levels of a crossed level."""


class Interaction(NamedTuple):
    """The columns that are multiplied with each other, one-hot ones by their levels; a single one
    is a feature itself.
    """

    numbers: tuple[str, ...] = ()  # columns whose values are multiplied
    labels: tuple[str, ...] = ()  # columns whose levels are crossed


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
    dates: Mapping[str, Dates] = dataclasses.field(default_factory=dict)

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
            "dates": {name: each._asdict() for name, each in self.dates.items()},
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
            sparse=content["sparse"],
            indices=indices,
            interactions={
                name: Interaction(tuple(each["numbers"]), tuple(each["levels"]))
                for name, each in content["interactions"].items()
            },
            dates={
                name: Dates(tuple(each["parts"]), each["first"], each["last"], each["zone"])
                for name, each in content["dates"].items()
            },
        )

    @functools.cached_property
    def made_of(self) -> dict[str, Interaction]:
        """For each name whose columns are features, the columns that it is made of."""
        plain = {name: Interaction((name,)) for name in self.numbers}
        plain |= {name: Interaction((), (name,)) for name in self.one_hot}
        return {name: self.interactions.get(name, each) for name, each in plain.items()}

    @functools.cached_property
    def parts(self) -> dict[str, tuple[str, str]]:
        """The columns that are made of dates, by name, with the column and the part of each."""
        return columns_made(self.dates)

    def _read(self, names: Sequence[str]) -> list[str]:
        return list(dict.fromkeys(self.parts.get(name, (name,))[0] for name in names))

    @functools.cached_property
    def numeric(self) -> list[str]:
        """The columns that are used as numbers."""
        return list(dict.fromkeys(name for each in self.made_of.values() for name in each.numbers))

    @functools.cached_property
    def labelled(self) -> list[str]:
        """The columns that are used by their levels."""
        return list(dict.fromkeys(name for each in self.made_of.values() for name in each.labels))

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        own = [] if self.sparse is None else [self.sparse]
        return self._read([*self.numeric, *self.labelled, *own])

    @property
    def texts(self) -> list[str]:
        """The columns whose text in the file counts."""
        return [*(name for name in self.labelled if name not in self.parts), *self.dates]

    @property
    def one_hot(self) -> list[str]:
        """The names whose features are levels or buckets."""
        return [*self.levels, *self.hashed]

    @property
    def size(self) -> int:
        """How many features there are."""
        listed = len(self.numbers) + sum(map(len, self.levels.values()))
        return listed + len(self.buckets) + len(self.indices)

    @property
    def row_bytes(self) -> int:
        """The bytes of a row's features."""
        return 8 * len(self.numbers) + 24 * len(self.one_hot) + 16 * (self.sparse is not None)

    def spans(self) -> list[tuple[str, int, int]]:
        """Each one-hot name, the place of its first feature behind the numbers, and how many it
        has; hashed names share their features.
        """
        found, first = list[tuple[str, int, int]](), 0
        for name, levels in self.levels.items():
            found.append((name, first, len(levels)))
            first += len(levels)
        return found + [(name, first, len(self.buckets)) for name in self.hashed]

    def feature_name(self, index: int) -> str:
        """The name of the feature at this place among the weights."""
        if index < len(self.numbers):
            return self.numbers[index]
        for column, first, size in self.spans():
            place = index - len(self.numbers) - first
            if place < size and column in self.levels:
                return f"{column}={self.levels[column][place]}"
            if place < size:
                return f"hash bucket {self.buckets[place]:,}"
        return f"{self.sparse}{self.indices[index - self.size + len(self.indices)]}"

    def made(self, block: Block, names: Sequence[str]) -> pl.DataFrame:
        """Numbers (float64) and levels (text) of these names, each by its expression, and the
        factor of levels that have slopes, called ``* name``.
        """
        columns = self._read([c for name in names for part in self.made_of[name] for c in part])
        frame = frame_of(block, columns)
        self.check_dates(frame, block)
        chosen = list[pl.Expr]()
        for name in names:
            numbers, labels = self.made_of[name]
            if labels:
                chosen.append(crossed([self._label(each, frame) for each in labels]).alias(name))
            if numbers:
                product = functools.reduce(
                    lambda a, b: a * b, [self._number(each, frame) for each in numbers]
                )
                chosen.append(product.alias(f"* {name}" if labels else name))
        return frame.select(chosen)

    def check_dates(self, frame: pl.DataFrame, block: Block, *, is_known: bool = True) -> None:
        """Refuse text that is no date, and other time zones where those of the fit are known."""
        for name, dated in self.dates.items():
            kind = frame.schema.get(name)
            if kind is None:
                continue
            if kind.is_temporal():
                if is_known:
                    check_zone(name, kind, dated, f"row {block.start + 1:,}")
                continue
            _, clock = times_of(name, kind, dated.zone)
            wrong = frame.select(pl.col(name).is_not_null() & clock.is_null()).to_series()
            if wrong.any():
                row = int(np.argmax(wrong.to_numpy()))
                raise DataError(
                    f"{name!r} is {frame[name][row]!r} in row {block.start + row + 1:,}, and "
                    "--date takes dates such as 2013-06-30 or 2013-06-30 12:30: correct the data, "
                    "or leave it out."
                )

    def outside(self, block: Block) -> int:
        """How many rows of a block have a date outside of those of the fit, of a trend."""
        found = 0
        for name, dated in self.dates.items():
            if TREND in dated.parts:
                frame = frame_of(block, [name])
                instants = times_of(name, frame.schema[name], dated.zone)[0].to_physical()
                is_out = (instants < dated.first) | (instants > dated.last)
                found += int(frame.select(is_out.sum()).item() or 0)
        return found

    def _part(self, name: str, frame: pl.DataFrame) -> pl.Expr:
        column, part = self.parts[name]
        dated = self.dates[column]
        return part_of(times_of(column, frame.schema[column], dated.zone), part, dated.first)

    def _number(self, name: str, frame: pl.DataFrame) -> pl.Expr:
        made = self._part(name, frame) if name in self.parts else pl.col(name).cast(pl.Float64)
        return made.fill_nan(None)

    def _label(self, name: str, frame: pl.DataFrame) -> pl.Expr:
        return self._part(name, frame) if name in self.parts else pl.col(name).cast(pl.String)

    @functools.cached_property
    def enums(self) -> dict[str, pl.Enum]:
        """The levels of each name as a type of Polars."""
        return {name: pl.Enum(levels) for name, levels in self.levels.items()}


def frame_of(block: Block, names: Sequence[str]) -> pl.DataFrame:
    """These columns of a block as a data frame."""
    if isinstance(block.columns, pl.DataFrame) and not any(name in block.index for name in names):
        return block.columns.select(names)
    return pl.DataFrame({name: np.ascontiguousarray(block.column(name)) for name in names})


def crossed(labels: Sequence[pl.Expr]) -> pl.Expr:
    """Levels of several columns as one text, missing where one is missing.

    A separator or a backslash in a level is written with a backslash before it, so that no two
    combinations have the same text.
    """
    if len(labels) == 1:
        return labels[0]
    written = [
        label.str.replace_all("\\", "\\\\", literal=True).str.replace_all(
            SEPARATOR, f"\\{SEPARATOR}", literal=True
        )
        for label in labels
    ]
    return pl.concat_str(written, separator=SEPARATOR)
