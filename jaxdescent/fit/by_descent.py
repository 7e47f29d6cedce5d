"""A fit by a descent, wherever its rows are: the objective, the search for l2, the figures."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdescent import processes
from jaxdescent.designs import Standardised
from jaxdescent.fit import shared_rows
from jaxdescent.fit.descents import descend
from jaxdescent.fit.fitted import Fitted, PartFigures, Predictions, part_of
from jaxdescent.fit.in_files import RowsInFiles
from jaxdescent.fit.in_memory import RowsInMemory
from jaxdescent.fit.job import Job
from jaxdescent.fit.methods import AUTO, method_of
from jaxdescent.fit.penalty_path import SearchState, search_by_descents
from jaxdescent.fit.start import start_of
from jaxdescent.regression import LinearRegression
from jaxdescent.result import Result
from jaxdescent.status import Evidence, Status

DescentRows = RowsInMemory | RowsInFiles


def fit_by_descent(job: Job, rows: DescentRows) -> Fitted:
    """The fit after its first pass: a descent on targets less their mean, divided by their spread,
    and on features divided by their scales where the penalty is on standardised weights.
    """
    request, encoding, vectors, dtype = job.request, job.encoding, rows.vectors, job.dtype
    mean, spread, scales, counts = vectors.mean, vectors.spread, vectors.scales, vectors.counts
    design, weight = rows.design, vectors.training_weight
    if scales is not None:
        design = Standardised(design, scale=jnp.asarray((1 / scales).astype(dtype)))
    if weight is None and not processes.is_alone():
        weight = np.ones(vectors.filled)  # rows of zeros may fill the shares of processes
    placed = functools.partial(shared_rows.placed, rows.design)
    objective = LinearRegression(
        design,
        placed(((vectors.target - mean) / spread).astype(dtype)),
        l2=jnp.asarray(0.0 if request.l2 == AUTO else request.l2, dtype),
        sample_weight=None if weight is None else placed(weight.astype(dtype)),
    )
    per_unit = spread if scales is None else spread / scales  # data units of one penalised weight
    numbers = len(encoding.numbers)
    weights, intercept, notes_of_start = np.zeros(encoding.size), 0.0, list[str]()
    if job.start is not None:
        weights, notes_of_start = start_of(job.start, encoding)
        shifted = job.start.intercept + float(weights[:numbers] @ counts.shift)
        weights, intercept = weights / per_unit, (shifted - mean) / spread
    params = {
        "weights": objective.X.unpacked(jnp.asarray(weights, dtype)),
        "intercept": jnp.asarray(intercept, dtype),
    }
    path, state, l2 = None, SearchState([], 1, None), request.l2
    if l2 == AUTO:
        attempt, keeping = rows.attempts(objective), job.checkpoint
        with contextlib.nullcontext() if keeping is None else keeping.searching():
            path, state = search_by_descents(
                job, objective, vectors, params, attempt, width=rows.width
            )
        l2, params = float(path.penalties[path.best]), state.best
        objective = dataclasses.replace(objective, l2=jnp.asarray(l2, dtype))
    result = _told(job, objective, params, rows)
    packed = np.asarray(objective.X.packed(result.params["weights"]), np.float64)
    weights = packed * per_unit
    intercept = float(result.params["intercept"]) * spread + mean
    intercept -= float(weights[:numbers] @ counts.shift)
    if request.missing == "mean":
        encoding = encoding.filled(vectors.fills + counts.shift)

    def product() -> np.ndarray:
        made = np.asarray(objective.X.product(result.params["weights"]), np.float64)
        return (made + float(result.params["intercept"])) * spread + mean

    predictions = rows.predictions(encoding, (weights, intercept), product)
    parts = _figures(counts.rows, mean, predictions)
    details = _details_of(job, result, spread) | {
        "degrees_of_freedom": None if np.isnan(state.degrees) else state.degrees,
        "l2": float(l2),
        "l2_chosen_by": None if path is None else path.rule,
        "rank": None,
        "method": f"{result.method} on rows {rows.where}, in {dtype}",
        "dropped_rows": counts.dropped,
        "unseen_values": counts.unseen,
    }
    details["iterations"] += state.iterations
    notes = [] if path is None else path.notes
    how, free = ("", 0) if l2 or not encoding.levels else rows.free_constants()
    if free:
        notes.append(
            f"The levels leave {how}{free:,} constant{'s' * (free > 1)} free: the weights are one "
            "choice of many with the same predictions."
        )
    notes += notes_of_start + counts.notes
    return Fitted(encoding, weights, intercept, parts, details, notes, **rows.read())


def _figures(rows: Sequence[int], center: float, predictions: Predictions) -> list[PartFigures]:
    """How well both parts are predicted, from sums about a number near the mean of the targets."""
    sums = np.zeros((2, 4))
    for predicted, y, weights in predictions:
        about, error = y - center, predicted - y
        for part, s in enumerate(weights):
            if s is not None:
                sums[part] += s.sum(), s @ about, s @ np.square(about), s @ np.square(error)
    totals = zip(rows, processes.added(sums).tolist(), strict=True)
    return [
        part_of(count, error, squares - about**2 / weight, weight)
        for count, (weight, about, squares, error) in totals
        if count
    ]


def _told(job: Job, objective: LinearRegression, params: Any, rows: DescentRows) -> Result:
    """The final descent, whose progress is reported in the units of the target."""
    job.watch.begin("minimising", None, "iterations")
    vectors, scale = rows.vectors, rows.vectors.spread**2

    def tell(count: int, value: float, left: float) -> None:
        job.watch.iterated(value * scale, left * scale)
        job.watch.advance(count)
        near = "" if np.isnan(left) else f", at most about {left * scale:.3g} above the minimum"
        job.watch.tell(f"loss {value * scale:.6g}{near}")

    method = method_of(job.request.method, rows.default)
    filled = shared_rows.filled(rows.design, vectors.counts.dropped)
    result = descend(job, objective, params, method, tell, filled=filled)
    job.memory.check()
    return result


def _details_of(job: Job, result: Result, spread: float) -> dict[str, Any]:
    """A result's figures by name, in the target's units, and the goodput of a fit that is kept."""
    left = float(result.suboptimality) * spread**2
    kept: dict[str, Any] = {}
    if job.checkpoint is not None:
        kept = {"goodput": job.checkpoint.goodput, "resumed_at": job.checkpoint.resumed_at}
    return kept | {
        "value": float(result.value) * spread**2,
        "gradient_norm": float(result.gradient_norm) * spread,
        "suboptimality": left if np.isfinite(left) else None,
        "status": str(Status(int(result.status))),
        "evidence": Evidence(int(result.evidence)).explanation,
        "iterations": int(result.iterations),
    }
