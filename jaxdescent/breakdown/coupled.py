"""Part 2: where the derivative method breaks down, and where it never does."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
import operator
import time
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from rich.console import Console

import jaxdescent as jd
from jaxdescent.breakdown import child
from jaxdescent.breakdown.child import ROWS_PER_FEATURE, TOLERANCE
from jaxdescent.breakdown.llama_tree import tree
from jaxdescent.breakdown.report import COMPUTED, PartReport, PlottedPoint, busy, said, table_of
from jaxdescent.breakdown.settings import Settings
from jaxdescent.kernels import memory
from jaxdescent.kernels.memory import readable_bytes

LEAST_SIZES = 3
"""The number of sizes that are measured whatever the budget: fewer do not show how both grow."""

SEPARABLE_SHARE = 0.2
"""The share of the budget that is kept for the separable case."""

LLAMA_SIZE = tree().size
COMPUTED_SIZES = (2**14, 2**16, 10**6, 10**8, LLAMA_SIZE)
REFUSED_SIZE = 10**6
ITEMSIZE = 4

NAMES = {"derivative": "derivative method", "descent": "descent"}

POWERS = {"derivative": 3, "descent": 2}
"""The powers of n by which the seconds grow: as operations, and as the bytes of a pass over X."""

RESOLUTION_BYTES = 10**6
"""How many bytes a process's memory varies on its own; smaller peaks are shown as below this."""

NOT_KEPT = "available", "budget", "is_complete"
"""The fields of the findings that are not in the record, or there under another name."""

COLUMNS = {
    "predicted": "{predicted_bytes:bytes}",
    "peak": "{peak}",
    "time": "{seconds:time}",
    "error": "{error}",
}
"""The columns that both tables have."""


@dataclasses.dataclass
class Findings:
    """The rows that part 2 measures and computes, with one dictionary for each row."""

    available: int
    budget: float
    measured: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    computed: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    separable: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)
    stopped_because: dict[str, str] = dataclasses.field(default_factory=dict)
    refusal: str | None = None
    is_complete: bool = True


def run(settings: Settings, console: Console) -> PartReport:
    """Run both methods at growing sizes, then the separable case."""
    found = Findings(memory.available_bytes(), settings.budget)
    try:
        _measure_coupled(found, settings, console)
        if found.is_complete:
            request = {"problem": "separable", "sizes": list(settings.separable_sizes)}
            answer = _ask(request, "separable unknowns", found, settings, console)
            found.separable = [
                {"predicted_bytes": ITEMSIZE * row["unknowns"], **row} for row in answer.rows
            ]
            if answer.failure and len(answer.rows) < len(settings.separable_sizes):
                found.failures.append(answer.failure)
            found.refusal = _refusal(found.available)
    except KeyboardInterrupt:  # between two children; inside one, its answer reports it
        found.is_complete = False
    found.computed = _computed_rows(found)
    return _told(found)


def _ask(
    request: dict[str, Any], label: str, found: Findings, settings: Settings, console: Console
) -> child.Answer:
    with busy(console, label):
        answer = child.ask(request | {"seed": settings.seed})
    found.is_complete = not answer.is_interrupted
    return answer


def _measure_coupled(found: Findings, settings: Settings, console: Console) -> None:
    """Multiply n as long as the next size fits in memory and in the time that is left."""
    ends = time.perf_counter() + found.budget * (1 - SEPARABLE_SHARE)
    size, overhead, methods = settings.first_size, 0.0, ["descent", "derivative"]
    for count in itertools.count():
        left = ends - time.perf_counter() if count >= LEAST_SIZES else math.inf
        methods = _possible(found, methods, size, left - overhead)
        if not methods:
            return
        started = time.perf_counter()
        request = {"problem": "coupled", "unknowns": size, "methods": methods}
        answer = _ask(request, f"n = {size:,}", found, settings, console)
        found.measured += [
            {"predicted_bytes": working_bytes(row["method"], size), **row} for row in answer.rows
        ]
        if answer.is_interrupted:
            return
        done = [row["method"] for row in answer.rows]
        missing = [name for name in methods if name not in done]
        if answer.failure and missing:  # a process may also fail at its very end
            failed = missing[0]
            found.failures.append(f"n = {size:,}, {NAMES[failed]}: {answer.failure}.")
            found.stopped_because[failed] = "failure"
            methods = [name for name in methods if name != failed]
        wall = time.perf_counter() - started
        overhead = wall - sum(row["seconds"] for row in answer.rows)
        size *= settings.growth


