"""A fit by a descent, wherever its rows are: the objective, the search for l2, the figures."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdescent import processes
from jaxdescent.data import DataError
from jaxdescent.designs import Standardised
from jaxdescent.fit import shared_rows
from jaxdescent.fit.descent_rows import RowsInFiles, RowsInMemory
from jaxdescent.fit.descents import descend
from jaxdescent.fit.encoding import Encoding
from jaxdescent.fit.job import Fitted, Job, Predictions, part_of
from jaxdescent.fit.model import Model
from jaxdescent.fit.penalty_path import HELD_OUT, Path, SearchState, generalised, penalties_from
from jaxdescent.fit.plans import probes_for
from jaxdescent.fit.request import AUTO, method_of
from jaxdescent.fit.roles import Roles
from jaxdescent.regression import LinearRegression
from jaxdescent.rows.errors import listed
from jaxdescent.status import Evidence, Status

PROBE_SEED = 2**61

DescentRows = RowsInMemory | RowsInFiles


def fit_by_descent(job: Job, rows: DescentRows) -> Fitted:
    """The fit after its first pass: a descent on targets less their mean, divided by their spread,
    and on features divided by their scales where the penalty is on standardised weights.
    """
    request, encoding, vectors, dtype = job.request, job.encoding, rows.vectors, job.dtype
    mean, spread, scales, counts = vectors.mean, vectors.spread, vectors.scales, vectors.counts
    design = rows.design
    weight = vectors.weight
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
        keeping = job.checkpoint
        with contextlib.nullcontext() if keeping is None else keeping.searching():
            path, state = search(job, objective, rows, params)
        l2, params = float(path.penalties[path.best]), state.best
        objective = dataclasses.replace(objective, l2=jnp.asarray(l2, dtype))
    job.watch.begin("minimising", None, "iterations")
    square = spread**2

    def tell(count: int, value: float, left: float) -> None:
        job.watch.iterated(value * square, left * square)
        job.watch.advance(count)
        near = "" if np.isnan(left) else f", at most about {left * square:.3g} above the minimum"
        job.watch.tell(f"loss {value * square:.6g}{near}")

    method = method_of(request.method, rows.default)
    filled = shared_rows.filled(rows.design, counts.dropped)
    result = descend(job, objective, params, method, tell, filled=filled)
    job.memory.check()
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
    details: dict[str, Any] = {}
    if job.checkpoint is not None:
        goodput = job.checkpoint.summary.goodput
        details = {"goodput": goodput, "resumed_at": job.checkpoint.resumed_at}
    left = float(result.suboptimality) * square
    details |= {
        "value": float(result.value) * square,
        "gradient_norm": float(result.gradient_norm) * spread,
        "suboptimality": left if np.isfinite(left) else None,
        "status": str(Status(int(result.status))),
        "evidence": Evidence(int(result.evidence)).explanation,
        "iterations": int(result.iterations) + state.iterations,
        "degrees_of_freedom": None if np.isnan(state.degrees) else state.degrees,
        "l2": float(l2),
        "l2_chosen_by": None if path is None else path.rule,
        "rank": None,
        "method": f"{result.method} on rows {rows.where}, in {dtype}",
        "dropped_rows": counts.dropped,
        "unseen_values": counts.unseen,
    }
    notes = [] if path is None else path.notes
    # Each column whose levels are all known can shift the intercept; more may be free.
    free = len(encoding.levels.keys() - encoding.sloped)
    if free and not l2 and request.missing != "mean":
        notes.append(
            f"The levels leave at least {free:,} constant{'s' * (free > 1)} free: the weights are "
            "one choice of many with the same predictions."
        )
    notes += notes_of_start + counts.notes
    return Fitted(encoding, weights, intercept, parts, details, notes, **rows.read())


def _figures(rows: Sequence[int], center: float, predictions: Predictions) -> list[dict[str, Any]]:
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


def search(
    job: Job, objective: LinearRegression, rows: DescentRows, start: Any
) -> tuple[Path, SearchState]:
    """The path from the largest penalty down, on which each descent starts where the one before
    ended, to the penalty of the least error on held-out rows, or by generalised cross-validation;
    and the state of the search at its end.

    The latter is ``rows * RSS / (rows - degrees - 1)^2``, where the degrees of freedom, the trace
    of the matrix that takes targets to predictions, are estimated as the mean of ``z . prediction
    of z`` over a few random vectors z of signs (Hutchinson), which take the targets' place in
    further descents. Penalties that do not converge together are tried in halves.

    References: Golub, Heath and Wahba (1979), "Generalized cross-validation as a method for
    choosing a good ridge parameter"; Hutchinson (1989), "A stochastic estimator of the trace of the
    influence matrix for Laplacian smoothing splines".
    """
    vectors = rows.vectors
    downwards, checkpoint = penalties_from(vectors.squares)[::-1], job.checkpoint
    job.watch.begin("searching", downwards.size, "penalties at most")
    train, held_out = vectors.parts
    targets = np.asarray(objective.y)[:, None]
    if held_out is None:
        count = probes_for(len(targets))
        signs = np.random.default_rng(PROBE_SEED).integers(0, 2, (len(targets), count), np.int8)
        targets = np.column_stack([targets, (2 * signs - 1).astype(targets.dtype)])
    course, is_cut = SearchState([start] * targets.shape[1], rows.width, start), False
    found = {} if checkpoint is None else checkpoint.kept_search()
    if found:
        course = course.restored(found)
    while len(course.scores) < downwards.size and not course.is_over:
        if checkpoint is not None:
            checkpoint.stop_if_asked(f"the search with {len(course.scores):,} penalties tried")
        first = len(course.scores)
        penalties = downwards[first : first + course.width]
        tried = rows.attempt(objective, targets, penalties.tolist(), course.params)
        course.iterations += tried.iterations
        if not tried.is_done and (first or penalties.size > 1):
            if penalties.size == 1:
                is_cut = True  # the dtype or the iterations do not suffice for smaller penalties
                break
            course.width = -(-penalties.size // 2)
            continue
        for l2, params, predicted in zip(penalties, tried.params, tried.predicted, strict=True):
            if held_out is not None:
                error = np.square(np.asarray(predicted(0), np.float64) - targets[:, 0])
                score, degrees = float(held_out @ error / held_out.sum()), float("nan")
            else:
                score, degrees = _cross_validation(predicted, targets, train)
            course.add(score, params, degrees)
            job.watch.advance(len(course.scores))
            job.watch.tell(f"l2 {l2:.3g}, RMSE {score**0.5:.4g} of the target's spread")
            job.memory.check()
            if course.is_over:
                break
        if checkpoint is not None:
            checkpoint.keep_search(course.as_arrays())
    rule = HELD_OUT
    if held_out is None:
        count = targets.shape[1] - 1
        rule = f"generalised cross-validation, its trace estimated by {count} random vectors"
    count = len(course.scores)
    path = Path(
        downwards[:count][::-1],
        np.asarray(course.scores[::-1]),
        rule,
        count - 1 - course.best_at,
        is_cut=is_cut,
    )
    job.watch.searched(path.penalties, path.scores, path.best)
    return path, course


def _cross_validation(
    predicted: Callable[[int], Any], targets: np.ndarray, train: np.ndarray
) -> tuple[float, float]:
    """The score of generalised cross-validation, and the degrees of freedom."""
    rows, total = int(np.count_nonzero(train)), train.sum()
    once, traces = (train > 0).astype(np.float64), []
    for place in range(1, targets.shape[1]):
        own = np.asarray(predicted(place), np.float64)
        own = own - train @ own / total
        traces.append(float(once @ (own * targets[:, place])))
    degrees = float(np.mean(traces))
    error = np.square(np.asarray(predicted(0), np.float64) - targets[:, 0])
    return generalised(rows, float(train @ error), rows - 1 - max(degrees, 0.0)), degrees


def check_start(model: Model, roles: Roles) -> None:
    """Refuse a model whose columns are not used as those of the fit, with what differs."""
    old, new = model.encoding, roles.features
    if model.target != roles.target:
        raise DataError(
            f"--start is a model of {model.target!r}, and {roles.target!r} is to be fitted: name "
            "another."
        )
    differences: list[str] = []
    for what, before, now in (
        ("numeric", old.numbers, new.numbers),
        ("categorical", old.levels, new.levels),
        ("hashed", old.hashed, new.hashed),
    ):
        for names, others, whose in ((before, now, "model"), (now, before, "fit")):
            alone = [repr(name) for name in names if name not in others]
            if alone:
                differences.append(f"{what} {listed(alone)} of the {whose} alone")
    if old.sparse != new.sparse:
        differences.append(f"sparse {old.sparse!r} of the model and {new.sparse!r} of the fit")
    if new.hashed and not differences and old.bits != new.bits:
        differences.append(f"--bits {old.bits} of the model and {new.bits} of the fit")
    for name, each in new.interactions.items():
        if old.interactions.get(name, each) != each:
            differences.append(f"what {name!r} is made of")
    if differences:
        raise DataError(f"--start does not fit, for the columns differ: {'; '.join(differences)}.")


def start_of(model: Model, encoding: Encoding) -> tuple[np.ndarray, list[str]]:
    """The model's weights in the order of another encoding of the same columns, and notes on them,
    as sentences; features that are new start at zero.
    """
    weights, kept = np.zeros(encoding.size), 0
    old = _groups(model.encoding)
    for group, (first, keys) in _groups(encoding).items():
        begin, before = old[group]
        _, there, here = np.intersect1d(before, keys, assume_unique=True, return_indices=True)
        weights[first + here] = model.weights[begin + there]
        kept += here.size
    notes = [f"{kept:,} of {encoding.size:,} weights started from the model's."]
    gone = model.encoding.size - kept
    if gone:
        notes.append(
            f"{gone:,} of its levels or buckets are in no training row: the new model has no "
            "weights for them."
        )
    return weights, notes


def _groups(encoding: Encoding) -> dict[tuple[str, str], tuple[int, np.ndarray]]:
    """Groups of features, each with the place of its first weight and the keys of all weights."""
    found, first = dict[tuple[str, str], tuple[int, np.ndarray]](), 0
    named: dict[tuple[str, str], Any] = {("numbers", ""): encoding.numbers}
    named |= {("levels", name): own for name, own in encoding.levels.items()}
    named |= {("buckets", ""): encoding.buckets, ("indices", ""): encoding.indices}
    for group, keys in named.items():
        found[group] = first, np.asarray(keys, getattr(keys, "dtype", object))
        first += len(keys)
    return found
