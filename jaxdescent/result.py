"""What a descent returns: the params, why it stopped, and what to do about it."""

from __future__ import annotations

import collections
import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


class Status(enum.IntEnum):
    """Why a descent stopped; ``Status(code).advice`` says what to do next.

    A compiled program returns the status as an int32 array, one code for each
    member of a batch; zero marks a descent that is still running.

    >>> Status.CONVERGED.advice
    'The tolerance is met: nothing to do; certify() says what kind of point it is.'
    """

    CONVERGED = 1
    MAX_ITERATIONS = 2
    STAGNATED = 3
    DIVERGED = 4
    NON_FINITE = 5
    STOPPED = 6

    @property
    def advice(self) -> str:
        """One sentence: what happened, and what to do about it."""
        return _ADVICE[self]


RUNNING = 0
"""The code of a descent that no stopping rule has ended yet."""


class Evidence(enum.IntEnum):
    """What ``Result.suboptimality`` rests on; ``Evidence(code).explanation`` says it in words.

    A compiled program returns it as an int32 array, one code for each member of a batch.

    >>> Evidence.BOUND.explanation
    'a bound: half the squared gradient over a curvature that the structure guarantees'
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
        """Where the number comes from, and whether it is a bound or an estimate."""
        return _EXPLANATIONS[self]


_EXPLANATIONS = {
    Evidence.NONE: "nothing: what was seen allows no estimate",
    Evidence.EXACT: "exact up to rounding: the Hessian is diagonal and known",
    Evidence.BOUND: (
        "a bound: half the squared gradient over a curvature that the structure guarantees"
    ),
    Evidence.FACTORISATION: "exact up to rounding: the gradient in a factorised Hessian",
    Evidence.RITZ_VALUES: "an estimate: from the Krylov process's own coefficients",
    Evidence.NEWTON_DECREMENT: "an estimate: half the squared Newton decrement",
    Evidence.RATE: "an estimate: from the rate at which the objective has been falling",
}

_ADVICE = {
    Status.CONVERGED: (
        "The tolerance is met: nothing to do; certify() says what kind of point it is."
    ),
    Status.MAX_ITERATIONS: (
        "The limit of iterations came first: raise max_iterations, loosen the tolerance, or take "
        "a method that needs fewer."
    ),
    Status.STAGNATED: (
        "Rounding hides any further progress in this dtype: accept the point, store the params in "
        "a wider dtype, or round stochastically."
    ),
    Status.DIVERGED: (
        "The iterates grow without bound: lower the learning rate, or take Backtracking(); if the "
        "objective is unbounded below, it has no minimum."
    ),
    Status.NON_FINITE: (
        "The objective or its gradient became NaN or infinite: look at the data and the start for "
        "NaN, logarithms and divisions first."
    ),
    Status.STOPPED: (
        "The predicate asked for the end: go on from these params with another, or none."
    ),
}


class History(NamedTuple):
    """What the last checks saw, oldest first; NaN where there were fewer than asked for.

    Attributes:
      value: the objective, (history,).
      gradient_norm: the norm of its gradient, (history,).
      suboptimality: the estimate of how far the value was above the minimum, (history,).
    """

    value: jax.Array
    gradient_norm: jax.Array
    suboptimality: jax.Array


# A named tuple, which JAX builds and takes apart in a tenth of the time of a dataclass.
class Result(NamedTuple):
    """The outcome of :func:`jaxdescent.minimize`; under ``vmap`` every array gains a batch axis.

    Attributes:
      params: where the descent ended, with the structure, dtypes and shardings of the start.
      value: the objective at exactly these params.
      gradient_norm: the Euclidean norm of the gradient at exactly these params.
      suboptimality: how far ``value`` is above the minimum nearby, estimated or bounded; infinity
        where nothing can be said.
      scale: the gradient's norm that the tolerance was relative to.
      iterations: how many steps were taken, int32.
      evaluations: how many gradients (or values alone) were computed, int32; an optax
        transformation's own line search is not counted.
      status: a :class:`Status` code, int32.
      evidence: an :class:`Evidence` code, int32: what ``suboptimality`` rests on.
      state: the method's last state.
      history: a :class:`History` of the last ``history`` checks; ``()`` if none was asked for.
    """

    params: Any
    value: jax.Array
    gradient_norm: jax.Array
    suboptimality: jax.Array
    scale: jax.Array
    iterations: jax.Array
    evaluations: jax.Array
    status: jax.Array
    evidence: jax.Array
    state: Any
    history: Any

    @property
    def converged(self) -> jax.Array:
        """Whether the status is ``CONVERGED``: bool, of the batch's shape."""
        return jnp.asarray(self.status) == Status.CONVERGED.value

    @property
    def message(self) -> str:
        """The status and its advice; for a batch, how many members ended with each status.

        Raises:
          ValueError: inside ``jit`` or ``vmap``, where the status is not known yet.
        """
        if isinstance(self.status, Tracer):
            raise ValueError(
                "Result.message was read inside jit, vmap or grad, where the status is not known "
                "yet: return the result, then read its message outside."
            )
        codes = np.asarray(self.status)
        if codes.ndim == 0:
            status = Status(int(codes))
            return f"{status.name}: {status.advice}"
        counts = collections.Counter(int(code) for code in codes.ravel())
        return "\n".join(
            f"{count} of {codes.size} {Status(code).name}: {Status(code).advice}"
            for code, count in sorted(counts.items())
        )
