"""The gap of a function, by conjugate gradients on Newton's equations at the point.

The steps minimise the quadratic model ``f + g.s + s.Hs / 2``, in units in which the rows of H have
similar norms, estimated from products with random signs. The value is measured at parts of the
step, and along a direction of negative curvature where one is met: a lower value is a decrease that
no rounding of the step explains. Where the value at the end of the step is as the model says, what
the model gains, and what is left of its gradient over the smallest Ritz value, estimate the gap.

References: Nash and Sofer (1990), "Assessing a search direction within a truncated-Newton method";
Meurant and Tichý (2019), "Approximating the extreme Ritz values and upper bounds for the A-norm of
the error in CG".
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.gap.gap import LEAST_STEPS, NOISE_ULPS, Gap, Query, Trend, worth_of
from jaxdescent.numerics import precision, randomness
from jaxdescent.numerics.linear_systems import add_scaled, inverse
from jaxdescent.numerics.ritz import SmallestRitz
from jaxdescent.objectives import Objective
from jaxdescent.objectives.forward import pushed
from jaxdescent.status import Evidence

PROBES = 4
"""The number of products with random signs by which the rows' norms are estimated."""

PARTS = (1.0, 0.5, 0.125, 1 / 64)
"""The parts of the step, or of the reach along negative curvature, where the value is measured."""

BESIDES = 2 + PROBES + len(PARTS)
"""The evaluations besides the steps: the gradient, the products and the values."""

HOLDS, SAFETY = 0.1, 10.0
"""The deviation of the value at the end of the step from the model, relative to the model's
decrease, up to which the model holds, and the factor on the gap of one that does not."""

OTHERS = 1e-3
"""The part of random directions in the gradient of the model, along which negative curvature shows
that the gradient has no component of."""

SETTLED = 0.1
"""The steps end where what is left is at most this part of what the model has gained."""

MOST_MARKS = 4096
"""The number of steps whose Ritz values are kept."""


def is_possible(objective: Objective, params: Any) -> bool:
    """Whether the function has second derivatives; one with a derivative rule may have none."""

    def product(params: Any) -> Any:
        # The objective is no argument: JAX would keep its function beyond the program.
        return pushed(objective.gradient, (params,), (params,))[1]

    try:
        jax.eval_shape(product, params)
    except Exception:  # a function may raise anything where it was not made to be differentiated
        return False
    return True


class _State(NamedTuple):
    step: Any
    residual: Any
    direction: Any
    squared: jax.Array  # of the residual, in the units of the rows
    model: jax.Array  # the decrease of the model
    rate: jax.Array  # the length of the last step
    share: jax.Array  # the last ratio of squared residuals
    ritz: SmallestRitz
    trend: Trend
    flattest: jax.Array
    largest: jax.Array  # the largest curvature in the units of the rows
    left: jax.Array
    is_curved: jax.Array  # whether every direction had positive curvature
    steps: jax.Array
    is_over: jax.Array


