"""How a claim to have converged is tested on a function that is not quadratic.

The gradients of a descent mislead a method in two cases. In a long flat valley of float32 the
remaining gradient is mostly the rounding of steep directions, or the oscillation of a momentum
across them: the rate at which it falls says nothing about the valley. And across a kink two
neighbouring gradients may differ by any amount: a curvature estimated from their difference grows
without bound as the steps shrink, and so does every scale that is derived from it.

Both errors show at the point itself. Conjugate gradients on Newton's equations there, with
Hessian-vector products, give a step that goes along flat directions too, and the value at its end
is measured: if it is lower by far more than the tolerance allows, the function itself refutes the
claim, whatever rounding the step has. And the products give a curvature that no kink enters.

The steps minimise the quadratic model of the function. Its decrease is an estimate of half the
squared Newton decrement where the second half of the steps adds little to it, and none met negative
curvature. A descent that ends without a claim, because rounding hides its rate, is judged by it. A
claim takes steps until the residual of the equations has fallen, where a flat direction shows
beside steep ones, and on where the model falls by a share of what is allowed.
(:func:`jaxdescent.second_order.stationarity.judged` solves the same equations for certificates.)
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxdescent.descent.looks import Asked, Look
from jaxdescent.descent.suboptimality import NOISE_ULPS
from jaxdescent.descent.watch import Loop
from jaxdescent.inputs.functions import anew
from jaxdescent.numerics import precision, randomness
from jaxdescent.objectives import Objective, Params
from jaxdescent.objectives.forward import pushed
from jaxdescent.status import Status
from jaxdescent.tolerance import ResolvedTolerance

MOST_UNKNOWNS = 1 << 16
"""The most unknowns for which the memory of a look's vectors does not matter."""

STEPS, MOST_STEPS = 16, 512
"""The steps of conjugate gradients that every look takes, and the most of any look."""

LITTLE, FALLEN = 1 / 16, 1e-2
"""The share of what is allowed by which the model of a claim in no doubt falls, and the residual of
Newton's equations, relative to the gradient, where a flat direction would show beside steep ones.
"""

SETTLED, LEAST_STEPS = 0.1, 64
"""The share of the model's decrease that the second half of the steps may add, and the fewest steps
of both halves."""

FRACTIONS = (1.0, 0.25)
"""The parts of the step at whose ends the value is measured."""

SHARE = 4.0
"""The bound on the largest curvature is this factor times the root of the number of unknowns, times
the largest ratio of a product's norm to its vector's, in the maximum norm."""

STEEP = 10.0
"""The factor by which the gradient must exceed its tolerance to refute a claim."""


class _State(NamedTuple):
    """The state of the steps; at their end with an estimated upper bound on the largest curvature,
    and half the squared Newton decrement, infinite if the steps do not find it.
    """

    place: jax.Array
    step: jax.Array
    residual: jax.Array
    direction: jax.Array
    squared: jax.Array
    unit: jax.Array
    lowest: jax.Array
    curvature: jax.Array
    decrement: jax.Array
    mark: jax.Array
    fallen: jax.Array
    is_settled: jax.Array


def is_possible(objective: Objective, params: Params, *, is_tried: bool = True) -> bool:
    """Whether the unknowns are few enough, and the function can be differentiated twice.

    A function with a custom derivative rule may have first derivatives only; without ``is_tried``
    the second ones are taken for granted.
    """
    if sum(leaf.size for leaf in jax.tree.leaves(params)) > MOST_UNKNOWNS:
        return False
    if not is_tried:
        return True

    def at(params: Params) -> tuple[jax.Array, Params, Params]:
        # The objective is no argument: JAX would keep its function beyond the program.
        return _evaluated(objective, params, params)

    try:
        jax.eval_shape(at, params)
    except Exception:  # a function may raise anything where it was not made to be differentiated
        return False
    return True


