"""Part 2: where the derivative method breaks down, and where it never does."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from rich.console import Console

import jaxdescent as jd
from jaxdescent.breakdown import child
from jaxdescent.breakdown import coupled_story as story
from jaxdescent.breakdown.report import PartReport, progress_bar, show_line
from jaxdescent.breakdown.settings import Settings
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

        def ask(request: dict[str, Any], label: str, expected: float) -> child.Answer:
            """A child's answer, shown by a bar that is full after the expected seconds."""
            show_line(console, label)
            task = progress.add_task(label, total=expected)
            answer = child.ask(
                request | {"seed": settings.seed}, lambda seconds: progress.advance(task, seconds)
            )
            progress.remove_task(task)
            found.is_complete = not answer.is_interrupted
            return answer

        try:
            _measure_coupled(found, settings, ask)
            if found.is_complete:
                request = {"problem": "separable", "sizes": list(settings.separable_sizes)}
                answer = ask(request, "separable unknowns", found.budget * SEPARABLE_SHARE)
                found.separable = [
                    {"predicted_bytes": story.ITEMSIZE * row["unknowns"], **row}
                    for row in answer.rows
                ]
                if answer.failure and len(answer.rows) < len(settings.separable_sizes):
                    found.failures.append(answer.failure)
                found.refusal = _refusal(found.available)
        except KeyboardInterrupt:  # between two children; inside one, its answer reports it
            found.is_complete = False
    found.computed = _computed_rows(found)
    return story.told(found)


def _measure_coupled(found: story.Findings, settings: Settings, ask: Ask) -> None:
    """Multiply n as long as the next size fits in memory and in the time that is left."""
    ends = time.perf_counter() + found.budget * (1 - SEPARABLE_SHARE)
    size, overhead, methods = settings.first_size, 0.0, ["descent", "derivative"]
    for count in itertools.count():
        left = ends - time.perf_counter() if count >= LEAST_SIZES else math.inf
        methods, expected = _possible(found, methods, size, left - overhead)
        if not methods:
            return
        started = time.perf_counter()
        request = {"problem": "coupled", "unknowns": size, "methods": methods}
        answer = ask(request, f"n = {size:,}", max(overhead + expected, 5.0))
        found.measured += [
            {"predicted_bytes": story.working_bytes(row["method"], size), **row}
            for row in answer.rows
        ]
        if answer.is_interrupted:
            return
        done = [row["method"] for row in answer.rows]
        missing = [name for name in methods if name not in done]
        if answer.failure and missing:  # a process may also fail at its very end
            failed = missing[0]
            found.failures.append(f"n = {size:,}, {story.NAMES[failed]}: {answer.failure}.")
            found.stopped_because[failed] = "failure"
            methods = [name for name in methods if name != failed]
        wall = time.perf_counter() - started
        overhead = wall - sum(row["seconds"] for row in answer.rows)
        size *= settings.growth


def _possible(
    found: story.Findings, methods: list[str], size: int, left: float
) -> tuple[list[str], float]:
    """The methods for which this size fits, and the seconds that they are expected to take; descent
    comes first, because it is cheaper.
    """
    possible: list[str] = []
    expected = spent = 0.0
    for name in methods:
        last = story.last_row(found.measured, name)
        seconds = story.predicted_seconds(last, size) if last else 0.0
        spent += seconds
        if story.data_bytes(size) + story.working_bytes(name, size) > found.available:
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
            "data_bytes": story.data_bytes(size),
            "predicted_bytes": story.working_bytes(name, size),
            "fits_besides_data": story.working_bytes(name, size) <= found.available,
            "seconds": story.predicted_seconds(last, size),
        }
        for size in story.COMPUTED_SIZES
        for name in story.NAMES
        if (last := story.last_row(found.measured, name)) and size > last["unknowns"]
    ]


def _refusal(available: int) -> str | None:
    """The error of the derivative method for a problem that is too large; nothing is solved."""
    if story.working_bytes("derivative", story.REFUSED_SIZE) <= available:
        return None
    rows = child.ROWS_PER_FEATURE * story.REFUSED_SIZE
    X = jd.MatrixFree(lambda w: jnp.concatenate([w, w]), rows=rows, features=story.REFUSED_SIZE)
    try:
        jd.minimize(jd.LinearRegression(X, jnp.zeros(rows)), method=jd.DerivativeMethod())
    except jd.ProblemTooLarge as error:
        return str(error)
    return None
