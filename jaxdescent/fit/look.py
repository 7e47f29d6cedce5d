"""A look at data before anything is fitted: columns, kinds, missing values, and the first rows."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from jaxdescent.data import Kind, Source, located, read_ahead
from jaxdescent.data.protocol import unchanged
from jaxdescent.data.times import holds_times, time_of
from jaxdescent.fit.budget import Memory
from jaxdescent.fit.columns import missing_in
from jaxdescent.fit.job import ProgressListener

FIRST_ROWS = 3


class SeenColumn(NamedTuple):
    """The kind, missing values and first values of one column, as ``inspect`` shows them."""

    kind: str  # what the column can be used as, in words
    # How many values are missing; None for sparse numbers, where unwritten ones are zero.
    missing: int | None
    first: list[Any]  # the values in the first rows; None where one is missing


class DataLook(NamedTuple):
    """How many rows there are, and the kind and values of each column."""

    rows: int
    columns: dict[str, SeenColumn]


def look_at(source: Source, memory: Memory, watch: ProgressListener) -> DataLook:
    """Look at all columns in one pass."""
    names = list(source.kinds)
    plan = memory.reading(source, names, 8, "reading all columns")
    watch.begin("looking", source.rows)
    rows, found = 0, dict[str, SeenColumn]()
    with unchanged([source], "look again"):
        for block in read_ahead(lambda: located(source, names, plan.at_once)):
            for name, kind in source.kinds.items():
                column, is_sparse = block.columns[name], kind is Kind.SPARSE
                if name not in found:
                    first = [] if is_sparse else _values(column[:FIRST_ROWS])
                    words = _in_words(kind, column, first)
                    found[name] = SeenColumn(words, None if is_sparse else 0, first)
                if not is_sparse:
                    missing = missing_in(column, is_number=kind.is_number)
                    count = 0 if missing is None else int(np.count_nonzero(missing))
                    found[name] = found[name]._replace(missing=(found[name].missing or 0) + count)
            rows += block.rows
            watch.advance(rows)
            memory.check()
    return DataLook(rows, found)


def _values(column: Any) -> list[Any]:
    """The values of a column, None where one is missing."""
    values = column.tolist() if isinstance(column, np.ndarray) else column.to_pylist()
    return [None if isinstance(v, float) and math.isnan(v) else v for v in values]


def _in_words(kind: Kind, column: Any, first: list[Any]) -> str:
    """The kind of a column in words, dates and dates as text included."""
    if kind is not Kind.TEXT:
        return str(kind)
    if holds_times(column.type):
        return "date or time"
    texts = [text for text in first if text is not None]
    are_dates = bool(texts) and all(time_of(text) for text in texts if isinstance(text, str))
    return "dates as text" if are_dates else str(kind)
