"""Part 3: descent on as many parameters as a large language model has, in the same shapes."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from jaxdescent.breakdown import independent_weights, matrix_free_regression, tied_weights
from jaxdescent.breakdown.llama_tree import tree
from jaxdescent.breakdown.report import PartReport, Settings

QUICK_PARAMS = 40_000_000


def run(settings: Settings, console: Console) -> PartReport:
    """Run the separable case on all parameters, and if asked for, two coupled problems."""
    limit = settings.max_params
    if settings.quick:
        limit = min(limit or QUICK_PARAMS, QUICK_PARAMS)
    reports = [independent_weights.run(settings, console, lambda most: tree(_least(limit, most)))]
    is_interrupted = False
    try:
        if settings.everything and reports[-1].is_complete:
            reports.append(
                tied_weights.run(settings, console, lambda most: tree(_least(limit, most)))
            )
        if settings.everything and reports[-1].is_complete:
            reports.append(matrix_free_regression.run(settings, console, limit))
    except KeyboardInterrupt:
        is_interrupted = True  # the reports before it are kept
    return _joined(reports, is_complete=not is_interrupted)


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _joined(reports: list[PartReport], *, is_complete: bool) -> PartReport:
    numbers: dict[str, Any] = {}
    for report in reports:
        numbers |= report.numbers
    return PartReport(
        number=3,
        title="Eight billion parameters",
        verdict=tuple(v for report in reports for v in report.verdict),
        numbers=numbers,
        points=tuple(p for report in reports for p in report.points),
        sections=tuple(reports),
        is_complete=is_complete and all(report.is_complete for report in reports),
    )
