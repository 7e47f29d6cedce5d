"""The inverse of the largest curvature at the start, as a constant learning rate."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.inputs.numbers import check_count, check_number
from jaxdescent.methods.line_search import LinePoint
from jaxdescent.methods.protocol import Params, State
from jaxdescent.methods.step_rules.transformation import StepRule, scalar
from jaxdescent.numerics import precision, randomness
from jaxdescent.numerics.linear_systems import scaled
from jaxdescent.objectives import Objective


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class InverseLipschitz(StepRule):
    """``rate = 1 / (margin L)``, L the largest magnitude of an eigenvalue of the Hessian.

    L is estimated at the start by power iteration from a random direction (the same in every run):
    ``L = |H v|`` for the last unit direction v, which is never above the true value; hence the
    margin. If the objective knows a bound, it limits ``margin L``. For a separable objective L is
    exact, from the Hessian's diagonal. Without momentum the descent converges for rates up to twice
    the inverse of the true L, so the margin only has to make up for a factor of two.

    The curvature is that *at the start*. It is exact for quadratics; if it grows during a descent,
    the descent can diverge: prefer :class:`Backtracking` there. If it is
    zero at the start the rate is one.

    The start takes ``iterations`` Hessian-vector products (for a regression two passes over X each)
    and two parameter-sized vectors; after that a step takes a gradient. The rule keeps no
    parameter-sized vector, and without momentum its steps are elementwise like a constant rate's.

    Args:
      margin: the factor on the estimate of L, at least 1.
      iterations: the number of power iterations.

    Raises:
      TypeError: by ``minimize``, if ``margin`` is not a number, or ``iterations`` not an integer.
      ValueError: by ``minimize``, if one of these is below 1.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> bowl = jd.Quadratic(jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.array([3.0, 3.0]))
    >>> result = jd.minimize(bowl, method=jd.GradientDescent(jd.InverseLipschitz()))
    >>> print(result.params.round(2), result.state.round(3))
    [1. 1.] 0.303

    Reference: Kuczynski and Wozniakowski (1992), "Estimating the largest eigenvalue by the power
    and Lanczos algorithms with a random start".
    """

    margin: Any = 1.1
    iterations: int = dataclasses.field(default=20, metadata={"static": True})

    has_rate_ahead: ClassVar[bool] = True

    def init(self, params: Params, objective: Objective | None = None) -> State:
        return scalar(params, 0) if objective is None else self._rate(objective, params)

    def rate(
        self, objective: Objective, at: LinePoint, direction: Params, state: State
    ) -> tuple[jax.Array, State]:
        # In an optax loop, whose init does not know the function, the first step finds the rate.
        rate = lax.cond(state > 0, lambda: state, lambda: self._rate(objective, at.params))
        return rate, rate

    def _rate(self, objective: Objective, params: Params) -> jax.Array:
        dtype = scalar(params, 0).dtype
        if objective.is_separable:
            diagonal = objective.hessian_product(params, jax.tree.map(jnp.ones_like, params))
            largest = [jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(diagonal)]
            curvature = jnp.max(jnp.stack([part.astype(dtype) for part in largest]))
        else:
            curvature = self.margin * self._largest_eigenvalue(objective, params).astype(dtype)
        bounds = objective.curvature_bounds(params)
        if bounds is not None:
            curvature = jnp.minimum(curvature, bounds.upper.astype(dtype))
        return 1 / jnp.where(curvature > 0, curvature, 1)

    def _largest_eigenvalue(self, objective: Objective, params: Params) -> jax.Array:
        direction = randomness.normal_like(params, 0)

        def iterate(_: Any, carry: tuple[Params, jax.Array]) -> tuple[Params, jax.Array]:
            direction, norm = carry
            unit = scaled(1 / jnp.where(norm > 0, norm, 1), direction)
            image = objective.hessian_product(params, unit)
            return image, precision.norm(image)

        start = direction, precision.norm(direction)
        return lax.fori_loop(0, self.iterations, iterate, start)[1]

    def check(self) -> None:
        name = "InverseLipschitz"
        check_number(f"{name}.margin", self.margin, "at least 1", lambda c: 1 <= c < float("inf"))
        check_count(f"{name}.iterations", self.iterations)
