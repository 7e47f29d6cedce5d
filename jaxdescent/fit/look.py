"""A look at data before anything is fitted: columns, kinds, missing values, and the first rows."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from jaxdescent.data import Block, Kind, Source, located, read_ahead
from jaxdescent.data.protocol import unchanged
from jaxdescent.data.times import holds_times, time_of
from jaxdescent.fit.budget import Memory
from jaxdescent.fit.columns import missing_in
from jaxdescent.fit.progress import ProgressListener

FIRST_ROWS = 3


class SeenColumn(NamedTuple):
    """The kind, missing values and first values of one column, as ``inspect`` shows them.

    Attributes:
      kind: what the column can be used as, in words.
      missing: how many values are missing; None for sparse numbers, where unwritten ones are zero.
      first: the values in the first rows; None where one is missing.
    """

    kind: str
    missing: int | None
    first: list[Any]


class DataLook(NamedTuple):
    """How many rows there are, and the kind and values of each column."""

    rows: int
    columns: dict[str, SeenColumn]


def look_at(source: Source, memory: Memory, watch: ProgressListener) -> DataLook:
    """Look at all columns in one pass.

    Raises:
      ProblemTooLarge: where reading does not fit.
    """
    names = list(source.kinds)
    plan = memory.reading(source, names, 8, "reading all columns")
    watch.begin("looking", source.rows)
    rows, found = 0, dict[str, SeenColumn]()
    with unchanged([source], "look again"):
        for block in read_ahead(lambda: located(source, names, plan.rows)):
            for name in names:
                kind, column = source.kinds[name], block.columns[name]
                counted = _missing(column, kind)
                if name not in found:
                    first = _first(block, name, kind)
                    found[name] = SeenColumn(_in_words(kind, column, first), counted, first)
                elif counted is not None:
                    found[name] = found[name]._replace(missing=(found[name].missing or 0) + counted)
            rows += block.rows
            watch.advance(rows)
            memory.check()
    return DataLook(rows, found)


def _in_words(kind: Kind, column: Any, first: list[Any]) -> str:
    """The kind of a column in words, dates and dates as text included."""
    if kind is not Kind.TEXT:
        return str(kind)
    if holds_times(column.type):
        return "date or time"
    texts = [text for text in first if text is not None]
    are_dates = bool(texts) and all(time_of(text) for text in texts if isinstance(text, str))
    return "dates as text" if are_dates else str(kind)


def _missing(column: Any, kind: Kind) -> int | None:
    if kind is Kind.SPARSE:
        return None
    missing = missing_in(column, is_number=kind.is_number)
    return 0 if missing is None else int(np.count_nonzero(missing))


def _first(block: Block, name: str, kind: Kind) -> list[Any]:
    if kind is Kind.SPARSE:
        return []
    column = block.columns[name][:FIRST_ROWS]
    values = column.tolist() if isinstance(column, np.ndarray) else column.to_pylist()
    return [None if isinstance(v, float) and math.isnan(v) else v for v in values]
