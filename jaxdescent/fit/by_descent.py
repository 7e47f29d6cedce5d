"""A fit by a descent, wherever its rows are: the objective, the search for l2, the figures."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent import processes
from jaxdescent.designs import Design, Standardised
from jaxdescent.fit import checkpoint
from jaxdescent.fit.budget import bytes_of_levels
from jaxdescent.fit.encoding import Encoding
from jaxdescent.fit.fitted import Fitted, PartFigures
from jaxdescent.fit.job import Job
from jaxdescent.fit.methods import AUTO
from jaxdescent.fit.penalty_path import Search, Try, search
from jaxdescent.fit.reporting_method import listening, reporting
from jaxdescent.fit.solution import penalties_from
from jaxdescent.fit.start import start_of
from jaxdescent.fit.vectors import Vectors
from jaxdescent.machine.resident import resident_bytes
from jaxdescent.methods import Method
from jaxdescent.minimize import minimize
from jaxdescent.regression import LinearRegression
from jaxdescent.result import Result
from jaxdescent.status import Evidence, Status

MOST_ITERATIONS = 1000

STARTING_BYTES = 360 << 20
"""Bytes that JAX's compiler takes and keeps."""


def descent_bytes(job: Job, rows: int, of_row: int, of_feature: int, others: int = 0) -> int:
    """Bytes of the process in a descent, for so many bytes of a row, a feature and other things in
    float32, and of the copies that a checkpoint takes.
    """
    if job.checkpoint is not None:
        of_row, of_feature = of_row + checkpoint.ROW_BYTES, of_feature + checkpoint.FEATURE_BYTES
    wider = 2 if job.request.dtype == "float64" else 1
    held = wider * (rows * of_row + job.encoding.size * of_feature + others)
    levels = bytes_of_levels(job.encoding.levels.values())
    return resident_bytes() + STARTING_BYTES + held + levels


class RowsAsDesign(NamedTuple):
    """Rows in memory or in files, as a descent takes them.

    Attributes:
      design: their features, numbers less the shift of the first pass.
      where: where the rows are, as a summary says it.
      method: the method that minimises.
      placed: puts a vector of rows where the design has its rows.
      weight: (rows,), the weights of the training rows; None for ones.
      attempts: returns the function that tries penalties on an objective.
      width: how many penalties are tried at a time.
      figures: returns how well rows are predicted, given the encoding, the objective, its params,
        and weights and an intercept in the data's units.
      free_constants: how many constants the levels leave free, and a word before the number.
      filled: how many rows there are, without and with the ones that fill the shares of processes.
    """

    design: Design
    where: str
    method: Method
    placed: Callable[[np.ndarray], jax.Array]
    weight: np.ndarray | None
    attempts: Callable[[LinearRegression], Try]
    figures: Callable[[Encoding, LinearRegression, Any, np.ndarray, float], list[PartFigures]]
    free_constants: Callable[[], tuple[str, int]]
    width: int = 1
    filled: tuple[int, int] | None = None


