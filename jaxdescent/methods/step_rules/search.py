"""Trials along a line until one is accepted, each with the gradient that the next step needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.kernels.branches import where
from jaxdescent.methods.line_search import LinePoint
from jaxdescent.methods.protocol import Params, State
from jaxdescent.methods.step_rules.transformation import StepRule, first_rate, moved, scalar
from jaxdescent.numerics import precision
from jaxdescent.numerics.linear_systems import scaled
from jaxdescent.objectives import Objective

NOISE = 32
"""Differences of values up to this many eps times the value count as rounding."""


class SearchingRule(StepRule):
    """A rule whose search leaves the value and gradient at the new params in its state.

    The fields are called ``value`` and ``grad``, for ``optax.value_and_grad_from_state``.
    """

    def value_and_gradient(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[jax.Array, Params]:
        return state.value, state.grad

    def after_rounding(self, objective: Objective, params: Params, state: State) -> State:
        value, gradient = evaluation(params, objective)
        return state._replace(value=value, grad=gradient)


class Trial(NamedTuple):
    """The value and gradient at ``params - rate * direction``."""

    value: jax.Array
    gradient: Params
    rate: jax.Array
    is_accepted: jax.Array
    number: jax.Array  # of trials up to this one


def search(
    objective: Objective,
    start: LinePoint,
    direction: Params,
    first_rate: jax.Array,
    *,
    accepts: Callable[[Trial], jax.Array],
    shrunk: Callable[[Trial], jax.Array],
    max_trials: int,
) -> Trial:
    """The first accepted step along ``-direction``; if all are rejected, the start itself with
    ``first_rate``.

    ``shrunk`` returns the rate after a rejected trial.
    """

    def attempt(rate: jax.Array, number: jax.Array) -> Trial:
        value, gradient = objective.value_and_gradient(moved(start.params, direction, rate))
        value = jnp.asarray(value, start.value.dtype)
        trial = Trial(value, gradient, rate, jnp.array(False), number)
        # Where the gradient is no number no further step leads from there, whatever the value is;
        # that of an unbounded function may be -inf.
        is_inside = jnp.isfinite(change(gradient, direction, rate)) | (value == -jnp.inf)
        return trial._replace(is_accepted=accepts(trial) & is_inside)

    trial = lax.while_loop(
        lambda trial: ~trial.is_accepted & (trial.number < max_trials),
        lambda trial: attempt(shrunk(trial), trial.number + 1),
        attempt(first_rate, jnp.ones((), jnp.int32)),
    )
    rejected = trial._replace(value=start.value, gradient=start.gradient, rate=first_rate)
    return where(trial.is_accepted, trial, rejected)


def start_of_search(objective: Objective, at: LinePoint) -> LinePoint:
    """The point where a search begins, with its value in the dtype of the arithmetic."""
    value = objective.value(at.params) if at.value is None else at.value
    return at._replace(value=jnp.asarray(value, scalar(at.params, 0).dtype))


def known_or_first(rate: jax.Array, params: Params, direction: Params) -> jax.Array:
    """The rate of the last step, or a first rate if there was no step."""
    return lax.cond(rate > 0, lambda: rate, lambda: first_rate(params, direction))


def change(gradient: Params, direction: Params, rate: jax.Array) -> jax.Array:
    """``rate * gradient . direction``, by which the value changes: it is in range wherever the
    value is, while the product of two gradients may underflow or overflow.
    """
    return precision.inner(scaled(rate, gradient), direction)


def noise(value: jax.Array) -> jax.Array:
    """The size below which a difference of values counts as rounding."""
    return NOISE * jnp.finfo(value.dtype).eps * jnp.abs(value)


def evaluation(params: Params, objective: Objective | None) -> tuple[jax.Array, Params]:
    """Value and gradient at ``params``; infinity and zeros if the function is not known yet.

    ``optax.value_and_grad_from_state`` treats an infinite value as missing.
    """
    if objective is None:
        return scalar(params, jnp.inf), jax.tree.map(jnp.zeros_like, params)
    value, gradient = objective.value_and_gradient(params)
    return jnp.asarray(value, scalar(params, 0).dtype), gradient
