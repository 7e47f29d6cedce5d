"""The plan: every candidate's cost, which one to take, and what to do where none fits."""

from __future__ import annotations

import dataclasses
import html
import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent import display, placement
from jaxdescent.display import readable_seconds
from jaxdescent.machine import Machine
from jaxdescent.memory import ProblemTooLarge, readable_bytes
from jaxdescent.objectives import Objective, as_objective
from jaxdescent.plan.candidates import Candidate, candidates_for
from jaxdescent.plan.choice import choose, refusal
from jaxdescent.plan.condition import assumed_condition
from jaxdescent.plan.cost_model import Question
from jaxdescent.plan.hedging import ALLOWED_ITERATIONS, stakes
from jaxdescent.plan.structure import (
    Kind,
    Structure,
    is_shape,
    structure_from_shapes,
    tree_bytes,
)
from jaxdescent.precision import widen
from jaxdescent.programs import is_top_level
from jaxdescent.tolerance import Tolerance, as_tolerance

Params = Any


@dataclasses.dataclass(frozen=True)
class Plan:
    """What each method would cost, and which one to take.

    Args:
      structure: the problem's sizes.
      machine: what it was planned for.
      candidates: in the order of preference where prices tie.
      chosen: the candidate to take; None where none fits.
      assumptions: sentences: what the numbers rest on.
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
            raise ProblemTooLarge(refusal(self.structure, self.machine, self.candidates))
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
            "candidates": [_as_numbers(candidate) for candidate in self.candidates],
            "chosen": self.chosen.name if self.chosen else None,
            "assumptions": self.assumptions,
        }
        return json.dumps(content, indent=2)

    def rows(self) -> list[tuple[str, ...]]:
        """The table's rows as text, the choice marked with an asterisk, below :data:`COLUMNS`."""
        return [
            (
                "*" if candidate is self.chosen else "",
                candidate.name,
                candidate.form,
                readable_bytes(candidate.working_bytes),
                readable_bytes(candidate.peak_bytes),
                readable_seconds(candidate.setup_seconds),
                readable_seconds(candidate.seconds_per_iteration),
                f"{candidate.iterations:,}",
                readable_seconds(candidate.seconds),
                f"{candidate.accuracy:.0e}",
                "yes" if candidate.feasible else f"no: {readable_bytes(candidate.allocated_bytes)}",
            )
            for candidate in self.candidates
        ]

    def notes(self) -> list[str]:
        """What the numbers rest on, and why there is no choice if there is none."""
        notes = self._grounds()
        if self.chosen:
            return notes
        return [*notes, refusal(self.structure, self.machine, self.candidates)]

    def _grounds(self) -> list[str]:
        origin = "measured" if self.machine.is_measured else "default numbers, not measured"
        machine = (
            f"{self.machine.platform}, {self.machine.cores} cores, "
            f"{readable_bytes(self.machine.memory_bytes)} available; rates: {origin}."
        )
        return [machine, *self.assumptions]

    def __repr__(self) -> str:
        return display.guarded(lambda: self._report().as_text(), "Plan")

    def _report(self) -> display.Report:
        """What ``print`` and notebooks show as a table, in few lines."""
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

    def __str__(self) -> str:
        rows = [COLUMNS, *self.rows()]
        widths = [max(len(row[index]) for row in rows) for index in range(len(COLUMNS))]
        lines = [f"Plan for {self.structure.describe()}", ""]
        for row in rows:
            cells = [
                cell.ljust(width) if index in TEXT_COLUMNS else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        return "\n".join([*lines, "", *self.notes()])

    def _repr_html_(self) -> str:
        def row_of(cells: Sequence[str], tag: str) -> str:
            inside = "".join(
                f'<{tag} style="text-align:{"left" if index in TEXT_COLUMNS else "right"}">'
                f"{html.escape(cell)}</{tag}>"
                for index, cell in enumerate(cells)
            )
            return f"<tr>{inside}</tr>"

        body = "".join(row_of(row, "td") for row in self.rows())
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes())
        title = html.escape(f"Plan for {self.structure.describe()}")
        head = row_of(COLUMNS, "th")
        return (
            f"<p><b>{title}</b></p><table><thead>{head}</thead><tbody>{body}</tbody></table>{notes}"
        )


COLUMNS = (
    "",
    "method",
    "form",
    "memory",
    "with data",
    "setup",
    "iteration",
    "iterations",
    "seconds",
    "accuracy",
    "fits",
)
TEXT_COLUMNS = (0, 1, 2, 10)

MOST_OTHERS = 3
"""So many candidates are named next to the chosen one, where the table is not shown."""


