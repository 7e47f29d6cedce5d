"""A fit of more features than a matrix of their products has room for: the rows stay in memory."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent.data import DataError, Source, located, read_ahead
from jaxdescent.fit import keeping
from jaxdescent.fit.budget import Reading, bytes_of_levels, reading_of_all
from jaxdescent.fit.checks import check_rows, check_target, row_notes
from jaxdescent.fit.descending import details_of, minimum, told
from jaxdescent.fit.encoding import Encoding, Policy
from jaxdescent.fit.fitted import Fitted, Part, part_of
from jaxdescent.fit.job import Job
from jaxdescent.fit.methods import method_of
from jaxdescent.fit.moments import deviations
from jaxdescent.fit.penalty_path import (
    Search,
    details_of_search,
    one_by_one,
    probes_for,
    search,
)
from jaxdescent.fit.roles import AUTO
from jaxdescent.fit.rows import Rows
from jaxdescent.fit.scaled import Scaled
from jaxdescent.fit.solution import penalties_from
from jaxdescent.fit.start import Start
from jaxdescent.fit.sums import TEST, TRAIN, Preparing
from jaxdescent.machine.resident import resident_bytes
from jaxdescent.regression import LinearRegression
from jaxdescent.result import Result

STARTING_BYTES = 360 << 20
"""JAX's compiler, and what it leaves behind."""

ROW_BYTES, NUMBER_BYTES, LEVEL_BYTES, BUCKET_BYTES, FEATURE_BYTES = 100, 12, 80, 80, 320
"""A row, each of its numbers, levels and hashed values, and a feature: the designs in the two
orders of their products while they are sorted, the vectors of the descent, and levels' places.
Measured on 1 to 3 million rows, and rounded up."""

PROBE_BYTES = 40
"""A row or a feature, for each random vector by which degrees of freedom are estimated."""


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """What reading and the descent take.

    Attributes:
      rows: of all sources.
      reading: how they are read.
      bytes: that the process holds at its peak.
    """

    rows: int
    reading: Reading
    bytes: int


def plan_of(job: Job, encoding: Encoding) -> tuple[MemoryPlan, int]:
    """How it would be done, and how many rows were read to find out (0 for none)."""
    counted = 0
    rows = 0
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
    each += NUMBER_BYTES * len(encoding.one_hot) * encoding.has_slopes
    each_feature = FEATURE_BYTES
    if job.request.l2 == AUTO and not job.is_tested:
        probes = PROBE_BYTES * probes_for(max(rows, 1))
        each, each_feature = each + probes, each_feature + probes
    if job.keeping is not None:
        each, each_feature = each + keeping.ROW_BYTES, each_feature + keeping.FEATURE_BYTES
    wider = 2 if job.request.dtype == "float64" else 1
    entries = sum(source.entries for source in job.sources) * (encoding.sparse is not None)
    kept = rows * each + each_feature * encoding.size + BUCKET_BYTES * entries
    kept = resident_bytes() + STARTING_BYTES + wider * kept
    kept += bytes_of_levels(encoding.levels.values())
    width = 8 * (len(encoding.labelled) * 3 + 3) + len(encoding.numbers)
    reading = reading_of_all(job.sources, job.roles.columns, width, job.memory.limit - kept)
    return MemoryPlan(rows, reading, kept + reading.bytes), counted


def _count(source: Source, name: str) -> int:
    if not source.can_restart:
        raise DataError(
            "a fit of so many features has to know how many rows there are, and this reader gives "
            "its rows only once: pass a table."
        )
    return sum(block.rows for block in located(source, [name], 1 << 16))


def fit(job: Job, encoding: Encoding, plan: MemoryPlan, start: Start | None = None) -> Fitted:
    """Read everything into designs, and minimise on them.

    Raises:
      DataError: for values that cannot be used, too few rows, or a constant target.
    """
    with contextlib.ExitStack() as stack:
        if job.request.dtype == "float64":
            stack.enter_context(jax.enable_x64(True))
        return _fit(job, encoding, plan, start)


