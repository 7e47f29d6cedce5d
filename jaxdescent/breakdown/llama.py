"""Part 3: descent on as many parameters as a large language model has, in the same shapes."""

from __future__ import annotations

from typing import Any, NamedTuple

from rich.console import Console

from jaxdescent.breakdown import independent_weights, matrix_free_regression, tied_weights
from jaxdescent.breakdown.llama_tree import Tree, tree
from jaxdescent.breakdown.report import PartReport, Settings


class Limits(NamedTuple):
    """The most unknowns of each of the three problems; None for as many as fit."""

    params: int | None
    tied: int | None
    weights: int | None

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """The limits of the extent and of the user, the smaller one of both."""
        extent, most = settings.extent, settings.max_params
        return cls(
            _least(extent.most_params, most),
            _least(extent.most_tied, most),
            _least(extent.most_weights, most),
        )

    def tree(self, most: int) -> Tree:
        """The shapes of at most ``most`` independent weights."""
        return tree(_least(self.params, most))

    def tied_tree(self, most: int) -> Tree:
        """The shapes of at most ``most`` tied weights."""
        return tree(_least(self.tied, most))


def run(settings: Settings, console: Console) -> PartReport:
    """Run the separable case on all parameters, and if asked for, two coupled problems."""
    limits = Limits.of(settings)
    reports = [independent_weights.run(settings, console, limits.tree)]
    is_interrupted = False
    try:
        if settings.everything and reports[-1].is_complete:
            reports.append(tied_weights.run(settings, console, limits.tied_tree))
        if settings.everything and reports[-1].is_complete:
            reports.append(matrix_free_regression.run(settings, console, limits.weights))
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
        verdict=tuple(v for report in reports for v in report.verdict),
        numbers=numbers,
        points=tuple(p for report in reports for p in report.points),
        sections=tuple(reports),
        is_complete=is_complete and all(report.is_complete for report in reports),
    )
