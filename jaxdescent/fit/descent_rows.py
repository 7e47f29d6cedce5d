"""The rows of a fit by descent: in memory where they fit, or read from the files in each pass.

Vectors stay in memory, those over the rows (target, weight, residuals) and over the features.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdescent import processes
from jaxdescent.data import Block, Kind, located
from jaxdescent.data.entries import RowEntries, entries_of
from jaxdescent.data.freeing import Passing, return_what_is_freed
from jaxdescent.data.matrix_columns import MatrixColumns
from jaxdescent.data.wrapped import WrappedSource
from jaxdescent.designs import Concatenated, Sparse
from jaxdescent.fit import shared_rows
from jaxdescent.fit.budget import ReadingPlan
from jaxdescent.fit.descents import descend, minimum
from jaxdescent.fit.encoding import Encoded, Encoding
from jaxdescent.fit.job import Job, Predictions
from jaxdescent.fit.plans import ENTRY_BYTES
from jaxdescent.fit.request import IN_FILES, IN_MEMORY, method_of
from jaxdescent.fit.rows import TEST, TRAIN, prepared, read_rows, shifted_numbers
from jaxdescent.fit.vectors import Vectors
from jaxdescent.regression import LinearRegression
from jaxdescent.runs.driver import timed
from jaxdescent.runs.hooks import Summary
from jaxdescent.status import Status

LEVELS = "the levels of {}"
"""The name of the column that holds the entries of all one-hot columns."""


class Tried(NamedTuple):
    """The results of descents at some penalties, in the order of the penalties."""

    params: list[list[Any]]  # for each penalty, the params of each target
    # For each penalty, a function that gives the prediction of each target, (rows,).
    predicted: list[Callable[[int], Any]]
    is_done: bool  # whether all descents converged
    iterations: int  # how many iterations all descents took


class RowsInMemory:
    """All rows, the held-out ones of other data among them, read once into designs."""

    way, where, default, width = "rows in memory", "in memory", IN_MEMORY, 1

    def __init__(self, job: Job, plan: ReadingPlan) -> None:
        self._job, encoding = job, job.encoding
        self._numbers = np.empty((plan.rows, len(encoding.numbers)), job.dtype)
        # Of each sparse design by the name of its column, block by block; of one-hot ones no name.
        self._entries: dict[str, list[RowEntries]] = collections.defaultdict(list)
        self.vectors = Vectors(job, plan, self.add)
        self.design = self._design()
        del self._numbers

    def add(self, encoded: Encoded, numbers: np.ndarray, place: slice) -> None:
        """Keep a block's rows at their place; numbers less the first block's means, which float32
        can hold.
        """
        self._numbers[place] = numbers
        for j, missing in encoded.missing:
            self._numbers[place, j][missing] = np.nan
        one_hot = [entries_of(encoded.coded)] if encoded.coded else []
        for each in (*one_hot, *encoded.entries):
            self._entries[each.name].append(each.in_dtype(self._job.dtype))

    def _design(self) -> Concatenated:
        """The features side by side, one-hot columns in sparse form, without the places that
        dropped rows left, and with means for missing numbers.

        The levels and buckets of all columns are one sparse design: a program for each of them
        would take seconds to compile.
        """
        rows, parts = self.vectors.filled, dict[str, Any]()
        if self._job.request.missing == "mean":
            for column, fill in zip(self._numbers[:rows].T, self.vectors.fills, strict=True):
                column[np.isnan(column)] = fill
        if self._job.encoding.numbers:
            parts["numbers"] = jnp.asarray(self._numbers[:rows])
        for name in list(self._entries):
            first, *others = self._entries.pop(name)
            each = first.followed_by(others)
            del first, others  # entries take much memory
            parts[f"sparse {name}"] = Sparse.from_indices(
                each.row.astype(np.int32),
                each.index,
                each.values,
                shape=(rows, each.size),
                dtype=self._job.dtype,
            )
        return Concatenated(parts)

    def attempt(
        self,
        objective: LinearRegression,
        targets: np.ndarray,
        penalties: Sequence[float],
        params: list[Any],
    ) -> Tried:
        """Descents one after another, for each of the targets, (rows, targets), from params of its
        own, at a single penalty.
        """
        keeping, method = self._job.checkpoint, method_of(self._job.request.method, self.default)
        summary = Summary() if keeping is None else keeping.summary
        (l2,) = penalties
        objective = dataclasses.replace(objective, l2=jnp.asarray(l2, objective.y.dtype))
        results = []
        for y, own in zip(targets.T, params, strict=True):
            if keeping is not None:
                keeping.stop_if_asked("the search for l2, but for the last penalty,")
            problem = dataclasses.replace(objective, y=jnp.asarray(y))
            # A descent too short for checkpoints of its own counts as steps as a whole.
            with timed(summary, "seconds"), timed(summary, "seconds_in_steps"):
                results.append(minimum(problem, own, method))
        found = [result.params for result in results]
        return Tried(
            [found],
            [lambda target: objective.predict(found[target], objective.X)],
            all(int(result.status) == Status.CONVERGED for result in results),
            sum(int(result.iterations) for result in results),
        )

    def predictions(
        self, encoding: Encoding, model: tuple[np.ndarray, float], product: Callable[[], Any]
    ) -> Predictions:
        """The predictions of all rows, from the product of the design with its weights."""
        yield product(), self.vectors.target, self.vectors.parts

    def read(self) -> dict[str, int]:
        """How many rows were read."""
        return {"rows_read": self.vectors.counts.read}


class RowsInFiles:
    """Rows that are read once for their vectors, again in each pass of a descent, and for the
    figures; those of other data for the vectors and the figures alone.
    """

    way, where, default = "rows in the files", "that stay in the files", IN_FILES

    def __init__(self, job: Job, plan: ReadingPlan) -> None:
        return_what_is_freed()
        self._job, self._plan, self.width = job, plan, plan.width
        shares = None if processes.is_alone() else job.checkpoint
        units = {} if shares is None else shares.units()
        self.vectors = Vectors(job, plan, shift=units.get("shift"))
        if "shift" in units:  # the units of the fit that is resumed
            self.vectors.use(units)
        self._source = source = EncodedRows(job, self.vectors, plan.at_once)
        options = {"sparse": source.sparse, "dtype": job.dtype}
        self.design = shared_rows.streamed(source, job.encoding.numbers, **options)
        source.rows_read = 0  # without the look at the first ones
        if shares is not None:
            shares.check_rows(self.design.row_count, self.vectors.counts.dropped)
            if "shift" not in units:
                shares.keep_units(self.vectors.units)

    def attempt(
        self,
        objective: LinearRegression,
        targets: np.ndarray,
        penalties: Sequence[float],
        params: list[Any],
    ) -> Tried:
        """Descents that share each pass: the penalties, and the targets of each, (rows, targets),
        are outputs of one regression, each a problem of its own to LSMR.
        """
        count, each = len(penalties), targets.shape[1]
        problem = dataclasses.replace(
            objective,
            y=jnp.tile(jnp.asarray(targets), (1, count)),
            l2=jnp.repeat(jnp.asarray(penalties, objective.y.dtype), each),
        )
        given = {
            name: jnp.tile(jnp.stack([own[name] for own in params], axis=-1), count)
            for name in ("weights", "intercept")
        }

        def tell(iteration: int, value: float, left: float) -> None:
            span = f"l2 {penalties[0]:.3g} to {penalties[-1]:.3g}"
            self._job.watch.tell(f"{span}, iteration {iteration}")

        name = f"search-{count}-{penalties[0]:.6e}"
        result = descend(self._job, problem, given, method_of(IN_FILES), tell, name=name)
        predicted = problem.predict(result.params, problem.X)
        found = [
            [{name: each[..., place] for name, each in result.params.items()} for place in own]
            for own in np.arange(count * each).reshape(count, each)
        ]
        return Tried(
            found,
            [lambda t, k=k: predicted[:, k * each + t] for k in range(count)],
            int(result.status) == Status.CONVERGED,
            int(result.iterations),
        )

    def predictions(
        self, encoding: Encoding, model: tuple[np.ndarray, float], product: Callable[[], Any]
    ) -> Predictions:
        """The predictions of all rows in float64: one more pass over all sources."""
        weights, intercept = model
        job = self._job._replace(roles=self._job.roles._replace(features=encoding))
        for rows in read_rows(job, self._plan.at_once):
            predicted = encoding.product(rows.encoded, weights) + intercept
            yield predicted, rows.target, [rows.weight_of(part) for part in (TRAIN, TEST)]

    def read(self) -> dict[str, int]:
        """How many rows were read, and in how many passes."""
        read = 2 * self.vectors.counts.read + self._source.rows_read
        return {"rows_read": read, "passes": 2 + self.design.passes, "test_passes": 2}


class EncodedRows(WrappedSource):
    """The rows that count, column by column: numbers less a shift, means where one is missing, and
    the entries of all levels and buckets together.

    All rows of the data's own files are among them, held-out ones too, and none of other data.
    """

    def __init__(self, job: Job, vectors: Vectors, at_once: int) -> None:
        self._job, self._vectors, self._at_once = job, vectors, at_once
        self._passing, self.rows_read = Passing(), 0
        # How many features each column of entries has, in the order of the weights.
        encoding, self.sparse = job.encoding, dict[str, int]()
        self._one_hot = LEVELS.format(", ".join(encoding.one_hot))
        if encoding.one_hot:
            others = len(encoding.numbers) + len(encoding.indices)
            self.sparse[self._one_hot] = encoding.size - others
        if encoding.sparse is not None:
            self.sparse[encoding.sparse] = len(encoding.indices)
        super().__init__(job.source)
        self.rows = vectors.filled
        numbers = dict.fromkeys(encoding.numbers, Kind.NUMBER)
        self.kinds = numbers | dict.fromkeys(self.sparse, Kind.SPARSE)

    def row_bytes(self, names: Sequence[str]) -> int:
        itemsize = self._job.dtype.itemsize
        entries = ENTRY_BYTES * max(len(self._job.encoding.one_hot), 1)
        return sum(entries if name in self.sparse else itemsize for name in names)

    def reading_bytes(self, names: Sequence[str], rows: int) -> int:
        return self.base.reading_bytes(self._job.roles.columns, self._at_once)

    def blocks(self, names: Sequence[str], rows: int) -> Iterator[Block | Mapping[str, Any]]:
        del names  # a product needs all features
        job, vectors = self._job, self._vectors
        read, row_bytes = job.roles.columns, self.base.row_bytes(job.roles.columns)
        places = {name: j for j, name in enumerate(job.encoding.numbers)}
        for block in located(self.base, read, min(rows, self._at_once)):
            self._passing.add(block.rows * row_bytes)
            job.memory.check()
            self.rows_read += block.rows
            encoded = prepared(block, job.roles, job.request.missing).encoded
            if encoded.rows:
                shift, fills = vectors.counts.shift, vectors.fills
                numbers = shifted_numbers(encoded, shift, job.dtype, fills)
                others = dict[str, Any]({each.name: each for each in encoded.entries})
                if encoded.coded:
                    others[self._one_hot] = entries_of(encoded.coded)
                yield Block(MatrixColumns(places, numbers, others), encoded.rows, 0)
