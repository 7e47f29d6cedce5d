"""The plan that ``minimize`` decides by where no method is given."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from jaxdescent import memory
from jaxdescent.machine import Machine
from jaxdescent.methods import LBFGS
from jaxdescent.objectives import Objective
from jaxdescent.plan.candidates import Candidate
from jaxdescent.plan.condition import Condition, estimated_condition, feared_condition
from jaxdescent.plan.plan import Plan, device_of, plan_of, tolerance_number
from jaxdescent.plan.structure import Kind, Structure, structure_of
from jaxdescent.programs import is_top_level
from jaxdescent.tolerance import Tolerance

Params = Any

HOPED = Condition(2.0, True, "The condition number is hoped to be 2.", True)
LOOK_SECONDS = 0.1
"""What a look at the data takes on an ordinary machine, once it is compiled."""


def default_plan(
    objective: Objective,
    params: Params,
    *,
    tolerance: Tolerance | None = None,
    is_donated: bool = False,
) -> Plan:
    """What ``minimize`` decides by, for a checked objective that may be traced.

    Reads a calibration if there is one; measures and writes nothing. Data and params are there
    already. Shapes decide, unless a look at the data may find them so well or so ill conditioned
    that it saves half of a direct solve.
    """
    structure = structure_of(objective, params)
    existing = structure.data_bytes + structure.params_bytes
    if is_donated:
        existing += structure.params_bytes
    device = device_of((params, objective))
    number = None if tolerance is None else tolerance_number(tolerance, structure)
    if existing + _default_bytes(structure) < memory.SMALL_BYTES:
        return _remembered(structure, device, existing, number)
    machine = Machine.of(device)

    def plan_with(condition: Condition | None) -> Plan:
        return plan_of(
            structure,
            machine,
            tolerance=number,
            condition=condition,
            existing_bytes=existing,
        )

    planned = plan_with(None)
    direct = planned.chosen
    if direct is None or direct is not planned.candidates[0] or not is_top_level():
        return planned
    if _is_worth_a_look(direct, structure, lambda condition: plan_with(condition).chosen):
        return plan_with(estimated_condition(objective, structure))
    return planned


def _is_worth_a_look(
    direct: Candidate, structure: Structure, chosen: Callable[[Condition], Candidate | None]
) -> bool:
    """Whether a well-conditioned problem would take less than half, the look included, or an
    ill-conditioned one has a way around the direct solve's QR.
    """
    if direct.seconds <= 2 * LOOK_SECONDS:
        return False
    hoped = chosen(HOPED)
    if hoped is not None and 2 * (hoped.seconds + LOOK_SECONDS) < direct.seconds:
        return True
    feared = chosen(feared_condition(structure))
    return feared is not None and feared.name != direct.name


def _default_bytes(structure: Structure) -> int:
    """What the first candidate needs, nearly."""
    if structure.kind in (Kind.RESIDUALS, Kind.FUNCTION):
        return LBFGS().vectors * structure.vector_bytes
    return structure.solver_bytes


@functools.lru_cache(maxsize=256)
def _remembered(
    structure: Structure, device: Any, existing_bytes: int, tolerance: float | None
) -> Plan:
    """Of small problems, which fit whatever is available: looking costs more than solving them."""
    machine = Machine.of(device)
    return plan_of(structure, machine, tolerance=tolerance, existing_bytes=existing_bytes)
