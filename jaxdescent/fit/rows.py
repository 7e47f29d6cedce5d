"""The rows that are kept in memory, and the designs that they become."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdescent.data import SparseColumn
from jaxdescent.designs import Concatenated, Sparse
from jaxdescent.designs.reference_levels import references
from jaxdescent.fit.encoding import Encoding
from jaxdescent.fit.prepared import Prepared
from jaxdescent.fit.vectors import Vectors


class Rows:
    """The features of all rows, in arrays that grow by none: their number is known.

    Args:
      vectors: what is kept beside them, which looks at each block first.
    """

    def __init__(self, rows: int, encoding: Encoding, dtype: Any, vectors: Vectors) -> None:
        self.encoding, self.dtype, self._vectors = encoding, dtype, vectors
        self.numbers = np.empty((rows, len(encoding.numbers)), dtype)
        self.codes = [np.empty(rows, np.int32) for _ in encoding.levels]
        self.buckets = [np.empty(rows, np.int32) for _ in encoding.hashed]
        slopes = {name for name, each in encoding.interactions.items() if each.numbers}
        self.multipliers = [
            np.empty(rows, dtype) if name in slopes else None for name in encoding.one_hot
        ]
        self.entries: list[SparseColumn] = []  # of the sparse column, block by block
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
            for kept, multiplier in zip(self.multipliers, encoded.multipliers, strict=True):
                if kept is not None and multiplier is not None:
                    kept[place] = multiplier[rows]
        if encoded.sparse is not None:
            kept_rows = encoded.sparse[rows]
            self.entries.append(
                SparseColumn(
                    kept_rows.starts,
                    kept_rows.index.astype(np.int32),
                    kept_rows.values.astype(self.dtype),
                )
            )
        for kept, new in zip(
            [*self.codes, *self.buckets], [*encoded.codes, *encoded.buckets], strict=True
        ):
            kept[place] = new[rows]

    def close(self) -> None:
        """Forget the places of dropped rows, and put means where numbers are missing."""
        kept = slice(0, self._vectors.filled)
        self.numbers = self.numbers[kept]
        self.codes = [codes[kept] for codes in self.codes]
        self.buckets = [codes[kept] for codes in self.buckets]
        self.multipliers = [None if m is None else m[kept] for m in self.multipliers]
        for j, places in enumerate(self.missing):
            for each in places:
                self.numbers[each, j] = self._vectors.fills[j]
        if self.encoding.sparse is not None:
            self.entries = [_joined(self.entries)]

    def design(self) -> Concatenated:
        """The rows' features side by side, none of them written out.

        The levels of all columns are one sparse design: a program for each of them would take
        seconds to compile.
        """
        encoding, parts = self.encoding, {}
        if encoding.numbers:
            parts["numbers"] = jnp.asarray(self.numbers)
        count = len(self.codes)
        if count:
            sizes = [len(levels) for levels in encoding.levels.values()]
            firsts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
            places = [
                np.where(codes >= 0, codes + first, -1)
                for codes, first in zip(self.codes, firsts[:-1], strict=True)
            ]
            parts["levels"] = self._one_hot(places, self.multipliers[:count], int(firsts[-1]))
        if self.buckets:
            size = len(encoding.buckets)
            parts["buckets"] = self._one_hot(self.buckets, self.multipliers[count:], size)
        if encoding.sparse is not None:
            (entries,) = self.entries
            parts["sparse"] = Sparse.from_indices(
                entries.row.astype(np.int32),
                entries.index,
                entries.values,
                shape=(len(self.numbers), len(encoding.indices)),
            )
        return Concatenated(parts)

    def _one_hot(
        self, places: list[np.ndarray], multipliers: list[np.ndarray | None], features: int
    ) -> Sparse:
        """A one, or a multiplier, at each of these places that is one."""
        columns = np.stack(places, axis=1)
        there = columns >= 0
        rows = np.repeat(
            np.arange(len(self.numbers), dtype=np.int32), np.count_nonzero(there, axis=1)
        )
        values = None
        if any(multiplier is not None for multiplier in multipliers):
            ones = np.ones(len(self.numbers), self.dtype)
            values = np.stack([ones if m is None else m for m in multipliers], axis=1)[there]
        shape = (len(self.numbers), features)
        return Sparse.from_indices(rows, columns[there], values, shape=shape, dtype=self.dtype)

    def free_constants(self) -> int:
        """How many constants the levels leave free: numbers that can be added to all weights of
        one column and taken off another's, so that no prediction changes.
        """
        own = zip(self.encoding.levels.items(), self.codes, self.multipliers, strict=False)
        factors = {
            name: (codes, len(levels))
            for (name, levels), codes, multiplier in own
            if multiplier is None
        }
        return sum(len(levels) for levels in references(factors, intercept=True).values())


def _joined(parts: list[SparseColumn]) -> SparseColumn:
    counts = np.concatenate([np.diff(part.starts) for part in parts])
    return SparseColumn(
        np.concatenate([[0], np.cumsum(counts)]),
        np.concatenate([part.index for part in parts]),
        np.concatenate([part.values for part in parts]),
    )
