"""A fit by the sums of one pass: every penalty and every statistic follows from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxdescent.data import NormalSums
from jaxdescent.fit.budget import ReadingPlan
from jaxdescent.fit.job import Fitted, Job, part_of
from jaxdescent.fit.penalised_spectrum import PenalisedSpectrum, Solution, cutoff, penalised_sums
from jaxdescent.fit.penalty_path import HELD_OUT, Path, generalised, penalties_from
from jaxdescent.fit.product_sums import ProductSums
from jaxdescent.fit.request import AUTO
from jaxdescent.fit.rows import TEST, TRAIN
from jaxdescent.rows.errors import listed
from jaxdescent.status import Evidence, Status

DEPENDENT = 1e-13
"""A gradient along linearly dependent columns whose norm is below this part of its norm at zero
weights is the rounding error of an exact dependence."""


def fit_by_sums(job: Job, plan: ReadingPlan) -> Fitted:
    """Read everything once, and solve."""
    request, encoding, sums = job.request, job.encoding, ProductSums(job, plan.at_once)
    counts, data = sums.counts, sums.moments()
    counts.check_target(data.squares / data.weight_total, float(data.target_mean[0]))
    notes: list[str] = []
    l2, path = request.l2, None
    if l2 == AUTO:
        path = path_by_sums(job, sums, data)
        job.watch.searched(path.penalties, path.scores, path.best)
        l2 = float(path.penalties[path.best])
        notes.extend(path.notes)
    spectrum = PenalisedSpectrum(data, float(l2), standardize=request.standardize)
    solution = spectrum.solved(sums)
    details, more = told_of(job, spectrum, solution)
    notes += more + counts.notes
    if sums.fills is not None:
        encoding = encoding.filled(sums.fills + counts.shift)
    parts = [
        part_of(
            counts.rows[part],
            solution.errors[part],
            float(total[-2, -2] - total[-2, -1] ** 2 / total[-1, -1]),
            float(total[-1, -1]),
        )
        for part, total in enumerate(sums.matrices)
    ]
    details |= {
        "l2": float(l2),
        "l2_chosen_by": path.rule if path else None,
        "method": "sums of one pass, solved by their spectrum",
        "iterations": 1 + sums.readings,
        "dropped_rows": counts.dropped,
        "unseen_values": counts.unseen,
    }
    passes, (weights, intercept, *_) = 1 + sums.readings, solution
    read = passes * counts.read
    return Fitted(encoding, weights, intercept, parts, details, notes, read, passes, passes)


def path_by_sums(job: Job, sums: ProductSums, data: NormalSums) -> Path:
    """The scores of many penalties on held-out rows, or by generalised cross-validation, from one
    spectrum.

    Reference: Golub, Heath and Wahba (1979), "Generalized cross-validation as a method for
    choosing a good ridge parameter".
    """
    scales, matrix, cross = penalised_sums(data, standardize=job.request.standardize)
    values, vectors = np.linalg.eigh(matrix)
    values, along = np.maximum(values, 0), vectors.T @ cross
    penalties = penalties_from(matrix.diagonal())
    # The rows can be met: their squares and degrees of freedom are no differences of rounded sums.
    rows = sums.counts.weighed
    most = rows - 1
    is_met = 0 < most <= values.size and values[-most] > cutoff(values)
    if is_met:
        values, along = values[-most:], along[-most:]
        vectors = vectors[:, -most:]
    scores, hidden = np.empty(penalties.size), np.zeros(penalties.size, bool)
    for index, l2 in enumerate(penalties):
        coordinates = along / (values + l2)
        weights = vectors @ coordinates / scales
        intercept = float(data.target_mean[0] - weights @ data.feature_mean)
        squares, rounding = sums.squared_error(TEST * job.is_tested, weights, intercept)
        hidden[index] = squares <= rounding
        if job.is_tested:
            scores[index] = squares
            continue
        if is_met:
            free = np.sum(l2 / (values + l2))
            hidden[index] = False
            squares = np.sum(np.square(l2 * coordinates) / values)
        else:
            free = most - np.sum(values / (values + l2))
        scores[index] = generalised(rows, float(squares), float(free))
    rule = HELD_OUT if job.is_tested else "generalised cross-validation"
    # Of penalties whose errors rounding hides the smallest is chosen.
    best = np.argmax(hidden) if hidden.any() else np.nanargmin(scores)
    return Path(penalties, scores, rule, int(best))


def told_of(
    job: Job, spectrum: PenalisedSpectrum, solution: Solution
) -> tuple[dict[str, Any], list[str]]:
    """What the model's figures say of the solution, by name, and notes.

    The gradient's norm is per unit of each column's length, the rank None where a penalty makes it
    irrelevant, and the degrees of freedom are without that of the intercept.
    """
    at_zeros, rank = float(np.linalg.norm(spectrum.cross)), spectrum.rank
    # Along directions that were left out the value may still fall, by an unknown amount.
    is_certain = spectrum.lost_along(solution.gradient) <= DEPENDENT * at_zeros
    evidence = Evidence.FACTORISATION if is_certain else Evidence.BOUND
    is_minimum = solution.is_done and is_certain
    value = 0.5 * (solution.errors[TRAIN] + spectrum.penalty(solution.weights))
    details = {
        "rank": rank if spectrum.l2 == 0 else None,
        "degrees_of_freedom": spectrum.degrees_of_freedom,
        "value": value,
        "gradient_norm": float(np.linalg.norm(solution.gradient)),
        "suboptimality": solution.left if is_certain else value,
        "status": str(Status.CONVERGED if is_minimum else Status.STAGNATED),
        "evidence": evidence.explanation,
    }
    notes = list[str]()
    still = np.flatnonzero(spectrum.is_constant)
    if still.size:
        names = listed((job.encoding.feature_name(int(j)) for j in still), most=5)
        verb = "does" if still.size == 1 else "do"
        notes.append(f"{names} {verb} not vary beyond rounding: the weight is zero.")
    varying = solution.weights.size - still.size
    if spectrum.l2 == 0 and rank < varying and is_certain:
        notes.append(
            f"The features are linearly dependent: rank {rank:,} of {varying:,}. The weights are "
            "those of least norm per column's length; predictions do not depend on the choice."
        )
    elif spectrum.l2 == 0 and rank < varying:
        notes.append(
            f"Some features are so nearly dependent that float64 cannot tell them apart: rank "
            f"{rank:,} of {varying:,}. What only their small differences explain is left out: take "
            "differences as features, leave some out, or say --l2."
        )
    return details, notes
