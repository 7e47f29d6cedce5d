"""Part 3: descent on as many parameters as a large language model has, in the same shapes."""

from __future__ import annotations

import functools
from typing import Any

from rich.console import Console

from jaxdescent.breakdown import independent_weights, matrix_free_regression, tied_weights
from jaxdescent.breakdown.llama_tree import tree
from jaxdescent.breakdown.report import PartReport, Settings


def run(settings: Settings, console: Console) -> PartReport:
    """Run the separable case on all parameters, and if asked for, two coupled problems."""
    sizes = settings.sizes
    within = functools.partial(tree, sizes.most_params)
    reports = [independent_weights.run(settings, console, within)]
    is_interrupted = False
    try:
        if settings.everything and reports[-1].is_complete:
            within = functools.partial(tree, sizes.most_tied)
            reports.append(tied_weights.run(settings, console, within))
        if settings.everything and reports[-1].is_complete:
            reports.append(matrix_free_regression.run(settings, console, sizes.most_weights))
    except KeyboardInterrupt:
        is_interrupted = True  # the reports before it are kept
    return _joined(reports, is_complete=not is_interrupted)


def _joined(reports: list[PartReport], *, is_complete: bool) -> PartReport:
    numbers: dict[str, Any] = {}
    for report in reports:
        numbers |= report.numbers
    return PartReport(
        verdict=tuple(v for report in reports for v in report.verdict),
        numbers=numbers,
        points=tuple(p for report in reports for p in report.points),
        sections=tuple(reports),
        is_complete=is_complete and all(report.is_complete for report in reports),
    )
