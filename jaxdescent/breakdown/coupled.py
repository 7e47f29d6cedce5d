"""Part 2: where the derivative method breaks down, and where it never does."""

from __future__ import annotations

import time
from typing import Any

import jax.numpy as jnp
from rich.console import Console
from rich.progress import Progress

import jaxdescent as jd
from jaxdescent.breakdown import child
from jaxdescent.breakdown import coupled_story as story
from jaxdescent.breakdown.costs import (
    COMPUTED_SIZES,
    ITEMSIZE,
    NAMES,
    REFUSED_SIZE,
    ROWS_PER_FEATURE,
    data_bytes,
    last_row,
    predicted_seconds,
    working_bytes,
)
from jaxdescent.breakdown.measured_rows import TOLERANCE
from jaxdescent.breakdown.report import PartReport, Settings, progress_bar, show_line
from jaxdescent.machine import memory

LEAST_SIZES = 3
"""The number of sizes that are measured whatever the budget: fewer do not show how both grow."""

SEPARABLE_SHARE = 0.2
"""The share of the budget that is kept for the separable case."""


def run(settings: Settings, console: Console) -> PartReport:
    """Run both methods at growing sizes, then the separable case."""
    available = memory.available_bytes()
    with progress_bar(console) as progress:
        search = _Search(settings, available, progress)
        answer, refusal = child.Answer([]), None
        try:
            search.run()
            if not search.is_interrupted:
                answer = _measure_separable(settings, progress)
                refusal = _refusal(available)
        except KeyboardInterrupt:  # between two children; inside one, its answer reports it
            search.is_interrupted = True
    found = story.Findings(
        measured=search.rows,
        computed=_computed_rows(search.rows, available),
        separable=answer.rows,
        failures=[text for text in (*search.failures, answer.failure) if text],
        stopped_because=search.stopped_because,
        refusal=refusal,
        available=available,
        budget=settings.budget,
    )
    return PartReport(
        sentences=(
            "Linear regression couples its unknowns: every weight depends on all others. X has "
            f"{ROWS_PER_FEATURE} n rows of n features in float32; y is exactly linear in them, so "
            "that the optimum is known. Memory is what the method needs besides X and y.",
        ),
        tables=(story.coupled_table(found), *story.separable_tables(found)),
        remarks=story.remarks(found),
        verdict=story.verdict(found),
        numbers={
            "dtype": "float32",
            "rows_per_feature": ROWS_PER_FEATURE,
            "tolerance": TOLERANCE,
            **{
                name: value
                for name, value in found._asdict().items()
                if name not in ("available", "budget")
            },
            "available_bytes": available,
        },
        points=story.points(found),
        is_complete=not (search.is_interrupted or answer.is_interrupted),
    )


class _Search:
    """Multiplies n as long as the next size fits in memory and in the time that is left."""

    def __init__(self, settings: Settings, available: int, progress: Progress) -> None:
        self.settings = settings
        self.available = available
        self.progress = progress
        self.rows: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self.stopped_because: dict[str, str] = {}
        self.measured_sizes = 0
        self.is_interrupted = False

    def run(self) -> None:
        ends = time.perf_counter() + self.settings.budget * (1 - SEPARABLE_SHARE)
        extent = self.settings.extent
        size, overhead, methods = extent.first_size, 0.0, ["descent", "derivative"]
        while methods:
            methods = self._possible(methods, size, overhead, ends - time.perf_counter())
            if not methods:
                return
            started = time.perf_counter()
            answer = self._measure(size, methods, overhead)
            self.is_interrupted = answer.is_interrupted
            if answer.is_interrupted:
                return
            done = [row["method"] for row in answer.rows]
            if answer.failure:
                failed = next(name for name in methods if name not in done)
                self.failures.append(f"n = {size:,}, {NAMES[failed]}: {answer.failure}.")
                self.stopped_because[failed] = "failure"
                methods = [name for name in methods if name != failed]
            self.measured_sizes += 1
            wall = time.perf_counter() - started
            overhead = wall - sum(row["seconds"] for row in answer.rows)
            size *= extent.growth

    def _possible(self, methods: list[str], size: int, overhead: float, left: float) -> list[str]:
        """The methods for which this size fits; descent comes first, because it is cheaper."""
        possible: list[str] = []
        spent = overhead
        for name in methods:
            needed = data_bytes(size) + working_bytes(name, size)
            spent += self._predicted_seconds(name, size)
            if needed > self.available:
                self.stopped_because[name] = "memory"
            elif self.measured_sizes >= LEAST_SIZES and spent > left:
                self.stopped_because[name] = "time"
            else:
                possible.append(name)
        return possible

    def _predicted_seconds(self, name: str, size: int) -> float:
        last = last_row(self.rows, name)
        return predicted_seconds(last, size) if last else 0.0

    def _measure(self, size: int, methods: list[str], overhead: float) -> child.Answer:
        predicted = overhead + sum(self._predicted_seconds(name, size) for name in methods)
        request = {"problem": "coupled", "unknowns": size, "methods": methods}
        answer = _asked(request, f"n = {size:,}", max(predicted, 5.0), self.settings, self.progress)
        for row in answer.rows:
            name = row["method"]
            self.rows.append({"predicted_bytes": working_bytes(name, size), **row})
        return answer


def _computed_rows(measured: list[dict[str, Any]], available: int) -> list[dict[str, Any]]:
    rows = []
    for size in COMPUTED_SIZES:
        for name in NAMES:
            last = last_row(measured, name)
            if last is None or size <= last["unknowns"]:
                continue
            needed = working_bytes(name, size)
            rows.append(
                {
                    "method": name,
                    "unknowns": size,
                    "rows": ROWS_PER_FEATURE * size,
                    "data_bytes": data_bytes(size),
                    "predicted_bytes": needed,
                    "fits_besides_data": needed <= available,
                    "seconds": predicted_seconds(last, size),
                }
            )
    return rows


def _refusal(available: int) -> str | None:
    """The error of the derivative method for a problem that is too large; nothing is solved."""
    if working_bytes("derivative", REFUSED_SIZE) <= available:
        return None
    rows = ROWS_PER_FEATURE * REFUSED_SIZE
    X = jd.MatrixFree(lambda w: jnp.concatenate([w, w]), rows=rows, features=REFUSED_SIZE)
    try:
        jd.minimize(jd.LinearRegression(X, jnp.zeros(rows)), method=jd.DerivativeMethod())
    except jd.ProblemTooLarge as error:
        return str(error)
    return None


def _measure_separable(settings: Settings, progress: Progress) -> child.Answer:
    request = {"problem": "separable", "sizes": list(settings.extent.separable_sizes)}
    expected = settings.budget * SEPARABLE_SHARE
    answer = _asked(request, "separable unknowns", expected, settings, progress)
    rows = [{"predicted_bytes": ITEMSIZE * row["unknowns"], **row} for row in answer.rows]
    return answer._replace(rows=rows)


def _asked(
    request: dict[str, Any], label: str, expected: float, settings: Settings, progress: Progress
) -> child.Answer:
    """A child process's answer, shown by a bar that is full after the expected seconds."""
    show_line(progress.console, label)
    task = progress.add_task(label, total=expected)
    answer = child.ask(
        request | {"seed": settings.seed}, lambda seconds: progress.advance(task, seconds)
    )
    progress.remove_task(task)
    return answer
