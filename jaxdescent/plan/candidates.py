"""The candidates for each kind of problem: one table, and what each would cost here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxdescent.display import Displayed, readable_seconds
from jaxdescent.machine import Machine
from jaxdescent.machine.memory import SLACK_BYTES, readable_bytes
from jaxdescent.methods import (
    LBFGS,
    LSMR,
    Backtracking,
    BarzilaiBorwein,
    ConjugateGradient,
    DerivativeMethod,
    Dual,
    GradientDescent,
    Gram,
    InverseLipschitz,
    LevenbergMarquardt,
    Method,
)
from jaxdescent.plan import cost_model
from jaxdescent.plan.cost_model import Price, Question
from jaxdescent.plan.structure import Kind, Structure
from jaxdescent.preconditioners import Sketch


class Entry(NamedTuple):
    """A row of the table.

    Attributes:
      name: as it is written in code.
      method: makes the method.
      price: what it costs.
      form: the form of the problem that it works on.
      applies: to which structures.
      is_attempt: whether it is the one that a hedge tries first: the cheapest iterations.
      is_certain: whether no spectrum makes it take more than a few factorisations.
      is_memoryless: whether its directions are made of nothing but the present gradient.
    """

    name: str
    method: Callable[[], Method]
    price: Callable[[Question], Price]
    form: str = "as given"
    applies: Callable[[Structure], bool] = lambda structure: True
    is_attempt: bool = False
    is_certain: bool = False
    is_memoryless: bool = False


def _gradient_descent(rule: Any) -> Callable[[], Method]:
    return lambda: GradientDescent(rule())


def _form_of_solve(structure: Structure) -> str:
    if structure.has_own_l2:
        return "QR and SVD"
    return "Cholesky of X'X" if structure.is_tall else "Cholesky of XX'"


# The first of a kind is what is taken where it fits, the second where the first does not.
TABLE: dict[Kind, tuple[Entry, ...]] = {
    Kind.REGRESSION: (
        Entry(
            "DerivativeMethod()",
            DerivativeMethod,
            cost_model.derivative_regression,
            "direct",
            is_certain=True,
        ),
        Entry("LSMR()", LSMR, cost_model.lsmr, is_attempt=True),
        Entry(
            "LSMR(Sketch())",
            lambda: LSMR(Sketch()),
            cost_model.sketched_lsmr,
            "preconditioned",
            applies=cost_model.is_sketched,
            is_certain=True,
        ),
        Entry("ConjugateGradient()", ConjugateGradient, cost_model.conjugate_gradient),
        Entry("Gram()", Gram, cost_model.gram, "Gram", lambda structure: structure.is_tall),
        Entry("Dual()", Dual, cost_model.dual, "dual", lambda structure: not structure.is_tall),
        Entry(
            "GradientDescent(BarzilaiBorwein())",
            _gradient_descent(BarzilaiBorwein),
            cost_model.barzilai_borwein,
        ),
        Entry(
            "GradientDescent(Backtracking())",
            _gradient_descent(Backtracking),
            cost_model.backtracking,
        ),
    ),
    Kind.QUADRATIC: (
        Entry(
            "DerivativeMethod()",
            DerivativeMethod,
            cost_model.derivative_quadratic,
            "spectral",
            is_certain=True,
        ),
        Entry(
            "ConjugateGradient()",
            ConjugateGradient,
            cost_model.conjugate_gradient,
            is_attempt=True,
        ),
        Entry(
            "GradientDescent(BarzilaiBorwein())",
            _gradient_descent(BarzilaiBorwein),
            cost_model.barzilai_borwein,
        ),
    ),
    Kind.SEPARABLE: (
        Entry("DerivativeMethod()", DerivativeMethod, cost_model.division, "division"),
        Entry(
            "GradientDescent(InverseLipschitz())",
            _gradient_descent(InverseLipschitz),
            cost_model.separable_descent,
        ),
        Entry(
            "GradientDescent(Backtracking())",
            _gradient_descent(Backtracking),
            cost_model.separable_backtracking,
        ),
    ),
    Kind.RESIDUALS: (
        Entry("LevenbergMarquardt()", LevenbergMarquardt, cost_model.levenberg_marquardt),
        Entry("LBFGS()", LBFGS, cost_model.lbfgs),
        Entry("ConjugateGradient()", ConjugateGradient, cost_model.nonlinear_conjugate_gradient),
        Entry(
            "GradientDescent(Backtracking())",
            _gradient_descent(Backtracking),
            cost_model.function_backtracking,
            is_memoryless=True,
        ),
    ),
    Kind.FUNCTION: (
        Entry("LBFGS()", LBFGS, cost_model.lbfgs),
        Entry("ConjugateGradient()", ConjugateGradient, cost_model.nonlinear_conjugate_gradient),
        Entry("DerivativeMethod()", DerivativeMethod, cost_model.newton, "Newton"),
        Entry(
            "GradientDescent(Backtracking())",
            _gradient_descent(Backtracking),
            cost_model.function_backtracking,
            is_memoryless=True,
        ),
    ),
}
"""Every candidate there is."""


@dataclasses.dataclass(frozen=True)
class Candidate(Displayed):
    """What one method in one form of the problem would cost on one machine.

    On several devices bytes and operations are those of each.

    Args:
      name: as it is written in code.
      method: to pass to ``minimize``.
      form: the form of the problem that it works on.
      peak_bytes: data, params and all that is reserved besides.
      data_bytes: the objective's arrays, and the params.
      working_bytes: what is reserved besides, the result included.
      allocated_bytes: what has still to be allocated: arrays that exist already are not counted.
      bytes_moved: to and from memory, in all.
      flops: operations, in all.
      factorisation_flops: those of them that factorise a matrix.
      seconds: in all, without compilation.
      setup_seconds, seconds_per_iteration, iterations: what they are made of.
      accuracy: the relative error of the params to be expected, at most.
      feasible: whether ``allocated_bytes`` are available.
      reason: why not, in numbers; empty where it is.
      link_bytes: that each of several devices sends to the others, in all.
      link_bytes_per_iteration: the same in an iteration.
      link_seconds_per_iteration: the part of an iteration's seconds that this takes.
      compiled_bytes: what the compiled program reserves in place of ``working_bytes``, by the
        compiler's own account; None where it was not asked.
      worst_seconds: of a hedge: in all, however ill-conditioned the problem is; else None.
    """

    name: str
    method: Method = dataclasses.field(repr=False)
    form: str
    peak_bytes: int
    data_bytes: int
    working_bytes: int
    allocated_bytes: int
    bytes_moved: float
    flops: float
    factorisation_flops: float
    seconds: float
    setup_seconds: float
    seconds_per_iteration: float
    iterations: int
    accuracy: float
    feasible: bool
    reason: str
    is_attempt: bool = dataclasses.field(repr=False)
    is_certain: bool = dataclasses.field(repr=False)
    is_memoryless: bool = dataclasses.field(repr=False)
    link_bytes: float = 0.0
    link_bytes_per_iteration: float = 0.0
    link_seconds_per_iteration: float = 0.0
    compiled_bytes: int | None = None
    worst_seconds: float | None = None

    def _arguments(self) -> list[str]:
        fits = "fits" if self.feasible else self.reason
        costs = readable_seconds(self.seconds), readable_bytes(self.peak_bytes)
        return [self.name, *costs, fits]


def candidates_for(question: Question, existing_bytes: int) -> tuple[Candidate, ...]:
    """Every entry of the table that applies, priced, in the table's order.

    ``existing_bytes`` is what is there already; more than data and params where a start is donated.
    """
    structure = question.structure
    return tuple(
        _candidate(entry, question, existing_bytes)
        for entry in TABLE[structure.kind]
        if entry.applies(structure)
    )


def shortage(allocated: int, machine: Machine) -> str:
    """Why so many bytes are not to be had; empty where they are."""
    available = machine.memory_bytes
    if allocated <= max(available, SLACK_BYTES):
        return ""
    return f"needs {readable_bytes(allocated)}, {readable_bytes(available)} available"


def _candidate(entry: Entry, question: Question, existing_bytes: int) -> Candidate:
    structure, price = question.structure, entry.price(question)
    iterations = max(round(price.iterations), 1)
    setup_seconds = question.seconds(price.program) + question.machine.dispatch_seconds
    seconds_per_iteration = question.iteration_seconds(price.iteration)
    data_bytes = structure.data_bytes + structure.params_bytes
    working_bytes = round(price.working_bytes)
    allocated = max(working_bytes + data_bytes - existing_bytes, 0)
    reason = shortage(allocated, question.machine)
    total = price.program + price.iteration * iterations
    return Candidate(
        name=entry.name,
        method=entry.method(),
        form=_form_of_solve(structure) if entry.form == "direct" and structure.rows else entry.form,
        peak_bytes=data_bytes + working_bytes,
        data_bytes=data_bytes,
        working_bytes=working_bytes,
        allocated_bytes=allocated,
        bytes_moved=total.bytes_moved,
        flops=total.flops,
        factorisation_flops=total.cholesky_flops + total.orthogonal_flops,
        seconds=setup_seconds + iterations * seconds_per_iteration,
        setup_seconds=setup_seconds,
        seconds_per_iteration=seconds_per_iteration,
        iterations=iterations,
        accuracy=price.accuracy,
        feasible=not reason,
        reason=reason,
        is_attempt=entry.is_attempt,
        is_certain=entry.is_certain,
        is_memoryless=entry.is_memoryless,
        link_bytes=total.link_bytes,
        link_bytes_per_iteration=price.iteration.link_bytes,
        link_seconds_per_iteration=price.iteration.link_seconds(question.machine),
    )


def priced_for(question: Question, names: Sequence[str]) -> list[float]:
    """The seconds of the candidates of these names."""
    entries = {entry.name: entry for entry in TABLE[question.structure.kind]}
    return [_candidate(entries[name], question, 0).seconds for name in names]
