"""Interactions: products of numeric columns, crossed levels, and slopes for each level."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdescent.data import Block, DataError, Kind
from jaxdescent.data.errors import check_columns
from jaxdescent.fit.columns import Labels, NumberColumn, as_numbers, labels_of

SEPARATOR = ":"
"""The text between the columns of an interaction, and between the levels of a crossed level."""


class Interaction(NamedTuple):
    """The columns that are multiplied with each other, one-hot ones by their levels; a single one
    is a feature itself.

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
    """The columns of a block as numbers and labels, each made once."""

    def __init__(self, block: Block, *, nan_is_missing: bool = True) -> None:
        columns = block.columns
        self.number = functools.cache(
            lambda name: as_numbers(columns[name], nan_is_missing=nan_is_missing)
        )
        self.label = functools.cache(lambda name: labels_of(columns[name], repr(name)))

    def numbers_of(self, made_of: Interaction) -> NumberColumn:
        """The numbers of a column, or of a product of columns."""
        return product([self.number(column) for column in made_of.numbers])

    def labels_of(self, made_of: Interaction) -> Labels:
        """The labels of a column, or the crossed labels of an interaction."""
        return crossed([self.label(column) for column in made_of.labels])


def product(factors: Sequence[NumberColumn]) -> NumberColumn:
    """A column, or the product of several in float64, missing where a factor is missing."""
    if len(factors) == 1:
        return factors[0]
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
    import pyarrow as pa
    import pyarrow.compute as pc

    written: list[Any] = []
    for part in parts:
        texts = part.array
        for special in ("\\", SEPARATOR):
            options = pc.ReplaceSubstringOptions(special, f"\\{special}")
            texts = pc.call_function("replace_substring", [texts], options)
        written.append(texts.take(pa.array(part.codes, mask=part.codes < 0)))
    joined = pc.call_function("binary_join_element_wise", [*written, pa.scalar(SEPARATOR)])
    return labels_of(joined)


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
