"""The hedge: a cheap attempt for as many iterations as the reliable method costs, and then that.

If a direct (or sketched) solve and a Krylov method both fit, which of them is faster depends on the
spectrum, which is unknown. With a budget of (the whole predicted cost of the one) / (the predicted
cost of an iteration of the other), :class:`jaxdescent.methods.Hedge` takes at most twice as long as
the faster one, as far as the predictions are right. The budget follows from shapes and rates, so
that it is the same in all processes and whatever is traced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jaxdescent.display import readable_seconds
from jaxdescent.methods import Hedge
from jaxdescent.plan.candidates import Candidate, priced_for
from jaxdescent.plan.condition import HOPED, worst_condition
from jaxdescent.plan.cost_model import Question, krylov_iterations

ALLOWED_ITERATIONS = 1000
"""The iterations that ``minimize`` allows by default."""


def surest(candidates: Sequence[Candidate], question: Question) -> Candidate | None:
    """Of the candidates whose time is bounded for any spectrum, the one with the smallest regret.

    The predicted time of each is divided by the fastest one's, for a well-conditioned problem and
    for the worst one, and the larger ratio counts. A direct solve of an ill-conditioned tall X
    computes a Cholesky factor in vain, and then a QR of all of X; a sketch takes as long for
    either.
    """
    certain = [candidate for candidate in candidates if candidate.is_certain]
    if len(certain) < 2:
        return next(iter(certain), None)
    names = [candidate.name for candidate in certain]
    worst = dataclasses.replace(question, condition=worst_condition(question.structure))
    at_worst = priced_for(worst, names)
    least, least_at_worst = min(each.seconds for each in certain), min(at_worst)
    ratios = [
        max(candidate.seconds / least, seconds / least_at_worst)
        for candidate, seconds in zip(certain, at_worst, strict=True)
    ]
    return certain[ratios.index(min(ratios))]


def hedge_of(
    first: Candidate, then: Candidate, question: Question, most_iterations: int
) -> Candidate | None:
    """``first``, hedged with ``then``; None if the budget is too small for any spectrum.

    Args:
      first: the candidate for the attempt.
      then: the candidate that is used if the attempt fails.
      question: the problem, the machine, and the tolerance.
      most_iterations: the most iterations that the descent may take.
    """
    # Twice the iterations that the second method is expected to need are left for it.
    budget = min(
        int(then.seconds / first.seconds_per_iteration), most_iterations - 2 * then.iterations
    )
    if budget < krylov_iterations(HOPED, question.tolerance):
        return None
    is_enough = first.iterations <= budget
    iterations = min(first.iterations, budget)
    further = 0.0 if is_enough else then.seconds
    # At the worst condition number the second method itself may take longer than assumed.
    worst = dataclasses.replace(question, condition=worst_condition(question.structure))
    (at_worst,) = priced_for(worst, [then.name])
    spent = first.setup_seconds + budget * first.seconds_per_iteration
    working = first.working_bytes + then.working_bytes
    is_default = question.tolerance == question.structure.default_tolerance
    tolerance = None if is_default else question.tolerance
    method = Hedge(first.method, then.method, budget, tolerance=tolerance)
    return dataclasses.replace(
        first,
        name=f"Hedge({first.name}, {then.name}, {budget})",
        method=method,
        form=then.form,
        peak_bytes=first.data_bytes + working,
        working_bytes=working,
        allocated_bytes=first.allocated_bytes + then.working_bytes,
        bytes_moved=first.bytes_moved * iterations / first.iterations
        + (0.0 if is_enough else then.bytes_moved),
        link_bytes=first.link_bytes * iterations / first.iterations
        + (0.0 if is_enough else then.link_bytes),
        flops=first.flops * iterations / first.iterations + (0.0 if is_enough else then.flops),
        seconds=first.setup_seconds + iterations * first.seconds_per_iteration + further,
        setup_seconds=first.setup_seconds + further,
        iterations=iterations,
        accuracy=max(first.accuracy, then.accuracy),
        is_attempt=False,
        best_seconds=first.setup_seconds
        + krylov_iterations(HOPED, question.tolerance) * first.seconds_per_iteration,
        worst_seconds=spent + at_worst,
    )


def with_extremes(
    candidates: Sequence[Candidate], chosen: Candidate, question: Question
) -> tuple[Candidate, ...]:
    """The candidates with their seconds for the best and the worst condition number, beside which
    those of a hedge, the choice, show what it is for.
    """
    worst = worst_condition(question.structure)
    others = [each for each in candidates if each is not chosen]
    names = [each.name for each in others]
    at_best, at_worst = (
        priced_for(dataclasses.replace(question, condition=number), names)
        for number in (HOPED, worst)
    )
    priced = [
        dataclasses.replace(each, best_seconds=best, worst_seconds=most)
        for each, best, most in zip(others, at_best, at_worst, strict=True)
    ]
    return (*priced, chosen)


def stakes(chosen: Candidate | None) -> tuple[str, ...]:
    """What a hedge is for, and its predicted worst case, in a sentence."""
    if chosen is None or chosen.worst_seconds is None or chosen.best_seconds is None:
        return ()
    return (
        "However ill-conditioned the problem is, the hedge is predicted to take no more than "
        f"{readable_seconds(chosen.worst_seconds)} (at worst), and for an easy one "
        f"{readable_seconds(chosen.best_seconds)} (at best). It is chosen because nobody knows the "
        "condition number: it takes about twice the faster of its two methods at most.",
    )
