"""The rows that are kept in memory, and the designs that they become."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdescent.data.entries import Coded, RowEntries
from jaxdescent.designs import Concatenated, Sparse
from jaxdescent.designs.reference_levels import references
from jaxdescent.fit.encoding import Encoding
from jaxdescent.fit.prepared import Prepared
from jaxdescent.fit.vectors import Vectors


class Rows:
    """The features of all rows, in arrays that are allocated once: the number of rows is known.

    Args:
      vectors: the targets and weights of the rows, which check each block first.
    """

    def __init__(self, rows: int, encoding: Encoding, dtype: Any, vectors: Vectors) -> None:
        self.encoding, self.dtype, self._vectors = encoding, dtype, vectors
        self.numbers = np.empty((rows, len(encoding.numbers)), dtype)
        values = {name: np.empty(rows, dtype) for name in encoding.sloped}
        self.coded = [
            Coded(first, size, np.empty(rows, np.int32), values.get(name))
            for name, first, size in encoding.spans
        ]
        self.entries: list[list[RowEntries]] = []  # of the sparse column, block by block
        self.missing: list[list[np.ndarray]] = [[] for _ in encoding.numbers]

    def add(self, prepared: Prepared, *, is_other: bool) -> None:
        """Keep a block's rows; numbers less the first block's means, which float32 can hold."""
        encoded, first = prepared.encoded, self._vectors.filled
        rows = encoded.kept
        numbers = self._vectors.add(prepared, is_other=is_other)
        place = slice(first, self._vectors.filled)
        self.numbers[place] = numbers
        for places, number in zip(self.missing, encoded.numbers, strict=True):
            if number.missing is not None:
                places.append(first + np.flatnonzero(number.missing[rows]))
        with np.errstate(over="ignore", invalid="ignore"):
            for kept, new in zip(self.coded, encoded.coded, strict=True):
                kept.codes[place] = new.codes[rows]
                if kept.values is not None and new.values is not None:
                    kept.values[place] = new.values[rows]
            taken = [column[rows] for column in encoded.entries]
            self.entries.append([column.in_dtype(self.dtype) for column in taken])

    def close(self) -> None:
        """Cut off the places that dropped rows left, and put means where numbers are missing."""
        kept = slice(0, self._vectors.filled)
        self.numbers = self.numbers[kept]
        self.coded = [column[kept] for column in self.coded]
        for j, places in enumerate(self.missing):
            for each in places:
                self.numbers[each, j] = self._vectors.fills[j]
        columns = zip(*self.entries, strict=True)
        self.entries = [[first.followed_by(others) for first, *others in columns]]

    def design(self) -> Concatenated:
        """The features side by side, one-hot columns in sparse form.

        The levels of all columns are one sparse design: a program for each of them would take
        seconds to compile.
        """
        encoding, parts = self.encoding, {}
        if encoding.numbers:
            parts["numbers"] = jnp.asarray(self.numbers)
        count = len(encoding.levels)
        if encoding.levels:
            parts["levels"] = self._one_hot(self.coded[:count])
        if encoding.hashed:
            parts["buckets"] = self._one_hot(self.coded[count:])
        for entries in self.entries[0]:
            parts["sparse"] = Sparse.from_indices(
                entries.row.astype(np.int32),
                entries.index,
                entries.values,
                shape=(len(self.numbers), entries.size),
            )
        return Concatenated(parts)

    def _one_hot(self, coded: list[Coded]) -> Sparse:
        """A sparse design of columns whose features follow each other, or are shared."""
        first, count = coded[0].first, len(self.numbers)
        places = [
            np.where(each.codes >= 0, each.codes + (each.first - first), -1) for each in coded
        ]
        columns = np.stack(places, axis=1)
        there = columns >= 0
        rows = np.repeat(np.arange(count, dtype=np.int32), np.count_nonzero(there, axis=1))
        values = None
        if any(each.values is not None for each in coded):
            ones = np.ones(count, self.dtype)
            given = [ones if each.values is None else each.values for each in coded]
            values = np.stack(given, axis=1)[there]
        shape = count, coded[-1].span.stop - first
        return Sparse.from_indices(rows, columns[there], values, shape=shape, dtype=self.dtype)

    def free_constants(self) -> int:
        """How many constants the levels leave free: numbers that can be added to all weights of
        one column and taken off another's, so that no prediction changes.
        """
        own = zip(self.encoding.levels, self.coded, strict=False)
        factors = {name: (each.codes, each.size) for name, each in own if each.values is None}
        return sum(len(levels) for levels in references(factors, intercept=True).values())
