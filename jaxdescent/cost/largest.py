"""The largest problem that a method can solve, for a given ratio of rows to features."""

from __future__ import annotations

from collections.abc import Callable

from jaxdescent.cost.candidates import COMPILES_FOR_MINUTES, Candidate
from jaxdescent.cost.plan import plan_of
from jaxdescent.cost.structure import Structure
from jaxdescent.machine import Machine

MOST = 1 << 62

SizedStructure = Callable[[int], Structure]
"""Returns the structure of a problem with this many features."""


def largest_size(structure_at: SizedStructure, machine: Machine, name: str) -> int:
    """The most features for which the candidate of this name fits, data included; 0 if none do."""

    def fits(size: int) -> bool:
        return any(
            candidate.name == name
            and candidate.allocated_bytes <= machine.memory_bytes
            and not candidate.reason.startswith(COMPILES_FOR_MINUTES)
            for candidate in plan_of(structure_at(size), machine).candidates
        )

    high = 1
    while high < MOST and fits(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def largest_by_descent(structure_at: SizedStructure, machine: Machine) -> tuple[int, Candidate]:
    """The most features for which an iterative candidate fits, and that candidate at this size."""
    names = [candidate.name for candidate in plan_of(structure_at(1), machine).candidates]
    sizes = {
        name: largest_size(structure_at, machine, name)
        for name in names
        if name != "DerivativeMethod()"
    }
    name = max(sizes, key=lambda name: sizes[name])
    candidates = plan_of(structure_at(max(sizes[name], 1)), machine).candidates
    return sizes[name], next(candidate for candidate in candidates if candidate.name == name)
