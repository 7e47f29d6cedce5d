"""The table of candidates for each kind of problem, and their predicted costs."""

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
    MiniBatches,
)
from jaxdescent.plan import cost_model
from jaxdescent.plan.cost_model import Price, Question
from jaxdescent.plan.structure import Kind, Structure
from jaxdescent.preconditioners import Jacobi, Sketch


class Entry(NamedTuple):
    """A row of the table.

    Attributes:
      name: the method as it is written in code.
      method: makes the method.
      price: computes what it costs.
      form: the form of the problem that it works on.
      applies: whether it is a candidate for a structure.
      is_attempt: whether a hedge tries it first, because its iterations are the cheapest.
      is_certain: whether its time is bounded by a few factorisations, whatever the spectrum.
      is_memoryless: whether its directions depend on the present gradient only.
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
    if structure.is_streamed:
        return "sums of one pass"
    if structure.has_own_l2:
        return "QR and SVD"
    return "Cholesky of X'X" if structure.is_tall else "Cholesky of XX'"


# The first entry of a kind is taken if it fits comfortably, and otherwise the second.
TABLE: dict[Kind, tuple[Entry, ...]] = {
    Kind.REGRESSION: (
        Entry(
            "DerivativeMethod()",
            DerivativeMethod,
            cost_model.derivative_regression,
            "direct",
            is_certain=True,
        ),
        Entry(
            "LSMR(Jacobi())",
            lambda: LSMR(Jacobi()),
            cost_model.scaled_lsmr,
            applies=lambda structure: structure.is_uneven and structure.is_streamed,
            is_attempt=True,
        ),
        Entry(
            "ConjugateGradient(Jacobi())",
            lambda: ConjugateGradient(Jacobi()),
            cost_model.scaled_conjugate_gradient,
            applies=lambda structure: structure.is_uneven,
            is_attempt=True,
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
        Entry(
            "LSMR(Sketch())",
            lambda: LSMR(Sketch()),
            cost_model.sketched_lsmr,
            "preconditioned",
            applies=cost_model.is_sketched_by_entries,
        ),
        Entry("ConjugateGradient()", ConjugateGradient, cost_model.conjugate_gradient),
        Entry(
            "MiniBatches()",
            MiniBatches,
            cost_model.mini_batches,
            applies=lambda structure: structure.is_streamed or structure.is_sparse,
        ),
        Entry("Gram()", Gram, cost_model.gram, "Gram", lambda structure: structure.is_tall),
        Entry(
            "Dual()",
            Dual,
            cost_model.dual,
            "dual",
            lambda structure: not structure.is_tall and not structure.is_streamed,
        ),
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
"""The candidates for each kind of problem."""


@dataclasses.dataclass(frozen=True)
class Candidate(Displayed):
    """The predicted costs of one method for one problem on one machine.

    On several devices, bytes and operations are those of each device.

    Args:
      name: the method as it is written in code.
      method: the method, to pass to ``minimize``.
      form: the form of the problem that it works on.
      peak_bytes: the sum of ``data_bytes`` and ``working_bytes``.
      data_bytes: the bytes of the objective's arrays and the params.
      working_bytes: the bytes reserved besides, including the result.
      allocated_bytes: the bytes still to be allocated; arrays that exist are not counted.
      bytes_moved: bytes read from and written to memory in all.
      flops: operations in all.
      factorisation_flops: the operations of matrix factorisations among them.
      seconds: the time in all, without compilation.
      setup_seconds, seconds_per_iteration, iterations: what ``seconds`` is computed from.
      accuracy: a bound on the expected relative error of the params.
      feasible: whether ``allocated_bytes`` are available.
      reason: why it is not feasible, in numbers; empty if it is.
      link_bytes: the bytes that each of several devices sends to the others in all.
      link_bytes_per_iteration: the same in an iteration.
      link_seconds_per_iteration: the part of an iteration's seconds that this takes.
      compiled_bytes: what the compiled program reserves in place of ``working_bytes``, as reported
        by the compiler; None if it was not asked.
      best_seconds, worst_seconds: the seconds in all for a problem that is conditioned as well as
        hardly any is, and for the most ill-conditioned one; None where the choice is no hedge.
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
    best_seconds: float | None = None
    worst_seconds: float | None = None

    def _arguments(self) -> list[str]:
        fits = "fits" if self.feasible else self.reason
        costs = readable_seconds(self.seconds), readable_bytes(self.peak_bytes)
        return [self.name, *costs, fits]


def candidates_for(question: Question, existing_bytes: int) -> tuple[Candidate, ...]:
    """The predicted costs of every entry of the table that applies, in the table's order.

    ``existing_bytes`` is the size of the arrays that exist. It is more than data and params if a
    donated start is reused.
    """
    structure = question.structure
    return tuple(
        _candidate(entry, question, existing_bytes)
        for entry in TABLE[structure.kind]
        if entry.applies(structure)
    )


def shortage(allocated: int, machine: Machine) -> str:
    """Why ``allocated`` bytes are not available; empty if they are."""
    available = machine.memory_bytes
    if allocated <= max(available, SLACK_BYTES):
        return ""
    return f"needs {readable_bytes(allocated)}, {readable_bytes(available)} available"


FACTORISED_ON_TPU = 1e9
"""The operations of a factorisation beyond which XLA takes more than a minute to compile it for
TPUs, for which it unrolls loops: that of a regression with about 1,000 features."""


COMPILES_FOR_MINUTES = "compiles for minutes"


def _endless(work: cost_model.Work, machine: Machine) -> str:
    """Why a program cannot be compiled in a reasonable time; empty if it can."""
    flops = work.cholesky_flops + work.orthogonal_flops
    if machine.platform != "tpu" or flops <= FACTORISED_ON_TPU:
        return ""
    return f"{COMPILES_FOR_MINUTES}, because XLA unrolls factorisations of this size for TPUs"


CHUNKS_AT_A_TIME = 2
"""Chunks of params of the host's memory that a device has: one comes while one is computed."""


def _needs_all(entry: Entry, structure: Structure) -> str:
    """Why params in the host's memory cannot be brought to the device in chunks."""
    if not structure.host_bytes or entry.method().acts_by_element():
        return ""
    return "needs all params in the device's memory at once"


def _candidate(entry: Entry, question: Question, existing_bytes: int) -> Candidate:
    structure, price = question.structure, entry.price(question)
    iterations = max(round(price.iterations), 1)
    setup_seconds = question.seconds(price.program) + question.machine.dispatch_seconds
    seconds_per_iteration = question.iteration_seconds(price.iteration)
    data_bytes = structure.data_bytes + structure.params_bytes - structure.host_bytes
    method = entry.method()
    working_bytes = round(price.working_bytes) + structure.reading_bytes
    if structure.host_bytes:
        working_bytes = CHUNKS_AT_A_TIME * structure.chunk_bytes
    allocated = max(working_bytes + data_bytes - existing_bytes, 0)
    total = price.program + price.iteration * iterations
    reason = (
        _needs_all(entry, structure)
        or shortage(allocated, question.machine)
        or _endless(total, question.machine)
    )
    return Candidate(
        name=entry.name,
        method=method,
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
    """The predicted seconds of the candidates with these names."""
    entries = {entry.name: entry for entry in TABLE[question.structure.kind]}
    return [_candidate(entries[name], question, 0).seconds for name in names]
