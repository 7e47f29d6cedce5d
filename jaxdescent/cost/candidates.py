"""The table of methods for each kind of problem, and their predicted costs as candidates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxdescent.cost import descents, solves
from jaxdescent.cost.descents import PricedByPasses
from jaxdescent.cost.iterations import HOPED
from jaxdescent.cost.structure import ProblemKind, Structure
from jaxdescent.cost.work import Price, Question
from jaxdescent.display import Displayed, readable_seconds
from jaxdescent.kernels.memory import SLACK_BYTES, readable_bytes
from jaxdescent.machine import Machine
from jaxdescent.methods import (
    LBFGS,
    LSMR,
    Backtracking,
    BarzilaiBorwein,
    ConjugateGradient,
    DerivativeMethod,
    GradientDescent,
    Gram,
    InverseLipschitz,
    LevenbergMarquardt,
    Method,
    MiniBatches,
)
from jaxdescent.preconditioners import Jacobi, Sketch


def _always(structure: Structure) -> bool:
    return True


class Entry(NamedTuple):
    """A row of the table."""

    method: Any  # the method, whose text is its name
    price: Callable[[Question], Price]  # computes what it costs
    form: str = "as given"  # the form of the problem that it works on
    applies: Callable[[Structure], bool] = _always  # whether it is a candidate for a structure
    is_attempt: bool = False  # whether a hedge may try it first: its iterations are the cheapest
    # Whether its time for a structure is bounded by a few factorisations, whatever the spectrum.
    is_certain: Callable[[Structure], bool] = lambda structure: False
    is_memoryless: bool = False  # whether its directions depend on the present gradient only
    estimates: bool = True  # whether it estimates the suboptimality itself

    @property
    def name(self) -> str:
        """The method as it is written in code."""
        return repr(self.method)


_DIRECT, _CG, _LBFGS, _SHORT_LBFGS = DerivativeMethod(), ConjugateGradient(), LBFGS(), LBFGS(1)
_BACKTRACKING = GradientDescent(Backtracking())
_BARZILAI_BORWEIN = GradientDescent(BarzilaiBorwein())

# Scaled columns take passes for their means and lengths, and two vectors more. Barzilai and
# Borwein's rule takes about the square root of plain gradient descent's iterations.
_LSMR_ROW = descents.LSMR_ROW
_CG_ROW = PricedByPasses((0, 1), (1, 1), 10, 6, of_rows=2, looked=(10, 7), is_centred=True)
_BARZILAI_BORWEIN_ROW = PricedByPasses((2, 2), (1, 1), 10, 6, 2, looked=(9, 6), krylov=1.5)
_BACKTRACKING_ROW = _BARZILAI_BORWEIN_ROW._replace(each=(2, 1), krylov=0)

# The counts for functions follow from the times of runs with a million unknowns, line search
# included. LBFGS reads the stored pairs twice and writes them once, which reads them once more.
# Residuals and their intermediate results are vectors too.
_LBFGS_ROW = PricedByPasses(
    (1, 0),
    (1.1, 0),
    8 * _LBFGS.memory + 14,
    _LBFGS.vectors - 1,
    rounded=2 * _LBFGS.memory + 2,
    assumed=100,
)
_SHORT_LBFGS_ROW = PricedByPasses(
    (1, 0), (1.2, 0), 22, _SHORT_LBFGS.vectors - 1, rounded=4, assumed=200
)
_NONLINEAR_ROW = PricedByPasses((1, 0), (2, 0), 30, 6, rounded=1, assumed=1000)

# The first entry of a kind is taken if it fits comfortably, and otherwise the second.
TABLE: dict[ProblemKind, tuple[Entry, ...]] = {
    ProblemKind.REGRESSION: (
        Entry(_DIRECT, solves.derivative_regression, "direct", is_certain=_always),
        Entry(
            LSMR(Jacobi()),
            _LSMR_ROW._replace(once=(2, 3), vectors=14, of_params=11, looked=(14, 7)),
            applies=lambda structure: structure.is_uneven and structure.is_streamed,
            is_attempt=True,
        ),
        Entry(
            ConjugateGradient(Jacobi()),
            _CG_ROW._replace(once=(1, 2), vectors=12, of_params=8, looked=(12, 7)),
            applies=lambda structure: structure.is_uneven,
            is_attempt=True,
        ),
        Entry(LSMR(), _LSMR_ROW, is_attempt=True),
        Entry(
            LSMR(Sketch()),
            descents.sketched_lsmr,
            "preconditioned",
            applies=descents.is_sketched,
            is_certain=lambda structure: structure.is_dense,
        ),
        Entry(_CG, _CG_ROW, is_attempt=True),
        Entry(
            MiniBatches(),
            descents.mini_batches,
            applies=lambda structure: structure.is_streamed or structure.is_sparse,
        ),
        Entry(Gram(), solves.gram, "Gram", lambda structure: structure.is_tall),
        Entry(_BARZILAI_BORWEIN, _BARZILAI_BORWEIN_ROW, estimates=False),
        Entry(_BACKTRACKING, _BACKTRACKING_ROW, estimates=False),
    ),
    ProblemKind.QUADRATIC: (
        Entry(_DIRECT, solves.derivative_quadratic, "spectral", is_certain=_always),
        Entry(_CG, PricedByPasses((0, 0), (1, 1), 10, 4), is_attempt=True),
        Entry(_BARZILAI_BORWEIN, PricedByPasses((2, 2), (1, 1), 10, 5, widened=1, krylov=1.5)),
    ),
    ProblemKind.SEPARABLE: (
        Entry(_DIRECT, solves.division, "division"),
        Entry(GradientDescent(InverseLipschitz()), descents.separable_descent),
        Entry(_BACKTRACKING, descents.separable_backtracking),
    ),
    ProblemKind.RESIDUALS: (
        Entry(LevenbergMarquardt(), descents.levenberg_marquardt),
        Entry(_LBFGS, _LBFGS_ROW._replace(of_params=_LBFGS.vectors + 1)),
        Entry(_SHORT_LBFGS, _SHORT_LBFGS_ROW._replace(of_params=_SHORT_LBFGS.vectors + 1)),
        Entry(_BACKTRACKING, _NONLINEAR_ROW._replace(of_params=7), is_memoryless=True),
    ),
    ProblemKind.FUNCTION: (
        Entry(_LBFGS, _LBFGS_ROW),
        Entry(_SHORT_LBFGS, _SHORT_LBFGS_ROW),
        Entry(_DIRECT, solves.newton, "Newton"),
        Entry(_BACKTRACKING, _NONLINEAR_ROW, is_memoryless=True),
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
      seconds: the time in all at the assumed condition number, without compilation.
      setup_seconds, seconds_per_iteration, iterations: what ``seconds`` is computed from.
      best_seconds, worst_seconds: the time in all for a problem that is conditioned as well as
        hardly any is, and for one so ill-conditioned that the method takes all iterations that it
        may.
      accuracy: a bound on the expected relative error of the params.
      feasible: whether ``allocated_bytes`` are available.
      reason: why it is not feasible, in numbers; empty if it is.
      link_bytes: the bytes that each of several devices sends to the others in all.
      link_bytes_per_iteration: the bytes that it sends in an iteration.
      link_seconds_per_iteration: the part of an iteration's seconds that this takes.
      compiled_bytes: what the compiled program reserves in place of ``working_bytes``, as reported
        by the compiler; None if it was not asked.

    >>> import jax, jaxdescent as jd
    >>> planned = jd.plan(jd.SumOfSquares(), jax.ShapeDtypeStruct((1_000_000,), "float32"))
    >>> planned.chosen.data_bytes, planned.chosen.feasible
    (4000000, True)
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
    best_seconds: float
    worst_seconds: float
    accuracy: float
    feasible: bool
    reason: str
    entry: Entry = dataclasses.field(repr=False)
    link_bytes: float = 0.0
    link_bytes_per_iteration: float = 0.0
    link_seconds_per_iteration: float = 0.0
    compiled_bytes: int | None = None

    def _arguments(self) -> list[str]:
        fits = "fits" if self.feasible else self.reason
        costs = readable_seconds(self.seconds), readable_bytes(self.peak_bytes)
        return [self.name, *costs, fits]


def candidates_for(question: Question) -> tuple[Candidate, ...]:
    """The predicted costs of every entry of the table that applies, in the table's order."""
    entries = TABLE[question.structure.kind]
    return tuple(
        candidate_of(entry, question) for entry in entries if entry.applies(question.structure)
    )


