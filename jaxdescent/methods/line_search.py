"""A line search that also works where the decrease of the objective is below rounding.

Along a direction d from params x, with ``phi(t) = f(x + t d)``, a step t is accepted if the slope
has become flat enough and the value has not risen:

- Wolfe: ``phi(t) <= phi(0) + decrease t phi'(0)`` and ``phi'(t) >= flatness phi'(0)``, if the
  value falls by more than noise; or
- approximate Wolfe: ``flatness phi'(0) <= phi'(t) <= (2 decrease - 1) phi'(0)`` and
  ``phi(t) <= phi(0) + noise``. This asks for the same decrease, computed from the two slopes, which
  keep their digits near a minimum where the values' difference cancels.

A step that is not accepted becomes an end of a bracket: the lower end if its value is not above the
start's and its slope is negative, else the upper end. The next step is the minimum of the cubic
through the ends' values and slopes, or the zero of the slopes' secant if the values differ by noise
only. If a step left the objective's domain (NaN, infinity), the next one is ten times shorter.

Reference: Hager and Zhang (2005), "A new conjugate gradient method with guaranteed descent and an
efficient line search".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.kernels import loops
from jaxdescent.kernels.branches import where
from jaxdescent.numerics import precision
from jaxdescent.numerics.linear_systems import add_scaled
from jaxdescent.objectives import Objective

Params = Any

MAX_TRIALS = 30
"""The most trials; from half of them on, a sufficient decrease is enough."""

DECREASE = 1e-3
"""The least decrease, as a share of the decrease that the first slope predicts."""

NOISE_ULPS = 64
"""The number of ulps by which two values may differ through rounding alone."""


MAX_IDLE = 30
"""After this many steps in a row without a lower value or gradient, only noise is left."""


class LinePoint(NamedTuple):
    """Params, and the objective's value and gradient there."""

    params: Params
    value: Any
    gradient: Params


class FoundStep(NamedTuple):
    """The end of a search, which is the start if the search failed."""

    point: LinePoint  # the end
    # In units of the direction, which :func:`search` follows and the trials of step rules go
    # against; of no meaning after a search that failed.
    step: jax.Array
    is_accepted: jax.Array  # whether a step was found
    evaluations: jax.Array  # how many values and gradients were computed


class _End(NamedTuple):
    step: jax.Array
    value: jax.Array
    slope: jax.Array


class _Search(NamedTuple):
    point: Any  # a LinePoint; () where only the scalars are needed
    step: jax.Array
    next_step: jax.Array
    low: _End
    high: _End
    is_accepted: jax.Array
    evaluations: jax.Array


