"""A learning rate from the change of the gradient, without function values."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.methods.line_search import LinePoint
from jaxdescent.methods.protocol import Params, State
from jaxdescent.methods.step_rules.transformation import (
    Move,
    StepRule,
    first_rate,
    moved,
    scalar,
)
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective

GROWTH = 10
"""The factor by which the rate grows if neither the curvature nor an earlier rate limits it."""


class _AdaptiveState(NamedTuple):
    """The last gradient, the last step's length and rate, and the last growth of the rate."""

    gradient: Params
    length: jax.Array
    rate: jax.Array
    growth: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class AdaptiveStep(StepRule):
    """A rate that is limited by the last curvature seen, and grows slowly.

    ``t_k = min(sqrt(1 + t_{k-1} / t_{k-2}) t_{k-1}, |x_k - x_{k-1}| / (2 |g_k - g_{k-1}|))``
    converges from any start for convex functions, without a Lipschitz constant of the gradient.
    The first step has ``sqrt(eps)`` times the params' length (or times one if that is larger), just
    enough to see a curvature; if a difference is zero, the rate grows.

    A step takes one gradient, no function value and no line search. The rule keeps one
    parameter-sized vector, the last gradient; of the last step it keeps only the length. In a chain
    of transformations, it takes the updates that it returns for the step.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> result = jd.minimize(lambda x: jnp.sum(jnp.cosh(x)), jnp.array([2.0, -1.0]),
    ...                      jd.GradientDescent(jd.AdaptiveStep()))
    >>> bool(result.converged)
    True

    Reference: Malitsky and Mishchenko (2020), "Adaptive gradient descent without descent".
    """

    needs_function: ClassVar[bool] = False

    def start(self, params: Params, objective: Objective | None = None) -> State:
        zero = scalar(params, 0)
        return _AdaptiveState(jax.tree.map(jnp.zeros_like, params), zero, zero, zero)

    def move(self, objective: Objective, at: LinePoint, direction: Params, state: State) -> Move:
        rate = lax.cond(
            state.rate > 0,
            lambda: self._next_rate(at.gradient, state),
            lambda: jnp.sqrt(jnp.finfo(state.rate.dtype).eps) * first_rate(at.params, direction),
        )
        # The first rate is arbitrary, so that after it only the curvature limits the rate.
        growth = jnp.where(state.rate > 0, rate / jnp.where(state.rate > 0, state.rate, 1), jnp.inf)
        length = rate * precision.norm(direction).astype(rate.dtype)
        return Move(
            moved(at.params, direction, rate),
            rate,
            _AdaptiveState(at.gradient, length, rate, growth),
            curvature=1 / jnp.where(rate > 0, 2 * rate, jnp.inf),
        )

    def _next_rate(self, gradient: Params, state: State) -> jax.Array:
        change = precision.norm(jax.tree.map(jnp.subtract, gradient, state.gradient))
        is_seen = (change > 0) & (state.length > 0)
        curvature_limit = state.length / (2 * jnp.where(is_seen, change, 1))
        growth_limit = jnp.sqrt(1 + state.growth) * state.rate
        unlimited = jnp.where(jnp.isfinite(growth_limit), growth_limit, GROWTH * state.rate)
        rate = jnp.where(is_seen, jnp.minimum(growth_limit, curvature_limit), unlimited)
        # A gradient that is not finite must not make the rate zero or NaN.
        return jnp.where((rate > 0) & jnp.isfinite(rate), rate, state.rate)
