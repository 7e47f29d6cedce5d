"""The rows that are kept in memory, and the designs that they become."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdescent.data import DataError, SparseColumn
from jaxdescent.designs import Concatenated, Sparse
from jaxdescent.designs.reference_levels import references
from jaxdescent.fit.checks import Lengths
from jaxdescent.fit.encoding import Encoding
from jaxdescent.fit.moments import Moments
from jaxdescent.fit.sums import TEST, Prepared, not_finite


class Rows:
    """Everything that is kept of the rows, in arrays that grow by none: their size is known."""

    def __init__(self, rows: int, encoding: Encoding, dtype: Any, *, is_weighted: bool) -> None:
        self.encoding = encoding
        self.dtype = dtype
        self.numbers = np.empty((rows, len(encoding.numbers)), dtype)
        self.codes = [np.empty(rows, np.int32) for _ in encoding.levels]
        self.buckets = [np.empty(rows, np.int32) for _ in encoding.hashed]
        slopes = {name for name, each in encoding.interactions.items() if each.numbers}
        self.multipliers = [
            np.empty(rows, dtype) if name in slopes else None for name in encoding.one_hot
        ]
        self.lengths = Lengths(
            [*encoding.numbers, *(n for n in encoding.one_hot if n in slopes)], dtype
        )
        self.entries: list[SparseColumn] = []  # of the sparse column, block by block
        self.target = np.empty(rows, np.float64)
        self.weight = np.empty(rows, np.float64) if is_weighted else None
        self.is_test = np.empty(rows, bool)
        self.missing: list[list[np.ndarray]] = [[] for _ in encoding.numbers]
        self.shift: np.ndarray | None = None
        self.filled = self.dropped = self.unseen = 0

    def add(self, prepared: Prepared) -> None:
        """Keep a block's rows; numbers less the first block's means, which float32 can hold."""
        encoded, block = prepared.encoded, prepared.block
        rows = slice(None) if encoded.keep is None else encoded.keep
        count = block.rows if encoded.keep is None else encoded.keep.size
        place = slice(self.filled, self.filled + count)
        if place.stop > self.target.size:
            raise DataError("the data have more rows than when they were counted: fit again.")
        if self.shift is None:
            self.shift = means_of(prepared)
        with np.errstate(over="ignore", invalid="ignore"):
            for j, number in enumerate(encoded.numbers):
                column = np.subtract(number.values[rows], self.shift[j], dtype=np.float64)
                if number.missing is not None:
                    missing = np.flatnonzero(number.missing[rows])
                    self.missing[j].append(self.filled + missing)
                    column[missing] = 0
                self.numbers[place, j] = column
            for kept, multiplier in zip(self.multipliers, encoded.multipliers, strict=True):
                if kept is not None and multiplier is not None:
                    kept[place] = multiplier[rows]
        self.target[place] = prepared.target.values[rows]
        slopes = [m[place] for m in self.multipliers if m is not None]
        finite = self.lengths.add(self.numbers[place], slopes)
        if not (finite and np.isfinite(self.target[place]).all()):
            raise not_finite(prepared, self.encoding, rows)
        if encoded.sparse is not None:
            kept_rows = encoded.sparse
            if encoded.keep is not None:
                kept_rows = kept_rows.take(encoded.keep)
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
        if self.weight is not None and prepared.weight is not None:
            self.weight[place] = prepared.weight[rows]
        test = np.zeros(block.rows, bool)
        chosen = prepared.parts[TEST]
        test[slice(None) if chosen is None else chosen] = True
        self.is_test[place] = test[rows]
        self.filled += count
        self.dropped += prepared.dropped
        self.unseen += encoded.unseen

    def close(self) -> None:
        """Forget the places of dropped rows, and refuse numbers that cannot be multiplied."""
        self.lengths.check(self.shift)
        kept = slice(0, self.filled)
        self.numbers, self.target = self.numbers[kept], self.target[kept]
        self.is_test = self.is_test[kept]
        self.codes = [codes[kept] for codes in self.codes]
        self.buckets = [codes[kept] for codes in self.buckets]
        self.multipliers = [None if m is None else m[kept] for m in self.multipliers]
        self.weight = None if self.weight is None else self.weight[kept]
        if self.encoding.sparse is not None:
            self.entries = [_joined(self.entries)]

    @property
    def training_weight(self) -> np.ndarray:
        """(rows,), zero for held-out rows."""
        return np.where(self.is_test, 0.0, 1.0 if self.weight is None else self.weight)

    def fill(self) -> dict[str, float]:
        """Put the training rows' means where numbers are missing; the means by name."""
        assert self.shift is not None
        found: dict[str, float] = {}
        weight = self.training_weight
        for j, name in enumerate(self.encoding.numbers):
            own = weight.copy()
            places = np.concatenate([np.zeros(0, np.int64), *self.missing[j]])
            own[places] = 0
            total = own.sum()
            mean = float(own @ self.numbers[:, j] / total) if total > 0 else 0.0
            self.numbers[places, j] = mean
            found[name] = mean + float(self.shift[j])
        return found

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
                shape=(self.filled, len(encoding.indices)),
            )
        return Concatenated(parts)

    def _one_hot(
        self, places: list[np.ndarray], multipliers: list[np.ndarray | None], features: int
    ) -> Sparse:
        """A one, or a multiplier, at each of these places that is one."""
        columns = np.stack(places, axis=1)
        there = columns >= 0
        rows = np.repeat(np.arange(self.filled, dtype=np.int32), np.count_nonzero(there, axis=1))
        values = None
        if any(multiplier is not None for multiplier in multipliers):
            ones = np.ones(self.filled, self.dtype)
            values = np.stack([ones if m is None else m for m in multipliers], axis=1)[there]
        shape = (self.filled, features)
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

    def column_squares(self) -> np.ndarray:
        """``sum_i s_i (x_ij - mean_j)^2`` over the training rows, (features,), in float64; zero
        where a column does not vary.
        """
        encoding, weight = self.encoding, self.training_weight
        moments = Moments(encoding.size, self.dtype)
        entries = encoding.placed(self.codes, self.buckets, self.multipliers)
        moments.add(self.numbers, entries, weight)
        if encoding.sparse is not None:
            (sparse,) = self.entries
            moments.add_sparse(sparse, weight, encoding.size - len(encoding.indices))
        assert self.shift is not None
        return moments.squares(self.shift)


def _joined(parts: list[SparseColumn]) -> SparseColumn:
    counts = np.concatenate([np.diff(part.starts) for part in parts])
    return SparseColumn(
        np.concatenate([[0], np.cumsum(counts)]),
        np.concatenate([part.index for part in parts]),
        np.concatenate([part.values for part in parts]),
    )


def means_of(prepared: Prepared) -> np.ndarray:
    """The means of a block's numbers, (numbers,); zeros where they are not finite."""
    means: list[float] = []
    with np.errstate(over="ignore", invalid="ignore"):
        for values, missing in prepared.encoded.numbers:
            there = values if missing is None else values[~missing]
            mean = float(np.mean(there, dtype=np.float64)) if there.size else 0.0
            means.append(mean if np.isfinite(mean) else 0.0)
    return np.asarray(means)