def search(
    objective: Objective,
    start: LinePoint,
    direction: Params,
    slope: jax.Array,
    first_step: Any,
    *,
    flatness: float = 0.9,
    is_start: Any = False,
) -> FoundStep:
    """An acceptable step along ``direction``, whose slope at the start is given: if it is not
    negative the search fails at once. For a quadratic the slopes alone decide.

    It is found in one loop with one evaluation in its body, and keeps two parameter-sized vectors
    besides its arguments: the trial and its gradient. ``flatness`` is the share of the first slope
    that may be left, in (2 DECREASE, 1): a small one asks for an almost exact minimum on the line.
    Where ``is_start``, x has not been evaluated: with a direction of zero it is the only trial, and
    is accepted.
    """
    dtype = slope.dtype
    origin = _End(jnp.zeros((), dtype), start.value.astype(dtype), slope)
    noise = NOISE_ULPS * jnp.finfo(start.value.dtype).eps * jnp.abs(origin.value)

    def goes_on(search: _Search) -> jax.Array:
        # If no number is left between the bracket's ends, the next step equals one of them.
        is_new = (search.next_step > search.low.step) & (search.next_step < search.high.step)
        return ~search.is_accepted & is_new & (search.evaluations < MAX_TRIALS)

    def decided(search: _Search, here: _End) -> _Search:
        """The search after the trial ``here``, without the trial's params and gradient."""
        evaluations = search.evaluations + 1

        is_finite = jnp.isfinite(here.value) & jnp.isfinite(here.slope)
        is_level = here.value <= origin.value + noise
        is_lower = here.value <= origin.value + DECREASE * here.step * slope
        is_flat = here.slope >= flatness * slope
        is_gentle = is_flat & (here.slope <= (2 * DECREASE - 1) * slope)
        is_late = (evaluations >= MAX_TRIALS // 2) & (here.value < origin.value)
        # A decrease within rounding is no evidence: a step that goes far up the other side of the
        # valley may show one, too.
        is_lower = is_lower & (here.value < origin.value - noise)
        by_value = (is_lower & (is_flat | is_late)) | (is_level & is_gentle)
        is_accepted = is_finite & (is_gentle if objective.is_quadratic else by_value)
        is_accepted |= is_start

        is_low = is_finite & is_level & (here.slope < 0)
        low = where(is_low, here, search.low)
        high = where(is_low, search.high, here)
        bounded = _inside(low, high, noise, search.high.step - search.low.step)
        beyond = _beyond(search.low, here)
        return _Search(
            (),
            here.step,
            jnp.where(jnp.isinf(high.step), beyond, bounded),
            low,
            high,
            is_accepted,
            evaluations,
        )

    def attempt(search: _Search) -> _Search:
        step = search.next_step
        params = add_scaled(start.params, step, direction)
        value, gradient = objective.value_and_gradient(params)
        trial = LinePoint(params, jnp.asarray(value, start.value.dtype), gradient)
        here = _End(step, trial.value.astype(dtype), precision.inner(gradient, direction))
        # The comparisons are one kernel, where XLA would compile each of them by itself.
        without = search._replace(point=())
        return loops.one_turn(lambda: decided(without, here))._replace(point=trial)

    infinite = jnp.full((), jnp.inf, dtype)
    is_tried = (slope < 0) | is_start
    found = lax.while_loop(
        goes_on,
        attempt,
        _Search(
            start,
            origin.step,
            jnp.where(is_tried, jnp.asarray(first_step, dtype), 0),
            origin,
            _End(infinite, infinite, infinite),
            jnp.array(False),
            jnp.zeros((), jnp.int32),
        ),
    )
    point, step = where(found.is_accepted, (found.point, found.step), (start, origin.step))
    return FoundStep(point, step, found.is_accepted, found.evaluations)


class Idle(NamedTuple):
    """The lowest value and gradient norm so far, and the number of steps since a decrease."""

    value: jax.Array
    norm: jax.Array
    steps: jax.Array

    @classmethod
    def start(cls, value: jax.Array, norm: jax.Array) -> Idle:
        """The state before the first step, which always counts as an improvement."""
        return cls(
            jnp.full_like(value, jnp.inf), jnp.full_like(norm, jnp.inf), jnp.zeros((), jnp.int32)
        )

    def after(self, value: jax.Array, norm: jax.Array) -> Idle:
        """The state with one more value and norm; a decrease within rounding does not count."""
        noise = 4 * jnp.finfo(value.dtype).eps * jnp.abs(value)
        is_better = (value < self.value - noise) | (norm < 0.9 * self.norm)
        return Idle(
            jnp.where(is_better, jnp.minimum(value, self.value), self.value),
            jnp.where(is_better, jnp.minimum(norm, self.norm), self.norm),
            jnp.where(is_better, 0, self.steps + 1),
        )

    @property
    def is_over(self) -> jax.Array:
        """Whether only noise is left."""
        return self.steps >= MAX_IDLE


def first_length(params: Params, value: jax.Array, norm: jax.Array) -> jax.Array:
    """The length of the first step: the params' size, but no farther than f falls to ``-|f|``."""
    size = jnp.maximum(precision.norm(params).astype(norm.dtype), 1)
    fall = 2 * jnp.abs(value).astype(norm.dtype) / jnp.where(norm > 0, norm, 1)
    return jnp.where((fall > 0) & (fall < size), fall, size)


def _inside(low: _End, high: _End, noise: jax.Array, last_width: jax.Array) -> jax.Array:
    """The next step in a bracket: by cubic, secant, or bisection if these shrink it too slowly."""
    width = high.step - low.step
    # The minimum of the Hermite cubic: Nocedal and Wright (2006), equation 3.59. Slopes are divided
    # by the lower end's, so that no square overflows.
    scale = -low.slope
    chord = (high.value - low.value) / (width * scale)
    end_slope = high.slope / scale
    d1 = -1 + end_slope - 3 * chord
    root = jnp.sqrt(jnp.maximum(d1 * d1 + end_slope, 0))
    cubic = 1 - (end_slope + root - d1) / (end_slope + 1 + 2 * root)
    secant = 1 / (1 + end_slope)
    is_noise = (jnp.abs(high.value - low.value) <= 4 * noise) & (end_slope > 0)
    fraction = jnp.where(is_noise, secant, cubic)
    is_slow = width > 0.66 * last_width
    fraction = jnp.where(jnp.isfinite(fraction) & ~is_slow, fraction, 0.5)
    is_outside = ~(jnp.isfinite(high.value) & jnp.isfinite(high.slope))
    fraction = jnp.where(is_outside, 0.1, jnp.clip(fraction, 0.1, 0.9))
    return low.step + fraction * width


def _beyond(low: _End, here: _End) -> jax.Array:
    """The next step if the objective still falls at the last one: one to nine widths farther."""
    width = here.step - low.step
    ahead = here.slope / (low.slope - here.slope)
    ahead = jnp.where(here.slope > low.slope, ahead, 9)
    # The step must stay in the dtype's range; if it is too long, the bracket will shorten it.
    return jnp.minimum(here.step + jnp.clip(ahead, 1, 9) * width, jnp.finfo(width.dtype).max)
