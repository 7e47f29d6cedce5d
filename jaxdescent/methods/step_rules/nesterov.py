"""Nesterov's momentum: gradient steps from a point extrapolated along the last move."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.inputs.numbers import check_number
from jaxdescent.methods.protocol import Params, State
from jaxdescent.methods.step_rules.transformation import Momentum, scalar
from jaxdescent.numerics import precision
from jaxdescent.numerics.linear_systems import scaled
from jaxdescent.objectives import Objective


class _NesterovState(NamedTuple):
    previous: Params  # the end of the last gradient step
    steps: jax.Array  # since a restart
    lower: jax.Array  # the least curvature, or 0
    beta: jax.Array  # the share of the last move that was added


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Nesterov(Momentum):
    """Gradient steps from a point extrapolated along the last move.

    With y the params, which are the extrapolated point, and the updates ``u = -rate gradient(y)``::

        x_new = y + u
        y_new = x_new + beta (x_new - x)
        beta = k / (k + 3)

    where k counts the steps, from 0. If the condition number q is known, beta grows no further than
    ``(sqrt(q) - 1) / (sqrt(q) + 1)``, the constant momentum for strongly convex functions. With
    ``restart``, momentum that leads uphill (``u.(x_new - x) < 0``) is dropped: k starts again at 0,
    and the convergence is linear without knowledge of q. It takes about ``sqrt(q)`` iterations for
    a digit, where plain descent takes ``q``. The returned params are y.

    In an optax loop it follows the learning rate, as in
    ``optax.chain(optax.scale_by_learning_rate(0.1), jd.Nesterov())``.

    A step takes a gradient (inside ``GradientDescent``), and the evaluations of the learning rate's
    rule. The momentum keeps one parameter-sized vector, x.

    Args:
      restart: whether to drop momentum that leads uphill.
      condition: the Hessian's largest eigenvalue over its least, at least 1. None stands for the
        number that the objective's bounds and the learning rate imply inside ``minimize``, if any,
        and else for an unknown one.

    Raises:
      TypeError: by ``minimize``, if ``restart`` is no bool, or ``condition`` no number.
      ValueError: by ``minimize``, if ``condition`` is below 1; by ``update``, without params.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> valley = jd.Quadratic(jnp.diag(jnp.array([1.0, 10.0, 1000.0])), constant=1.0)
    >>> result = jd.minimize(valley, jnp.ones(3), jd.GradientDescent(1e-3, momentum=jd.Nesterov()))
    >>> bool(result.converged), int(result.iterations) < 300
    (True, True)

    Reference: Nesterov (1983), "A method of solving a convex programming problem with convergence
    rate O(1/k^2)"; O'Donoghue and Candes (2015), "Adaptive restart for accelerated gradient
    schemes".
    """

    restart: bool = dataclasses.field(default=True, metadata={"static": True})
    condition: Any = None

    def init(self, params: Params, objective: Objective | None = None) -> State:
        lower = scalar(params, 0)
        bounds = None if objective is None else objective.curvature_bounds(params)
        if bounds is not None:
            lower = jnp.maximum(bounds.lower.astype(lower.dtype), 0)
        return _NesterovState(params, jnp.zeros((), jnp.int32), lower, jnp.zeros_like(lower))

    def update(
        self,
        updates: Params,
        state: State,
        params: Params = None,
        *,
        learning_rate: Any = None,
        **extra: Any,
    ) -> tuple[Params, State]:
        if params is None:
            raise ValueError("Nesterov needs the params: call update(updates, state, params).")
        new = jax.tree.map(jnp.add, params, updates)
        moved = jax.tree.map(jnp.subtract, new, state.previous)
        steps = state.steps
        if self.restart:
            steps = jnp.where(precision.inner(updates, moved) < 0, 0, steps)
        count = steps.astype(state.lower.dtype)
        beta = jnp.minimum(count / (count + 3), self._limit(state.lower, learning_rate))
        updates = jax.tree.map(jnp.add, updates, scaled(beta, moved))
        return updates, _NesterovState(new, steps + 1, state.lower, beta.astype(state.beta.dtype))

    def has_restarted(self, state: State) -> jax.Array:
        return state.steps <= 1

    def _limit(self, lower: jax.Array, learning_rate: Any) -> jax.Array:
        """``(1 - r) / (1 + r)`` with ``r = sqrt(1 / condition)``; 1 if nothing is known."""
        if self.condition is not None:
            inverse = 1 / jnp.asarray(self.condition, lower.dtype)
        elif learning_rate is not None:
            inverse = jnp.minimum(lower * jnp.asarray(learning_rate, lower.dtype), 1)
        else:
            return jnp.ones_like(lower)
        return (1 - jnp.sqrt(inverse)) / (1 + jnp.sqrt(inverse))

    def check(self) -> None:
        if not isinstance(self.restart, bool):
            raise TypeError(f"Nesterov.restart must be True or False, got {self.restart!r}.")
        if self.condition is not None:
            check_number("Nesterov.condition", self.condition, "at least 1", lambda q: q >= 1)
