"""What the ways of fitting share that descend: progress that is told, and what a result says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxdescent import agreement
from jaxdescent.fit.job import Job
from jaxdescent.fit.keeping import DESCENT
from jaxdescent.fit.watched import listening, watched
from jaxdescent.methods import Method
from jaxdescent.minimize import minimize
from jaxdescent.regression import LinearRegression
from jaxdescent.result import Result
from jaxdescent.runs.hooks import Hook, Record
from jaxdescent.status import Evidence, Status

MOST_ITERATIONS = 1000


def minimum(objective: LinearRegression, params: Any, method: Method) -> Result:
    """The minimum of an objective, from some params on."""
    return minimize(objective, params, method, max_iterations=MOST_ITERATIONS)


def descend(
    job: Job,
    objective: LinearRegression,
    params: Any,
    method: Method,
    tell: Callable[[int, float, float], None],
    *,
    name: str = DESCENT,
    filled: tuple[int, int] | None = None,
) -> Result:
    """The same, kept under this name while it goes on, where that is asked for; ``filled`` is how
    many rows there are, without and with those that fill the shares of several processes.

    ``tell`` is told of iterations, their value, and how far it is above the minimum: NaN where that
    is unknown.
    """
    if job.keeping is not None:
        chunk = 1 if job.watch.is_looking else None
        hooks: list[Hook] = [_Telling(tell)]
        return job.keeping.minimize(
            objective,
            params,
            method,
            most=MOST_ITERATIONS,
            chunk=chunk,
            hooks=hooks,
            name=name,
            filled=filled,
        )
    # Processes run the same programs, whoever looks.
    if not job.watch.is_looking or not agreement.is_alone():
        return minimum(objective, params, method)
    count = 0

    def listener(value: float, left: float) -> None:
        nonlocal count
        count += 1
        tell(count, value, left)

    with listening(listener):
        return minimum(objective, params, watched(method))


def told(
    job: Job,
    objective: LinearRegression,
    params: Any,
    method: Method,
    spread: float,
    *,
    filled: tuple[int, int] | None = None,
) -> Result:
    """The descent whose result is taken, told in the units of a target that was divided by
    ``spread``.
    """
    job.watch.begin("minimising", None, "iterations")
    scale = spread**2

    def tell(count: int, value: float, left: float) -> None:
        job.watch.iterated(value * scale, left * scale)
        job.watch.advance(count)
        near = "" if np.isnan(left) else f", at most about {left * scale:.3g} above the minimum"
        job.watch.tell(f"loss {value * scale:.6g}{near}")

    return descend(job, objective, params, method, tell, filled=filled)


class _Telling(Hook):
    """Tells of each chunk of a run."""

    def __init__(self, tell: Any) -> None:
        self._tell = tell

    def report(self, record: Record) -> None:
        left = record.suboptimality if np.isfinite(record.suboptimality) else np.nan
        self._tell(record.iteration, record.value, left)


def details_of(job: Job, result: Result, spread: float) -> dict[str, Any]:
    """What a result says, in the target's units, and what became of the time."""
    left = float(result.suboptimality) * spread**2
    kept: dict[str, Any] = {}
    if job.keeping is not None:
        kept = {"goodput": job.keeping.goodput, "resumed_at": job.keeping.resumed_at}
    return kept | {
        "value": float(result.value) * spread**2,
        "gradient_norm": float(result.gradient_norm) * spread,
        "suboptimality": left if np.isfinite(left) else None,
        "status": str(Status(int(result.status))),
        "evidence": Evidence(int(result.evidence)).explanation,
        "iterations": int(result.iterations),
    }
