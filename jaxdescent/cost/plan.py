"""The plan: every candidate's cost, which one to take, and what to do if none fits."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import jax
import numpy as np

from jaxdescent import display
from jaxdescent.cost.candidates import (
    COMPILES_FOR_MINUTES,
    Candidate,
    candidates_for,
    shortage,
)
from jaxdescent.cost.choice import choose
from jaxdescent.cost.iterations import assumed_condition
from jaxdescent.cost.structure import Structure
from jaxdescent.cost.words import placement, refusal
from jaxdescent.cost.work import ALLOWED_ITERATIONS, Question
from jaxdescent.display import readable_seconds
from jaxdescent.display.numbers import YEAR
from jaxdescent.machine import ASSUMED, Machine
from jaxdescent.machine.memory import ProblemTooLarge, readable_bytes
from jaxdescent.placement import is_concrete
from jaxdescent.tolerance import Tolerance


@dataclasses.dataclass(frozen=True)
class Plan:
    """What each method would cost, and which one to take.

    Args:
      structure: the problem's sizes; its bytes are those of each device.
      machine: the machine that it was planned for.
      candidates: the candidates, in the order of preference.
      chosen: the candidate to take; None if none fits.
      assumptions: sentences that state what the numbers assume.

    >>> import jax, jaxdescent as jd
    >>> planned = jd.plan(jd.SumOfSquares(), jax.ShapeDtypeStruct((1_000_000,), "float32"))
    >>> planned.chosen.name, planned.structure.unknowns
    ('DerivativeMethod()', 1000000)
    """

    structure: Structure
    machine: Machine
    candidates: tuple[Candidate, ...]
    chosen: Candidate | None
    assumptions: tuple[str, ...]

    def require(self) -> Candidate:
        """The chosen candidate.

        Raises:
          ProblemTooLarge: if none fits, with each candidate's need and the ways out.
        """
        if self.chosen is None:
            raise ProblemTooLarge(self._refusal())
        return self.chosen

    def to_json(self) -> str:
        """The problem, the machine, the candidates and the choice, as a JSON object.

        >>> import json, jax, jaxdescent as jd
        >>> X = jax.ShapeDtypeStruct((1000, 10), "float32")
        >>> y = jax.ShapeDtypeStruct((1000,), "float32")
        >>> json.loads(jd.plan(jd.LinearRegression(X, y)).to_json())["chosen"]
        'DerivativeMethod()'
        """
        structure = {**dataclasses.asdict(self.structure), "kind": self.structure.kind.value}
        content = {
            "problem": structure,
            "machine": dataclasses.asdict(self.machine),
            "candidates": [
                {name: getattr(candidate, name) for name in _NUMBERS}
                for candidate in self.candidates
            ],
            "chosen": self.chosen.name if self.chosen else None,
            "assumptions": self.assumptions,
        }
        return json.dumps(content, indent=2)

    def columns(self) -> tuple[str, ...]:
        """The table's heads; links and compiled bytes are left out if no candidate has them."""
        return tuple(self._cells(self.candidates[0]))

    def rows(self) -> list[tuple[str, ...]]:
        """The table's rows as text, in the order of :meth:`columns`; ``*`` marks the choice."""
        return [tuple(self._cells(candidate).values()) for candidate in self.candidates]

    def _cells(self, candidate: Candidate) -> dict[str, str]:
        """A row of the table by the heads of its columns."""
        compiled = candidate.compiled_bytes
        left_out = {"links", "links in all"} if self.machine.devices == 1 else set[str]()
        if all(each.compiled_bytes is None for each in self.candidates):
            left_out.add("compiled")
        # The first clause of a reason is the bytes needed, or that the compiler found no room.
        reason = candidate.reason.partition(",")[0].removeprefix("needs ")
        cells = {
            "": "*" if candidate is self.chosen else "",
            "method": candidate.name,
            "form": candidate.form,
            "memory": readable_bytes(candidate.working_bytes),
            "compiled": "" if compiled is None else readable_bytes(compiled),
            "with data": readable_bytes(candidate.peak_bytes),
            "setup": readable_seconds(candidate.setup_seconds),
            "iteration": readable_seconds(candidate.seconds_per_iteration),
            "links": readable_bytes(candidate.link_bytes_per_iteration),
            "seconds": _in_all(candidate),
            "links in all": readable_bytes(candidate.link_bytes),
            "accuracy": f"{candidate.accuracy:.0e}",
            "fits": "yes" if candidate.feasible else f"no: {reason}",
        }
        return {name: text for name, text in cells.items() if name not in left_out}

    def notes(self) -> list[str]:
        """Sentences on what the numbers assume, and on why there is no choice if there is none."""
        return self._grounds() if self.chosen else [*self._grounds(), self._refusal()]

    def _refusal(self) -> str:
        return refusal(self.structure, self.machine, self.candidates)

    def _grounds(self) -> list[str]:
        grounds = [self.machine.describe(), *self.assumptions]
        if self.machine.devices > 1:
            waiting = readable_seconds(self.machine.all_reduce_seconds)
            grounds[1:1] = [
                placement(self.structure),
                "Memory is that of each device; links are the bytes that each sends to the others "
                "in an iteration, and in all: a sum of n bytes over k devices takes "
                f"2 n (k - 1) / k, and {waiting} (assumed) besides.",
            ]
        if self.structure.host_bytes:
            grounds.append("Copies between the host's memory and the device's are not in the time.")
        endless = [c for c in self.candidates if c.reason.startswith(COMPILES_FOR_MINUTES)]
        if endless:
            names = ", ".join(candidate.name for candidate in endless)
            grounds.append(f"{names} {endless[0].reason}.")
        return [*grounds, ASSUMED] if self.machine.name else grounds

    def __repr__(self) -> str:
        return display.guarded(lambda: self._report().as_text(), "Plan")

    def _report(self) -> display.Report:
        """The summary in a few lines, for ``repr`` and interactive shells."""
        problem, chosen = self.structure.describe(), self.chosen
        others = [candidate for candidate in self.candidates if candidate is not chosen]
        if chosen:
            title = f"Plan: {chosen.name} for {problem}"
            rows = [("costs", _costs(chosen))]
            others.sort(key=lambda candidate: candidate.seconds)
        else:
            title = f"Plan: no method fits {problem}"
            rows = []
            others.sort(key=lambda candidate: candidate.allocated_bytes)
        label = "others" if chosen else "nearest"
        for index, other in enumerate(others[:MOST_OTHERS]):
            rows.append(("" if index else label, f"{other.name}: {_costs(other)}"))
        if len(others) > MOST_OTHERS:
            rows.append(("", f"... and {len(others) - MOST_OTHERS} more: print() shows the table"))
        for index, ground in enumerate(self._grounds()):
            rows.append(("" if index else "rests on", ground))
        return display.Report(title, "", rows)

    def grid(self) -> display.Grid:
        """The table with the sentences below it."""
        title = f"Plan for {self.structure.describe()}"
        return display.Grid(title, self.columns(), self.rows(), self.notes(), TEXT_COLUMNS)

    def __str__(self) -> str:
        return self.grid().as_text()

    def _repr_html_(self) -> str:
        return self.grid().as_html()


