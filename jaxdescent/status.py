"""Why a descent stopped and what to do about it, and the evidence for its suboptimality."""

from __future__ import annotations

import enum
from collections.abc import Sequence


class Status(enum.IntEnum):
    """Why a descent stopped; ``Status(code).advice`` says what to do next.

    A compiled program returns the status as an int32 array, which prints as a number: one code for
    each member of a batch; zero marks a descent that is still running.

    >>> import jax.numpy as jnp
    >>> print(Status(jnp.int32(2)))
    MAX_ITERATIONS
    >>> Status.CONVERGED.advice
    'The tolerance is met: nothing to do; certify() says what kind of point it is.'
    """

    CONVERGED = 1
    MAX_ITERATIONS = 2
    STAGNATED = 3
    DIVERGED = 4
    NON_FINITE = 5
    STOPPED = 6
    INTERRUPTED = 7

    @property
    def advice(self) -> str:
        """One sentence: what happened, and what to do about it."""
        return self.advice_after(())

    def advice_after(self, ran: Sequence[str]) -> str:
        """The advice after methods of these names ran: no method that has been tried is advised.

        >>> Status.MAX_ITERATIONS.advice_after(["LBFGS()"]).split(", ")[-1]
        'else jd.DerivativeMethod() for few unknowns.'
        """
        exact = _untried(("DerivativeMethod()", "LSMR(jd.Sketch())"), ran)
        general = _untried(("LBFGS()", "DerivativeMethod() for few unknowns"), ran)
        rule = _untried(("Backtracking()",), ran)
        ways = [f"for a regression {exact}" * bool(exact), f"else {general}" * bool(general)]
        ways = ", ".join(filter(None, ways))
        return _ADVICE[self].format(
            fewer=f", or take a method that needs fewer: {ways}" * bool(ways),
            exact=f"; an ill-conditioned regression takes {exact}" * bool(exact),
            rate=f"lower the learning rate, or take {rule}; " * bool(rule),
        )

    def __repr__(self) -> str:
        return f"<Status.{self.name}: {self.advice}>"

    def __str__(self) -> str:
        return self.name


RUNNING = 0
"""The code of a descent that no stopping rule has ended yet."""


class Evidence(enum.IntEnum):
    """The evidence for ``Result.suboptimality``; ``Evidence(code).explanation`` has it in words.

    A compiled program returns the evidence as an int32 array, one code for each member of a batch.

    >>> Evidence.BOUND.explanation
    'a bound that follows from the structure: the least curvature, or the least value'
    """

    NONE = 0
    EXACT = 1
    BOUND = 2
    FACTORISATION = 3
    RITZ_VALUES = 4
    NEWTON_DECREMENT = 5
    RATE = 6

    @property
    def explanation(self) -> str:
        """The source of the suboptimality in words, and whether it is a bound or an estimate."""
        return _EXPLANATIONS[self]

    def __repr__(self) -> str:
        return f"<Evidence.{self.name}: {self.explanation}>"

    def __str__(self) -> str:
        return self.name


_EXPLANATIONS = {
    Evidence.NONE: "nothing: what was seen allows no estimate",
    Evidence.EXACT: "exact up to rounding: the Hessian is diagonal and known",
    Evidence.BOUND: (
        "a bound that follows from the structure: the least curvature, or the least value"
    ),
    Evidence.FACTORISATION: "exact up to rounding: by the factorised Hessian",
    Evidence.RITZ_VALUES: "an estimate: by the smallest Ritz value",
    Evidence.NEWTON_DECREMENT: "an estimate: half the squared Newton decrement",
    Evidence.RATE: "an estimate: from the rate at which the value has been falling",
}

_ADVICE = {
    Status.CONVERGED: (
        "The tolerance is met: nothing to do; certify() says what kind of point it is."
    ),
    Status.MAX_ITERATIONS: (
        "The limit of iterations came first: raise max_iterations, loosen the tolerance{fewer}."
    ),
    Status.STAGNATED: (
        "Rounding hides any further progress in this dtype: accept the point if its suboptimality "
        "will do, store the params in a wider dtype, or round stochastically{exact}."
    ),
    Status.DIVERGED: (
        "The iterates grow without bound: {rate}if the objective is unbounded below, it has no "
        "minimum."
    ),
    Status.NON_FINITE: (
        "The objective or its gradient became NaN or infinite: look at the data and the start for "
        "NaN, logarithms and divisions first."
    ),
    Status.STOPPED: (
        "The predicate asked for the end: go on from these params with another, or none."
    ),
    Status.INTERRUPTED: (
        "A signal ended the run after the steps under way: call jd.run with the same checkpoint "
        "and resume=True to go on, or start from these params."
    ),
}


def _untried(methods: Sequence[str], ran: Sequence[str]) -> str:
    """The advised methods whose names are in none of the names of methods that ran."""
    names = [name.replace("jd.", "") for name in ran]
    parts = {method: method.replace("jd.", "").split("()")[0] for method in methods}
    left = [method for method in methods if not any(parts[method] in name for name in names)]
    return " or ".join(f"jd.{method}" for method in left)
