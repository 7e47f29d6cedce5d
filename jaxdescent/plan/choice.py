"""Which candidate to take, and what to say where none fits.

The table's order decides: where the direct solve fits comfortably it is taken, else the next. Only
where a direct solve is predicted to be far slower than a method that is as dependable does the
price decide; what is predicted to take a moment is never weighed, so that the choice for small
problems does not depend on how the machine was measured. Where the data were looked at, and more
looking would find nothing worse, the price decides sooner and between more methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp

from jaxdescent.machine import Machine
from jaxdescent.memory import readable_bytes
from jaxdescent.plan.candidates import Candidate
from jaxdescent.plan.condition import Condition
from jaxdescent.plan.structure import Kind, Structure

ALWAYS_KNOWN, ALWAYS_MEASURED, ALWAYS_ASSUMED = 0.0002, 0.002, 0.1
"""A direct solve that is predicted to take no more seconds is taken, whatever else there is: where
the condition number is known, where it was looked at, and where it was assumed."""

SWITCH_KNOWN, SWITCH_MEASURED, SWITCH_ASSUMED = 1.25, 1.25, 3.0
"""By so much an iterative method must be faster to be taken in place of a direct solve that fits:
where the condition number is known, where it was looked at, and where it was assumed."""

WELL_CONDITIONED = 100.0
"""Up to such a condition number of X every Krylov method keeps the digits that the tolerance asks
for, on ``X'X`` too."""

ALLOWED_ITERATIONS = 1000
"""What ``minimize`` allows by default: a method that is expected to need more would not end."""

MOST_LOST = 2.0
"""Where a look told nothing: so many times longer than a direct solve may a method take for the
well-conditioned, in place of it, that takes no longer for the ill-conditioned."""

SHARE = 0.5
"""Of the memory that the data leave: a default method takes no more where another would do."""


def choose(
    structure: Structure,
    machine: Machine,
    candidates: Sequence[Candidate],
    condition: Condition,
    if_ill: Sequence[Candidate] | None = None,
) -> Candidate | None:
    """The candidate to take; None where none fits.

    Args:
      structure: of the problem.
      machine: its memory counts.
      candidates: in the table's order.
      condition: what is known of it.
      if_ill: the same at the prices of the largest condition number that a look left possible;
        None where it left nothing open.
    """
    feasible = [candidate for candidate in candidates if candidate.feasible]
    if not feasible:
        return None
    if structure.is_rounded and structure.kind in (Kind.RESIDUALS, Kind.FUNCTION):
        # Directions made of earlier steps do not survive their rounding to 16 bits.
        return next((c for c in feasible if "Backtracking" in c.name), feasible[0])
    preferred = next(
        (
            candidate
            for index, candidate in enumerate(candidates[:2])
            if candidate.feasible and (index == 1 or _is_comfortable(candidate, machine))
        ),
        None,
    )
    if preferred is None:
        return min(feasible, key=lambda candidate: candidate.seconds)
    always, switch, is_eligible = _terms(structure, condition)
    if preferred is not candidates[0] or preferred.seconds <= always:
        return preferred
    faster = [
        candidate
        for candidate in feasible
        if is_eligible(candidate)
        and candidate.iterations <= ALLOWED_ITERATIONS
        and switch * candidate.seconds < preferred.seconds
    ]
    if if_ill is not None:
        faster += _safer(candidates, if_ill, preferred)
    return min(faster, key=lambda candidate: candidate.seconds, default=preferred)


def _safer(
    candidates: Sequence[Candidate], if_ill: Sequence[Candidate], direct: Candidate
) -> list[Candidate]:
    """Those as fast for an ill-conditioned X as for any other, if that may save the direct solve's
    QR: at even odds.
    """
    both = direct.seconds + if_ill[candidates.index(direct)].seconds
    return [
        candidate
        for candidate, ill in zip(candidates, if_ill, strict=True)
        if candidate.feasible
        and candidate.is_dependable
        and candidate.iterations == ill.iterations
        and candidate.seconds <= MOST_LOST * direct.seconds
        and SWITCH_MEASURED * (candidate.seconds + ill.seconds) < both
    ]


def _terms(
    structure: Structure, condition: Condition
) -> tuple[float, float, Callable[[Candidate], bool]]:
    """What a direct solve may always take, by how much another must be faster, and which may."""

    def is_dependable(candidate: Candidate) -> bool:
        return candidate.is_dependable

    if condition.is_settled and condition.number is not None:
        squared = condition.number if structure.kind is Kind.QUADRATIC else condition.number**2
        if squared <= WELL_CONDITIONED**2:
            return ALWAYS_KNOWN, SWITCH_KNOWN, lambda candidate: candidate.is_krylov
    if condition.is_measured:
        # Where the condition number of a regression still grows after so many steps, a Krylov
        # method may take any number of them: it must promise as much as one that only hopes.
        is_told = condition.is_settled or structure.kind is not Kind.REGRESSION
        switch = SWITCH_MEASURED if is_told else SWITCH_ASSUMED
        return ALWAYS_MEASURED, switch, is_dependable
    if structure.kind is Kind.REGRESSION:
        return ALWAYS_ASSUMED, SWITCH_ASSUMED, is_dependable
    return math.inf, math.inf, is_dependable


def _is_comfortable(candidate: Candidate, machine: Machine) -> bool:
    left = machine.memory_bytes - (candidate.allocated_bytes - candidate.working_bytes)
    return candidate.working_bytes <= SHARE * left


def refusal(structure: Structure, machine: Machine, candidates: Sequence[Candidate]) -> str:
    """Why nothing fits, in numbers, and the ways out, the cheapest first."""
    needs = "; ".join(
        f"{candidate.name} {readable_bytes(candidate.allocated_bytes)}" for candidate in candidates
    )
    return (
        f"no method fits for {structure.describe()}: "
        f"{readable_bytes(machine.memory_bytes)} are available, and still to be allocated are: "
        f"{needs}. {' '.join(ways_out(structure, machine, candidates))}"
    )


def ways_out(structure: Structure, machine: Machine, candidates: Sequence[Candidate]) -> list[str]:
    """What would make the candidate that needs least fit, as sentences."""
    least = min(candidates, key=lambda candidate: candidate.peak_bytes)
    available = max(machine.memory_bytes, 1)
    ways = []
    compute = jnp.dtype(structure.compute_dtype)
    if compute.itemsize == 8 and least.allocated_bytes <= 2 * available:
        half = readable_bytes(least.allocated_bytes / 2)
        ways.append(f"In float32 {least.name} needs {half}.")
    devices = math.ceil(least.peak_bytes / (0.9 * available))
    what = "the params" if structure.kind in (Kind.SEPARABLE, Kind.FUNCTION) else "the data"
    ways.append(
        f"Shard {what} over {max(devices, 2):,} such devices (jax.device_put with a NamedSharding) "
        f"for {least.name}, which needs {readable_bytes(least.peak_bytes)} with data and params."
    )
    if (
        structure.is_dense
        and machine.platform != "cpu"
        and jnp.dtype(structure.data_dtype).itemsize == 4
        and least.allocated_bytes - structure.data_bytes / 2 <= available
    ):
        ways.append("Stored in bfloat16 the data take half as much.")
    if structure.kind is Kind.REGRESSION and structure.data_bytes > available:
        square = min(structure.rows, structure.features) ** 2 * structure.itemsize
        form = "Gram matrix X'X" if structure.is_tall else "kernel XX'"
        ways.append(
            f"Only the {form} ({readable_bytes(square)}) would stay in memory if rows were read in "
            "blocks, which is not built yet."
        )
    return ways
