"""A fit of more features than a matrix of their products has room for: the rows stay in memory."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdescent.data.entries import Coded, RowEntries, entries_of
from jaxdescent.designs import Concatenated, Sparse
from jaxdescent.designs.reference_levels import references
from jaxdescent.fit.descents import minimum
from jaxdescent.fit.encoding import Encoded, Encoding
from jaxdescent.fit.fitted import Predictions
from jaxdescent.fit.job import Job
from jaxdescent.fit.methods import IN_MEMORY, method_of
from jaxdescent.fit.penalty_path import Tried, Try, has_converged
from jaxdescent.fit.plans import FitPlan
from jaxdescent.fit.vectors import Vectors
from jaxdescent.regression import LinearRegression
from jaxdescent.result import Result


class RowsInMemory:
    """All rows, the held-out ones of other data among them, read once into designs."""

    where, default, width = "in memory", IN_MEMORY, 1

    def __init__(self, job: Job, plan: FitPlan) -> None:
        self._job = job
        features = Features(plan.rows, job.encoding, job.dtype)
        self.vectors = Vectors(job, plan, features.add, has_others=True)
        self.design = features.design(self.vectors.filled, self.vectors.fills)
        self._coded = features.coded

    def attempts(self, objective: LinearRegression) -> Try:
        """Descents one after another, each for one target at one penalty."""
        keeping, method = self._job.checkpoint, method_of(self._job.request.method, self.default)

        def attempt(targets: np.ndarray, penalties: Sequence[float], params: list[Any]) -> Tried:
            (l2,), results = penalties, list[Result]()
            penalised = dataclasses.replace(objective, l2=jnp.asarray(l2, objective.y.dtype))
            for y, own in zip(targets.T, params, strict=True):
                if keeping is not None:
                    keeping.stop_if_asked("the search for l2, but for the last penalty,")
                with contextlib.nullcontext() if keeping is None else keeping.stepping():
                    problem = dataclasses.replace(penalised, y=jnp.asarray(y))
                    results.append(minimum(problem, own, method))
            found = [result.params for result in results]
            return Tried(
                [found],
                [lambda target: objective.predict(found[target], objective.X)],
                all(map(has_converged, results)),
                sum(int(result.iterations) for result in results),
            )

        return attempt

    def predictions(
        self, encoding: Encoding, model: tuple[np.ndarray, float], product: Callable[[], Any]
    ) -> Predictions:
        """The predictions of all rows, from the product of the design with its weights."""
        del encoding, model
        yield product(), self.vectors.target, self.vectors.parts

    def free_constants(self) -> tuple[str, int]:
        """How many constants the levels leave free: numbers that can be added to all weights of
        one column and taken off another's, so that no prediction changes.
        """
        own = zip(self._job.encoding.levels, self._coded, strict=False)
        factors = {name: (each.codes, each.size) for name, each in own if each.values is None}
        return "", sum(len(levels) for levels in references(factors, intercept=True).values())

    def read(self) -> dict[str, int]:
        """How many rows were read."""
        return {"rows_read": self.vectors.counts.read}


class Features:
    """The features of all rows, in arrays that are allocated once: the number of rows is known."""

    def __init__(self, rows: int, encoding: Encoding, dtype: Any) -> None:
        self.encoding, self.dtype = encoding, dtype
        self.numbers = np.empty((rows, len(encoding.numbers)), dtype)
        values = {name: np.empty(rows, dtype) for name in encoding.sloped}
        self.coded = [
            Coded(first, size, np.empty(rows, np.int32), values.get(name))
            for name, first, size in encoding.spans
        ]
        self.entries: list[RowEntries] = []  # of the sparse column, block by block
        self.missing: list[list[np.ndarray]] = [[] for _ in encoding.numbers]

    def add(self, encoded: Encoded, numbers: np.ndarray, place: slice) -> None:
        """Keep a block's rows at their place; numbers less the first block's means, which float32
        can hold.
        """
        self.numbers[place] = numbers
        for places, number in zip(self.missing, encoded.numbers, strict=True):
            if number.missing is not None:
                places.append(place.start + np.flatnonzero(number.missing))
        with np.errstate(over="ignore", invalid="ignore"):
            for kept, new in zip(self.coded, encoded.coded, strict=True):
                kept.codes[place] = new.codes
                if kept.values is not None and new.values is not None:
                    kept.values[place] = new.values
            self.entries += [column.in_dtype(self.dtype) for column in encoded.entries]

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
        pieces, self.entries = self.entries, []
        if pieces:
            entries = pieces[0].followed_by(pieces[1:])
            del pieces
            yield "sparse", entries
