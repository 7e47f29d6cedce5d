"""Gradient descent: subtract the gradient times a learning rate, and repeat."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.inputs.functions import as_pytree, hoist
from jaxdescent.inputs.numbers import check_number
from jaxdescent.methods.protocol import Method, Params, State, StepReport, progress_at
from jaxdescent.methods.step_rules import Backtracking, Momentum
from jaxdescent.methods.step_rules.transformation import StepRule, Transformation
from jaxdescent.numerics import precision
from jaxdescent.numerics.linear_systems import add_scaled
from jaxdescent.objectives import Objective


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GradientDescent(Method):
    """``x <- x - learning_rate * gradient(x)``.

    Args:
      learning_rate: a number (units: params squared over value), an optax schedule that maps the
        iteration's index to such a number, or a rule: ``jd.Backtracking()`` (the default),
        ``jd.BarzilaiBorwein()``, ``jd.ExactLineSearch()``, ``jd.InverseLipschitz()``.
      momentum: ``jd.Nesterov()``, with a number, a schedule, ``jd.InverseLipschitz()`` or
        ``jd.Backtracking()``.

    With a number, a schedule or ``jd.InverseLipschitz()``, and no momentum, it keeps no
    parameter-sized vector besides the params, and each step works element by element; it diverges
    where the curvature exceeds ``2 / learning_rate``. The documentation of the rules and of the
    momentum says which vectors they keep.

    Raises:
      ValueError: if a learning rate that is not traced is not a positive, finite scalar, or a rule
        cannot be combined with momentum.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> result = jd.minimize(lambda x: 2 * x**2, 100.0, jd.GradientDescent(1e-2))
    >>> bool(abs(result.params) < 1e-2)
    True

    Reference: Cauchy (1847), "Méthode générale pour la résolution des systèmes d'équations
    simultanées".
    """

    learning_rate: Any = dataclasses.field(default_factory=Backtracking)
    momentum: Momentum | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.learning_rate, Transformation):
            object.__setattr__(self, "learning_rate", as_pytree(self.learning_rate))

    def init(self, objective: Objective, params: Params) -> State:
        rate = self.learning_rate
        state: State
        if isinstance(rate, StepRule):
            state = rate.init(params, objective)
        else:
            state = jnp.zeros((), jnp.int32) if callable(rate) else ()
        if self.momentum is None:
            return state
        at = None
        if objective.is_quadratic and not self._has_rate_ahead:
            at = state.value, state.grad, state.grad
        return _WithMomentum(state, self.momentum.init(params, objective), at)

    def step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State, StepReport]:
        if self.momentum is not None:
            return self._step_with(self.momentum, objective, params, state)
        rule = self.learning_rate
        if self._has_rate_ahead:
            value, gradient = objective.value_and_gradient(params)
            rate, state = self._rate_ahead(state)
            new = objective.gradient_step(params, gradient, rate)
            return new, state, progress_at(value, gradient)
        value, gradient = rule.value_and_gradient(objective, params, state)
        known = {"value": value, "grad": gradient, "objective": objective}
        updates, state = rule.update(gradient, state, params, **known)
        progress = progress_at(value, gradient)._replace(**state.info._asdict())
        return jax.tree.map(jnp.add, params, updates), state, progress

    def _step_with(
        self, momentum: Momentum, objective: Objective, params: Params, state: _WithMomentum
    ) -> tuple[Params, State, StepReport]:
        at = state.at
        value, gradient = objective.value_and_gradient(params) if at is None else at[:2]
        progress = progress_at(value, gradient)
        if self._has_rate_ahead:
            rate, own = self._rate_ahead(state.rate)
            updates = jax.tree.map(lambda g: -jnp.asarray(rate, g.dtype) * g, gradient)
        else:
            rule = self.learning_rate.under_momentum(momentum.has_restarted(state.momentum))
            known = {"value": value, "grad": gradient, "objective": objective}
            updates, own = rule.update(gradient, state.rate, params, **known)
            progress = progress._replace(**own.info._asdict())
            if at is None:
                progress = progress._replace(evaluations=progress.evaluations + 1)
            rate = own.rate
        updates, following = momentum.update(updates, state.momentum, params, learning_rate=rate)
        if at is not None:
            last = at[2], state.momentum.previous
            at = _extrapolated(own.value, (own.grad, following.previous), last, following.beta)
        new = jax.tree.map(jnp.add, params, updates)
        return new, _WithMomentum(own, following, at), progress

    def blind_step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State]:
        if not self.is_elementwise:
            return super().blind_step(objective, params, state)
        rate, state = self._rate_ahead(state)
        return objective.gradient_step(params, objective.gradient(params), rate), state

    @property
    def _has_rate_ahead(self) -> bool:
        """Whether the rate is known before the gradient is computed."""
        rate = self.learning_rate
        return not isinstance(rate, StepRule) or rate.has_rate_ahead

    def _rate_ahead(self, state: State) -> tuple[Any, State]:
        rate = self.learning_rate
        if isinstance(rate, StepRule):
            return state, state
        return (rate(state), state + 1) if callable(rate) else (rate, state)

    def hoisted(self) -> GradientDescent:
        rate = self.learning_rate
        if isinstance(rate, Transformation) or not callable(rate):
            return self
        iteration = jnp.zeros((), jnp.int32)
        return dataclasses.replace(self, learning_rate=hoist(rate, iteration))

    def after_rounding(self, objective: Objective, params: Params, state: State) -> State:
        if self.momentum is None and isinstance(self.learning_rate, StepRule):
            return self.learning_rate.after_rounding(objective, params, state)
        if self.momentum is not None and state.at is not None:
            value, gradient = objective.value_and_gradient(params)
            at = jnp.asarray(value, state.at[0].dtype), gradient, state.at[2]
            return state._replace(at=at)
        return state

    def check(self) -> None:
        self._check_rate()
        if self.momentum is None:
            return
        if not isinstance(self.momentum, Momentum):
            raise TypeError(f"momentum must be jd.Nesterov() or None, got {self.momentum!r}.")
        self.momentum.check()
        if not self._has_rate_ahead and self.learning_rate.under_momentum(False) is None:
            raise ValueError(
                f"momentum goes with a number, a schedule, jd.InverseLipschitz() or "
                f"jd.Backtracking(), got {self.learning_rate!r}, whose rate fits the plain "
                "gradient step alone: take one of these, or momentum=None."
            )

    def _check_rate(self) -> None:
        rate = self.learning_rate
        if isinstance(rate, Momentum):
            raise TypeError(
                f"learning_rate got momentum, {rate!r}: write "
                f"jd.GradientDescent(momentum=jd.{rate!r})."
            )
        if isinstance(rate, StepRule):
            rate.check()
            return
        if isinstance(rate, jax.tree_util.Partial) and isinstance(rate.func, type):
            raise TypeError(
                f"learning_rate must be an object, got the class {rate.func.__name__}: write "
                f"{rate.func.__name__}()."
            )
        if not callable(rate):
            check_number(
                "learning_rate",
                rate,
                "positive and finite",
                lambda rate: 0 < rate < float("inf"),
                hint="an optax schedule or a rule such as jd.Backtracking() may take its place",
            )

    @property
    def is_elementwise(self) -> bool:
        return self.momentum is None and self._has_rate_ahead


class _WithMomentum(NamedTuple):
    """The states of the learning rate and of the momentum; and for a searching rule on a quadratic
    the value and gradient at the params, and the gradient at the end of the last gradient step.
    """

    rate: State
    momentum: State
    at: tuple[jax.Array, Params, Params] | None


def _extrapolated(
    value: jax.Array, new: tuple[Params, Params], last: tuple[Params, Params], beta: jax.Array
) -> tuple[jax.Array, Params, Params]:
    """A quadratic's value and gradient at ``x + beta (x - x_last)``, from the ``value`` at x and
    the gradients at both; and the gradient at x.
    """
    change, move = (jax.tree.map(jnp.subtract, *pair) for pair in zip(new, last, strict=True))
    slope, curvature = precision.inner(new[0], move), precision.inner(change, move)
    value = value + (beta * slope + 0.5 * beta * beta * curvature).astype(value.dtype)
    return value, add_scaled(new[0], beta, change), new[0]