def _possible(found: Findings, methods: list[str], size: int, left: float) -> list[str]:
    """The methods for which this size fits; descent comes first, because it is cheaper."""
    possible: list[str] = []
    spent = 0.0
    for name in methods:
        last = last_row(found.measured, name)
        spent += predicted_seconds(last, size) if last else 0.0
        if data_bytes(size) + working_bytes(name, size) > found.available:
            found.stopped_because[name] = "memory"
        elif spent > left:
            found.stopped_because[name] = "time"
        else:
            possible.append(name)
    return possible


def _computed_rows(found: Findings) -> list[dict[str, Any]]:
    return [
        {
            "method": name,
            "unknowns": size,
            "rows": ROWS_PER_FEATURE * size,
            "data_bytes": data_bytes(size),
            "predicted_bytes": working_bytes(name, size),
            "fits_besides_data": working_bytes(name, size) <= found.available,
            "seconds": predicted_seconds(last, size),
        }
        for size in COMPUTED_SIZES
        for name in NAMES
        if (last := last_row(found.measured, name)) and size > last["unknowns"]
    ]


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


def _told(found: Findings) -> PartReport:
    """The whole report, from the rows."""
    rows, order = [*found.measured, *found.computed], operator.itemgetter("unknowns", "method")
    tables = [
        table_of(
            f"Coupled unknowns: linear regression, {ROWS_PER_FEATURE} n rows of n features",
            {"n": "{unknowns:,}", "method": "{method}", "X": "{data_bytes:bytes}"} | COLUMNS,
            map(_shown, sorted(found.measured, key=order) + found.computed),
        )
    ]
    if found.separable:
        title = "Separable unknowns: a sum of squares, by the derivative method"
        columns = {"n": "{unknowns:,}", "x": "{data_bytes:bytes}"} | COLUMNS
        tables.append(table_of(title, columns, map(_shown, found.separable)))
    return PartReport(
        shown=(
            "Linear regression couples its unknowns: every weight depends on all others. X has "
            f"{ROWS_PER_FEATURE} n rows of n features in float32; y is exactly linear in them, so "
            "that the optimum is known. Memory is what the method needs besides X and y.",
            *tables,
            *_remarks(found),
        ),
        verdict=_verdict(found),
        numbers={
            "dtype": "float32",
            "rows_per_feature": ROWS_PER_FEATURE,
            "tolerance": TOLERANCE,
            **{name: value for name, value in vars(found).items() if name not in NOT_KEPT},
            "available_bytes": found.available,
        },
        points=(
            *(p for row in rows for p in _points(row, f"{NAMES[row['method']]}, coupled")),
            *(p for row in found.separable for p in _points(row, "derivative method, separable")),
        ),
        is_complete=found.is_complete,
    )


