"""What jaxdescent sets itself, as ratios of medians of one run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import profiles, records
from benchmarks.records import Record

FITTED_DEVIATION = 0.05
"""How far from linear growth may be."""


@dataclasses.dataclass(frozen=True)
class Target:
    """One sentence, its bound, and how its figure is read off the records.

    Attributes:
      suite: whose records it reads.
      sentence: what is asked.
      bound: the worst figure that meets it.
      is_at_least: whether larger figures are better.
      figure: None where something it needs was not measured.
      is_whole: asked of the whole size, where a smaller run says little.
    """

    suite: str
    sentence: str
    bound: float
    is_at_least: bool
    figure: Callable[[list[Record]], float | None]
    is_whole: bool = False

    def is_met(self, figure: float) -> bool:
        return figure >= self.bound if self.is_at_least else figure <= self.bound


def evaluated(measured: list[Record]) -> list[tuple[Target, float | None]]:
    """Every target with its figure."""
    return [(target, target.figure(measured)) for target in TARGETS]


def verdict(target: Target, figure: float | None) -> str:
    """In one word."""
    if figure is None:
        return "not measured"
    return "met" if target.is_met(figure) else "missed"


Figure = Callable[[list[Record]], float | None]


def _ratio(suite: str, case: str, upper: tuple[str, ...], lower: str) -> Figure:
    """The fastest of ``upper`` over the contender ``lower``."""

    def figure(measured: list[Record]) -> float | None:
        rows = records.cases(measured, suite).get(case, [])
        above, below = records.named(rows, *upper), records.named(rows, lower)
        return above[0]["seconds"] / below[0]["seconds"] if above and below else None

    return figure


def _peak_over_params(measured: list[Record]) -> float | None:
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


def _geometric_mean(found: dict[str, float]) -> float | None:
    if not found:
        return None
    return math.exp(sum(math.log(max(r, 1e-9)) for r in found.values()) / len(found))


def _smallest_batch_ratio(measured: list[Record]) -> float | None:
    found = []
    for rows in records.cases(measured, "batches").values():
        ours = [r for r in records.measured(rows) if records.is_ours(r)]
        ours = [r for r in ours if "Python loop" not in r["contender"]]
        loops = records.named(rows, "Python loop")
        if ours and loops:
            found.append(loops[0]["seconds"] / ours[0]["seconds"])
    return min(found, default=None)


def _profile_lead(method: str) -> Figure:
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


def _largest_deviation(measured: list[Record]) -> float | None:
    linear = [pair for label, pair in exponents(measured).items() if "regression" not in label]
    present = [abs(e - 1) for pair in linear for e in pair if e is not None]
    return max(present, default=None)


def _field(suite: str, case: str, figure: str) -> Figure:
    def found(measured: list[Record]) -> float | None:
        rows = records.measured(records.cases(measured, suite).get(case, []))
        return next((r["figures"][figure] for r in rows if figure in r["figures"]), None)

    return found


def _smallest(values: dict[Any, float]) -> float | None:
    return min(values.values(), default=None)


LOOPS = ("hand-written JAX: jitted", "PyTorch: in place")

TARGETS = (
    Target(
        "eight_billion",
        "8B in the command's own process: times faster an iteration than a jitted, donated step "
        "and any PyTorch form",
        8.0,
        True,
        _ratio("eight_billion", "sum of x^2", LOOPS, "jaxdescent: command's flags"),
    ),
    Target(
        "eight_billion",
        "the same through the plain library",
        6.0,
        True,
        _ratio("eight_billion", "sum of x^2", LOOPS, "jaxdescent: library"),
    ),
    Target(
        "eight_billion",
        "8B: peak memory over the parameters",
        1.15,
        False,
        _peak_over_params,
        is_whole=True,
    ),
    Target(
        "regressions",
        "time to 1e-6: geometric mean of the best peer's time over ours",
        3.0,
        True,
        lambda measured: _geometric_mean(regression_ratios(measured)),
    ),
    Target(
        "regressions",
        "the same with the default method alone",
        3.0,
        True,
        lambda measured: _geometric_mean(regression_ratios(measured, "default")),
    ),
    Target(
        "regressions",
        "time to 1e-6: the smallest of these ratios",
        0.9,
        True,
        lambda measured: _smallest(regression_ratios(measured)),
    ),
    Target(
        "overheads",
        "import over `import jax, optax`",
        1.25,
        False,
        _ratio("overheads", "import", ("jaxdescent: import",), "hand-written JAX: import"),
    ),
    Target(
        "overheads",
        "compiled `minimize` of 3 parameters over a hand-written jitted loop",
        1.2,
        False,
        _ratio(
            "overheads", "3 parameters, compiled", ("jaxdescent: minimize",), "hand-written JAX:"
        ),
    ),
    Target(
        "overheads",
        "the same inside the caller's own `jit`",
        1.2,
        False,
        _ratio("overheads", "3 parameters, compiled", ("jaxdescent: jit",), "hand-written JAX:"),
    ),
    Target(
        "overheads",
        "compilation over that loop's",
        1.5,
        False,
        _ratio("overheads", "compilation", ("jaxdescent: minimize",), "hand-written JAX:"),
    ),
    Target(
        "overheads",
        "eager calls: bytes that stay, a call",
        1.0,
        False,
        _field("overheads", "eager calls", "bytes_a_call"),
        is_whole=True,
    ),
    Target(
        "batches",
        "batches: the smallest ratio of the fastest Python loop's time, ours among them, to ours",
        15.0,
        True,
        _smallest_batch_ratio,
    ),
    *(
        Target(
            "functions",
            f"generic minimisation with {method}: area under the performance profile over the "
            "best peer's",
            1.0,
            True,
            _profile_lead(method),
        )
        for method in ("default", "default, in a jit of the caller's", "ConjugateGradient()")
    ),
    Target(
        "growth",
        "growth: the largest deviation of an exponent from 1, time and memory",
        FITTED_DEVIATION,
        False,
        _largest_deviation,
    ),
)
