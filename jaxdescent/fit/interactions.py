"""Interactions: products of numeric columns, crossed levels, and slopes for each level."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxdescent.data import Block, DataError, Kind
from jaxdescent.data.errors import check_columns
from jaxdescent.fit.columns import Labels, NumberColumn, as_numbers, labels_of

SEPARATOR = ":"
"""The text between the columns of an interaction, and between the levels of a crossed level."""


class Interaction(NamedTuple):
    """The columns that are multiplied with each other, one-hot ones by their levels.

    Attributes:
      numbers: columns whose values are multiplied.
      labels: columns whose levels are crossed: a feature for each combination that occurs.
    """

    numbers: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of the interaction."""
        return (*self.numbers, *self.labels)


class View:
    """The columns of a block as numbers and labels, each made once, interactions included."""

    def __init__(
        self, block: Block, interactions: Mapping[str, Interaction], *, nan_is_missing: bool = True
    ) -> None:
        self._block = block
        self._interactions = interactions
        self._nan_is_missing = nan_is_missing
        self._numbers: dict[str, NumberColumn] = {}
        self._labels: dict[str, Labels] = {}

    def number(self, column: str) -> NumberColumn:
        """A column's numbers."""
        if column not in self._numbers:
            self._numbers[column] = as_numbers(
                self._block.columns[column], nan_is_missing=self._nan_is_missing
            )
        return self._numbers[column]

    def label(self, column: str) -> Labels:
        """A column's labels."""
        if column not in self._labels:
            self._labels[column] = labels_of(self._block.columns[column], repr(column))
        return self._labels[column]

    def numbers_of(self, name: str) -> NumberColumn:
        """The numbers of a column, or of a product of columns."""
        if name not in self._interactions:
            return self.number(name)
        return product([self.number(column) for column in self._interactions[name].numbers])

    def labels_of(self, name: str) -> Labels:
        """The labels of a column, or the crossed labels of an interaction."""
        if name not in self._interactions:
            return self.label(name)
        return crossed([self.label(column) for column in self._interactions[name].labels])

    def multiplier_of(self, name: str) -> NumberColumn | None:
        """The numbers by which one-hot columns are multiplied; None for ones."""
        columns = self._interactions[name].numbers if name in self._interactions else ()
        return product([self.number(column) for column in columns]) if columns else None


def product(factors: Sequence[NumberColumn]) -> NumberColumn:
    """The product of columns in float64, missing where a factor is missing."""
    values, missing = np.asarray(factors[0].values, np.float64), factors[0].missing
    with np.errstate(over="ignore", invalid="ignore"):
        for other in factors[1:]:
            values = values * other.values
            if other.missing is not None:
                missing = other.missing if missing is None else missing | other.missing
    return NumberColumn(values, missing)


def crossed(parts: Sequence[Labels]) -> Labels:
    """Labels of the combinations that occur, missing where a part is missing.

    A separator or a backslash in a level is written with a backslash before it, so that no two
    combinations have the same text.
    """
    if len(parts) == 1:
        return parts[0]
    codes, sizes = parts[0].codes, [len(part.texts) for part in parts]
    is_there = codes >= 0
    for part, size in zip(parts[1:], sizes[1:], strict=True):
        # Combinations are numbered anew after each part: their products could overflow.
        _, codes = np.unique(codes * size + part.codes, return_inverse=True)
        is_there = is_there & (part.codes >= 0)
    kept, new = np.unique(np.where(is_there, codes, -1), return_inverse=True)
    has_none = bool(kept.size and kept[0] == -1)
    first = np.zeros(kept.size, np.int64)
    first[new[::-1]] = np.arange(new.size)[::-1]  # the first row of each combination
    written = [[_escaped(text) for text in part.texts] for part in parts]
    texts = [
        SEPARATOR.join(own[part.codes[row]] for own, part in zip(written, parts, strict=True))
        for row in first[has_none:]
    ]
    return Labels(new.astype(np.int64) - has_none, texts)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace(SEPARATOR, f"\\{SEPARATOR}")


def asked_interactions(
    wanted: Iterable[str | Sequence[str]],
    kinds: Mapping[str, Kind],
    is_label: Callable[[str], bool],
    refused: Mapping[str, str],
) -> dict[str, Interaction]:
    """The interactions that are asked for, by name.

    Args:
      wanted: such as ``"a:b"``, or the columns one by one.
      kinds: the kind of each column.
      is_label: whether a column is used by its levels.
      refused: columns that can be in no interaction, and what they are.

    Raises:
      DataError: for columns that are not there, twice there, or can be in no interaction.
    """
    found: dict[str, Interaction] = {}
    seen: dict[frozenset[tuple[str, int]], str] = {}
    for each in wanted:
        columns = _split(each, kinds) if isinstance(each, str) else list(each)
        name = each if isinstance(each, str) else SEPARATOR.join(columns)
        if len(columns) < 2:
            raise DataError(
                f"--interact must name two columns or more with colons between them, got {name!r}."
            )
        check_columns(columns, kinds)
        for column in columns:
            if column in refused:
                raise DataError(
                    f"{column!r} is named in --interact, and it is {refused[column]}: leave it out."
                )
            if kinds[column] in (Kind.OTHER, Kind.SPARSE):
                raise DataError(
                    f"{column!r} holds neither numbers nor text: leave it out of --interact."
                )
        labels = [column for column in columns if is_label(column)]
        if len(set(labels)) < len(labels):
            raise DataError(f"--interact {name}: levels crossed with themselves say nothing new.")
        key = frozenset((column, columns.count(column)) for column in columns)
        if key in seen:
            raise DataError(f"--interact {name} says the same as {seen[key]}: name it once.")
        if name in kinds:
            raise DataError(
                f"--interact {name}: there is a column of this name: rename it to tell them apart."
            )
        seen[key] = name
        found[name] = Interaction(
            tuple(column for column in columns if not is_label(column)), tuple(labels)
        )
    return found


def _split(text: str, kinds: Mapping[str, Kind]) -> list[str]:
    """The columns that a text names, some of whose names may hold colons themselves."""
    parts = text.split(SEPARATOR)
    ways: list[list[str]] = []

    def go(start: int, before: list[str]) -> None:
        if start == len(parts):
            ways.append(before)
            return
        for stop in range(start + 1, len(parts) + 1):
            column = SEPARATOR.join(parts[start:stop])
            if column in kinds:
                go(stop, [*before, column])

    go(0, [])
    several = [way for way in ways if len(way) > 1]
    if len(several) > 1:
        raise DataError(
            f"--interact {text} can be read in {len(several)} ways, since some columns' names hold "
            "colons: rename them, or use Python, where interactions are tuples."
        )
    return several[0] if several else [part.strip() for part in parts]
