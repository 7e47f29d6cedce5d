"""The plan: every candidate's cost, which one to take, and what to do if none fits."""

from __future__ import annotations

import dataclasses
import json
import math

import jax.numpy as jnp

from jaxdescent import display
from jaxdescent.cost.candidates import COMPILES_FOR_MINUTES, Candidate
from jaxdescent.cost.structure import ProblemKind, Structure
from jaxdescent.display import readable_seconds
from jaxdescent.display.numbers import YEAR
from jaxdescent.kernels.memory import ProblemTooLarge, readable_bytes
from jaxdescent.machine import Machine
from jaxdescent.planning.hardware import ASSUMED


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
            raise ProblemTooLarge(_refusal(self))
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
                {name: value for name, value in vars(each).items() if name not in UNTOLD}
                for each in self.candidates
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
        return self._grounds() if self.chosen else [*self._grounds(), _refusal(self)]

    def _grounds(self) -> list[str]:
        grounds = [self.machine.describe(), *self.assumptions]
        if self.machine.devices > 1:
            waiting = readable_seconds(self.machine.all_reduce_seconds)
            grounds[1:1] = [
                _placement(self.structure),
                "Memory is that of each device; links are the bytes that each sends to the others "
                "in an iteration, and in all: a sum of n bytes over k devices takes "
                f"2 n (k - 1) / k, and {waiting} (assumed) besides.",
            ]
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


UNTOLD = "method", "entry"
"""The attributes of a candidate that JSON cannot hold."""

TEXT_COLUMNS = ("", "method", "form", "fits")
"""The columns that contain words, which are aligned to the left."""

MOST_OTHERS = 3
"""The number of candidates that the summary names besides the chosen one."""


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


def _placement(structure: Structure) -> str:
    """A sentence on what each of several devices has."""
    has = {
        "rows": "X, y and what else has a row are sharded by rows, the params are on each",
        "features": "X and the params are sharded by features, y is on each",
        "params": "params and data are sharded alike",
        "": "data and params are all on each, which saves nothing: only the data of "
        "regressions, quadratics and separable functions are known to be divisible",
    }[structure.sharded]
    if structure.kind is ProblemKind.QUADRATIC and structure.sharded:
        has = "H is sharded by rows, vectors are on each"
    return f"On several devices: {has}."


def _refusal(plan: Plan) -> str:
    """The message that nothing fits, with numbers and ways out, the cheapest first."""
    structure, machine, candidates = plan.structure, plan.machine, plan.candidates
    needs = "; ".join(
        f"{candidate.name} {readable_bytes(candidate.allocated_bytes)}" for candidate in candidates
    )
    sentences = [
        f"no method fits for {structure.describe()}: "
        f"{readable_bytes(machine.memory_bytes)} are available, and still to be allocated are: "
        f"{needs}."
    ]
    least = min(candidates, key=lambda candidate: candidate.peak_bytes)
    available = max(machine.memory_bytes, 1)
    if structure.itemsize == 8 and least.allocated_bytes <= 2 * available:
        half = readable_bytes(least.allocated_bytes / 2)
        sentences.append(f"In float32 {least.name} needs {half}.")
    devices = math.ceil(least.peak_bytes / (0.9 * available))
    what = (
        "the params"
        if structure.kind in (ProblemKind.SEPARABLE, ProblemKind.FUNCTION)
        else "the data"
    )
    sentences.append(
        f"Shard {what} over {max(devices, 2):,} such devices (jax.device_put with a NamedSharding) "
        f"for {least.name}, which needs {readable_bytes(least.peak_bytes)} with data and params."
    )
    if (
        structure.is_dense
        and machine.platform != "cpu"
        and jnp.dtype(structure.data_dtype).itemsize == 4
        and least.allocated_bytes - structure.data_bytes / 2 <= available
    ):
        sentences.append("Stored in bfloat16 the data take half as much.")
    if structure.kind is ProblemKind.REGRESSION and structure.data_bytes > available:
        square = structure.smaller**2 * structure.itemsize
        form = "Gram matrix X'X" if structure.is_tall else "kernel XX'"
        sentences.append(
            f"Leave the rows in files: jd.Streamed reads them in blocks, so that vectors and the "
            f"{form} ({readable_bytes(square)}) are all that is in memory, or vectors alone."
        )
    if machine.devices > 1:
        sentences.append(
            f"All of this is said of each of the {machine.devices:,} devices that the problem is "
            "spread over already: numbers of devices are times as many."
        )
    return " ".join(sentences)
