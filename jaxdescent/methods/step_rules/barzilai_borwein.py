"""A learning rate from the last step's curvature, with a non-monotone line search as safeguard."""

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
from jaxdescent.numerics.linear_systems import scaled
from jaxdescent.objectives import Objective
from jaxdescent.status import RUNNING, Status

SWITCH = 0.5
"""The short rate is used if it is below this share of the long one."""

SHORT_RATES = 5
"""The number of recent short rates of which the shortest is used."""

CONCAVE_STEPS = 8
"""The number of steps in a row, each ten times longer, after which negative curvature is no longer
taken for rounding."""

GROWTH = 10
"""The factor on the rate after a step that saw no positive curvature."""


class _BarzilaiBorweinState(NamedTuple):
    """The value and gradient of the accepted trial, under the names of optax, and scalars."""

    value: jax.Array
    grad: Params
    rate: jax.Array
    height: jax.Array
    recent: jax.Array
    short: jax.Array
    steps: jax.Array
    concave: jax.Array
    info: Info


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class BarzilaiBorwein(SearchingRule):
    """The inverse of the curvature along the last step: a secant equation in one number.

    With ``s`` the last step and ``y`` the change of the gradient over it, two formulas alternate:
    the long rate ``s.s / s.y`` and, if ``s.y / y.y`` is less than half of it, the shortest of the
    last five such short rates. A short rate reduces the components that long ones would amplify; on
    quadratics this takes about half the steps of strict alternation.

    The function need not fall in every step: a trial ``x - t d`` is accepted if it lies below the
    highest of the last ``memory`` values, ``f(x - t d) <= max f - c t g.d``. Otherwise t becomes
    the minimum of the parabola through value, slope and trial, limited to [t/10, t/2]. For a
    quadratic the rise is computed from the slopes at both ends instead of the values. If rounding
    hides the rise, the trial is accepted: near a minimum the function is nearly quadratic, and on
    quadratics these rates converge without a line search.

    A step takes a gradient for each trial, nearly always one; the accepted trial's gradient serves
    the next step (in an optax loop by ``optax.value_and_grad_from_state``). The rule keeps one
    parameter-sized vector, that gradient; a search also needs the trial and the trial's gradient.
    Negative curvature of a quadratic ends ``DIVERGED``, once eight steps in a row have seen it.

    Args:
      decrease: c, the share of the predicted decrease that is required, in (0, 1).
      memory: M, the number of recent values whose highest counts; with 1 every step descends.
      max_trials: the number of rejections after which the descent ends ``STAGNATED``.

    Raises:
      TypeError: by ``minimize``, if ``decrease`` is not a number, or another not an integer.
      ValueError: by ``minimize``, if one of these is out of its range.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> valley = jd.Quadratic(jnp.diag(jnp.array([1.0, 10.0, 1000.0])))
    >>> result = jd.minimize(valley, jnp.ones(3), jd.GradientDescent(jd.BarzilaiBorwein()))
    >>> bool(result.converged), int(result.iterations) < 50
    (True, True)

    Reference: Barzilai and Borwein (1988), "Two-point step size gradient methods"; Grippo,
    Lampariello and Lucidi (1986), "A nonmonotone line search technique for Newton's method";
    Raydan (1997), "The Barzilai and Borwein gradient method for the large scale unconstrained
    minimization problem"; Frassoldati, Zanni and Zanghirati (2008), "New adaptive stepsize
    selections in gradient methods" (alternation).
    """

    decrease: Any = 1e-4
    memory: int = dataclasses.field(default=10, metadata={"static": True})
    max_trials: int = dataclasses.field(default=60, metadata={"static": True})

    def init(self, params: Params, objective: Objective | None = None) -> State:
        value, gradient = search.evaluation(params, objective)
        rate = scalar(params, 0)
        return _BarzilaiBorweinState(
            value,
            gradient,
            rate,
            height=jnp.full_like(rate, jnp.nan),
            recent=jnp.full((self.memory,), -jnp.inf, rate.dtype),
            short=jnp.full((SHORT_RATES,), jnp.inf, rate.dtype),
            steps=jnp.zeros((), jnp.int32),
            concave=jnp.zeros((), jnp.int32),
            info=Info.none(rate),
        )

    def rate(
        self, objective: Objective, at: LinePoint, direction: Params, state: State
    ) -> tuple[jax.Array, State]:
        rate = search.known_or_first(state.rate, at.params, direction)
        # Slopes are those along ``rate * direction``.
        slope = search.change(at.gradient, direction, rate)
        start = search.start_of_search(objective, at)
        height = start.value
        if objective.is_quadratic:
            height = jnp.where(jnp.isnan(state.height), height, state.height)
        recent = state.recent.at[state.steps % self.memory].set(height)
        highest, rounding = jnp.max(recent) - height, noise(height)

        def rise(trial: Trial) -> jax.Array:
            if not objective.is_quadratic:
                return trial.value - start.value
            # The mean of the slopes at both ends, whose digits do not cancel.
            end_slope = search.change(trial.gradient, direction, rate)
            return jnp.asarray(-(trial.rate / rate) * (slope + end_slope) / 2, height.dtype)

        def accepts(trial: Trial) -> jax.Array:
            decrease = jnp.asarray(self.decrease * (trial.rate / rate) * slope, height.dtype)
            return (rise(trial) <= highest - decrease) | (jnp.abs(rise(trial)) <= rounding)

        def shrunk(trial: Trial) -> jax.Array:
            fall = trial.rate / rate * slope
            above_tangent = rise(trial).astype(slope.dtype) + fall
            minimum = trial.rate * (fall / (2 * above_tangent))
            # A trial that is infinite or NaN says nothing about the parabola.
            minimum = jnp.where(jnp.isfinite(above_tangent), minimum, 0)
            return jnp.clip(minimum, trial.rate / 10, trial.rate / 2)

        trial = search.search(
            objective,
            start,
            direction,
            rate,
            accepts=accepts,
            shrunk=shrunk,
            max_trials=self.max_trials,
        )
        value, gradient, step, accepted, count = trial
        change = jax.tree.map(jnp.subtract, gradient, at.gradient)
        norm = precision.norm(direction)
        # With s = -t d. Both d and y are divided by the length of d, so that products have no
        # units: neither those of two gradients nor those of two steps need be in range.
        per = 1 / jnp.where(norm > 0, norm, 1)
        unit, scaled_change = (scaled(per, precision.widen(of)) for of in (direction, change))
        slope_change, squared = (
            -precision.inner(unit, scaled_change),
            precision.squared_norm(scaled_change),
        )
        is_convex = (slope_change > 0) & (squared > 0)
        long = step / jnp.where(is_convex, slope_change, 1)
        short = step * slope_change / jnp.where(is_convex, squared, 1)
        shorts = state.short.at[state.steps % SHORT_RATES].set(jnp.where(is_convex, short, jnp.inf))
        # Rounding in y shortens the short rate, which would make the next y even less accurate.
        is_hidden = jnp.abs(rise(trial)) <= rounding
        takes_short = (short < SWITCH * long) & ~is_hidden
        secant = jnp.where(takes_short, jnp.min(shorts), long)
        following = jnp.where(is_convex, secant, GROWTH * step)
        is_usable = accepted & jnp.isfinite(following) & (following > 0)
        concave = jnp.where(slope_change < 0, state.concave + 1, 0)
        is_unbounded = objective.is_quadratic & (concave >= CONCAVE_STEPS)
        verdict = jnp.where(accepted, jnp.int32(RUNNING), jnp.int32(Status.STAGNATED.value))
        verdict = jnp.where(is_unbounded, jnp.int32(Status.DIVERGED.value), verdict)
        taken = jnp.where(accepted, step, 0)
        is_long = taken * norm > 0
        curvature = jnp.where(is_long, jnp.sqrt(squared) / jnp.where(is_long, taken, 1), 0)
        new_state = _BarzilaiBorweinState(
            value,
            gradient,
            jnp.where(is_usable, following, rate),
            height + jnp.where(accepted, rise(trial), 0),
            recent,
            shorts,
            state.steps + 1,
            concave,
            Info(count, verdict, curvature.astype(rate.dtype)),
        )
        return taken, new_state

    def check(self) -> None:
        name = "BarzilaiBorwein"
        check_number(f"{name}.decrease", self.decrease, "in (0, 1)", lambda c: 0 < c < 1)
        check_count(f"{name}.memory", self.memory)
        check_count(f"{name}.max_trials", self.max_trials)
