"""A fit of more features than a matrix of their products has room for: the rows stay in memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdescent.data import DataError, Source, located, read_ahead
from jaxdescent.designs import Categorical, Concatenated, Sparse
from jaxdescent.fit.budget import Reading, reading_of_all, resident_bytes
from jaxdescent.fit.checks import check_rows, check_target, row_notes
from jaxdescent.fit.encoding import Encoding, Policy
from jaxdescent.fit.fitted import Fitted, Part, part_of
from jaxdescent.fit.job import Job
from jaxdescent.fit.roles import AUTO
from jaxdescent.fit.sums import TEST, TRAIN, Prepared, Preparing, not_finite
from jaxdescent.methods import ConjugateGradient
from jaxdescent.minimize import minimize
from jaxdescent.preconditioners import Jacobi
from jaxdescent.regression import LinearRegression
from jaxdescent.result import Evidence, Status

STARTING_BYTES = 360 << 20
"""JAX's compiler, and what it leaves behind."""

ROW_BYTES, NUMBER_BYTES, LEVEL_BYTES, BUCKET_BYTES, FEATURE_BYTES = 100, 12, 64, 80, 320
"""A row, each of its numbers, levels and hashed values, and a feature: the designs in the two
orders of their products while they are sorted, the vectors of the descent, and levels' places.
Measured on 1 to 3 million rows, and rounded up."""

MOST_ITERATIONS = 1000


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
    kept = resident_bytes() + STARTING_BYTES + rows * each + FEATURE_BYTES * encoding.size
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


class _Rows:
    """Everything that is kept of the rows, in arrays that grow by none: their size is known."""

    def __init__(self, rows: int, encoding: Encoding, *, is_weighted: bool) -> None:
        self.encoding = encoding
        self.numbers = np.empty((rows, len(encoding.numbers)), np.float32)
        self.codes = [np.empty(rows, np.int32) for _ in encoding.levels]
        self.buckets = [np.empty(rows, np.int32) for _ in encoding.hashed]
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
            self.shift = _means(prepared)
        with np.errstate(over="ignore", invalid="ignore"):
            for j, number in enumerate(encoded.numbers):
                column = np.subtract(number.values[rows], self.shift[j], dtype=np.float64)
                if number.missing is not None:
                    missing = np.flatnonzero(number.missing[rows])
                    self.missing[j].append(self.filled + missing)
                    column[missing] = 0
                self.numbers[place, j] = column
        self.target[place] = prepared.target.values[rows]
        finite = np.isfinite(self.numbers[place]).all() and np.isfinite(self.target[place]).all()
        if not finite:
            raise not_finite(prepared, self.encoding, rows)
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
        """Forget the places of dropped rows."""
        kept = slice(0, self.filled)
        self.numbers, self.target = self.numbers[kept], self.target[kept]
        self.is_test = self.is_test[kept]
        self.codes = [codes[kept] for codes in self.codes]
        self.buckets = [codes[kept] for codes in self.buckets]
        self.weight = None if self.weight is None else self.weight[kept]

    def fill(self) -> dict[str, float]:
        """Put the training rows' means where numbers are missing; the means by name."""
        assert self.shift is not None
        found: dict[str, float] = {}
        weight = np.where(self.is_test, 0.0, 1.0 if self.weight is None else self.weight)
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
        """The rows' features side by side, none of them written out."""
        parts: dict[str, Any] = {}
        if self.encoding.numbers:
            parts["numbers"] = jnp.asarray(self.numbers)
        for (name, levels), codes in zip(self.encoding.levels.items(), self.codes, strict=True):
            parts[f"levels of {name}"] = Categorical(codes, len(levels))
        if self.encoding.hashed:
            places = np.stack(self.buckets, axis=1)
            there = places >= 0
            rows = np.repeat(
                np.arange(self.filled, dtype=np.int32), np.count_nonzero(there, axis=1)
            )
            shape = (self.filled, len(self.encoding.buckets))
            parts["buckets"] = Sparse.from_indices(rows, places[there], shape=shape)
        return Concatenated(parts)


def _means(prepared: Prepared) -> np.ndarray:
    means: list[float] = []
    with np.errstate(over="ignore", invalid="ignore"):
        for values, missing in prepared.encoded.numbers:
            there = values if missing is None else values[~missing]
            mean = float(np.mean(there, dtype=np.float64)) if there.size else 0.0
            means.append(mean if np.isfinite(mean) else 0.0)
    return np.asarray(means)


