"""The gap by a Krylov process: which process suits an objective."""

from __future__ import annotations

from typing import Any

from jaxdescent.gap import golub_kahan, newton
from jaxdescent.gap.gap import Gap, Query
from jaxdescent.objectives import Objective


def is_possible(objective: Objective, params: Any) -> bool:
    """Whether a process suits the objective: every regression, and what has second derivatives."""
    return objective.linear_regression is not None or newton.is_possible(objective, params)


def krylov_gap(objective: Objective, params: Any, query: Query) -> Gap:
    """The gap at ``params``, by passes over a regression's X or by Hessian-vector products."""
    regression = objective.linear_regression
    if regression is not None:
        return golub_kahan.gap(regression, params, query)
    return newton.gap(objective, params, query)
