"""Part 2: where the derivative method breaks down, and where it never does."""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from rich.console import Console
from rich.progress import Progress

import jaxdescent as jd
from jaxdescent.breakdown import child, costs
from jaxdescent.breakdown import coupled_story as story
from jaxdescent.breakdown.extent import PartSizes
from jaxdescent.breakdown.report import PartReport, Settings, progress_bar, show_line
from jaxdescent.machine import memory

LEAST_SIZES = 3
"""The number of sizes that are measured whatever the budget: fewer do not show how both grow."""

SEPARABLE_SHARE = 0.2
"""The share of the budget that is kept for the separable case."""

Ask = Callable[[dict[str, Any], str, float], child.Answer]
"""From a request, its label and the seconds that it is expected to take to the child's answer."""


def run(settings: Settings, console: Console) -> PartReport:
    """Run both methods at growing sizes, then the separable case."""
    found = story.Findings(memory.available_bytes(), settings.budget)
    with progress_bar(console) as progress:
        ask = functools.partial(_asked, settings, progress)
        try:
            _measure_coupled(found, settings.extent, ask)
            if found.is_complete:
                _measure_separable(found, settings.extent, ask)
                found.refusal = _refusal(found.available)
        except KeyboardInterrupt:  # between two children; inside one, its answer reports it
            found.is_complete = False
    found.computed = _computed_rows(found)
    return story.told(found)


def _measure_coupled(found: story.Findings, extent: PartSizes, ask: Ask) -> None:
    """Multiply n as long as the next size fits in memory and in the time that is left."""
    ends = time.perf_counter() + found.budget * (1 - SEPARABLE_SHARE)
    size, overhead, methods = extent.first_size, 0.0, ["descent", "derivative"]
    for count in itertools.count():
        left = ends - time.perf_counter() if count >= LEAST_SIZES else math.inf
        methods, expected = _possible(found, methods, size, left - overhead)
        if not methods:
            return
        started = time.perf_counter()
        request = {"problem": "coupled", "unknowns": size, "methods": methods}
        answer = ask(request, f"n = {size:,}", max(overhead + expected, 5.0))
        found.measured += [
            {"predicted_bytes": costs.working_bytes(row["method"], size), **row}
            for row in answer.rows
        ]
        if answer.is_interrupted:
            found.is_complete = False
            return
        done = [row["method"] for row in answer.rows]
        if answer.failure:
            failed = next(name for name in methods if name not in done)
            found.failures.append(f"n = {size:,}, {costs.NAMES[failed]}: {answer.failure}.")
            found.stopped_because[failed] = "failure"
            methods = [name for name in methods if name != failed]
        wall = time.perf_counter() - started
        overhead = wall - sum(row["seconds"] for row in answer.rows)
        size *= extent.growth


def _possible(
    found: story.Findings, methods: list[str], size: int, left: float
) -> tuple[list[str], float]:
    """The methods for which this size fits, and the seconds that they are expected to take; descent
    comes first, because it is cheaper.
    """
    possible: list[str] = []
    expected = spent = 0.0
    for name in methods:
        last = costs.last_row(found.measured, name)
        seconds = costs.predicted_seconds(last, size) if last else 0.0
        spent += seconds
        if costs.data_bytes(size) + costs.working_bytes(name, size) > found.available:
            found.stopped_because[name] = "memory"
        elif spent > left:
            found.stopped_because[name] = "time"
        else:
            possible.append(name)
            expected += seconds
    return possible, expected


def _computed_rows(found: story.Findings) -> list[dict[str, Any]]:
    return [
        {
            "method": name,
            "unknowns": size,
            "rows": child.ROWS_PER_FEATURE * size,
            "data_bytes": costs.data_bytes(size),
            "predicted_bytes": costs.working_bytes(name, size),
            "fits_besides_data": costs.working_bytes(name, size) <= found.available,
            "seconds": costs.predicted_seconds(last, size),
        }
        for size in costs.COMPUTED_SIZES
        for name in costs.NAMES
        if (last := costs.last_row(found.measured, name)) and size > last["unknowns"]
    ]


def _refusal(available: int) -> str | None:
    """The error of the derivative method for a problem that is too large; nothing is solved."""
    if costs.working_bytes("derivative", costs.REFUSED_SIZE) <= available:
        return None
    rows = child.ROWS_PER_FEATURE * costs.REFUSED_SIZE
    X = jd.MatrixFree(lambda w: jnp.concatenate([w, w]), rows=rows, features=costs.REFUSED_SIZE)
    try:
        jd.minimize(jd.LinearRegression(X, jnp.zeros(rows)), method=jd.DerivativeMethod())
    except jd.ProblemTooLarge as error:
        return str(error)
    return None


def _measure_separable(found: story.Findings, extent: PartSizes, ask: Ask) -> None:
    request = {"problem": "separable", "sizes": list(extent.separable_sizes)}
    answer = ask(request, "separable unknowns", found.budget * SEPARABLE_SHARE)
    found.separable = [
        {"predicted_bytes": costs.ITEMSIZE * row["unknowns"], **row} for row in answer.rows
    ]
    if answer.failure:
        found.failures.append(answer.failure)
    found.is_complete = not answer.is_interrupted


def _asked(
    settings: Settings, progress: Progress, request: dict[str, Any], label: str, expected: float
) -> child.Answer:
    """A child process's answer, shown by a bar that is full after the expected seconds."""
    show_line(progress.console, label)
    task = progress.add_task(label, total=expected)
    answer = child.ask(
        request | {"seed": settings.seed}, lambda seconds: progress.advance(task, seconds)
    )
    progress.remove_task(task)
    return answer