def _fit(job: Job, encoding: Encoding, plan: MemoryPlan, start: Start | None) -> Fitted:
    request, roles = job.request, job.roles
    dtype = np.dtype(request.dtype or "float32")
    rows = Rows(plan.rows, encoding, dtype, is_weighted=roles.weights is not None)
    policy = Policy(request.missing, unseen="zero")
    preparing = Preparing(roles, encoding, policy, request.test, request.seed)
    read = 0
    for part, source in enumerate(job.sources):
        job.watch.begin("held-out rows" if part else "reading", source.rows)
        own = dataclasses.replace(preparing, share=0.0, part=TEST) if part else preparing
        blocks = located_blocks(source, job, plan.reading.rows, own)
        before = read
        for prepared in blocks:
            rows.add(prepared)
            read += prepared.block.rows
            del prepared
            job.watch.advance(read - before)
            job.memory.check()
    rows.close()
    train = ~rows.is_test
    weight = np.ones(rows.filled) if rows.weight is None else rows.weight
    counts = (int(train.sum()), int(rows.is_test.sum()))
    totals = (float(weight[train].sum()), float(weight[rows.is_test].sum()))
    check_rows(counts, totals, rows.dropped, request, is_tested=job.is_tested, dtype=dtype)
    mean = float(weight[train] @ rows.target[train] / totals[TRAIN])
    squares = float(weight[train] @ np.square(rows.target[train] - mean))
    check_target(roles.target, counts[TRAIN], squares / totals[TRAIN], mean)
    fills = rows.fill() if request.missing == "mean" else {}
    problem = _Problem(job, rows, mean, float(np.sqrt(squares / totals[TRAIN])))
    return problem.fitted(fills, read, start)


def located_blocks(source: Source, job: Job, rows: int, preparing: Preparing) -> Any:
    """A source's blocks, prepared on a thread of their own."""
    names = job.roles.columns
    return read_ahead(lambda: map(preparing, located(source, names, rows, job.first_row)))


