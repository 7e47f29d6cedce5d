"""Rules that find the learning rate of each gradient step themselves."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent import precision
from jaxdescent.methods.protocol import Params, Progress, State
from jaxdescent.objectives import Objective
from jaxdescent.result import RUNNING, Status


class StepSize(abc.ABC):
    """A rule for ``GradientDescent(learning_rate=rule)``, with the signature of a method."""

    @abc.abstractmethod
    def init(self, objective: Objective, params: Params) -> State:
        """The state before the first step."""

    @abc.abstractmethod
    def step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State, Progress]:
        """One gradient step with a learning rate of the rule's own."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ExactLineSearch(StepSize):
    """``learning_rate = |g|^2 / (g.Hg)``: the minimum along the gradient of the local quadratic.

    One Hessian-vector product a step (for a regression one more pass over X). Exact for
    quadratics, where negative curvature means that there is no minimum: the descent ends
    ``DIVERGED``. On other functions the curvature's magnitude is used, without a guarantee of
    descent: prefer :class:`Backtracking` there. Keeps one parameter-sized vector, the gradient,
    and needs a second for the product while it is reduced.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> bowl = jd.SumOfSquares(scale=3.0)
    >>> result = jd.minimize(bowl, jnp.array([1.0, -4.0]), jd.GradientDescent(jd.ExactLineSearch()))
    >>> int(result.iterations)
    1

    Reference: Nocedal and Wright (2006), "Numerical optimization", section 3.3.
    """

    def init(self, objective: Objective, params: Params) -> State:
        del objective, params
        return ()

    def step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State, Progress]:
        value, gradient = objective.value_and_gradient(params)
        squared = precision.squared_norm(gradient)
        # Along the unit gradient, whose curvature does not underflow before the gradient does.
        length = jnp.where(squared > 0, jnp.sqrt(squared), 1)
        unit = jax.tree.map(lambda g: g / length.astype(g.dtype), gradient)
        curvature = objective.curvature(params, unit)
        is_curved = jnp.abs(curvature) > 0
        rate = jnp.where(is_curved, 1 / jnp.where(is_curved, jnp.abs(curvature), 1), 0)
        is_unbounded = objective.is_quadratic & (curvature < 0) & (squared > 0)
        new = _move(params, gradient, rate)
        verdict = jnp.where(is_unbounded, Status.DIVERGED.value, RUNNING)
        return new, state, Progress(value, jnp.sqrt(squared), 2, verdict)


class _Trial(NamedTuple):
    params: Params
    value: jax.Array
    gradient: Params
    rate: jax.Array
    is_accepted: jax.Array
    trials: jax.Array


class _BacktrackingState(NamedTuple):
    value: jax.Array
    gradient: Params
    rate: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Backtracking(StepSize):
    """Try twice the last learning rate, and shrink it until the step decreases the objective.

    A trial ``x - t g`` is accepted if ``f(x - t g) <= f(x) - c t |g|^2`` (Armijo). Near the
    optimum that difference drowns in rounding; there, and for quadratics everywhere, the slope at
    the trial decides instead: ``g . gradient(x - t g) >= -(1 - 2 c) |g|^2`` (approximate Wolfe: the
    same condition, with the decrease taken from the two slopes). The accepted trial's gradient is
    the next step's, so that a step whose first trial is accepted costs one gradient. Keeps three
    parameter-sized vectors besides the params: the gradient, the trial and the trial's gradient.

    Args:
      decrease: c, the share of the predicted decrease asked for, in (0, 1/2).
      shrink: the factor on rejection, in (0, 1).
      grow: the factor on the last accepted rate for a step's first trial, at least 1.
      max_trials: after so many rejections no step decreases the objective: ``STAGNATED``.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> result = jd.minimize(lambda x: jnp.sum(jnp.cosh(x)), jnp.array([2.0, -1.0]),
    ...                      jd.GradientDescent(jd.Backtracking()))
    >>> result.message.split(":")[0]
    'CONVERGED'

    Reference: Armijo (1966); Hager and Zhang (2005), "A new conjugate gradient method with
    guaranteed descent and an efficient line search".
    """

    decrease: Any = 1e-4
    shrink: Any = 0.5
    grow: Any = 2.0
    max_trials: int = dataclasses.field(default=60, metadata={"static": True})

    def init(self, objective: Objective, params: Params) -> State:
        value, gradient = objective.value_and_gradient(params)
        value = jnp.asarray(value)
        squared = precision.squared_norm(gradient)
        # The first trial moves by the params' own size, or by one where they are zero.
        size = jnp.maximum(jnp.sqrt(precision.squared_norm(params)), 1).astype(squared.dtype)
        rate = size / jnp.where(squared > 0, jnp.sqrt(squared), 1)
        return _BacktrackingState(value, gradient, rate)

    def step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State, Progress]:
        value, gradient, rate = state
        squared = precision.squared_norm(gradient)
        noise = 32 * jnp.finfo(value.dtype).eps * jnp.abs(value)

        def attempt(rate: jax.Array, trials: jax.Array) -> _Trial:
            trial = _move(params, gradient, rate)
            trial_value, trial_gradient = objective.value_and_gradient(trial)
            trial_value = jnp.asarray(trial_value, value.dtype)
            slope = precision.inner(gradient, trial_gradient)
            decrease = jnp.asarray(self.decrease * rate * squared, value.dtype)
            is_lower = (trial_value <= value - decrease) & (trial_value < value - noise)
            is_level = trial_value <= value + noise
            is_gentle = slope >= -(1 - 2 * self.decrease) * squared
            by_value = is_lower | (is_level & is_gentle)
            is_accepted = is_gentle if objective.is_quadratic else by_value
            return _Trial(trial, trial_value, trial_gradient, rate, is_accepted, trials)

        trial = lax.while_loop(
            lambda trial: ~trial.is_accepted & (trial.trials < self.max_trials),
            lambda trial: attempt(trial.rate * self.shrink, trial.trials + 1),
            attempt(rate * self.grow, jnp.ones((), jnp.int32)),
        )
        chosen = jax.tree.map(
            lambda new, old: jnp.where(trial.is_accepted, new, old),
            (trial.params, _BacktrackingState(trial.value, trial.gradient, trial.rate)),
            (params, _BacktrackingState(value, gradient, rate)),
        )
        verdict = jnp.where(trial.is_accepted, RUNNING, Status.STAGNATED.value)
        return *chosen, Progress(value, jnp.sqrt(squared), trial.trials, verdict)


def _move(params: Params, gradient: Params, rate: jax.Array) -> Params:
    return jax.tree.map(lambda x, g: x - rate.astype(x.dtype) * g, params, gradient)
