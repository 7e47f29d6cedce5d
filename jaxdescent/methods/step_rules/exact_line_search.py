"""The step to the minimum of the local quadratic model along the gradient."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.methods.line_search import LinePoint
from jaxdescent.methods.protocol import Params, State
from jaxdescent.methods.step_rules.transformation import Move, StepRule, moved
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective
from jaxdescent.status import RUNNING, Status

REFRESH = 32
"""The number of steps after which the image is recomputed, so that rounding does not accumulate."""


class _Carried(NamedTuple):
    """The objective's image of the params, and the number of steps since it was computed."""

    image: Any
    age: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ExactLineSearch(StepRule):
    """``rate = g.d / d.Hd`` along ``-d``, for the gradient itself ``|g|^2 / g.Hg``.

    The rate is exact for quadratics, where negative curvature means that there is no minimum and
    ``minimize`` ends ``DIVERGED``. On other functions the curvature's magnitude is used, without a
    guarantee of descent: prefer :class:`Backtracking` there.

    A step takes a gradient and a Hessian-vector product. Inside ``minimize`` a regression's
    predictions ``X x`` are updated with the params and recomputed every 32 steps, so that a step
    makes two passes over X, one to predict the direction and one for the gradient. The rule keeps
    no parameter-sized vector besides the params (one, ``H x``, for a ``jd.Quadratic`` inside
    ``minimize``).

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> bowl = jd.SumOfSquares(scale=3.0)
    >>> result = jd.minimize(bowl, jnp.array([1.0, -4.0]), jd.GradientDescent(jd.ExactLineSearch()))
    >>> int(result.iterations)
    1

    Reference: Nocedal and Wright (2006), "Numerical optimization", section 3.3.
    """

    def start(self, params: Params, objective: Objective | None = None) -> State:
        image = None if objective is None else objective.image(params)
        return _Carried(image, jnp.zeros((), jnp.int32))

    def value_and_gradient(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[jax.Array, Params]:
        return objective.value_and_gradient_at(params, state.image)

    def after_rounding(self, objective: Objective, params: Params, state: State) -> State:
        return self.start(params, objective)

    def move(self, objective: Objective, at: LinePoint, direction: Params, state: State) -> Move:
        norm = precision.norm(direction)
        # A unit direction is used: its slope and curvature are in range wherever the gradient is.
        length = jnp.where(norm > 0, norm, 1)
        unit = jax.tree.map(lambda d: d / length.astype(d.dtype), direction)
        image = objective.image(unit)
        curvature = objective.curvature_along(at.params, unit, image)
        slope = precision.inner(at.gradient, unit)
        is_curved = jnp.abs(curvature) > 0
        step = jnp.where(is_curved, slope / jnp.where(is_curved, jnp.abs(curvature), 1), 0)
        rate = step / length
        new = moved(at.params, direction, rate)
        if state.image is not None:
            state = lax.cond(
                state.age + 1 < REFRESH,
                lambda: _Carried(moved(state.image, image, step), state.age + 1),
                lambda: _Carried(objective.image(new), jnp.zeros_like(state.age)),
            )
        is_unbounded = objective.is_quadratic & (curvature < 0) & (norm > 0)
        verdict = jnp.where(is_unbounded, Status.DIVERGED.value, RUNNING)
        return Move(new, rate, state, 2, verdict, jnp.abs(curvature))
