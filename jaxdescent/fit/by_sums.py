"""A fit by the sums of one pass: every penalty and every statistic follows from them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from jaxdescent.data.chunk import product_rows
from jaxdescent.fit import solution as solving
from jaxdescent.fit.budget import (
    LEVEL_BYTES,
    SLACK_BYTES,
    FitPlan,
    bytes_of_levels,
    reading_of,
)
from jaxdescent.fit.checks import check_target
from jaxdescent.fit.encoding import Encoding
from jaxdescent.fit.fitted import Fitted, PartFigures, part_of
from jaxdescent.fit.job import Job
from jaxdescent.fit.methods import AUTO
from jaxdescent.fit.prepared import TEST, TRAIN, Preparing, prepared_blocks
from jaxdescent.fit.sums import ProductSums, products_side
from jaxdescent.machine.resident import resident_bytes
from jaxdescent.status import Evidence

SOLVING_MATRICES = 8
"""Square matrices of the features that the solve holds: the moments, the scaled Hessian, its
eigenvectors, and LAPACK's workspace."""


def plan_sums(job: Job) -> FitPlan:
    """The plan of the pass, whether or not it fits the memory."""
    encoding, side = job.encoding, products_side(job)
    parts, matrix = 1 + job.is_tested, 8 * side**2
    # The product of the last rows, which is added to the sums, and these rows written out.
    dense = side - encoding.size + len(encoding.numbers)
    passing = parts * matrix + 8 * dense**2 + 8 * dense * product_rows(dense)
    solving_bytes = (parts + SOLVING_MATRICES) * matrix
    base = resident_bytes() + SLACK_BYTES + LEVEL_BYTES * (encoding.size - len(encoding.numbers))
    base += bytes_of_levels(encoding.levels.values())
    free = job.memory.limit - base - passing
    reading = reading_of(job.sources, job.roles.columns, encoding.prepared_bytes, free)
    return FitPlan(base + max(passing + reading.bytes, solving_bytes), reading.rows)


def fit_by_sums(job: Job, plan: FitPlan) -> Fitted:
    """Read everything once, and solve.

    Raises:
      DataError: for values that cannot be used, too few rows, or a constant target.
    """
    request, encoding = job.request, job.encoding
    sums = ProductSums(job)
    for prepared, _ in prepared_blocks(job, Preparing.of(job), plan.at_once):
        sums.add(prepared)
        del prepared
    sums.close()
    counts, data = sums.counts, sums.moments()
    variance = data.squares / data.weight_total
    check_target(job.roles.target, counts.rows[TRAIN], variance, float(data.target_mean[0]))
    has_test = sums.matrices[TEST] is not None
    notes: list[str] = []
    l2, path = request.l2, None
    if l2 == AUTO:
        path = solving.path(
            data,
            counts.rows[TRAIN],
            standardize=request.standardize,
            held_out=functools.partial(sums.squared_error, TEST) if has_test else None,
        )
        job.watch.searched(path.penalties, path.scores, path.best)
        l2 = float(path.penalties[path.best])
        notes.extend(path.notes)
    found = solving.solve(data, float(l2), standardize=request.standardize)
    notes += _notes(found, encoding) + counts.notes
    if sums.fills is not None and sums.shift is not None:
        encoding = encoding.filled(sums.fills + sums.shift[: len(sums.fills)])
    parts: list[PartFigures] = []
    for part, total in enumerate(sums.matrices):
        if total is not None:
            squares = total[-2, -2] - total[-2, -1] ** 2 / total[-1, -1]
            error = sums.squared_error(part, found.weights, found.intercept)
            parts.append(part_of(counts.rows[part], error, float(squares), float(total[-1, -1])))
    details: dict[str, Any] = {
        "rank": found.rank,
        "degrees_of_freedom": found.degrees,
        "value": found.value,
        "gradient_norm": found.gradient_norm,
        "suboptimality": found.suboptimality,
        "status": str(found.status),
        "evidence": found.evidence.explanation,
        "l2": float(l2),
        "l2_chosen_by": path.rule if path else None,
        "method": "sums of one pass, solved by their spectrum",
        "iterations": 1,
        "dropped_rows": counts.dropped,
        "unseen_values": counts.unseen,
    }
    return Fitted(encoding, found.weights, found.intercept, parts, details, notes, counts.read)


def _notes(found: solving.Solution, encoding: Encoding) -> list[str]:
    notes: list[str] = []
    constant = np.flatnonzero(found.constant)
    if constant.size:
        names = [encoding.feature_name(int(j)) for j in constant[:5]]
        more = f" and {constant.size - 5:,} more" if constant.size > 5 else ""
        verb = "does" if constant.size == 1 else "do"
        notes.append(
            f"{', '.join(names)}{more} {verb} not vary beyond rounding: the weight is zero."
        )
    varying = found.weights.size - constant.size
    if found.rank is not None and found.rank < varying:
        if found.evidence is Evidence.FACTORISATION:
            notes.append(
                f"The features are linearly dependent: rank {found.rank:,} of {varying:,}. The "
                "weights are those of least norm per column's length; predictions do not depend "
                "on the choice."
            )
        else:
            notes.append(
                f"Some features are so nearly dependent that float64 cannot tell them apart: rank "
                f"{found.rank:,} of {varying:,}. What only their small differences explain is left "
                "out: take differences as features, leave some out, or say --l2."
            )
    return notes