def gap(objective: Objective, params: Any, query: Query) -> Gap:
    """The gap at ``params``: a Hessian-vector product a step, four more, and four values."""
    wide = precision.widen(params)
    gradient = objective.gradient(wide)
    product = functools.partial(objective.hessian_product, wide)
    units, sizes = _units(product, wide)
    energy = precision.inner(wide, product(wide))
    worth = worth_of(energy, sizes, query.eps)
    times = functools.partial(jax.tree.map, jnp.multiply)
    dtype = jnp.result_type(*jax.tree.leaves(wide))
    eps = float(jnp.finfo(dtype).eps)
    allowed = query._replace(worth=worth).allowed(0.0).astype(dtype)
    budget = jnp.maximum(query.budget - BESIDES, LEAST_STEPS)
    # The gradient is divided by its largest entry in these units, so that no square underflows.
    slope = times(units, gradient)
    peak = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(slope)]))
    scale = jnp.where((peak > 0) & (peak < jnp.inf), peak, 1).astype(dtype)
    residual = jax.tree.map(lambda leaf: -leaf / scale.astype(leaf.dtype), slope)
    # Where the gradient is zero, a random direction shows whether there is negative curvature.
    is_level = precision.squared_norm(residual) == 0
    size = sum(leaf.size for leaf in jax.tree.leaves(wide))
    length = OTHERS * precision.norm(residual) / float(size) ** 0.5
    length = jnp.where(is_level, 1, length)
    residual = add_scaled(residual, length, _signs(wide, 1))
    squared = precision.squared_norm(residual).astype(dtype)
    first = squared
    zero, one = jnp.zeros((), dtype), jnp.ones((), dtype)
    state = _State(
        step=jax.tree.map(jnp.zeros_like, residual),
        residual=residual,
        direction=residual,
        squared=squared,
        model=zero,
        rate=one,
        share=zero,
        ritz=SmallestRitz.start((), dtype),
        trend=Trend.start(MOST_MARKS, dtype),
        flattest=jnp.asarray(query.flattest, dtype),
        largest=zero,
        left=jnp.full((), jnp.inf, dtype),
        is_curved=jnp.array(True),
        steps=jnp.zeros((), jnp.int32),
        is_over=~jnp.isfinite(squared),
    )

    def advanced(old: _State) -> _State:
        image = times(units, product(times(units, old.direction)))
        bend = precision.inner(old.direction, image).astype(dtype)
        length = precision.squared_norm(old.direction).astype(dtype)
        quotient = bend * inverse(length)
        largest = jnp.maximum(old.largest, jnp.abs(quotient))
        # A direction that is nearly flat has curvature by the rounding of the first residual.
        rounding = 4 * eps * (1 + 4 * eps * first * inverse(length))
        is_positive = quotient > rounding * largest
        # Flat directions count where the gradient has more than the random part along them.
        is_flat = ~is_positive & (quotient >= -rounding * largest) & (largest > 0)
        is_flat &= is_level | (old.squared <= jnp.square(4 * OTHERS) * first)
        is_curved = is_positive | is_flat
        rate = jnp.where(is_positive, old.squared / jnp.where(is_positive, bend, 1), 0)
        residual = add_scaled(old.residual, -rate, image)
        squared = precision.squared_norm(residual).astype(dtype)
        share = squared * inverse(old.squared)
        root = jnp.where(is_positive, lax.rsqrt(jnp.where(is_positive, rate, 1)), 0)
        below = jnp.where(old.steps > 0, jnp.sqrt(old.share * inverse(old.rate)), 0)
        ritz = old.ritz.after(root, below)
        ritz = jax.tree.map(lambda new, was: jnp.where(is_positive, new, was), ritz, old.ritz)
        count = old.steps + 1
        smallest = jnp.where(ritz.inverse > 0, inverse(ritz.inverse), jnp.inf)
        trend, ahead = old.trend.after(count, smallest)
        flattest = jnp.minimum(old.flattest, smallest)
        theta = jnp.minimum(flattest, ahead)
        model = old.model + jnp.where(is_level, 0, 0.5 * rate * old.squared)
        left = jnp.where(theta > 0, 0.5 * squared * inverse(theta), jnp.inf)
        left = jnp.where((squared == 0) | is_level | is_flat, 0, left)
        unit = scale * scale
        is_accepted = (unit * (model + left) <= allowed) & (count >= LEAST_STEPS)
        is_settled = (unit * model > allowed) & (left <= SETTLED * model)
        is_over = is_accepted | is_settled | ~is_positive | (count >= budget) | (squared == 0)
        return _State(
            step=add_scaled(old.step, rate, old.direction),
            residual=residual,
            direction=jax.tree.map(
                lambda new, was: jnp.where(is_positive, new, was),
                add_scaled(residual, share, old.direction),
                old.direction,
            ),
            squared=squared,
            model=model,
            rate=jnp.where(is_positive, rate, 1),
            share=share,
            ritz=ritz,
            trend=trend,
            flattest=flattest,
            largest=largest,
            left=left,
            is_curved=is_curved,
            steps=count,
            is_over=is_over | ~jnp.isfinite(squared),
        )

    end = lax.while_loop(lambda state: ~state.is_over, advanced, state)
    # Along negative curvature the model has no minimum: the reach is the size of the params.
    along = times(units, jax.tree.map(jnp.where, *_same(end.is_curved, end.step, end.direction)))
    length = precision.norm(along)
    forward = jnp.where(is_level, 0, scale)
    reach = jnp.where(end.is_curved, forward, jnp.where(query.size > 0, query.size, 1))
    reach = jnp.where(end.is_curved, reach, reach * inverse(length)).astype(dtype)

    # The last part is that of a step of the params' size, if the whole step is longer.
    within = jnp.asarray(query.size, dtype) * inverse(reach * length)
    parts = jnp.asarray(PARTS, dtype)
    parts = parts.at[-1].set(jnp.where(within > 0, jnp.minimum(parts[-1], within), parts[-1]))

    def value_at(part: jax.Array) -> jax.Array:
        return jnp.asarray(objective.value(add_scaled(wide, reach * part, along)))

    values = lax.map(value_at, parts)
    value = jnp.asarray(query.value, values.dtype)
    seen = jnp.where(jnp.isfinite(values), values, jnp.inf)
    best = jnp.argmin(seen)
    fallen = value - seen[best]
    noise = NOISE_ULPS * float(jnp.finfo(values.dtype).eps) * jnp.abs(value)
    lower = jnp.maximum(fallen - noise, 0)
    model = (scale * scale * end.model).astype(values.dtype)
    holds = jnp.abs(value - values[0] - model) <= HOLDS * model + noise
    upper = (scale * scale * (end.model + end.left)).astype(values.dtype)
    # A model that does not hold is believed where it shows much less than is allowed.
    safe = jnp.where(SAFETY * upper <= allowed, SAFETY * upper, jnp.inf)
    upper = jnp.where(holds, upper, safe)
    is_known = end.is_curved & jnp.isfinite(upper)
    upper = jnp.where(is_known, jnp.maximum(upper, lower), jnp.inf)
    code = jnp.where(is_known, Evidence.NEWTON_DECREMENT.value, Evidence.NONE.value)
    part = jnp.where(fallen > 0, reach * parts[best], 0)
    moved = add_scaled(wide, part, along)
    return Gap(
        lower=lower,
        upper=upper,
        allowed=allowed.astype(values.dtype),
        evidence=code.astype(jnp.int32),
        params=jax.tree.map(lambda new, old: new.astype(old.dtype), moved, params),
        evaluations=end.steps + BESIDES,
        flattest=end.flattest,
        is_curved=end.is_curved,
    )


