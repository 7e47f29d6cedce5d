"""What the ways of fitting share that descend: progress that is told, and what a result says."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxdescent.fit.job import Job
from jaxdescent.fit.watched import listening, watched
from jaxdescent.methods import Method
from jaxdescent.minimize import minimize
from jaxdescent.regression import LinearRegression
from jaxdescent.result import Evidence, Result, Status

MOST_ITERATIONS = 1000


def descend(objective: LinearRegression, params: Any, method: Method) -> Result:
    """The minimum of an objective, from some params on."""
    return minimize(objective, params, method, max_iterations=MOST_ITERATIONS)


def told(
    job: Job, objective: LinearRegression, params: Any, method: Method, spread: float
) -> Result:
    """The same, with its progress told, in the units of a target that was divided by ``spread``."""
    job.watch.begin("minimising", None, "iterations")
    if not job.watch.is_looking:
        return descend(objective, params, method)
    count, scale = 0, spread**2

    def listener(value: float, left: float) -> None:
        nonlocal count
        count += 1
        job.watch.iterated(value * scale, left * scale)
        job.watch.advance(count)
        near = "" if np.isnan(left) else f", at most about {left * scale:.3g} above the minimum"
        job.watch.tell(f"loss {value * scale:.6g}{near}")

    with listening(listener):
        return descend(objective, params, watched(method))


def details_of(result: Result, spread: float) -> dict[str, Any]:
    """What a result says, in the target's units."""
    left = float(result.suboptimality) * spread**2
    return {
        "value": float(result.value) * spread**2,
        "gradient_norm": float(result.gradient_norm) * spread,
        "suboptimality": left if np.isfinite(left) else None,
        "status": str(Status(int(result.status))),
        "evidence": Evidence(int(result.evidence)).explanation,
        "iterations": int(result.iterations),
    }
