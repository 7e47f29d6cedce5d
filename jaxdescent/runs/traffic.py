"""How many bytes an iteration moves, where the plan's cost model knows it."""

from __future__ import annotations

from typing import Any

import jax

from jaxdescent.calls.problem import Problem
from jaxdescent.cost import default_plan
from jaxdescent.cost.structure import ProblemKind
from jaxdescent.descent.fused_steps import FUSED_STEPS, fuses
from jaxdescent.display import structure_name


def bytes_per_iteration(problem: Problem, params: Any, check_every: int) -> float | None:
    """The bytes that an iteration reads and writes on all devices; None if it is not known.

    Fused steps read and write the params once in each pass. Otherwise it is the mean over the
    iterations that the plan expects of the same method, if that is a candidate; what a function
    reads is not known.
    """
    if fuses(problem.objective, problem.method) and check_every > 1:
        held = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        return 2.0 * held / min(FUSED_STEPS, check_every)
    plan = default_plan(problem.objective, params)
    if plan.structure.kind in (ProblemKind.FUNCTION, ProblemKind.RESIDUALS):
        return None
    name = structure_name(problem.method)
    for candidate in plan.candidates:
        if structure_name(candidate.method) == name:
            moved = candidate.bytes_moved / candidate.iterations
            return moved * plan.structure.devices or None
    return None