def shortage(allocated: int, machine: Machine) -> str:
    """Why ``allocated`` bytes are not available; empty if they are."""
    available = machine.memory_bytes
    if allocated <= max(available, SLACK_BYTES):
        return ""
    return f"needs {readable_bytes(allocated)}, {readable_bytes(available)} available"


UNROLLED_FLOPS = 1e9
"""The operations of a factorisation beyond which XLA takes more than a minute to compile it for
TPUs, for which it unrolls loops: that of a regression with about 1,000 features."""

COMPILES_FOR_MINUTES = "compiles for minutes"


def _price_of(entry: Entry, question: Question) -> Price:
    """The price of an entry, with the look at its claim that the host takes."""
    price = entry.price(question)
    if question.structure.kind is not ProblemKind.REGRESSION or entry.method is _DIRECT:
        return price
    look, structure = solves.look_on_host(question, estimates=entry.estimates), question.structure
    # Float64 data reach the host as words of 32 bits, which are a copy of the data.
    words = 8.0 * structure.entries if look.seconds and structure.itemsize == 8 else 0.0
    return price._replace(setup=price.setup + look, working_bytes=price.working_bytes + words)


def _seconds_at(condition: float, entry: Entry, question: Question, most: float) -> float:
    """The seconds in all at a condition number, for at most so many iterations."""
    question = dataclasses.replace(question, condition=condition)
    price = _price_of(entry, question)
    once, each = question.seconds_of(price)
    return once + min(max(round(price.iterations), 1), most) * each