def _signs(tree: Any, seed: Any) -> Any:
    """Random signs in place of the elements of a tree."""
    leaves, treedef = jax.tree.flatten(tree)
    words = [
        randomness.bits(leaf.shape, randomness.fold(seed, index)) >> 31
        for index, leaf in enumerate(leaves)
    ]
    signs = [1 - 2 * word.astype(leaf.dtype) for word, leaf in zip(words, leaves, strict=True)]
    return treedef.unflatten(signs)


def _units(product: Any, params: Any) -> tuple[Any, jax.Array]:
    """One over the roots of the estimated norms of H's rows, and the sum of the squares of the
    params in these units.
    """

    def added(index: jax.Array, lengths: Any) -> Any:
        image = product(_signs(params, jnp.asarray(index, jnp.uint32)))
        return jax.tree.map(lambda s, z: s + jnp.abs(z) / PROBES, lengths, image)

    # The mean of absolute values: squares would underflow.
    lengths = lax.fori_loop(0, PROBES, added, jax.tree.map(jnp.zeros_like, params))

    def unit(length: jax.Array) -> jax.Array:
        is_usable = (length > 0) & jnp.isfinite(length)
        return jnp.where(is_usable, lax.rsqrt(jnp.where(is_usable, length, 1)), 1)

    units = jax.tree.map(unit, lengths)
    own = jax.tree.map(lambda x, d, s: jnp.where(s > 0, x / d, 0), params, units, lengths)
    return units, precision.squared_norm(own)


def _same(condition: jax.Array, new: Any, old: Any) -> tuple[Any, Any, Any]:
    """The condition for each leaf, and both trees."""
    return jax.tree.map(lambda _: condition, new), new, old
