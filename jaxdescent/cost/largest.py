"""The largest problem that a method can solve, for a given ratio of rows to features."""

from __future__ import annotations

import bisect
from collections.abc import Callable

from jaxdescent.cost.candidates import COMPILES_FOR_MINUTES, Candidate
from jaxdescent.cost.plan import plan_of
from jaxdescent.cost.structure import Structure
from jaxdescent.machine import Machine

SIZES = range(1, 1 << 62)

SizedStructure = Callable[[int], Structure]
"""Returns the structure of a problem with this many features."""


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


def largest_by_descent(structure_at: SizedStructure, machine: Machine) -> tuple[int, Candidate]:
    """The most features for which an iterative candidate fits, and that candidate at this size."""
    sizes = {
        name: largest_size(structure_at, machine, name)
        for name in candidates_at(structure_at, 1, machine)
        if name != "DerivativeMethod()"
    }
    name = max(sizes, key=lambda name: sizes[name])
    return sizes[name], candidates_at(structure_at, sizes[name], machine)[name]