TEXT_COLUMNS = ("", "method", "form", "fits")
"""The columns that contain words, which are aligned to the left."""

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

MOST_OTHERS = 3
"""The number of candidates that the summary names besides the chosen one."""


def plan_of(
    structure: Structure,
    machine: Machine,
    *,
    tolerance: float | None = None,
    existing_bytes: int = 0,
    reserved: Callable[[Candidate], int] | None = None,
    most_iterations: int = ALLOWED_ITERATIONS,
) -> Plan:
    """A plan from numbers alone.

    Args:
      structure: the structure of the problem on one device.
      machine: where it is to run; over a mesh the problem is spread.
      tolerance: the relative tolerance of the gradient; None stands for the dtype's default.
      existing_bytes: how many bytes of data and params exist already.
      reserved: returns what the compiled program of a candidate reserves. If it is None, nothing is
        compiled.
      most_iterations: the most iterations that the descent may take.
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
    except ProblemTooLarge as error:
        reason = f"the compiler finds no room, and says: {error}"
        return dataclasses.replace(candidate, feasible=False, reason=reason)
    allocated = max(candidate.allocated_bytes - candidate.working_bytes + compiled, 0)
    reason = shortage(allocated, machine)
    return dataclasses.replace(
        candidate, compiled_bytes=compiled, feasible=not reason, reason=reason
    )


def tolerance_number(tolerance: Tolerance, structure: Structure) -> float:
    """The smallest positive tolerance for the gradient, or the default if none is known."""
    numbers = [
        float(number)
        for number in jax.tree.leaves(tolerance.gradient)
        if isinstance(number, (int, float, np.ndarray, np.generic)) or is_concrete(number)
    ]
    positive = [number for number in numbers if number > 0]
    return min(positive) if positive else structure.default_tolerance


def _in_all(candidate: Candidate) -> str:
    """The seconds in all, from a well-conditioned problem to the worst one."""
    least, most = (
        readable_seconds(seconds) if seconds < YEAR else "> 1 year"
        for seconds in (candidate.best_seconds, candidate.worst_seconds)
    )
    return least if least == most else f"{least} to {most}"


def _costs(candidate: Candidate) -> str:
    needs = f"{readable_bytes(candidate.peak_bytes)} with the data"
    if candidate.link_bytes:
        needs += f" on each device, {readable_bytes(candidate.link_bytes)} over its links"
    if candidate.compiled_bytes is not None:
        needs += f"; compiled: {readable_bytes(candidate.data_bytes + candidate.compiled_bytes)}"
    costs = f"{_in_all(candidate)}, {needs}"
    return costs if candidate.feasible else f"{costs}; {candidate.reason}"


_NUMBERS = [
    field.name for field in dataclasses.fields(Candidate) if field.name not in ("method", "entry")
]
"""The attributes of a candidate that JSON can hold."""
