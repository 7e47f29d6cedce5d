"""Plans from numbers alone: for a structure, for the default of ``minimize``, and for the largest
problem that a method can solve.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer

from jaxdescent import placement, processes
from jaxdescent.cost.candidates import (
    COMPILES_FOR_MINUTES,
    Candidate,
    candidates_for,
    shortage,
)
from jaxdescent.cost.choice import choose
from jaxdescent.cost.iterations import assumed_condition
from jaxdescent.cost.plan import Plan
from jaxdescent.cost.structure import Structure, structure_of
from jaxdescent.cost.work import ALLOWED_ITERATIONS, Question
from jaxdescent.display import readable_seconds
from jaxdescent.kernels import memory
from jaxdescent.machine import Machine
from jaxdescent.methods import LBFGS
from jaxdescent.objectives import Objective
from jaxdescent.tolerance import Tolerance

Params = Any

OF_RANGES = (
    "Seconds in all are a range, without compilation: from a condition number of 2, below which "
    "hardly any data are, to one so large that a method takes all iterations that it may "
    "({most:,})."
)
"""The sentence that explains the column of seconds."""

OF_HEDGES = (
    "A hedge is chosen because nobody knows the condition number: it takes about twice the faster "
    "of its two methods at most, and for the most ill-conditioned problem {worst}."
)
"""The sentence that says what a hedge is for, and its predicted worst case."""


def plan_of(
    structure: Structure,
    machine: Machine,
    *,
    tolerance: float | None = None,
    existing_bytes: int = 0,
    reserved: Callable[[Candidate], int] | None = None,
    most_iterations: int = ALLOWED_ITERATIONS,
) -> Plan:
    """A plan from numbers alone, for the structure of the problem on one device; over a mesh it is
    spread. ``reserved`` returns what the compiled program of a candidate reserves; if it is None,
    nothing is compiled.
    """
    tolerance = structure.default_tolerance if tolerance is None else tolerance
    condition, assumption = assumed_condition(structure)
    structure = structure.spread(machine.devices)
    question = Question(structure, machine, tolerance, condition, most_iterations, existing_bytes)
    candidates = candidates_for(question)
    if reserved is not None:
        candidates = tuple(_compiled(one, machine, reserved) for one in candidates)
    chosen = choose(question, candidates)
    assumptions = [assumption, OF_RANGES.format(most=most_iterations)]
    if chosen is not None and chosen not in candidates:
        candidates = (*candidates, chosen)
        assumptions.append(OF_HEDGES.format(worst=readable_seconds(chosen.worst_seconds)))
    return Plan(structure, machine, candidates, chosen, tuple(assumptions))


def _compiled(
    candidate: Candidate, machine: Machine, reserved: Callable[[Candidate], int]
) -> Candidate:
    """The candidate with its compiled program's memory, if it fits by the formula's."""
    if not candidate.feasible:
        return candidate
    try:
        compiled = reserved(candidate)
    except memory.ProblemTooLarge as error:
        reason = f"the compiler finds no room, and says: {error}"
        return dataclasses.replace(candidate, feasible=False, reason=reason)
    allocated = max(candidate.allocated_bytes - candidate.working_bytes + compiled, 0)
    reason = shortage(allocated, machine)
    return dataclasses.replace(
        candidate, compiled_bytes=compiled, feasible=not reason, reason=reason
    )


def tolerance_number(tolerance: Tolerance, structure: Structure) -> float:
    """The smallest positive tolerance for the gradient, or the default if none is known."""
    known = [leaf for leaf in jax.tree.leaves(tolerance.gradient) if not isinstance(leaf, Tracer)]
    positive = [number for number in map(float, known) if number > 0]
    return min(positive, default=structure.default_tolerance)


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


SizedStructure = Callable[[int], Structure]
"""Returns the structure of a problem with this many features."""

SIZES = range(1, 1 << 62)


def candidates_at(
    structure_at: SizedStructure, size: int, machine: Machine
) -> dict[str, Candidate]:
    """The candidates for a problem with this many features, by their names."""
    candidates = plan_of(structure_at(max(size, 1)), machine).candidates
    return {candidate.name: candidate for candidate in candidates}


def largest_size(structure_at: SizedStructure, machine: Machine, name: str) -> int:
    """The most features for which the candidate of this name fits, data included; 0 if none do."""

    def is_too_large(size: int) -> bool:
        candidate = candidates_at(structure_at, size, machine).get(name)
        if candidate is None or candidate.reason.startswith(COMPILES_FOR_MINUTES):
            return True
        return candidate.allocated_bytes > machine.memory_bytes

    return bisect.bisect_left(SIZES, True, key=is_too_large)


def largest_sizes(structure_at: SizedStructure, machine: Machine) -> dict[str, int]:
    """:func:`largest_size` of each candidate, by its name."""
    names = candidates_at(structure_at, 1, machine)
    return {name: largest_size(structure_at, machine, name) for name in names}
