"""Which candidate to take.

The table's order decides: its first entry is taken if it fits comfortably, and otherwise the
second. For regressions and dense quadratics whose direct solve takes longer than MOMENT the choice
is a hedge instead, because the spectrum, which is unknown, decides whether the solve or a Krylov
method is faster: a cheap attempt for as many iterations as the reliable method costs, and then that
method. It takes at most twice as long as the better of both, as far as the predictions are right.
The budget follows from shapes and rates, so that it is the same in all processes and whatever is
traced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jaxdescent.cost.candidates import Candidate, Entry, candidate_of
from jaxdescent.cost.hedge import Hedge
from jaxdescent.cost.iterations import HOPED, krylov_iterations
from jaxdescent.cost.solves import is_on_host
from jaxdescent.cost.structure import ProblemKind, Structure
from jaxdescent.cost.work import Price, Question
from jaxdescent.machine import Machine

MOMENT = 0.01
"""A direct solve that is predicted to take at most this many seconds, or that compiles nothing, is
always taken: a second method would take a hundred times as long to compile as it could save."""

SHARE = 0.5
"""The share of the memory left by the data that a default method may take, if another would do."""


def choose(question: Question, candidates: Sequence[Candidate]) -> Candidate | None:
    """The candidate to take, which may be a hedge between two of them; None if none fits.

    ``candidates`` are in the table's order.
    """
    structure, machine = question.structure, question.machine
    feasible = [candidate for candidate in candidates if candidate.feasible]
    if not feasible:
        return None
    if structure.is_rounded and structure.kind in (ProblemKind.RESIDUALS, ProblemKind.FUNCTION):
        # Directions that depend on earlier steps are lost when the params are rounded to 16 bits.
        return next((c for c in feasible if c.entry.is_memoryless), feasible[0])
    comfortable = [candidate for candidate in feasible if _is_comfortable(candidate, machine)]
    has_hedge = (structure.is_dense or structure.is_sparse) and not structure.is_rounded
    if has_hedge and candidates[0].seconds > MOMENT and not is_on_host(question):
        first, then = attempt(structure, comfortable), surest(structure, comfortable)
        # A direct solve does not profit from zeros in X: where it costs more than all iterations
        # that are allowed, it is no hedge.
        allowed = question.most_iterations * first.seconds_per_iteration if first else 0.0
        if first and structure.is_sparse and candidates[0].seconds > allowed:
            return first
        if first and then:
            hedge = hedge_of(first, then, question)
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


def attempt(structure: Structure, candidates: Sequence[Candidate]) -> Candidate | None:
    """The candidate that a hedge tries first; None if there is none.

    Of a dense X with one output it is the one whose iterations are the cheapest. Conjugate
    gradients for several outputs at once converge with the slowest of them, and LSMR does not.
    """
    attempts = [candidate for candidate in candidates if candidate.entry.is_attempt]
    if structure.is_dense and structure.outputs == 1 and attempts:
        return min(attempts, key=lambda candidate: candidate.seconds_per_iteration)
    return next(iter(attempts), None)


def surest(structure: Structure, candidates: Sequence[Candidate]) -> Candidate | None:
    """Of the candidates whose time is bounded for any spectrum, the one with the smallest regret.

    The predicted time of each is divided by the fastest one's, for a well-conditioned problem and
    for the worst one, and the larger ratio counts. A direct solve of an ill-conditioned tall X
    computes a Cholesky factor in vain, and then a QR of all of X; a sketch takes as long for
    either.
    """
    certain = [candidate for candidate in candidates if candidate.entry.is_certain(structure)]
    if not certain:
        return None
    least = min(candidate.seconds for candidate in certain)
    least_at_worst = min(candidate.worst_seconds for candidate in certain)
    return min(certain, key=lambda c: max(c.seconds / least, c.worst_seconds / least_at_worst))


def hedge_of(first: Candidate, then: Candidate, question: Question) -> Candidate | None:
    """``first``, hedged with ``then``; None if the budget is too small for any spectrum."""
    # Twice the iterations that the second method is expected to need are left for it.
    left = question.most_iterations - 2 * then.iterations
    budget = min(int(then.seconds / first.seconds_per_iteration), left)
    if budget < krylov_iterations(HOPED, question.tolerance):
        return None

    structure = question.structure
    # The first method hands on the params and their gradient, and of a quadratic a copy of H.
    is_hessian = structure.kind is ProblemKind.QUADRATIC
    handed_on = 2.0 * structure.vector_bytes + structure.entries * structure.itemsize * is_hessian

    def price(question: Question) -> Price:
        one, two = (candidate.entry.price(question) for candidate in (first, then))
        is_enough = one.iterations <= budget
        further = two.setup + two.iteration * two.iterations
        return Price(
            max(one.working_bytes, two.working_bytes) + handed_on,
            one.setup if is_enough else one.setup + further,
            one.iteration,
            min(one.iterations, budget),
            max(one.accuracy, two.accuracy),
            one.touched if is_enough else one.touched + two.touched,
        )

    method = Hedge(first.method, then.method, budget)
    name = f"Hedge({first.name}, {then.name}, {budget})"
    return dataclasses.replace(candidate_of(Entry(method, price, then.form), question), name=name)