def fit(job: Job, encoding: Encoding, plan: MemoryPlan) -> Fitted:
    """Read everything into designs, and minimise on them.

    Raises:
      DataError: for values that cannot be used, too few rows, or a constant target.
    """
    request, roles = job.request, job.roles
    if request.l2 == AUTO:
        raise DataError(
            f"--l2 auto needs the sums of one pass, and a fit of {encoding.size:,} features goes "
            "without them: name a number."
        )
    if request.standardize and float(request.l2):
        raise DataError(
            f"--standardize needs the sums of one pass, and a fit of {encoding.size:,} features "
            "goes without them: leave it out."
        )
    rows = _Rows(plan.rows, encoding, is_weighted=roles.weights is not None)
    policy = Policy(request.missing, unseen="zero")
    preparing = Preparing(roles, encoding, policy, request.test, request.seed)
    read = 0
    for part, source in enumerate(job.sources):
        job.watch.begin("held-out rows" if part else "reading", source.rows)
        own = dataclasses.replace(preparing, share=0.0, part=TEST) if part else preparing
        blocks = located_blocks(source, job, plan.reading.rows, own)
        for prepared in blocks:
            rows.add(prepared)
            read += prepared.block.rows
            del prepared
            job.watch.advance(rows.filled)
            job.memory.check()
    rows.close()
    train = ~rows.is_test
    weight = np.ones(rows.filled) if rows.weight is None else rows.weight
    counts = (int(train.sum()), int(rows.is_test.sum()))
    totals = (float(weight[train].sum()), float(weight[rows.is_test].sum()))
    check_rows(counts, totals, rows.dropped, request, is_tested=job.is_tested)
    mean = float(weight[train] @ rows.target[train] / totals[TRAIN])
    squares = float(weight[train] @ np.square(rows.target[train] - mean))
    check_target(roles.target, counts[TRAIN], squares / totals[TRAIN], mean)
    fills = rows.fill() if request.missing == "mean" else {}
    job.watch.begin("minimising", None)
    return _minimised(rows, job, mean, fills, read)


def located_blocks(source: Source, job: Job, rows: int, preparing: Preparing) -> Any:
    """A source's blocks, prepared on a thread of their own."""
    names = job.roles.columns
    return read_ahead(lambda: map(preparing, located(source, names, rows)))


def _minimised(rows: _Rows, job: Job, mean: float, fills: dict[str, float], read: int) -> Fitted:
    request, encoding = job.request, rows.encoding
    weight = rows.weight
    if job.is_tested:
        weight = np.where(rows.is_test, 0.0, 1.0 if weight is None else weight)
    objective = LinearRegression(
        rows.design(),
        jnp.asarray((rows.target - mean).astype(np.float32)),
        l2=float(request.l2),
        sample_weight=None if weight is None else jnp.asarray(weight.astype(np.float32)),
    )
    result = minimize(objective, method=ConjugateGradient(Jacobi()), max_iterations=MOST_ITERATIONS)
    job.memory.check()
    found = result.params["weights"]
    weights = np.concatenate([np.asarray(part, np.float64) for part in found.values()])
    numbers = len(encoding.numbers)
    assert rows.shift is not None
    intercept = float(result.params["intercept"]) + mean
    intercept -= float(weights[:numbers] @ rows.shift)
    predicted = np.asarray(objective.X.product(found), np.float64)
    predicted += float(result.params["intercept"]) + mean
    parts: list[Part] = []
    for own in (~rows.is_test, rows.is_test):
        if own.any():
            s = np.ones(own.sum()) if rows.weight is None else rows.weight[own]
            y = rows.target[own]
            center = s @ y / s.sum()
            error, squares = s @ np.square(predicted[own] - y), s @ np.square(y - center)
            parts.append(part_of(int(own.sum()), float(error), float(squares), float(s.sum())))
    notes: list[str] = []
    if not float(request.l2) and encoding.levels:
        free = objective.X.reference_levels()
        count = sum(len(levels) for levels in free.values())
        if count:
            notes.append(
                f"The levels leave {count:,} constant{'s' * (count > 1)} free: the weights are "
                "one choice of many with the same predictions."
            )
    notes.extend(row_notes(rows.dropped, rows.unseen))
    evidence, status = Evidence(int(result.evidence)), Status(int(result.status))
    left = float(result.suboptimality)
    details: dict[str, Any] = {
        "rank": None,
        "degrees_of_freedom": None,
        "value": float(result.value),
        "gradient_norm": float(result.gradient_norm),
        "suboptimality": left if np.isfinite(left) else None,
        "status": str(status),
        "evidence": evidence.explanation,
        "l2": float(request.l2),
        "l2_chosen_by": None,
        "method": f"{result.method} on rows in memory, in float32",
        "iterations": int(result.iterations),
        "dropped_rows": rows.dropped,
        "unseen_values": rows.unseen,
    }
    return Fitted(
        dataclasses.replace(encoding, fills=fills), weights, intercept, parts, details, notes, read
    )