def plan(
    objective: Any,
    params: Params = None,
    *,
    args: tuple[Any, ...] = (),
    device: Any = None,
    tolerance: Any = None,
) -> Plan:
    """Which methods can solve this here, in what memory and time, and which one to take.

    Nothing of the problem's size is allocated, and no data are looked at: the condition number is
    assumed, and where the assumption would decide, the choice is a ``jd.Hedge``, whose worst case
    is stated. The device is measured, in a few seconds, if it never was, and the outcome kept in
    the user's cache folder.

    Args:
      objective: as for ``minimize``; any array in it may be a ``jax.ShapeDtypeStruct``.
      params: the start, or its shapes. None: the objective's own start.
      args: extra arguments of the objective, or their shapes.
      device: a JAX device; or the name of a platform, ``"cpu"``, of which the first counts; or a
        :class:`jaxdescent.machine.Machine`, to plan for another one. None: the device of the
        arrays, or JAX's first.
      tolerance: as for ``minimize``.

    Raises:
      TypeError, ValueError: as ``minimize`` does for data and params that do not fit together.

    >>> import jax, jaxdescent as jd
    >>> X = jax.ShapeDtypeStruct((8_000_000_000, 1_000_000), "float32")
    >>> y = jax.ShapeDtypeStruct((8_000_000_000,), "float32")
    >>> planned = jd.plan(jd.LinearRegression(X, y))
    >>> planned.chosen is None, planned.candidates[1].name
    (True, 'LSMR()')
    """
    objective = as_objective(objective, args)
    machine = _machine(device, (params, objective))
    structure = structure_from_shapes(objective, params)
    structure = _with_evaluation(structure, objective, params)
    tolerance = as_tolerance(tolerance)
    if params is not None and not any(map(is_shape, jax.tree.leaves(params))):
        tolerance.check(params)
    existing = tree_bytes([leaf for leaf in jax.tree.leaves((objective, params)) if _exists(leaf)])
    return plan_of(
        structure,
        machine,
        tolerance=tolerance_number(tolerance, structure),
        existing_bytes=existing,
    )


def plan_of(
    structure: Structure,
    machine: Machine,
    *,
    tolerance: float | None = None,
    existing_bytes: int = 0,
    most_iterations: int = ALLOWED_ITERATIONS,
) -> Plan:
    """A plan from numbers alone.

    Args:
      structure: of the problem.
      machine: where it is to run.
      tolerance: of the gradient, relative; None: the dtype's default.
      existing_bytes: of data and params, so many are there already.
      most_iterations: how many the descent may have.
    """
    tolerance = structure.default_tolerance if tolerance is None else tolerance
    condition = assumed_condition(structure)
    question = Question(structure, machine, tolerance, condition.number)
    candidates = candidates_for(question, existing_bytes)
    chosen = choose(question, candidates, most_iterations)
    if chosen is not None and chosen not in candidates:
        candidates = (*candidates, chosen)
    assumptions = (condition.assumption, *stakes(chosen))
    return Plan(structure, machine, candidates, chosen, assumptions)


def device_of(tree: Any) -> Any:
    """The device of the first array that exists, or None."""
    for leaf in jax.tree.leaves(tree):
        if placement.is_concrete(leaf):
            return min(leaf.sharding.device_set, key=lambda device: device.id)
    return None


def _machine(device: Any, tree: Any) -> Machine:
    if isinstance(device, Machine):
        return device
    if isinstance(device, str):
        try:
            device = jax.devices(device)[0]
        except RuntimeError as error:
            raise ValueError(
                f"device must be the name of a platform that JAX finds, got {device!r}: {error}"
            ) from error
    if device is not None and not isinstance(device, jax.Device):
        raise TypeError(
            "device must be a JAX device, a platform's name, a jaxdescent.machine.Machine or None, "
            f"got {device!r}."
        )
    device = device_of(tree) if device is None else device
    return Machine.measured(device) if is_top_level() else Machine.of(device)


def tolerance_number(tolerance: Tolerance, structure: Structure) -> float:
    """The least number asked of the gradient, or the default where it is off or unknown."""
    numbers = [
        float(number)
        for number in jax.tree.leaves(tolerance.gradient)
        if isinstance(number, (int, float, np.ndarray, np.generic)) or placement.is_concrete(number)
    ]
    positive = [number for number in numbers if number > 0]
    return min(positive) if positive else structure.default_tolerance


def _with_evaluation(structure: Structure, objective: Objective, params: Params) -> Structure:
    """The same, with the operations of one value and gradient as XLA counts them."""
    if structure.kind not in (Kind.FUNCTION, Kind.RESIDUALS):
        return structure

    def evaluate(objective: Objective, params: Params) -> Any:
        return objective.checked().value_and_gradient(widen(jax.tree.map(jnp.asarray, params)))

    analysis = jax.jit(evaluate).lower(objective, params).cost_analysis() or {}
    return dataclasses.replace(structure, evaluation_flops=float(analysis.get("flops", 0.0)))


def _costs(candidate: Candidate) -> str:
    needs = f"{readable_bytes(candidate.peak_bytes)} with the data"
    costs = f"{readable_seconds(candidate.seconds)}, {needs}"
    return costs if candidate.feasible else f"{costs}; {candidate.reason}"


def _exists(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array)


def _as_numbers(candidate: Candidate) -> dict[str, Any]:
    return {
        field.name: getattr(candidate, field.name)
        for field in dataclasses.fields(candidate)
        if field.name not in ("method", "is_attempt", "is_certain", "is_memoryless")
    }
