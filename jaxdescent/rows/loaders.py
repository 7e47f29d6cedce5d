"""A source of rows that a function of the user's own gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdescent.rows.arrays import Arrays
from jaxdescent.rows.errors import DataError
from jaxdescent.rows.source import Block, Source, equal_blocks

Given = Any
"""A block as a loader gives it: a dictionary of arrays by name, an array (rows, columns) for the
columns x0, x1, ..., or a data frame."""


class Loader(Source):
    """Rows of a function that returns an iterator of blocks, of any lengths.

    Args:
      load: called with the number of the row to begin at; the rows and their order are the same
        each time. A block is a dictionary of arrays by name, an array of two dimensions, whose
        columns are called x0, x1, ..., or a data frame of Polars or pandas.
      rows: how many rows there are, if that is known.

    >>> def load(row):
    ...     for start in range(row, 1000, 100):
    ...         a = np.arange(start, min(start + 100, 1000))
    ...         yield {"a": a, "y": 2.0 * a + 1}
    >>> source = Loader(load)
    >>> [block.rows for block in source.blocks(["a"], 400, 100)]
    [400, 400, 100]
    """

    def __init__(self, load: Callable[[int], Iterator[Given]], rows: int | None = None) -> None:
        self._load, self.rows = load, rows
        self._span: tuple[int, int | None] = (0, None)
        self.form = getattr(load, "__name__", type(load).__name__)
        first = next(iter(load(0)), None)
        if first is None:
            raise DataError(f"{self.form} gives no rows.")
        self.kinds = self._opened(first).kinds

    def blocks(self, names: Sequence[str], size: int, row: int = 0) -> Iterator[Block]:
        first, stop = self._span

        def given() -> Iterator[Block]:
            at = first + row
            for each in self._load(at):
                source = self._opened(each)
                missing = [name for name in names if name not in source.kinds]
                if missing:
                    raise DataError(
                        f"{self.form} gives a block without {missing[0]!r}, which has "
                        f"{list(source.kinds)}: blocks have the same columns."
                    )
                for name in names:
                    if source.kinds[name].is_number != self.kinds[name].is_number:
                        raise DataError(
                            f"{self.form} gives {source.kinds[name]} in {name!r}, whose first "
                            f"block holds {self.kinds[name]}: blocks have the same kinds."
                        )
                rows = source.rows or 0
                if stop is not None:
                    rows = min(rows, stop - at)
                for block in source.blocks(names, max(rows, 1)):
                    here = block.cut(0, min(rows, block.rows))
                    yield Block(at - first, here.rows, here.columns, here.matrix, here.index)
                    break
                at += rows
                if stop is not None and at >= stop:
                    return

        return equal_blocks(given(), size)

    def slice(self, first: int, rows: int) -> Loader:
        new = object.__new__(Loader)
        vars(new).update(vars(self))
        begin, stop = self._span
        end = begin + first + rows
        new._span = begin + first, end if stop is None else min(end, stop)
        if self.rows is not None:
            new.rows = len(range(self.rows)[first : first + rows])
        return new

    def _opened(self, given: Given) -> Source:
        """A block as a source of its rows."""
        if isinstance(given, Mapping):
            try:
                return Arrays(given)
            except DataError as error:
                raise DataError(
                    f"{self.form} gives a block that cannot be used: {error}"
                ) from error
        if hasattr(given, "__arrow_c_stream__"):
            from jaxdescent.rows import frames

            return frames.table_source(given)
        array = np.asarray(given)
        if array.ndim != 2:
            raise DataError(
                f"{self.form} must give dictionaries of arrays, arrays of two dimensions or data "
                f"frames, got {type(given).__name__} of shape {array.shape}."
            )
        return Arrays({"X": array})
