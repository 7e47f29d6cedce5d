"""The plan by which ``minimize`` chooses if no method is given."""

from __future__ import annotations

import functools
from typing import Any

import jax

from jaxdescent import placement, processes
from jaxdescent.cost.plan import Plan, plan_of, tolerance_number
from jaxdescent.cost.structure import Kind, Structure, structure_of
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
    existing = structure.data_bytes + structure.params_bytes
    if is_donated:
        existing += structure.params_bytes
    device = placement.device_of((params, objective))
    number = None if tolerance is None else tolerance_number(tolerance, structure)
    is_small = existing + _default_bytes(structure) < memory.SMALL_BYTES
    if is_small and processes.is_alone():
        return _remembered(structure, device, existing, number, most_iterations)
    return _planned(structure, device, existing, number, most_iterations)


def _default_bytes(structure: Structure) -> int:
    """About the bytes that the first candidate needs."""
    if structure.kind in (Kind.RESIDUALS, Kind.FUNCTION):
        return LBFGS().vectors * structure.vector_bytes
    return structure.solver_bytes


def _planned(
    structure: Structure,
    device: Any,
    existing_bytes: int,
    tolerance: float | None,
    most_iterations: int,
) -> Plan:
    return plan_of(
        structure,
        _machine(device),
        tolerance=tolerance,
        existing_bytes=existing_bytes,
        most_iterations=most_iterations,
    )


def _machine(device: Any) -> Machine:
    """The machine to plan for, on which the processes of a distributed run must agree.

    Where all arrays are traced nobody knows which processes share them, so none may wait for
    another: they plan for what equal machines have in common.
    """
    if processes.is_alone() and device is None and jax.process_count() > 1:
        return Machine.stated()
    return Machine.of(device).agreed()


# Plans of small problems, which always fit, are cached: a plan takes longer than their solution.
_remembered = functools.lru_cache(maxsize=256)(_planned)
