"""Conjugate gradients for objectives that are not quadratic."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.methods.line_search import Idle, LinePoint, first_length, search
from jaxdescent.methods.protocol import KeepingProgress, Params, State
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective
from jaxdescent.status import RUNNING, Status

FLATNESS = 0.1
"""The share of the slope that a search may leave; directions are conjugate only if searches are
accurate."""


class _ConjugateState(NamedTuple):
    value: jax.Array
    gradient: Params
    norm: jax.Array
    direction: Params
    slope: jax.Array  # along the direction, at the start of its search
    step: jax.Array  # the step that the search found; zero asks for a restart
    length: jax.Array
    beta: jax.Array
    curvature: jax.Array  # along the direction, from the change of the slope
    idle: Idle
    unreported: jax.Array
    verdict: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class NonlinearConjugateGradient(KeepingProgress):
    """Conjugate gradients whose directions descend whatever the line search finds.

    ``d <- -g + beta d`` and ``x <- x + t d``. With ``y`` the gradient's change over the last step,
    after Hager and Zhang,

        ``beta = (y - 2 d |y|^2 / d.y) . g / d.y``, but at least ``0.4 (d.g) / |d|^2``.

    The search asks for a slope of at most a tenth of the first, which takes one to two values and
    gradients in an iteration; its first trial is the step that would repeat the last first-order
    decrease. If the search fails, or ``d`` does not descend, the next direction is ``-g``. The
    descent ends ``STAGNATED`` if that fails too, or if neither the value nor the gradient has
    decreased beyond rounding for 30 steps.

    The method keeps two parameter-sized vectors besides the params, the gradient and the direction,
    and a step needs three more: the new direction, the trial and its gradient.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> result = jd.minimize(lambda x: jnp.sum(jnp.cosh(x)), jnp.array([2.0, -1.0]),
    ...                      NonlinearConjugateGradient())
    >>> result.message.split(":")[0]
    'CONVERGED'

    Reference: Hager and Zhang (2005), "A new conjugate gradient method with guaranteed descent and
    an efficient line search"; (2006), "Algorithm 851: CG_DESCENT"; (2013), "The limited memory
    conjugate gradient method", for the lower bound.
    """

    def init(self, objective: Objective, params: Params) -> State:
        _, value, gradient = LinePoint.at(objective, params)
        norm = precision.norm(gradient)
        zero = jnp.zeros_like(norm)
        return _ConjugateState(
            value,
            gradient,
            norm,
            jax.tree.map(jnp.zeros_like, gradient),
            zero,
            zero,
            first_length(params, value, norm),
            zero,
            zero,
            Idle.start(value, norm),
            jnp.ones((), jnp.int32),
            jnp.full((), RUNNING, jnp.int32),
        )

    def blind_step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State]:
        value, gradient, norm = state.value, state.gradient, state.norm
        # Vectors are in units of |g|, because the square of |g| may overflow.
        unit = jnp.where(norm > 0, norm, 1)
        share = state.beta / unit
        direction = jax.tree.map(
            lambda g, d: share.astype(g.dtype) * d - g / unit.astype(g.dtype),
            gradient,
            state.direction,
        )
        slope = precision.inner(gradient, direction)
        is_restart = ~((state.step > 0) & (slope < 0))
        direction = jax.tree.map(
            lambda d, g: jnp.where(is_restart, -g / unit.astype(g.dtype), d), direction, gradient
        )
        slope = jnp.where(is_restart, -norm, slope)
        repeated = state.step * state.slope / jnp.where(slope < 0, slope, -1)
        first_step = jnp.where(is_restart, state.length, repeated)
        verdict, products = RUNNING, 0
        if objective.is_quadratic:
            curvature = objective.curvature(params, direction).astype(slope.dtype)
            is_unbounded = (curvature < 0) & (norm > 0)
            first_step = jnp.where(curvature > 0, -slope / curvature, first_step)
            verdict, products = jnp.where(is_unbounded, Status.DIVERGED.value, RUNNING), 1
        found = search(
            objective,
            LinePoint(params, value, gradient),
            direction,
            slope,
            first_step,
            flatness=FLATNESS,
        )

        idle = state.idle.after(value, norm)
        has_failed = ~found.is_accepted & is_restart | idle.is_over
        verdict = jnp.where(has_failed & (verdict == RUNNING), Status.STAGNATED.value, verdict)
        new = found.point.gradient
        change = jax.tree.map(lambda a, b: (a - b) / unit.astype(a.dtype), new, gradient)
        squared = precision.squared_norm(direction)
        new_slope = precision.inner(new, direction) / unit
        beta = unit * _beta(
            precision.inner(change, new) / unit,
            precision.squared_norm(change),
            new_slope,
            new_slope - slope / unit,
            squared,
        )
        bend = jnp.maximum(unit * new_slope - slope, 0) / jnp.where(squared > 0, squared, 1)
        new_state = _ConjugateState(
            found.point.value,
            found.point.gradient,
            precision.norm(found.point.gradient),
            direction,
            slope,
            found.step,
            jnp.where(found.is_accepted, found.step * jnp.sqrt(squared), state.length),
            beta,
            jnp.where(found.step > 0, bend / jnp.where(found.step > 0, found.step, 1), 0),
            idle,
            found.evaluations + products,
            jnp.asarray(verdict, jnp.int32),
        )
        return found.point.params, new_state

    def after_rounding(self, objective: Objective, params: Params, state: State) -> State:
        point = LinePoint.at(objective, params)
        norm = precision.norm(point.gradient)
        return state._replace(value=point.value, gradient=point.gradient, norm=norm)


def _beta(
    change_gradient: jax.Array,
    change_squared: jax.Array,
    slope: jax.Array,
    curvature: jax.Array,
    squared: jax.Array,
) -> jax.Array:
    is_curved = curvature > 0
    safe = jnp.where(is_curved, curvature, 1)
    beta = (change_gradient - 2 * change_squared / safe * slope) / safe
    least = 0.4 * slope / jnp.where(squared > 0, squared, 1)
    return jnp.where(is_curved, jnp.maximum(beta, least), 0)
