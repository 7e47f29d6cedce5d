"""Part 3: descent on as many parameters as a large language model has, in the same shapes."""

from __future__ import annotations

from rich.console import Console

from jaxdescent.breakdown import large_problem
from jaxdescent.breakdown.independent_weights import IndependentWeights
from jaxdescent.breakdown.matrix_free_regression import MatrixFreeRegression
from jaxdescent.breakdown.report import PartReport
from jaxdescent.breakdown.settings import Settings
from jaxdescent.breakdown.tied_weights import TiedWeights


def run(settings: Settings, console: Console) -> PartReport:
    """Run the separable case on all parameters, and if asked for, two coupled problems."""
    problems = IndependentWeights, TiedWeights, MatrixFreeRegression
    reports: list[PartReport] = []
    is_complete = True
    for of_kind in problems if settings.everything else problems[:1]:
        try:
            reports.append(large_problem.run(of_kind(settings, console), settings, console))
        except KeyboardInterrupt:
            if not reports:
                raise
            is_complete = False  # the reports before it are kept
        if not is_complete or not reports[-1].is_complete:
            break
    return PartReport(
        shown=tuple(each for report in reports for each in ("", *report.shown)),
        verdict=tuple(v for report in reports for v in report.verdict),
        numbers={name: own for report in reports for name, own in report.numbers.items()},
        points=tuple(p for report in reports for p in report.points),
        is_complete=is_complete and reports[-1].is_complete,
    )