def _is_seen(row: dict[str, Any]) -> bool:
    """Whether the peak was measured, and is no variation of the process's own."""
    return (row.get("peak_bytes") or 0) >= RESOLUTION_BYTES


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the texts of cells that measured and computed rows have in their own way."""
    peak = "" if row.get("peak_bytes") is None else "< 1 MB"
    return row | {
        "peak": readable_bytes(row["peak_bytes"]) if _is_seen(row) else peak,
        "error": f"{row['error']:.0e}" if "error" in row else COMPUTED,
    }


def _points(row: dict[str, Any], series: str) -> tuple[PlottedPoint, PlottedPoint]:
    """Memory and time of a row, each marked as measured or computed."""
    size, is_seen = row["unknowns"], _is_seen(row)
    memory = row["peak_bytes" if is_seen else "predicted_bytes"]
    return (
        PlottedPoint(series, size, memory, None, is_seen),
        PlottedPoint(series, size, None, row["seconds"], "peak_bytes" in row),
    )


def _remarks(found: Findings) -> Iterator[str]:
    """How computed rows were obtained, and what ended the measured ones."""
    yield from (f"Not measured: {failure}" for failure in found.failures)
    if found.computed:
        yield (
            "Computed rows scale the last measured time by n³ (derivative method) and n² (descent, "
            "at the same number of iterations). What stops descent there is not the method but a "
            "dense X: it must be streamed, or known by its products alone."
        )
    reasons = {
        "memory": f"would exceed the {readable_bytes(found.available)} of memory available",
        "time": f"would exceed the time budget of {found.budget:.0f} s",
        "failure": "failed: see above",
    }
    for name, reason in found.stopped_because.items():
        yield f"{NAMES[name].capitalize()}: the next size {reasons[reason]}."
    if found.refusal:
        yield (
            f"Asked for n = {REFUSED_SIZE:,}, with X written out, jaxdescent refuses before "
            f"it allocates: {found.refusal}"
        )


def _verdict(found: Findings) -> tuple[str, ...]:
    """Sentences on the sizes that both methods reached, and on those that neither can."""
    solved, walked = (last_row(found.measured, name) for name in ("derivative", "descent"))
    needed = last_row(found.computed, "derivative") or {}
    known = {
        "available": found.available,
        "wall": _largest_that_fits(found.available) if solved else 0,
        "besides": solved and (solved["peak_bytes"] or solved["predicted_bytes"]),
        "one_matrix": ITEMSIZE * LLAMA_SIZE**2,
    }
    sentences = {
        "With coupled unknowns the derivative method was measured up to n = {unknowns:,}: "
        "{seconds:time} and {besides:bytes} besides X. The {available:bytes} available here would "
        "be full at n = {wall:,}, by computation, X included.": solved,
        "For {unknowns:,} coupled unknowns its matrix alone would take {one_matrix:bytes}, its "
        "solve {predicted_bytes:bytes}: there it cannot be used.": (
            needed if needed.get("unknowns") == LLAMA_SIZE else None
        ),
        "Descent solved n = {unknowns:,} in {seconds:time} ({iterations} iterations, relative "
        "error {error:.0e}) and keeps a few vectors besides X.": walked,
        "With separable unknowns the derivative method never breaks down: it is one division for "
        "each unknown, and solved n = {unknowns:,} in {seconds:time}.": (
            found.separable[-1] if found.separable else None
        ),
    }
    return tuple(said(template, known | row) for template, row in sentences.items() if row)


def _largest_that_fits(available: int) -> int:
    """The largest n, to two digits, whose X and solve fit together."""

    def needed(size: int) -> int:
        return data_bytes(size) + working_bytes("derivative", size)

    largest = bisect.bisect_right(range(1, 2**40), available, key=needed)
    unit = max(10 ** (len(str(largest)) - 2), 1)
    return largest // unit * unit


def data_bytes(size: int) -> int:
    """The bytes of X and y."""
    return ITEMSIZE * ROWS_PER_FEATURE * size * (size + 1)


def working_bytes(name: str, size: int) -> int:
    """The bytes that a method needs besides X and y."""
    if name == "descent":
        # The gradient, the trial, its gradient, the old gradient, the result; the image, residual.
        return ITEMSIZE * (5 + 2 * ROWS_PER_FEATURE) * size
    # The Gram matrix, a scaled copy, its factor and the factor's inverse.
    return ITEMSIZE * 4 * size**2


def predicted_seconds(last: dict[str, Any], size: int) -> float:
    """The time of a measured row, scaled to another size."""
    return last["seconds"] * (size / last["unknowns"]) ** POWERS[last["method"]]


def last_row(rows: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """The row with the largest size for this method; None if there is none."""
    of_method = [row for row in rows if row["method"] == name]
    return of_method[-1] if of_method else None