def fit_design(job: Job, vectors: Vectors, rows: RowsAsDesign) -> Fitted:
    """The fit after its first pass: a descent on targets less their mean, divided by their spread,
    and on features divided by their scales where the penalty is on standardised weights.
    """
    request, encoding, mean, spread = job.request, job.encoding, vectors.mean, vectors.spread
    scales, dtype = vectors.scales, rows.design.dtype
    is_scaled = scales is not None
    objective = LinearRegression(
        Standardised(rows.design, scale=jnp.asarray((1 / scales).astype(dtype)))
        if is_scaled
        else rows.design,
        rows.placed(((vectors.target - mean) / spread).astype(dtype)),
        l2=jnp.asarray(0.0 if request.l2 == AUTO else request.l2, dtype),
        sample_weight=None if rows.weight is None else rows.placed(rows.weight.astype(dtype)),
    )
    per_unit = spread / scales if is_scaled else spread  # data units of one penalised weight
    numbers = len(encoding.numbers)
    weights, intercept, notes_of_start = np.zeros(encoding.size), 0.0, list[str]()
    if job.start is not None:
        weights, notes_of_start = start_of(job.start, encoding)
        shifted = job.start.intercept + float(weights[:numbers] @ vectors.shift)
        weights, intercept = weights / per_unit, (shifted - mean) / spread
    params = {
        "weights": objective.X.unpacked(jnp.asarray(weights, dtype)),
        "intercept": jnp.asarray(intercept, dtype),
    }
    found, l2 = None, request.l2
    if l2 == AUTO:
        found = _searched(job, objective, vectors, params, rows)
        l2, params = float(found.path.penalties[found.path.best]), found.params
        objective = dataclasses.replace(objective, l2=jnp.asarray(l2, dtype))
    result = _told(job, objective, params, rows, spread)
    packed = np.asarray(objective.X.packed(result.params["weights"]), np.float64)
    weights = packed * per_unit
    intercept = float(result.params["intercept"]) * spread + mean
    intercept -= float(weights[:numbers] @ vectors.shift)
    if request.missing == "mean":
        encoding = encoding.filled(vectors.fills + vectors.shift)
    parts = rows.figures(encoding, objective, result.params, weights, intercept)
    details = _details_of(job, result, spread) | {
        "degrees_of_freedom": None if found is None else found.degrees,
        "l2": float(l2),
        "l2_chosen_by": None if found is None else found.path.rule,
        "rank": None,
        "method": f"{result.method} on rows {rows.where}, in {dtype}",
        "dropped_rows": vectors.counts.dropped,
        "unseen_values": vectors.counts.unseen,
    }
    details["iterations"] += 0 if found is None else found.iterations
    notes = [*found.path.notes] if found is not None else []
    how, free = ("", 0) if l2 or not encoding.levels else rows.free_constants()
    if free:
        notes.append(
            f"The levels leave {how}{free:,} constant{'s' * (free > 1)} free: the weights are one "
            "choice of many with the same predictions."
        )
    notes += notes_of_start + vectors.counts.notes
    return Fitted(encoding, weights, intercept, parts, details, notes, vectors.counts.read)


def _searched(
    job: Job, objective: LinearRegression, vectors: Vectors, params: Any, rows: RowsAsDesign
) -> Search:
    squares = vectors.penalised_squares
    job.watch.begin("searching", penalties_from(squares).size, "penalties at most")
    train, held_out = vectors.parts

    def tell(tried: int, state: str) -> None:
        job.watch.advance(tried)
        job.watch.tell(state)
        job.memory.check()

    with contextlib.nullcontext() if job.checkpoint is None else job.checkpoint.searching():
        found = search(
            objective,
            squares,
            params,
            train=train,
            held_out=held_out,
            attempt=rows.attempts(objective),
            tell=tell,
            width=rows.width,
            checkpoint=job.checkpoint,
        )
    job.watch.searched(found.path.penalties, found.path.scores, found.path.best)
    return found


def minimum(objective: LinearRegression, params: Any, method: Method) -> Result:
    """The minimum of an objective, by a descent from these params."""
    return minimize(objective, params, method, max_iterations=MOST_ITERATIONS)


def descend(
    job: Job,
    objective: LinearRegression,
    params: Any,
    method: Method,
    tell: Callable[[int, float, float], None],
    *,
    name: str = checkpoint.DESCENT,
    filled: tuple[int, int] | None = None,
) -> Result:
    """The minimum, in a descent that is kept under this name while it goes on, where that is asked
    for; ``filled`` is how many rows there are, without and with those that fill the shares of
    several processes.

    ``tell`` gets the iteration, its value, and how far the value is above the minimum: NaN where
    that is unknown.
    """
    if job.checkpoint is not None:
        return job.checkpoint.minimize(
            objective,
            params,
            method,
            tell,
            most=MOST_ITERATIONS,
            chunk=1 if job.watch.is_looking else None,
            name=name,
            filled=filled,
        )
    # All processes must run one program, even where only one of them shows progress.
    if not job.watch.is_looking or not processes.is_alone():
        return minimum(objective, params, method)
    count = 0

    def listener(value: float, left: float) -> None:
        nonlocal count
        count += 1
        tell(count, value, left)

    with listening(listener):
        return minimum(objective, params, reporting(method))


def _told(
    job: Job, objective: LinearRegression, params: Any, rows: RowsAsDesign, spread: float
) -> Result:
    """The final descent, whose progress is reported in the units of the target before it was
    divided by ``spread``.
    """
    job.watch.begin("minimising", None, "iterations")
    scale = spread**2

    def tell(count: int, value: float, left: float) -> None:
        job.watch.iterated(value * scale, left * scale)
        job.watch.advance(count)
        near = "" if np.isnan(left) else f", at most about {left * scale:.3g} above the minimum"
        job.watch.tell(f"loss {value * scale:.6g}{near}")

    result = descend(job, objective, params, rows.method, tell, filled=rows.filled)
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
