"""A fit by the sums of one pass: every penalty and every statistic follows from them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxdescent.data.chunk import product_rows
from jaxdescent.fit import solution as solving
from jaxdescent.fit.budget import (
    LEVEL_BYTES,
    SLACK_BYTES,
    ReadingBytes,
    bytes_of_levels,
    reading_of_all,
)
from jaxdescent.fit.checks import check_rows, check_target, row_notes
from jaxdescent.fit.encoding import Encoding, Policy
from jaxdescent.fit.fitted import Fitted, PartFigures, part_of
from jaxdescent.fit.job import Job
from jaxdescent.fit.prepared import TEST, TRAIN, Preparing, prepared_blocks
from jaxdescent.fit.roles import AUTO
from jaxdescent.fit.sums import (
    ProductSums,
    filled,
    fills_of,
    moments,
    products_side,
    squared_error,
)
from jaxdescent.machine.resident import resident_bytes
from jaxdescent.status import Evidence

SOLVING_MATRICES = 8
"""Square matrices of the features that the solve holds: the moments, the scaled Hessian, its
eigenvectors, and LAPACK's workspace."""


@dataclasses.dataclass(frozen=True)
class SumsPlan:
    """How the pass reads, and the memory that the pass and the solve take.

    Attributes:
      side: how many rows and columns the matrix of sums has.
      reading: how the source is read.
      bytes: how many bytes the process holds at its peak.
    """

    side: int
    reading: ReadingBytes
    bytes: int


def plan_sums(job: Job, encoding: Encoding) -> SumsPlan:
    """The plan of the pass, whether or not it fits the memory."""
    side = products_side(encoding, Policy(job.request.missing))
    matrix = 8 * side**2
    # The product of the last rows, which is added to the sums, and these rows written out.
    dense = side - encoding.size + len(encoding.numbers)
    passing = job.parts * matrix + 8 * dense**2 + 8 * dense * product_rows(dense)
    solving_bytes = (job.parts + SOLVING_MATRICES) * matrix
    base = resident_bytes() + SLACK_BYTES + LEVEL_BYTES * (encoding.size - len(encoding.numbers))
    base += bytes_of_levels(encoding.levels.values())
    width = 8 * (len(encoding.labelled) * 3 + 3) + len(encoding.numbers)
    free = job.memory.limit - base - passing
    reading = reading_of_all(job.sources, job.roles.columns, width, free)
    return SumsPlan(side, reading, base + max(passing + reading.bytes, solving_bytes))


def fit_by_sums(job: Job, encoding: Encoding, plan: SumsPlan) -> Fitted:
    """Read everything once, and solve.

    Raises:
      DataError: for values that cannot be used, too few rows, or a constant target.
    """
    request, roles, read = job.request, job.roles, 0
    preparing = Preparing.of(job, encoding)
    sums = ProductSums(encoding, preparing.policy)
    for prepared, _ in prepared_blocks(job, preparing, plan.reading.rows):
        sums.add(prepared)
        read += prepared.block.rows
        del prepared
    sums.put_together()
    totals = [0.0 if total is None else float(total[-1, -1]) for total in sums.matrices]
    check_rows(
        (sums.rows[TRAIN], sums.rows[TEST]),
        (totals[TRAIN], totals[TEST]),
        sums.dropped,
        request,
        is_tested=job.is_tested,
    )
    data = moments(sums, TRAIN)
    variance = data.squares / data.weight_total
    check_target(roles.target, sums.rows[TRAIN], variance, float(data.target_mean[0]))
    assert sums.shift is not None
    shift, has_test = sums.shift, sums.matrices[TEST] is not None
    held_out = filled(sums, TEST) if has_test else None
    notes: list[str] = []
    l2, path = request.l2, None
    if l2 == AUTO:
        path = solving.path(
            data,
            sums.rows[TRAIN],
            standardize=request.standardize,
            held_out=None
            if held_out is None
            else lambda weights, b: squared_error(held_out, shift, weights, b),
        )
        job.watch.searched(path.penalties, path.scores, path.best)
        l2 = float(path.penalties[path.best])
        notes.extend(path.notes)
    found = solving.solve(data, float(l2), standardize=request.standardize)
    notes.extend(_notes(found, encoding, sums))
    fills = fills_of(sums)
    if fills is not None:
        means = fills + shift[: len(fills)]
        names = encoding.numbers
        encoding = dataclasses.replace(
            encoding, fills=dict(zip(names, map(float, means), strict=True))
        )
    parts: list[PartFigures] = []
    for part in (TRAIN, TEST):
        if sums.matrices[part] is not None:
            total = filled(sums, part)
            squares = total[-2, -2] - total[-2, -1] ** 2 / total[-1, -1]
            error = squared_error(total, shift, found.weights, found.intercept)
            parts.append(part_of(sums.rows[part], error, float(squares), float(total[-1, -1])))
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
        "dropped_rows": sums.dropped,
        "unseen_values": sums.unseen,
    }
    return Fitted(encoding, found.weights, found.intercept, parts, details, notes, read)


def _notes(found: solving.Solution, encoding: Encoding, sums: ProductSums) -> list[str]:
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
    return [*notes, *row_notes(sums.dropped, sums.unseen)]