class _Problem:
    """The minimisation over kept rows: of targets less their mean and divided by their spread,
    and of weights that are multiplied by what the penalty takes for one.
    """

    def __init__(self, job: Job, rows: Rows, mean: float, spread: float) -> None:
        self.job, self.rows, self.mean, self.spread = job, rows, mean, spread
        request = job.request
        self.squares = np.ones(rows.encoding.size)
        self.scales = np.ones(rows.encoding.size)
        if request.standardize or request.l2 == AUTO:
            self.squares = rows.column_squares()
        if request.standardize:
            self.scales = deviations(self.squares, float(rows.training_weight.sum()))
        design: Any = rows.design()
        if request.standardize:
            design = Scaled(design, jnp.asarray((1 / self.scales).astype(rows.dtype)))
        weight = None
        if rows.weight is not None or job.is_tested:
            weight = jnp.asarray(rows.training_weight.astype(rows.dtype))
        self.objective = LinearRegression(
            design,
            jnp.asarray(((rows.target - mean) / spread).astype(rows.dtype)),
            l2=jnp.asarray(0.0 if request.l2 == AUTO else request.l2, rows.dtype),
            sample_weight=weight,
        )
        self.method = method_of(request.method)

    def fitted(self, fills: dict[str, float], read: int, start: Start | None) -> Fitted:
        """The fit, by a search for the penalty where that is asked for."""
        job, rows = self.job, self.rows
        objective, found, params = self.objective, None, self._params(start)
        if job.request.l2 == AUTO:
            found = self._searched(params)
            path = found.path
            job.watch.searched(path.penalties, path.scores, path.best)
            l2 = float(path.penalties[path.best])
            objective = dataclasses.replace(objective, l2=jnp.asarray(l2, rows.dtype))
            params = found.params
        result = told(job, objective, params, self.method, self.spread)
        job.memory.check()
        return self._report(result, found, fills, read, start)

    def _searched(self, params: Any) -> Search:
        job, rows = self.job, self.rows
        squares = self.squares / np.square(self.scales)
        job.watch.begin("searching", penalties_from(squares).size, "penalties at most")
        held_out = None
        if job.is_tested:
            held_out = np.where(rows.is_test, 1.0 if rows.weight is None else rows.weight, 0.0)

        def tell(tried: int, state: str) -> None:
            job.watch.advance(tried)
            job.watch.tell(state)
            job.memory.check()

        def from_params(objective: LinearRegression, params: Any) -> Result:
            if job.keeping is None:
                return minimum(objective, params, self.method)
            job.keeping.stop_if_asked("the search for l2, but for the last penalty,")
            with job.keeping.stepping():
                return minimum(objective, params, self.method)

        with contextlib.nullcontext() if job.keeping is None else job.keeping.searching():
            return search(
                self.objective,
                squares,
                params,
                train=rows.training_weight,
                held_out=held_out,
                attempt=one_by_one(self.objective, from_params),
                tell=tell,
                keeping=job.keeping,
            )

    def _params(self, start: Start | None) -> dict[str, Any]:
        """The params at a start's weights, or zeros."""
        rows, size = self.rows, self.rows.encoding.size
        weights, intercept = np.zeros(size), 0.0
        if start is not None:
            assert rows.shift is not None
            weights = start.weights * self.scales / self.spread
            shift = float(start.weights[: rows.shift.size] @ rows.shift)
            intercept = (start.intercept + shift - self.mean) / self.spread
        return {
            "weights": self.objective.X.unpacked(jnp.asarray(weights.astype(rows.dtype))),
            "intercept": jnp.asarray(intercept, rows.dtype),
        }

    def _report(
        self,
        result: Result,
        found: Search | None,
        fills: dict[str, float],
        read: int,
        start: Start | None,
    ) -> Fitted:
        rows, request = self.rows, self.job.request
        encoding, spread = rows.encoding, self.spread
        packed = np.asarray(self.objective.X.packed(result.params["weights"]), np.float64)
        weights = packed / self.scales * spread
        numbers = len(encoding.numbers)
        assert rows.shift is not None
        b = float(result.params["intercept"]) * spread + self.mean
        intercept = b - float(weights[:numbers] @ rows.shift)
        product = self.objective.X.product(result.params["weights"])
        predicted = np.asarray(product, np.float64) * spread + b
        parts: list[Part] = []
        for own in (~rows.is_test, rows.is_test):
            if own.any():
                s = np.ones(own.sum()) if rows.weight is None else rows.weight[own]
                y = rows.target[own]
                center = s @ y / s.sum()
                error, squares = s @ np.square(predicted[own] - y), s @ np.square(y - center)
                parts.append(part_of(int(own.sum()), float(error), float(squares), float(s.sum())))
        notes = list(found.path.notes) if found is not None else []
        l2 = float(request.l2) if found is None else float(found.path.penalties[found.path.best])
        if not l2 and encoding.levels:
            count = rows.free_constants()
            if count:
                notes.append(
                    f"The levels leave {count:,} constant{'s' * (count > 1)} free: the weights are "
                    "one choice of many with the same predictions."
                )
        notes.extend(start.notes if start is not None else [])
        notes.extend(row_notes(rows.dropped, rows.unseen))
        details = details_of(self.job, result, spread) | details_of_search(found, l2)
        details |= {
            "rank": None,
            "method": f"{result.method} on rows in memory, in {rows.dtype.name}",
            "dropped_rows": rows.dropped,
            "unseen_values": rows.unseen,
        }
        details["iterations"] += 0 if found is None else found.iterations
        encoding = dataclasses.replace(encoding, fills=fills)
        return Fitted(encoding, weights, intercept, parts, details, notes, read)
