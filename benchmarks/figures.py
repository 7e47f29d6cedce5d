"""How the targets' figures are read off the records."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import profiles, records
from benchmarks.records import Record

Figure = Callable[[list[Record]], float | None]
"""None where something it needs was not measured."""


def ratio(suite: str, case: str, upper: tuple[str, ...], lower: str) -> Figure:
    """The fastest of ``upper`` over the contender ``lower``."""

    def figure(measured: list[Record]) -> float | None:
        rows = records.cases(measured, suite).get(case, [])
        above, below = records.named(rows, *upper), records.named(rows, lower)
        return above[0]["seconds"] / below[0]["seconds"] if above and below else None

    return figure


def peak_over_params(measured: list[Record]) -> float | None:
    rows = records.cases(measured, "eight_billion").get("sum of x^2", [])
    ours = records.fastest(rows, ours=True)
    if ours is None:
        return None
    return ours["peak_bytes"] / ours["figures"]["params_bytes"]


def regression_ratios(measured: list[Record], method: str = "") -> dict[str, float]:
    """By case: the best peer's median over jaxdescent's best, or over that of one method."""
    found = {}
    for case, rows in records.cases(measured, "regressions").items():
        ours = next(iter(records.named(rows, f"jaxdescent: {method}")), None)
        theirs = records.fastest(rows, ours=False)
        if theirs is None:
            continue  # nobody to compare with
        found[case] = theirs["seconds"] / ours["seconds"] if ours else 0.0
    return found


def geometric_mean(found: dict[str, float]) -> float | None:
    if not found:
        return None
    return math.exp(sum(math.log(max(r, 1e-9)) for r in found.values()) / len(found))


def smallest_batch_ratio(measured: list[Record]) -> float | None:
    found = []
    for rows in records.cases(measured, "batches").values():
        ours = [r for r in records.measured(rows) if records.is_ours(r)]
        ours = [r for r in ours if "Python loop" not in r["contender"]]
        loops = records.named(rows, "Python loop")
        if ours and loops:
            found.append(loops[0]["seconds"] / ours[0]["seconds"])
    return min(found, default=None)


def profile_lead(method: str) -> Figure:
    def figure(measured: list[Record]) -> float | None:
        areas = profiles.areas(records.cases(measured, "functions"))
        ours = [area for label, area in areas.items() if label == f"jaxdescent: {method}"]
        theirs = [area for label, area in areas.items() if not label.startswith("jaxdescent:")]
        return ours[0] / max(theirs) if ours and theirs and max(theirs) > 0 else None

    return figure


def exponents(measured: list[Record]) -> dict[str, tuple[float | None, float | None]]:
    """By contender: the exponents of time and memory in n, above the last-level cache.

    The coupled derivative method has no such size within reach of the memory: its largest three
    sizes are taken.
    """
    cache = records.of_kind(measured, "provenance", "growth").get("last_level_cache_bytes") or 0
    points: dict[str, list[Record]] = {}
    for rows in records.cases(measured, "growth").values():
        for row in records.measured(rows):
            kind = " (regression)" if row["case"].startswith("features") else ""
            points.setdefault(row["contender"] + kind, []).append(row)
    found = {}
    for label, rows in points.items():
        rows.sort(key=lambda row: row["x"])
        large = (
            rows[-3:] if "regression" in label else [row for row in rows if 4 * row["x"] >= cache]
        )
        found[label] = (_exponent(large, "seconds"), _exponent(large, "working_bytes"))
    return found


def _exponent(rows: list[Record], field: str) -> float | None:
    rows = [row for row in rows if row[field]]
    if len(rows) < 2:
        return None
    x, y = (np.log([row[name] for row in rows]) for name in ("x", field))
    return float(np.polyfit(x, y, 1)[0])


def largest_deviation(measured: list[Record]) -> float | None:
    linear = [pair for label, pair in exponents(measured).items() if "regression" not in label]
    present = [abs(e - 1) for pair in linear for e in pair if e is not None]
    return max(present, default=None)


def recorded(suite: str, case: str, figure: str) -> Figure:
    def found(measured: list[Record]) -> float | None:
        rows = records.measured(records.cases(measured, suite).get(case, []))
        return next((r["figures"][figure] for r in rows if figure in r["figures"]), None)

    return found


def smallest(values: dict[Any, float]) -> float | None:
    return min(values.values(), default=None)
