"""The plan by which ``minimize`` chooses if no method is given."""

from __future__ import annotations

import functools
from typing import Any

import jax

from jaxdescent import placement, processes
from jaxdescent.cost.plan import Plan, plan_of, tolerance_number
from jaxdescent.cost.structure import Structure, structure_of
from jaxdescent.cost.work import ALLOWED_ITERATIONS
from jaxdescent.machine import Machine, memory
from jaxdescent.methods import LBFGS
from jaxdescent.objectives import Objective
from jaxdescent.tolerance import Tolerance

Params = Any


def default_plan(
    objective: Objective,
    params: Params,
    *,
    tolerance: Tolerance | None = None,
    is_donated: bool = False,
    most_iterations: int = ALLOWED_ITERATIONS,
) -> Plan:
    """The plan by which ``minimize`` chooses, for a checked objective that may be traced.

    It reads a calibration if there is one, and measures and writes nothing. Data and params exist
    already. The choice depends on shapes only: one program serves all data of one shape, traced or
    not.
    """
    structure = structure_of(objective, params)
    existing = structure.data_bytes + structure.params_bytes * (2 if is_donated else 1)
    number = None if tolerance is None else tolerance_number(tolerance, structure)
    device = placement.device_of((params, objective))
    # About the bytes that the first candidate needs.
    needed = max(structure.solver_bytes, LBFGS().vectors * structure.vector_bytes)
    is_small = existing + needed < memory.SMALL_BYTES and processes.is_alone()
    plan = _remembered if is_small else _planned
    return plan(structure, device, existing, number, most_iterations)


def _planned(
    structure: Structure, device: Any, existing: int, tolerance: float | None, most: int
) -> Plan:
    """The plan for the machine on which the processes of a distributed run agree.

    Where all arrays are traced nobody knows which processes share them, so none may wait for
    another: they plan for what equal machines have in common.
    """
    is_traced = processes.is_alone() and device is None and jax.process_count() > 1
    machine = Machine.stated() if is_traced else Machine.of(device).agreed()
    return plan_of(
        structure, machine, tolerance=tolerance, existing_bytes=existing, most_iterations=most
    )


# Plans of small problems, which always fit, are cached: a plan takes longer than their solution.
_remembered = functools.lru_cache(maxsize=256)(_planned)