def candidate_of(entry: Entry, question: Question) -> Candidate:
    """The predicted costs of an entry."""
    structure, machine, price = question.structure, question.machine, _price_of(entry, question)
    setup_seconds, each = question.seconds_of(price)
    iterations = max(round(price.iterations), 1)
    seconds = setup_seconds + iterations * each
    best = worst = seconds
    if structure.kind is not ProblemKind.SEPARABLE:
        best = _seconds_at(HOPED, entry, question, math.inf)
        # Beyond 1 / eps the dtype resolves no condition number.
        worst = _seconds_at(1 / structure.eps, entry, question, question.most_iterations)
    data_bytes = structure.data_bytes + structure.params_bytes
    working_bytes = round(price.working_bytes) + structure.reading_bytes
    allocated = max(working_bytes + data_bytes - question.existing_bytes, 0)
    total = price.setup + price.iteration * iterations
    reason = shortage(allocated, machine)
    if not reason and machine.platform == "tpu" and total.factorisation_flops > UNROLLED_FLOPS:
        reason = f"{COMPILES_FOR_MINUTES}, because XLA unrolls factorisations of this size for TPUs"
    return Candidate(
        name=entry.name,
        method=entry.method,
        form=_form_of_solve(structure) if entry.form == "direct" and structure.rows else entry.form,
        peak_bytes=data_bytes + working_bytes,
        data_bytes=data_bytes,
        working_bytes=working_bytes,
        allocated_bytes=allocated,
        bytes_moved=question.bytes_moved(total),
        flops=question.flops(total),
        factorisation_flops=total.factorisation_flops,
        seconds=seconds,
        setup_seconds=setup_seconds,
        seconds_per_iteration=each,
        iterations=iterations,
        best_seconds=min(best, seconds),
        worst_seconds=max(worst, best, seconds),
        accuracy=price.accuracy,
        feasible=not reason,
        reason=reason,
        entry=entry,
        link_bytes=total.link_bytes,
        link_bytes_per_iteration=price.iteration.link_bytes,
        link_seconds_per_iteration=machine.link_seconds(
            price.iteration.link_bytes, price.iteration.sums
        ),
    )


def _form_of_solve(structure: Structure) -> str:
    if structure.is_streamed:
        return "sums of one pass"
    if structure.has_own_l2:
        return "QR and SVD"
    return "Cholesky of X'X" if structure.is_tall else "Cholesky of XX'"
