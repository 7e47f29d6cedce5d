"""Methods of line searches: they differ in the directions of their searches alone."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.methods.keeping_progress import KeepingProgress
from jaxdescent.methods.line_search import Idle, LinePoint, first_length, search
from jaxdescent.methods.protocol import Params
from jaxdescent.numerics import precision
from jaxdescent.numerics.ritz import ConjugateSteps
from jaxdescent.objectives import Objective
from jaxdescent.status import RUNNING, Status


class Line(NamedTuple):
    """The direction of a search."""

    direction: Params
    slope: jax.Array  # the gradient's, along the direction
    first_step: Any  # the step to try first, in units of the direction
    is_plain: jax.Array  # whether it is the negative gradient, the last direction to try


class Searching(NamedTuple):
    """The state of a method of line searches.

    The directions have a state with the methods ``line(gradient, norm)``, ``after(line, found,
    gradient, norms)`` with the norms of the gradients at both ends of a search that ``found`` a
    step, and ``at(gradient, norm)`` for the same directions at other params.
    """

    value: jax.Array
    gradient: Params
    norm: jax.Array
    idle: Idle
    directions: Any
    krylov: ConjugateSteps | None  # for a quadratic objective


class LineSearching(KeepingProgress):
    """A method that searches along one direction after another, on quadratics exactly."""

    flatness: ClassVar[float] = 0.9  # the share of the slope that a search may leave

    @abc.abstractmethod
    def directions(self, gradient: Params, length: jax.Array) -> Any:
        """The directions at the start, where ``length`` is that of the first move."""

    def begun(self, objective: Objective, params: Params) -> Searching:
        value, gradient = objective.value_and_gradient(params)
        norm = precision.norm(gradient)
        directions = self.directions(gradient, first_length(params, value, norm))
        krylov = ConjugateSteps.start(norm) if objective.is_quadratic else None
        return Searching(value, gradient, norm, Idle.start(value, norm), directions, krylov)

    def unbegun(self, objective: Objective, params: Params, value_dtype: Any) -> Searching | None:
        if objective.is_quadratic:
            return None
        gradient = jax.tree.map(jnp.zeros_like, params)
        value = jnp.zeros((), value_dtype)
        norm = jnp.zeros((), jnp.result_type(*jax.tree.leaves(params)))
        directions = self.directions(gradient, jnp.ones_like(norm))
        return Searching(value, gradient, norm, Idle.start(value, norm), directions, None)

    def moved(
        self, objective: Objective, params: Params, own: Searching, is_start: Any = False
    ) -> tuple[Params, Searching, jax.Array, Any]:
        value, gradient, norm, idle, directions, krylov = own
        line = directions.line(gradient, norm)
        direction, slope, first_step, is_plain = line
        verdict, products = RUNNING, 0
        if objective.is_quadratic:
            curvature = objective.curvature(params, direction).astype(slope.dtype)
            is_unbounded = (curvature < 0) & (norm > 0)
            if krylov is not None and objective.hessian_array is not None:
                squared = precision.squared_norm(direction)
                krylov, is_endless = krylov.along(curvature, slope, squared)
                given = objective.hessian_array, direction, curvature
                is_unbounded |= lax.cond(is_endless, _is_rounding, lambda *_: False, *given)
            first_step = jnp.where(curvature > 0, -slope / curvature, first_step)
            verdict, products = jnp.where(is_unbounded, Status.DIVERGED.value, RUNNING), 1
        start = LinePoint(params, value, gradient)
        how = {"flatness": self.flatness, "is_start": is_start}
        found = search(objective, start, direction, slope, first_step, **how)

        before, idle = idle, idle.after(value, norm)
        has_failed = ~found.is_accepted & is_plain | idle.is_over
        verdict = jnp.where(has_failed & (verdict == RUNNING), Status.STAGNATED.value, verdict)
        params, new_value, new_gradient = found.point
        new_norm = precision.norm(new_gradient)
        if krylov is not None:
            krylov = krylov.after(found.step, slope, norm, new_norm)
        if is_start is not False:
            # The evaluation of the start is no move: the directions begin there.
            idle = jax.tree.map(lambda a, b: jnp.where(is_start, a, b), before, idle)
            first = first_length(params, new_value, new_norm)
            directions = directions._replace(length=jnp.where(is_start, first, directions.length))
            step, is_move = jnp.where(is_start, 0, found.step), found.is_accepted & ~is_start
            found = found._replace(step=step, is_accepted=is_move)
        directions = directions.after(line, found, gradient, (norm, new_norm))
        own = Searching(new_value, new_gradient, new_norm, idle, directions, krylov)
        return params, own, found.evaluations + products, verdict

    def evaluated(self, objective: Objective, params: Params, own: Searching) -> Searching:
        value, gradient = objective.value_and_gradient(params)
        norm = precision.norm(gradient)
        directions = own.directions.at(gradient, norm)
        return own._replace(value=value, gradient=gradient, norm=norm, directions=directions)


def _is_rounding(hessian: jax.Array, direction: Params, curvature: jax.Array) -> jax.Array:
    """Whether a curvature ``d.Hd`` is no more than the rounding of its terms; those of a positive
    diagonal do not cancel.
    """
    (leaf,) = jax.tree.leaves(direction)
    terms = jnp.abs(leaf[:, None] * hessian.astype(leaf.dtype) * leaf[None, :])
    return curvature <= 4 * float(jnp.finfo(leaf.dtype).eps) * jnp.sum(terms)
