"""How well a fit predicts its rows, and which rows no fit can use."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jaxdescent.fit.encoding import Encoding
from jaxdescent.fit.rows import TEST, TRAIN, Job, encoded_rows
from jaxdescent.fit.sums import Solution
from jaxdescent.rows import DataError
from jaxdescent.rows.errors import listed


def figures_of(
    job: Job, weights: np.ndarray, intercept: float, center: float, rows: list[int]
) -> list[dict[str, Any]]:
    """How well both parts are predicted, in one pass, from sums about the mean of the targets."""
    sums = np.zeros((2, 4))
    for each in encoded_rows(job, "predicting"):
        error = each.product(weights) + intercept - each.target
        about, s = each.target - center, each.weight
        s = np.ones(len(error)) if s is None else s
        out = np.zeros(len(error), bool) if each.is_test is None else each.is_test
        for part in (TRAIN, TEST):
            own = s * (out == part)
            sums[part] += own.sum(), own @ about, own @ np.square(about), own @ np.square(error)
    return [
        part_figures(rows[part], error, squares - about**2 / weight, weight)
        for part, (weight, about, squares, error) in enumerate(sums.tolist())
        if rows[part]
    ]


def part_figures(rows: int, error: float, squares: float, weight: float) -> dict[str, Any]:
    """How well some rows are predicted; R² is None where the target does not vary."""
    r2 = 1 - error / squares if squares > 0 else None
    return {"rows": rows, "r2": r2, "rmse": math.sqrt(error / weight)}


def check_counts(job: Job, rows: list[int], weights: list[float], dropped: int) -> None:
    """Refuse parts that are empty, or whose rows weigh nothing."""
    train, test = rows
    without = f", {dropped:,} dropped for what is missing in them" if dropped else ""
    if train < 2:
        held_out = f" and {test:,} held out" if job.is_tested else ""
        raise DataError(f"at least 2 rows are needed to fit, got {train}{without}{held_out}.")
    if job.is_tested and not test:
        share = job.options.test
        advice = f"raise --test, got {share:g}" if share else "--test-data is empty"
        raise DataError(f"none of the {train:,} rows was held out{without}: {advice}.")
    for part, weight in zip(("training", "held-out"), weights, strict=False):
        if weight <= 0:
            raise DataError(f"the weights of all {part} rows are zero: there is nothing to fit.")


def refuse_constant(job: Job, mean: float, rows: int) -> None:
    """Refuse a target that does not vary."""
    raise DataError(
        f"the target {job.target!r} is {mean:g} in all {rows:,} training rows, but for rounding: "
        "there is nothing to fit."
    )


def notes_of_rows(dropped: int, unseen: int) -> list[str]:
    """Notes on dropped rows, and on values that no training row had."""
    notes = list[str]()
    if dropped:
        notes.append(f"{dropped:,} rows were dropped for what is missing in them.")
    if unseen:
        notes.append(
            f"{unseen:,} values of held-out rows are levels or indices that no training row has: "
            "they count nothing."
        )
    return notes


def notes_of_solution(encoding: Encoding, solution: Solution, l2: float) -> list[str]:
    """Notes on features that do not vary, and on dependent ones."""
    notes, rank, is_certain = list[str](), solution.rank, solution.is_certain
    still = np.flatnonzero(solution.is_constant)
    if still.size:
        names = listed((encoding.feature_name(int(j)) for j in still), most=5)
        verb = "does" if still.size == 1 else "do"
        notes.append(f"{names} {verb} not vary beyond rounding: the weight is zero.")
    varying = encoding.size - still.size
    if l2 == 0 and rank < varying and is_certain:
        notes.append(
            f"The features are linearly dependent: rank {rank:,} of {varying:,}. The weights are "
            "those of least norm per column's length; predictions do not depend on the choice."
        )
    elif l2 == 0 and rank < varying:
        notes.append(
            f"Some features are so nearly dependent that float64 cannot tell them apart: rank "
            f"{rank:,} of {varying:,}. What only their small differences explain is left out: take "
            "differences as features, leave some out, or say --l2."
        )
    return notes
