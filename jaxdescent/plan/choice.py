"""Which candidate to take, and the error message if none fits.

The table's order decides: its first entry is taken if it fits comfortably, and otherwise the
second. For regressions and dense quadratics whose direct solve takes longer than MOMENT the choice
is a hedge instead (:mod:`jaxdescent.plan.hedging`), whose time is bounded for any condition number;
or its reliable method alone, if that costs no more than the few iterations that any attempt takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp

from jaxdescent.machine import Machine
from jaxdescent.machine.memory import readable_bytes
from jaxdescent.plan.candidates import Candidate
from jaxdescent.plan.cost_model import Question
from jaxdescent.plan.hedging import hedge_of, surest
from jaxdescent.plan.structure import Kind, Structure

MOMENT = 0.01
"""A direct solve that is predicted to take at most this many seconds is always taken: a second
method would take a hundred times as long to compile as it could save."""

SHARE = 0.5
"""The share of the memory left by the data that a default method may take, if another would do."""


def choose(
    question: Question, candidates: Sequence[Candidate], most_iterations: int
) -> Candidate | None:
    """The candidate to take, which may be a hedge between two of them; None if none fits.

    Args:
      question: the problem, the machine, and the tolerance.
      candidates: the candidates in the table's order.
      most_iterations: the most iterations that the descent may take.
    """
    structure, machine = question.structure, question.machine
    feasible = [candidate for candidate in candidates if candidate.feasible]
    if not feasible:
        return None
    if structure.is_rounded and structure.kind in (Kind.RESIDUALS, Kind.FUNCTION):
        # Directions that depend on earlier steps are lost when the params are rounded to 16 bits.
        return next((c for c in feasible if c.is_memoryless), feasible[0])
    comfortable = [candidate for candidate in feasible if _is_comfortable(candidate, machine)]
    has_hedge = (structure.is_dense or structure.is_sparse) and not structure.is_rounded
    if has_hedge and candidates[0].seconds > MOMENT:
        first = next((c for c in comfortable if c.is_attempt), None)
        # A direct solve has no use for zeros: where all iterations that are allowed cost less,
        # there is nothing to hedge with.
        allowed = most_iterations * first.seconds_per_iteration if first is not None else math.inf
        if structure.is_sparse and candidates[0].seconds > allowed:
            return first
        then = surest(comfortable, question)
        if first is not None and then is not None:
            hedge = hedge_of(first, then, question, most_iterations)
            if hedge is None:
                return then
            if _is_comfortable(hedge, machine):
                return hedge
    if candidates[0] in comfortable:
        return candidates[0]
    if len(candidates) > 1 and candidates[1].feasible:
        return candidates[1]
    return min(feasible, key=lambda candidate: candidate.seconds)


def _is_comfortable(candidate: Candidate, machine: Machine) -> bool:
    left = machine.memory_bytes - (candidate.allocated_bytes - candidate.working_bytes)
    return candidate.working_bytes <= SHARE * left


def refusal(structure: Structure, machine: Machine, candidates: Sequence[Candidate]) -> str:
    """The message that nothing fits, with numbers and ways out, the cheapest first."""
    needs = "; ".join(
        f"{candidate.name} {readable_bytes(candidate.allocated_bytes)}" for candidate in candidates
    )
    return (
        f"no method fits for {structure.describe()}: "
        f"{readable_bytes(machine.memory_bytes)} are available, and still to be allocated are: "
        f"{needs}. {' '.join(ways_out(structure, machine, candidates))}"
    )


def ways_out(structure: Structure, machine: Machine, candidates: Sequence[Candidate]) -> list[str]:
    """Sentences that say how to make the candidate with the least need fit."""
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
            f"Leave the rows in files: jd.Streamed reads them in blocks, so that vectors and the "
            f"{form} ({readable_bytes(square)}) are all that is in memory, or vectors alone."
        )
    return ways
