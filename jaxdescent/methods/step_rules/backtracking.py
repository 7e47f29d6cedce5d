"""Shrink the learning rate until the step decreases the objective."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.inputs.numbers import check_count, check_number
from jaxdescent.methods.line_search import LinePoint
from jaxdescent.methods.protocol import Params, State
from jaxdescent.methods.step_rules import search
from jaxdescent.methods.step_rules.search import SearchingRule, Trial, noise
from jaxdescent.methods.step_rules.transformation import Info, scalar
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
    info: Info


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

    With ``momentum`` the share c is 1/2, as its theory requires, and the rate grows by ``grow``
    only after the momentum was dropped, by a twentieth otherwise. The gradient where momentum leads
    is one more evaluation, except for a quadratic, whose gradient is extrapolated like the params.

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

    def init(self, params: Params, objective: Objective | None = None) -> State:
        rate, growth = scalar(params, 0), scalar(params, self.grow)
        return _BacktrackingState(
            *search.evaluation(params, objective), rate, growth, Info.none(rate)
        )

    def rate(
        self, objective: Objective, at: LinePoint, direction: Params, state: State
    ) -> tuple[jax.Array, State]:
        is_quadratic = objective.is_quadratic
        rate = search.known_or_first(state.rate, at.params, direction)
        # Slopes are those along ``rate * direction``.
        slope = search.change(at.gradient, direction, rate)
        start = search.start_of_search(objective, at)

        def accepts(trial: Trial) -> jax.Array:
            end_slope = search.change(trial.gradient, direction, rate)
            is_gentle = end_slope >= -(1 - 2 * self.decrease) * slope
            if is_quadratic:
                return is_gentle
            value, rounding = trial.value, noise(start.value)
            decrease = jnp.asarray(self.decrease * (trial.rate / rate) * slope, start.value.dtype)
            is_lower = (value <= start.value - decrease) & (value < start.value - rounding)
            return is_lower | ((value <= start.value + rounding) & is_gentle)

        trial = search.search(
            objective,
            start,
            direction,
            state.growth * rate,
            accepts=accepts,
            shrunk=lambda trial: trial.rate * self.shrink,
            max_trials=self.max_trials,
        )
        value, gradient, step, accepted, count = trial
        # If the rate is so small that nothing changes, it grows faster than by doubling.
        is_idle = (count == 1) & (jnp.abs(value - start.value) <= noise(start.value))
        end_slope = search.change(gradient, direction, rate)
        is_idle &= end_slope >= 0.9 * slope
        growth = jnp.where(is_idle, jnp.minimum(jnp.square(state.growth), FASTEST), self.grow)
        growth = jnp.maximum(growth, self.grow).astype(rate.dtype)
        verdict = jnp.where(accepted, jnp.int32(RUNNING), jnp.int32(Status.STAGNATED.value))
        norm = precision.norm(direction).astype(rate.dtype)
        is_curved = accepted & (end_slope < slope) & (rate * norm > 0) & (step * norm > 0)
        # The square of a length need not be in range.
        curvature = (slope - end_slope) / jnp.where(is_curved, rate * norm, 1)
        curvature = jnp.where(is_curved, curvature / jnp.where(is_curved, step * norm, 1), 0)
        last = jnp.where(accepted, step, rate)
        info = Info(count, verdict, curvature.astype(rate.dtype))
        state = _BacktrackingState(value, gradient, last, growth, info)
        return jnp.where(accepted, step, 0), state

    def under_momentum(self, has_restarted: Any) -> Backtracking:
        """The rule for steps that momentum extends: ``f(x - t g) <= f(x) - t/2 |g|^2``, and a rate
        that grows little until the momentum is dropped.
        """
        grow = jnp.where(has_restarted, self.grow, jnp.minimum(self.grow, GROWTH))
        return dataclasses.replace(self, decrease=0.5, grow=grow)

    def check(self) -> None:
        check_number("Backtracking.decrease", self.decrease, "in (0, 1/2)", lambda c: 0 < c < 0.5)
        check_number("Backtracking.shrink", self.shrink, "in (0, 1)", lambda c: 0 < c < 1)
        check_number("Backtracking.grow", self.grow, "at least 1", lambda c: 1 <= c < float("inf"))
        check_count("Backtracking.max_trials", self.max_trials)
