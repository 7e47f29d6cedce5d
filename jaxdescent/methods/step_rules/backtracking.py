"""Shrink the learning rate until the step decreases the objective."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.inputs.numbers import check_count, check_number
from jaxdescent.methods.line_search import FoundStep, LinePoint
from jaxdescent.methods.protocol import Params, State
from jaxdescent.methods.step_rules import trials
from jaxdescent.methods.step_rules.transformation import Move, moved, scalar
from jaxdescent.methods.step_rules.trials import SearchingRule, noise
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective
from jaxdescent.status import RUNNING, Status

GROWTH = 1.05
"""The growth of the rate in a step with momentum, which makes up for rejections due to rounding."""

FASTEST = 1024.0
"""The largest growth of a rate at which nothing changes."""


class _BacktrackingState(NamedTuple):
    """The value, gradient and rate of the accepted trial.

    ``value`` and ``grad`` are the names that optax looks for. ``growth`` is the factor from this
    rate to the next first trial's.
    """

    value: jax.Array
    grad: Params
    rate: jax.Array
    growth: jax.Array


class _MomentumState(NamedTuple):
    """The last rate, and the absolute value of the objective at the start."""

    rate: jax.Array
    magnitude: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Backtracking(SearchingRule):
    """Try twice the last learning rate, and shrink it until the step decreases the objective.

    A trial ``x - t d`` (``d`` is the gradient g, or what a chain made of it) is accepted if
    ``f(x - t d) <= f(x) - c t g.d`` (Armijo). Near the optimum rounding hides that difference.
    There, and for quadratics everywhere, the slope at the trial decides instead:
    ``d . gradient(x - t d) >= -(1 - 2 c) g.d`` (approximate Wolfe, the same condition with the
    decrease computed from the two slopes).

    If a first trial is accepted that changes neither value nor slope, the rate is far too small,
    as after a start in a steep region: the growth factor 2 is then squared each time.

    A step takes a gradient for each trial; the accepted trial's gradient serves the next step (in
    an optax loop by ``optax.value_and_grad_from_state``). The rule keeps one parameter-sized
    vector, that gradient; a search also needs the trial and the trial's gradient.

    With ``momentum`` the share c is 1/2, as the theory of momentum requires; the rate grows by
    ``grow`` only when the momentum restarts, and by a twentieth otherwise; and no gradient is kept.
    For a quadratic the curvature along g (for a regression one more pass over X) gives the rate
    without trials.

    Args:
      decrease: c, the share of the predicted decrease that is required, in (0, 1/2). Along a
        direction of curvature L, rates up to ``2 (1 - c) / L`` are accepted; with a small c they
        may be so near the stability limit ``2 / L`` that the error there hardly shrinks.
      shrink: the factor on the rate after a rejection, in (0, 1).
      grow: the factor from the last accepted rate to a step's first trial, at least 1.
      max_trials: the number of rejections after which the descent ends ``STAGNATED``.

    Raises:
      TypeError: by ``minimize``, if one of these is not a number, or ``max_trials`` not an integer.
      ValueError: by ``minimize``, if one of these is out of its range.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> result = jd.minimize(lambda x: jnp.sum(jnp.cosh(x)), jnp.array([2.0, -1.0]),
    ...                      jd.GradientDescent(jd.Backtracking()))
    >>> result.message.split(":")[0]
    'CONVERGED'

    Reference: Armijo (1966), "Minimization of functions having Lipschitz continuous first partial
    derivatives"; Hager and Zhang (2005), "A new conjugate gradient method with guaranteed descent
    and an efficient line search"; Beck and Teboulle (2009), "A fast iterative
    shrinkage-thresholding algorithm for linear inverse problems".
    """

    decrease: Any = 0.3
    shrink: Any = 0.5
    grow: Any = 2.0
    max_trials: int = dataclasses.field(default=60, metadata={"static": True})

    def start(self, params: Params, objective: Objective | None = None) -> State:
        rate, growth = scalar(params, 0), scalar(params, self.grow)
        return _BacktrackingState(*trials.evaluation(params, objective), rate, growth)

    def move(self, objective: Objective, at: LinePoint, direction: Params, state: State) -> Move:
        is_quadratic = objective.is_quadratic
        rate = trials.known_or_first(state.rate, at.params, direction)
        # Slopes are those along ``rate * direction``.
        slope = trials.change(at.gradient, direction, rate)
        start = trials.start_of_search(objective, at)

        def accepts(trial: FoundStep) -> jax.Array:
            end_slope = trials.change(trial.point.gradient, direction, rate)
            is_gentle = end_slope >= -(1 - 2 * self.decrease) * slope
            if is_quadratic:
                return is_gentle
            value, room = trial.point.value, noise(start.value)
            decrease = jnp.asarray(self.decrease * (trial.step / rate) * slope, start.value.dtype)
            is_lower = (value <= start.value - decrease) & (value < start.value - room)
            return is_lower | ((value <= start.value + room) & is_gentle)

        trial = trials.search(
            objective,
            start,
            direction,
            state.growth * rate,
            accepts=accepts,
            shrunk=lambda trial: trial.step * self.shrink,
            max_trials=self.max_trials,
        )
        (params, value, gradient), step, accepted, count = trial
        # If the rate is so small that nothing changes, it grows faster than by doubling.
        is_idle = (count == 1) & (jnp.abs(value - start.value) <= noise(start.value))
        end_slope = trials.change(gradient, direction, rate)
        is_idle &= end_slope >= 0.9 * slope
        growth = jnp.where(is_idle, jnp.minimum(jnp.square(state.growth), FASTEST), self.grow)
        state = _BacktrackingState(
            value,
            gradient,
            jnp.where(accepted, step, rate),
            jnp.maximum(growth, self.grow).astype(rate.dtype),
        )
        verdict = jnp.where(accepted, RUNNING, Status.STAGNATED.value)
        norm = precision.norm(direction).astype(rate.dtype)
        is_bent = accepted & (end_slope < slope) & (rate * norm > 0) & (step * norm > 0)
        # The square of a length need not be in range.
        curvature = (slope - end_slope) / jnp.where(is_bent, rate * norm, 1)
        curvature = jnp.where(is_bent, curvature / jnp.where(is_bent, step * norm, 1), 0)
        return Move(params, jnp.where(accepted, step, 0), state, count, verdict, curvature)

    def start_under_momentum(self, state: _BacktrackingState) -> _MomentumState:
        """The part of the start's state that is needed with momentum."""
        return _MomentumState(state.rate, jnp.abs(state.value))

    def rate_under_momentum(
        self, objective: Objective, at: LinePoint, state: _MomentumState, has_restarted: jax.Array
    ) -> tuple[jax.Array, _MomentumState, jax.Array, jax.Array]:
        """The first t, from a little more than the last, with ``f(x - t g) <= f(x) - t/2 |g|^2``;
        the new state, the number of evaluations, and a status code.

        ``has_restarted`` says whether the momentum has just been dropped.
        For a quadratic this holds exactly if ``t <= |g|^2 / g.Hg``: one curvature and no trial. For
        other functions a trial takes a value, and if rounding hides the decrease also a gradient.
        The rounding is taken as large as that of the value at the start, because terms of the value
        may have kept that size.
        """
        norm = precision.norm(at.gradient)
        last = trials.known_or_first(state.rate, at.params, at.gradient)
        first = last * jnp.where(has_restarted, self.grow, GROWTH).astype(last.dtype)
        if objective.is_quadratic:
            length = jnp.where(norm > 0, norm, 1)
            unit = jax.tree.map(lambda g: g / length.astype(g.dtype), at.gradient)
            curvature = objective.curvature(at.params, unit)
            bound = 1 / jnp.where(curvature > 0, curvature, 1)
            rate = jnp.where(curvature > 0, jnp.minimum(first, bound), first)
            is_unbounded = (curvature < 0) & (norm > 0)
            verdict = jnp.where(is_unbounded, Status.DIVERGED.value, RUNNING)
            one = jnp.array(1, jnp.int32)
            return rate, state._replace(rate=rate), one, verdict
        value = jnp.asarray(at.value, state.magnitude.dtype)
        room = noise(jnp.maximum(jnp.abs(value), state.magnitude))

        def is_accepted(rate: jax.Array) -> jax.Array:
            trial = moved(at.params, at.gradient, rate)
            lower = jnp.asarray(objective.value(trial), value.dtype)
            decrease = jnp.asarray(rate * norm * norm / 2, value.dtype)

            def by_slope() -> jax.Array:
                return trials.change(objective.gradient(trial), at.gradient, last) >= 0

            is_hidden = jnp.abs(lower - value) <= room
            return lax.cond(is_hidden, by_slope, lambda: lower <= value - decrease)

        def attempt(rate: jax.Array, count: jax.Array) -> tuple[jax.Array, ...]:
            return rate, is_accepted(rate), count

        rate, accepted, count = lax.while_loop(
            lambda carry: ~carry[1] & (carry[2] < self.max_trials),
            lambda carry: attempt(carry[0] * self.shrink, carry[2] + 1),
            attempt(first, jnp.ones((), jnp.int32)),
        )
        verdict = jnp.where(accepted, RUNNING, Status.STAGNATED.value)
        state = state._replace(rate=jnp.where(accepted, rate, last))
        return jnp.where(accepted, rate, 0), state, count, verdict

    def check(self) -> None:
        check_number("Backtracking.decrease", self.decrease, "in (0, 1/2)", lambda c: 0 < c < 0.5)
        check_number("Backtracking.shrink", self.shrink, "in (0, 1)", lambda c: 0 < c < 1)
        check_number("Backtracking.grow", self.grow, "at least 1", lambda c: 1 <= c < float("inf"))
        check_count("Backtracking.max_trials", self.max_trials)
