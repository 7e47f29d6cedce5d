"""A fit of more features than a matrix of their products has room for: the rows stay in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdescent.data import DataError, Source, located
from jaxdescent.data.entries import Coded, RowEntries, entries_of
from jaxdescent.designs import Concatenated, Sparse
from jaxdescent.designs.reference_levels import references
from jaxdescent.fit.budget import FitPlan, reading_of
from jaxdescent.fit.by_descent import RowsAsDesign, descent_bytes, fit_design, minimum
from jaxdescent.fit.encoding import Encoded, Encoding
from jaxdescent.fit.fitted import Fitted, PartFigures, part_of
from jaxdescent.fit.job import Job
from jaxdescent.fit.methods import AUTO, method_of
from jaxdescent.fit.penalty_path import one_by_one, probes_for
from jaxdescent.fit.vectors import Vectors
from jaxdescent.regression import LinearRegression
from jaxdescent.result import Result

ROW_BYTES, NUMBER_BYTES, LEVEL_BYTES, BUCKET_BYTES, FEATURE_BYTES = 100, 12, 80, 80, 320
"""Bytes for a row, each of its numbers, levels and hashed values, and a feature: the designs in
the two orders of their products while they are sorted, the vectors of the descent, and the places
of levels. Measured on 1 to 3 million rows, and rounded up."""

PROBE_BYTES = 40
"""Bytes for a row or a feature, for each random vector that estimates degrees of freedom."""


def plan_in_memory(job: Job) -> tuple[FitPlan, int]:
    """The plan of a fit in memory, and how many rows were read to make it (0 for none)."""
    encoding, counted, rows = job.encoding, 0, 0
    for source in job.sources:
        known = source.rows
        if known is None:
            known = _count(source, job.roles.target)
            counted += known
        rows += known
    each = (
        ROW_BYTES
        + NUMBER_BYTES * len(encoding.numbers)
        + LEVEL_BYTES * len(encoding.levels)
        + BUCKET_BYTES * len(encoding.hashed)
    )
    each += NUMBER_BYTES * len(encoding.one_hot) * bool(encoding.sloped)
    each_feature = FEATURE_BYTES
    if job.request.l2 == AUTO and not job.is_tested:
        probes = PROBE_BYTES * probes_for(max(rows, 1))
        each, each_feature = each + probes, each_feature + probes
    entries = sum(source.entries for source in job.sources) * (encoding.sparse is not None)
    kept = descent_bytes(job, rows, each, each_feature, BUCKET_BYTES * entries)
    free, width = job.memory.limit - kept, encoding.prepared_bytes
    reading = reading_of(job.sources, job.roles.columns, width, free)
    return FitPlan(kept + reading.bytes, reading.rows, rows), counted


def _count(source: Source, name: str) -> int:
    if not source.can_restart:
        raise DataError(
            "a fit of so many features has to know how many rows there are, and this reader gives "
            "its rows only once: pass a table."
        )
    return sum(block.rows for block in located(source, [name], 1 << 16))


def fit_in_memory(job: Job, plan: FitPlan) -> Fitted:
    """Read everything into designs, and minimise on them.

    Raises:
      DataError: for values that cannot be used, too few rows, or a constant target.
    """
    method = method_of(job.request.method)
    vectors = Vectors(job, plan.rows, has_others=True)
    rows = Rows(plan.rows, job.encoding, vectors.dtype)
    vectors.read_all(plan.at_once, rows.add)

    def from_params(objective: LinearRegression, params: Any) -> Result:
        if job.checkpoint is None:
            return minimum(objective, params, method)
        job.checkpoint.stop_if_asked("the search for l2, but for the last penalty,")
        with job.checkpoint.stepping():
            return minimum(objective, params, method)

    def figures(
        encoding: Encoding, objective: LinearRegression, params: Any, weights: Any, intercept: Any
    ) -> list[PartFigures]:
        del encoding, weights, intercept
        product = np.asarray(objective.X.product(params["weights"]), np.float64)
        predicted = (product + float(params["intercept"])) * vectors.spread + vectors.mean
        y, found = vectors.target, list[PartFigures]()
        for s, count in zip(vectors.parts, vectors.counts.rows, strict=True):
            if s is not None and count:
                center = s @ y / s.sum()
                error, squares = s @ np.square(predicted - y), s @ np.square(y - center)
                found.append(part_of(count, float(error), float(squares), float(s.sum())))
        return found

    as_design = RowsAsDesign(
        rows.design(vectors.filled, vectors.fills),
        "in memory",
        method,
        jnp.asarray,
        vectors.training_weight,
        lambda objective: one_by_one(objective, from_params),
        figures,
        lambda: ("", rows.free_constants()),
    )
    return fit_design(job, vectors, as_design)


class Rows:
    """The features of all rows, in arrays that are allocated once: the number of rows is known."""

    def __init__(self, rows: int, encoding: Encoding, dtype: Any) -> None:
        self.encoding, self.dtype = encoding, dtype
        self.numbers = np.empty((rows, len(encoding.numbers)), dtype)
        values = {name: np.empty(rows, dtype) for name in encoding.sloped}
        self.coded = [
            Coded(first, size, np.empty(rows, np.int32), values.get(name))
            for name, first, size in encoding.spans
        ]
        self.entries: list[list[RowEntries]] = []  # of the sparse column, block by block
        self.missing: list[list[np.ndarray]] = [[] for _ in encoding.numbers]

    def add(self, encoded: Encoded, numbers: np.ndarray, place: slice) -> None:
        """Keep a block's rows at their place; numbers less the first block's means, which float32
        can hold.
        """
        rows = encoded.kept
        self.numbers[place] = numbers
        for places, number in zip(self.missing, encoded.numbers, strict=True):
            if number.missing is not None:
                places.append(place.start + np.flatnonzero(number.missing[rows]))
        with np.errstate(over="ignore", invalid="ignore"):
            for kept, new in zip(self.coded, encoded.coded, strict=True):
                kept.codes[place] = new.codes[rows]
                if kept.values is not None and new.values is not None:
                    kept.values[place] = new.values[rows]
            taken = [column[rows] for column in encoded.entries]
            self.entries.append([column.in_dtype(self.dtype) for column in taken])

    def design(self, filled: int, fills: np.ndarray) -> Concatenated:
        """The features side by side, one-hot columns in sparse form, without the places that
        dropped rows left, and with ``fills`` for missing numbers.

        The levels of all columns are one sparse design: a program for each of them would take
        seconds to compile.
        """
        kept, parts = slice(0, filled), {}
        self.coded = [column[kept] for column in self.coded]
        for j, places in enumerate(self.missing):
            for each in places:
                self.numbers[each, j] = fills[j]
        if self.encoding.numbers:
            parts["numbers"] = jnp.asarray(self.numbers[kept])
        for name, each in self._entries():
            parts[name] = Sparse.from_indices(
                each.row.astype(np.int32),
                each.index,
                each.values,
                shape=(filled, each.size),
                dtype=self.dtype,
            )
        return Concatenated(parts)

    def _entries(self) -> Iterator[tuple[str, RowEntries]]:
        """The entries of each sparse design, one after another, since they take much memory."""
        count = len(self.encoding.levels)
        if count:
            yield "levels", entries_of(self.coded[:count])
        if self.encoding.hashed:
            yield "buckets", entries_of(self.coded[count:])
        pieces, self.entries = [piece for pieces in self.entries for piece in pieces], []
        if pieces:
            entries = pieces[0].followed_by(pieces[1:])
            del pieces
            yield "sparse", entries

    def free_constants(self) -> int:
        """How many constants the levels leave free: numbers that can be added to all weights of
        one column and taken off another's, so that no prediction changes.
        """
        own = zip(self.encoding.levels, self.coded, strict=False)
        factors = {name: (each.codes, each.size) for name, each in own if each.values is None}
        return sum(len(levels) for levels in references(factors, intercept=True).values())
