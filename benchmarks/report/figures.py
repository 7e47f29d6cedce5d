"""How the targets' figures are read off the records."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness import records
from benchmarks.harness.records import Record
from benchmarks.report import profiles

Figure = Callable[[list[Record]], float | None]
"""None where something it needs was not measured."""


def ratio(suite: str, case: str, upper: tuple[str, ...], lower: str) -> Figure:
    """The fastest of ``upper`` over the contender ``lower``."""

    def figure(measured: list[Record]) -> float | None:
        rows = records.cases(measured, suite).get(case, [])
        above, below = records.named(rows, *upper), records.named(rows, lower)
        return above[0]["seconds"] / below[0]["seconds"] if above and below else None

    return figure


def lead(suite: str, case: str, ours: str, *peers: str) -> Figure:
    """The time of the fastest of ``peers`` over ours: infinite if none of them arrives, 0 if we
    do not.
    """

    def figure(measured: list[Record]) -> float | None:
        rows = records.cases(measured, suite).get(case, [])
        if not rows:
            return None
        below, above = records.named(rows, ours), records.named(rows, *peers)
        if not below:
            return 0.0
        return above[0]["seconds"] / below[0]["seconds"] if above else math.inf

    return figure


def iterations_ratio(suite: str, case: str, upper: str, *lower: str) -> Figure:
    """The iterations of ``upper`` over the most that one of ``lower`` takes."""

    def figure(measured: list[Record]) -> float | None:
        rows = records.cases(measured, suite).get(case, [])
        above, below = records.named(rows, upper), records.named(rows, *lower)
        if not above or not below:
            return None
        return above[0]["iterations"] / max(row["iterations"] for row in below)

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


def smallest_batch_ratio(*, is_own_loop: bool) -> Figure:
    """Of the times of the fastest Python loop, a peer's or our own, over that of a batch."""

    def figure(measured: list[Record]) -> float | None:
        found = []
        for rows in records.cases(measured, "batches").values():
            loops = records.named(rows, "Python loop")
            of_whom = [r for r in loops if records.is_ours(r) == is_own_loop]
            ours = [r for r in records.measured(rows) if records.is_ours(r) and r not in loops]
            if ours and of_whom:
                found.append(of_whom[0]["seconds"] / ours[0]["seconds"])
        return min(found, default=None)

    return figure


def profile_lead(method: str) -> Figure:
    def figure(measured: list[Record]) -> float | None:
        areas = profiles.areas(records.cases(measured, "functions"))
        ours = [area for label, area in areas.items() if label == f"jaxdescent: {method}"]
        theirs = [area for label, area in areas.items() if not label.startswith("jaxdescent:")]
        return ours[0] / max(theirs) if ours and theirs and max(theirs) > 0 else None

    return figure


DEFAULT = "jaxdescent: default"
QUASI_NEWTON = ("SciPy: L-BFGS-B", "SciPy: BFGS")
"""Whom the default method of generic minimisation is compared with."""

SMALL_FUNCTION = 1000
"""Variables, up to which the time of a call counts."""


def solved_more(measured: list[Record]) -> float | None:
    """How many more functions the default solves than the better of SciPy's."""
    found = [_solved(measured, label) for label in (DEFAULT, *QUASI_NEWTON)]
    ours, *theirs = map(len, found)
    return ours - max(theirs) if any(found) else None


def evaluations_over(measured: list[Record], upper: str, lower: str) -> float | None:
    """The median over the functions that both solve of a contender's evaluations over another's."""
    above, below = (_evaluations(measured, label) for label in (upper, lower))
    found = [above[case] / below[case] for case in above.keys() & below.keys()]
    return float(np.median(found)) if found else None


def evaluations_ratio(measured: list[Record]) -> float | None:
    """Of the default's over SciPy's, the worse of two."""
    found = [evaluations_over(measured, DEFAULT, label) for label in QUASI_NEWTON]
    return max((ratio for ratio in found if ratio is not None), default=None)


def small_functions_lead(measure: Callable[[list[float]], Any]) -> Figure:
    """A measure of: the faster of SciPy's times over that of the compiled default, by function."""

    def figure(measured: list[Record]) -> float | None:
        ours = _solved(measured, "jaxdescent: default, in a jit of the caller's")
        theirs = [_solved(measured, label) for label in QUASI_NEWTON]
        found = [
            min(peer[case]["seconds"] for peer in theirs if case in peer) / row["seconds"]
            for case, row in ours.items()
            if row["x"] <= SMALL_FUNCTION and any(case in peer for peer in theirs)
        ]
        return float(measure(found)) if found else None

    return figure


def _evaluations(measured: list[Record], label: str) -> dict[str, float]:
    """By case, where a contender passed and tells them."""
    rows = _solved(measured, label)
    counts = {case: row["figures"].get("evaluations") for case, row in rows.items()}
    return {case: count for case, count in counts.items() if count is not None}


def _solved(measured: list[Record], label: str) -> dict[str, Record]:
    """By case, the records in which a contender passed."""
    rows = [row for case in records.cases(measured, "functions").values() for row in case]
    return {row["case"]: row for row in records.measured(rows) if row["contender"] == label}


def recorded(suite: str, case: str, figure: str) -> Figure:
    def found(measured: list[Record]) -> float | None:
        rows = records.measured(records.cases(measured, suite).get(case, []))
        return next((r["figures"][figure] for r in rows if figure in r["figures"]), None)

    return found


def smallest(values: dict[Any, float]) -> float | None:
    return min(values.values(), default=None)
