"""A fit of more features than a matrix of their products has room for: the rows stay in memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdescent.data import DataError, Source, located
from jaxdescent.fit import checkpoint
from jaxdescent.fit.budget import ReadingBytes, bytes_of_levels, reading_of_all
from jaxdescent.fit.by_descent import RowsAsDesign, fit_design, minimum
from jaxdescent.fit.encoding import Encoding
from jaxdescent.fit.fitted import Fitted, PartFigures, part_of
from jaxdescent.fit.job import Job
from jaxdescent.fit.methods import method_of
from jaxdescent.fit.penalty_path import one_by_one, probes_for
from jaxdescent.fit.prepared import Preparing, prepared_blocks
from jaxdescent.fit.roles import AUTO
from jaxdescent.fit.rows import Rows
from jaxdescent.fit.start import Start
from jaxdescent.fit.vectors import Vectors
from jaxdescent.machine.resident import resident_bytes
from jaxdescent.regression import LinearRegression
from jaxdescent.result import Result

STARTING_BYTES = 360 << 20
"""Bytes that JAX's compiler takes and keeps."""

ROW_BYTES, NUMBER_BYTES, LEVEL_BYTES, BUCKET_BYTES, FEATURE_BYTES = 100, 12, 80, 80, 320
"""Bytes for a row, each of its numbers, levels and hashed values, and a feature: the designs in
the two orders of their products while they are sorted, the vectors of the descent, and the places
of levels. Measured on 1 to 3 million rows, and rounded up."""

PROBE_BYTES = 40
"""Bytes for a row or a feature, for each random vector that estimates degrees of freedom."""


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """How the rows are read, and the memory that reading and the descent take.

    Attributes:
      rows: how many rows all sources have.
      reading: how the sources are read.
      bytes: how many bytes the process holds at its peak.
    """

    rows: int
    reading: ReadingBytes
    bytes: int


def plan_in_memory(job: Job, encoding: Encoding) -> tuple[MemoryPlan, int]:
    """The plan of a fit in memory, and how many rows were read to make it (0 for none)."""
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
    if job.checkpoint is not None:
        each, each_feature = each + checkpoint.ROW_BYTES, each_feature + checkpoint.FEATURE_BYTES
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


def fit_in_memory(
    job: Job, encoding: Encoding, plan: MemoryPlan, start: Start | None = None
) -> Fitted:
    """Read everything into designs, and minimise on them.

    Raises:
      DataError: for values that cannot be used, too few rows, or a constant target.
    """
    request, method = job.request, method_of(job.request.method)
    preparing = Preparing.of(job, encoding)
    vectors = Vectors(job, preparing, plan.rows, has_others=True)
    rows = Rows(plan.rows, encoding, np.dtype(request.dtype or "float32"), vectors)
    for prepared, is_other in prepared_blocks(job, preparing, plan.reading.rows):
        rows.add(prepared, is_other=is_other)
        del prepared
    vectors.close()
    rows.close()

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
        for s, count in zip(vectors.parts, vectors.counts, strict=True):
            if s is not None and count:
                center = s @ y / s.sum()
                error, squares = s @ np.square(predicted - y), s @ np.square(y - center)
                found.append(part_of(count, float(error), float(squares), float(s.sum())))
        return found

    as_design = RowsAsDesign(
        rows.design(),
        "in memory",
        method,
        jnp.asarray,
        vectors.training_weight,
        lambda objective: one_by_one(objective, from_params),
        figures,
        lambda: ("", rows.free_constants()),
    )
    return fit_design(job, encoding, vectors, as_design, start)
