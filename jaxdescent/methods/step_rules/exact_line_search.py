"""The step to the minimum of the local quadratic model along the gradient."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.methods.line_search import LinePoint
from jaxdescent.methods.protocol import Params, State
from jaxdescent.methods.step_rules.transformation import Info, StepRule, moved, scalar
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective
from jaxdescent.status import RUNNING, Status

REFRESH = 32
"""The number of steps after which the image is recomputed, so that rounding does not accumulate."""


class _Carried(NamedTuple):
    """The objective's image of the params, and the number of steps since it was computed."""

    image: Any
    age: jax.Array
    info: Info


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

    def init(self, params: Params, objective: Objective | None = None) -> State:
        image = None if objective is None else objective.image(params)
        return _Carried(image, jnp.zeros((), jnp.int32), Info.none(scalar(params, 0)))

    def value_and_gradient(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[jax.Array, Params]:
        return objective.value_and_gradient_at(params, state.image)

    def after_rounding(self, objective: Objective, params: Params, state: State) -> State:
        return self.init(params, objective)

    def rate(
        self, objective: Objective, at: LinePoint, direction: Params, state: State
    ) -> tuple[jax.Array, State]:
        norm = precision.norm(direction)
        # A unit direction is used: its slope and curvature are in range wherever the gradient is.
        length = jnp.where(norm > 0, norm, 1)
        unit = jax.tree.map(lambda d: d / length.astype(d.dtype), direction)
        unit_image = objective.image(unit)
        curvature = objective.curvature_along(at.params, unit, unit_image)
        slope = precision.inner(at.gradient, unit)
        is_curved = jnp.abs(curvature) > 0
        step = jnp.where(is_curved, slope / jnp.where(is_curved, jnp.abs(curvature), 1), 0)
        rate, image, age = step / length, state.image, state.age
        if image is not None:
            image, age = lax.cond(
                age + 1 < REFRESH,
                lambda: (moved(image, unit_image, step), age + 1),
                lambda: (objective.image(moved(at.params, direction, rate)), jnp.zeros_like(age)),
            )
        is_unbounded = objective.is_quadratic & (curvature < 0) & (norm > 0)
        verdict = jnp.where(is_unbounded, jnp.int32(Status.DIVERGED.value), jnp.int32(RUNNING))
        info = Info(jnp.int32(2), verdict, jnp.abs(curvature).astype(state.info.curvature.dtype))
        return rate, _Carried(image, age, info)