def seen_at(
    objective: Objective,
    params: Params,
    *,
    is_claim: Any = True,
    allowed: Any = math.inf,
    most: Any = MOST_STEPS,
) -> _State:
    """The lowest value, the curvature and the Newton decrement that conjugate gradients find at
    ``params``.

    Where there is a claim to be within ``allowed`` of the minimum, they take steps until the claim
    is in no doubt, and otherwise until the decrement is found. This takes 19 to 515 evaluations
    with a product each, and about ``most``. All evaluations are of one kind and stand in one loop,
    so that the function is compiled once.
    """
    x, unravel = ravel_pytree(params)
    value = jax.eval_shape(anew(objective.value), params)
    few, little = min(2 * x.size, STEPS), jnp.asarray(LITTLE * allowed, x.dtype)
    fractions = jnp.asarray((0.0, *FRACTIONS), x.dtype)
    draw = randomness.normal(x.shape, randomness.fold(5), x.dtype)
    zero = jnp.zeros((), x.dtype)
    look = _State(
        place=jnp.zeros((), jnp.int32),
        step=jnp.zeros_like(x),
        residual=jnp.zeros_like(x),
        direction=jnp.where(draw < 0, -1, 1).astype(x.dtype),
        squared=zero,
        unit=zero,
        lowest=jnp.full((), jnp.inf, value.dtype),
        curvature=zero,
        decrement=zero,
        mark=zero,
        fallen=zero,
        is_settled=jnp.array(False),
    )

    def advanced(look: _State) -> _State:
        fraction = fractions[jnp.maximum(look.place - MOST_STEPS, 0)]
        at = unravel(x + fraction * look.unit * look.step)
        value, *columns = _evaluated(objective, at, unravel(look.direction))
        gradient, image = (ravel_pytree(column)[0] for column in columns)
        is_first, is_measure = look.place == 0, look.place > MOST_STEPS
        # The gradient is divided by its largest entry, so that its square does not overflow.
        peak = jnp.max(jnp.abs(gradient))
        unit = jnp.where(is_first, jnp.where(peak > 0, peak, 1), look.unit)
        bend = jnp.max(jnp.abs(image)) / jnp.max(jnp.abs(look.direction))
        curvature = jnp.sum(look.direction * image)
        goes_on = ~(is_first | is_measure) & (curvature > 0) & (look.squared > 0)
        rate = jnp.where(goes_on, look.squared / jnp.where(goes_on, curvature, 1), 0)
        residual = jnp.where(is_first, -gradient / unit, look.residual - rate * image)
        squared = jnp.sum(jnp.square(residual))
        share = jnp.where(goes_on, squared / jnp.where(goes_on, look.squared, 1), 0)
        is_new = is_first | goes_on
        decrement = look.decrement + 0.5 * rate * look.squared
        is_half = (look.place & (look.place - 1)) == 0
        is_settled = is_half & (decrement - look.mark <= SETTLED * decrement)
        is_settled &= goes_on & (look.place >= LEAST_STEPS)
        is_settled |= look.is_settled | (squared == 0)
        fallen = jnp.where(is_first, FALLEN**2 * squared, look.fallen)
        is_enough = jnp.where(is_claim, squared <= fallen, is_settled)
        is_enough &= (unit * (unit * decrement) <= little) | is_settled
        is_over = ~is_new | ((is_enough | (look.place >= most)) & (look.place >= few))
        return _State(
            place=jnp.where(is_over, jnp.maximum(look.place, MOST_STEPS), look.place) + 1,
            step=look.step + rate * look.direction,
            residual=residual,
            direction=jnp.where(is_new, residual + share * look.direction, look.direction),
            squared=squared,
            unit=unit,
            lowest=jnp.where(is_measure & (value < look.lowest), value, look.lowest),
            curvature=jnp.where(is_measure, look.curvature, jnp.fmax(look.curvature, bend)),
            decrement=decrement,
            mark=jnp.where(is_half, decrement, look.mark),
            fallen=fallen,
            is_settled=is_settled,
        )

    look = lax.while_loop(lambda look: look.place < MOST_STEPS + fractions.size, advanced, look)
    bound = SHARE * float(x.size) ** 0.5 * look.curvature
    decrement = look.unit * (look.unit * look.decrement)
    decrement = jnp.where(look.is_settled, decrement, jnp.inf)
    return look._replace(curvature=bound, decrement=decrement)


def _evaluated(
    objective: Objective, at: Params, direction: Params
) -> tuple[jax.Array, Params, Params]:
    """The value, the gradient, and the Hessian's product with a direction."""
    (value, gradient), (_, image) = pushed(objective.value_and_gradient, (at,), (direction,))
    return jnp.asarray(value), gradient, image


def look(objective: Objective, tolerance: ResolvedTolerance, loop: Loop, asked: Asked) -> Look:
    """The look by how far a step lowers the value, beside what is allowed by the measured
    curvature, which no kink enters. The decrease is infinite where the gradient is not small by
    this curvature. Without a claim it is half the squared Newton decrement, if this is known.
    """
    watch, is_claim = loop.watch, asked.is_claim
    how = {"is_claim": is_claim, "allowed": asked.allowed, "most": 2 * loop.iteration}
    seen = seen_at(objective, loop.params, **how)
    size, height = watch.size.scale, jnp.abs(loop.value)
    worth = (0.5 * seen.curvature * size * size).astype(height.dtype)
    floor = jnp.minimum(watch.floor, precision.epsilon(loop.params) * worth)
    allowed = jnp.minimum(asked.allowed, tolerance.allowed(height, floor))
    # The difference of two values has the rounding of both.
    noise = NOISE_ULPS * float(jnp.finfo(height.dtype).eps) * height
    falls = loop.value - seen.lowest
    falls = jnp.where(falls > noise, falls, 0)
    if tolerance.off.gradient is not True and not tolerance.is_by_leaf:
        own = height.astype(size.dtype) / jnp.where(size > 0, size, 1)
        own = jnp.maximum(own, seen.curvature * size)
        scale = STEEP * jnp.maximum(watch.reference, own)
        is_steep = jnp.logical_not(tolerance.is_small_gradient(loop.norm, scale))
        falls = jnp.where(is_steep & (loop.status != Status.STAGNATED.value), jnp.inf, falls)
    decrement = seen.decrement.astype(falls.dtype)
    is_exact = jnp.isfinite(decrement) & jnp.logical_not(is_claim)
    falls = jnp.where(is_exact, jnp.maximum(falls, decrement), falls)
    return Look(falls, falls > allowed, is_exact, jnp.zeros_like(is_exact))
