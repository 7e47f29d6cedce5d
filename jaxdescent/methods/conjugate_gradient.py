"""Linear conjugate gradients, for quadratic objectives."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.kernels.branches import seldom
from jaxdescent.methods.intercept import GivenIntercept, Intercept
from jaxdescent.methods.protocol import Estimate, LookingAhead, Params, State, StepReport
from jaxdescent.numerics import precision
from jaxdescent.numerics.linear_systems import add_scaled
from jaxdescent.numerics.ritz import SmallestRitz, caution
from jaxdescent.objectives import Objective
from jaxdescent.objectives.elimination import eliminated, weights_alone
from jaxdescent.preconditioners import Factor, shifted_hessian
from jaxdescent.preconditioners.protocol import check_preconditioner
from jaxdescent.status import RUNNING, Evidence, Status

REPLACE_EVERY = 50
"""The number of iterations after which the image is recomputed from the params."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ConjugateGradient(LookingAhead):
    """Minimise a quadratic along directions that are conjugate: ``d_i . H d_j = 0``.

    With ``z = N N' g`` (``z = g`` without a preconditioner)::

        d <- -z + (g.z / g_old.z_old) d
        x <- x - (g.d / d.Hd) d

    The error after k iterations is at most ``2 ((sqrt(c) - 1) / (sqrt(c) + 1))^k`` times the first,
    where c is the condition number of H, or of ``N' H N``. An iteration makes two passes over a
    regression's X, one for the image of the direction and one for the gradient, which is therefore
    computed from the residual and not by a recurrence (CGLS); for a ``jd.Quadratic`` it makes one
    product with H. A start from zeros takes one pass, and one more for the means if there is an
    intercept. Every 50 iterations the image of the params is recomputed, so that rounding cannot
    separate the reported gradient from the true one; under ``vmap`` the members do this one after
    another. The method keeps two parameter-sized vectors besides the params and the image, the
    gradient and the direction, and one more for the means. The image has the size of the residual
    for a regression, and of the params for a ``jd.Quadratic``. An iteration needs one more vector.

    A regression's intercept is eliminated: only the weights are iterated, with centred columns, and
    the intercept is always the best for them (:mod:`jaxdescent.objectives.elimination`). So the
    distance of the features from zero does not matter. Columns of different spread are not scaled,
    because scaling would change which of several solutions is found; ``jd.Jacobi()`` scales. The
    outputs of a regression share the step lengths. From zeros, the weights of least norm are found
    if there are several solutions. Negative curvature, or no curvature at all along a slope, means
    that there is no minimum: the status is ``DIVERGED``.

    Args:
      preconditioner: None, or for example ``jd.Jacobi()``, ``jd.Nystrom(rank)``, ``jd.Sketch()``.

    Raises:
      TypeError: if the objective is not quadratic, or the preconditioner is not one or needs more
        than the objective can provide.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> bowl = jd.Quadratic(jnp.array([[4.0, 1.0], [1.0, 3.0]]), linear=jnp.array([1.0, 2.0]))
    >>> result = jd.minimize(bowl, method=jd.ConjugateGradient())
    >>> print(int(result.iterations), result.params.round(4))
    2 [0.0909 0.6364]

    References: Hestenes and Stiefel (1952), "Methods of conjugate gradients for solving linear
    systems"; Björck (1996), "Numerical methods for least squares problems", section 7.4.
    """

    preconditioner: Any = None

    def init(self, objective: Objective, params: Params) -> State:
        if not objective.is_quadratic:
            raise TypeError(
                "ConjugateGradient needs a quadratic objective (jd.Quadratic, jd.LinearRegression, "
                f"jd.SumOfSquares), got {type(objective).__name__}: take jd.LBFGS(), or "
                "jd.LBFGS(memory=1) where memory is short."
            )
        inner, weights, means = eliminated(objective, params)
        at = _at(inner, weights, inner.image_of_start(weights))
        intercept = factor = None
        if means is not None:
            given = GivenIntercept.at(params, means, at["value"], at["gradient"])
            intercept = Intercept(means, given)
        if self.preconditioner is not None:
            factor = self.preconditioner.factorise(shifted_hessian(objective, params, means))
        dtype = jnp.result_type(*jax.tree.leaves(weights))
        return _State(
            **at,
            direction=jax.tree.map(jnp.zeros_like, weights),
            slope=jnp.ones((), dtype),
            first_norm=at["norm"].astype(dtype),
            unit=_power_of_two(at["norm"].astype(dtype)),
            largest=jnp.zeros((), dtype),
            step=jnp.ones((), dtype),
            ritz=SmallestRitz.start((), dtype),
            height=jnp.full((), jnp.inf, dtype),
            iteration=jnp.zeros((), jnp.int32),
            verdict=jnp.full((), RUNNING, jnp.int32),
            factor=factor,
            intercept=intercept,
        )

    def blind_step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State]:
        own, whole = state, objective
        means = None if own.intercept is None else own.intercept.means
        objective, params = weights_alone(objective, params, means)
        gradient = own.gradient
        preconditioned, unit = gradient, own.unit
        if own.factor is not None:
            hessian = shifted_hessian(objective, params)
            preconditioned = hessian.solve(own.factor.solve, gradient)
            size = precision.norm(preconditioned).astype(unit.dtype)
            unit = jnp.where(own.iteration == 0, _power_of_two(size), unit)
        # In units of the first direction squares are in the range, whatever the units of the
        # unknowns are. A power of two changes no digit.
        preconditioned = jax.tree.map(lambda z: z / unit.astype(z.dtype), preconditioned)
        slope = precision.inner(gradient, preconditioned)

        # The first direction is the preconditioned gradient alone, and so is any direction that
        # rounding would turn uphill.
        ratio = jnp.where((own.iteration > 0) & (own.slope > 0), slope / own.slope, 0)
        ratio = jnp.where(jnp.isfinite(ratio), ratio, 0)
        along_old = precision.inner(gradient, own.direction)
        ratio = jnp.where(ratio * along_old < slope, ratio, 0)
        direction = jax.tree.map(
            lambda d, z: ratio.astype(d.dtype) * d - z, own.direction, preconditioned
        )
        descent = ratio * along_old - slope

        direction_image = objective.image(direction)
        curvature = objective.curvature_along(params, direction, direction_image)
        squared = precision.squared_norm(direction)
        quotient = curvature / jnp.where(squared > 0, squared, 1)
        largest = jnp.maximum(own.largest, jnp.abs(quotient))
        is_negative = quotient < -16 * jnp.finfo(quotient.dtype).eps * largest
        is_unbounded = is_negative | ((largest == 0) & (descent < 0) & (squared > 0))
        is_curved = curvature > 0
        step = jnp.where(is_curved, -descent / jnp.where(is_curved, curvature, 1), 0)
        # If the curvature along a slope is rounding error, a step would leave the dtype's range.
        limits = jnp.finfo(step.dtype)
        far = float(limits.max) * float(limits.eps)
        is_far = (step * jnp.sqrt(squared) > far) | (jnp.abs(step * descent) > far)
        # A step is also too far if the curvature is rounding error, and the slope is not.
        is_flat = jnp.abs(quotient) <= 16 * jnp.finfo(quotient.dtype).eps * largest
        steep = jnp.sqrt(jnp.finfo(descent.dtype).eps) * own.first_norm
        is_far |= is_flat & (-descent > steep * jnp.sqrt(squared))
        is_unbounded |= is_far
        # An objective that is bounded below has no such direction: the products are rounding
        # errors.
        lower = objective.lower_bound()
        has_none = jnp.array(False) if lower is None else lower > -jnp.inf
        lost = jnp.where(has_none, Status.STAGNATED.value, Status.DIVERGED.value)
        step = jnp.where(is_far, 0, step)

        params = add_scaled(params, step, direction)
        image = add_scaled(own.image, step, direction_image)
        iteration = own.iteration + 1
        if image is not None:
            is_due = iteration % REPLACE_EVERY == 0
            image = seldom(is_due, _image_anew, lambda *at: at[-1], objective, params, image)
        at = _at(objective, params, image)
        norm = at["norm"]
        # One more row of the factor of the Lanczos process's tridiagonal matrix.
        is_moved, alpha = step > 0, step / unit
        root = jnp.where(is_moved, jax.lax.rsqrt(jnp.where(is_moved, alpha, 1)), 0)
        below = jnp.sqrt(ratio / jnp.where(own.step > 0, own.step, 1))
        ritz = own.ritz.after(root, jnp.where(own.step > 0, below, 0))
        # Only the next step computes g.z of the new gradient: until then g.z / |g|^2 is taken from
        # the last one.
        share = slope / jnp.where(own.norm > 0, own.norm, 1)
        share = norm * (share * (unit / jnp.where(own.norm > 0, own.norm, 1)))
        verdict = jnp.where(is_unbounded, lost, RUNNING).astype(jnp.int32)
        if (curves_down := whole.curves_down()) is not None:
            verdict = jnp.where(curves_down, Status.DIVERGED.value, verdict)
        own = own._replace(
            **at,
            direction=direction,
            unit=unit,
            slope=slope,
            largest=largest,
            step=alpha,
            ritz=ritz,
            height=ritz.height(norm, norm if own.factor is None else share),
            iteration=iteration,
            verdict=verdict,
        )
        if own.intercept is None:
            return params, own
        params, intercept = own.intercept.after_step(params)
        return params, own._replace(intercept=intercept)

    def after_rounding(self, objective: Objective, params: Params, state: State) -> State:
        means = None if state.intercept is None else state.intercept.means
        objective, params = weights_alone(objective, params, means)
        return state._replace(**_at(objective, params, objective.image(params)))

    def estimates(self, objective: Objective) -> bool:
        return True

    def progress(self, objective: Objective, params: Params, state: State) -> StepReport:
        height, curvature = state.height.astype(state.value.dtype), state.largest
        how = Evidence.RITZ_VALUES.value, caution(height.dtype)
        estimate = Estimate(height, curvature, *how, rounding=curvature)
        evaluations = jnp.where(state.iteration > 0, 2, 1)
        progress = StepReport(state.value, state.norm, evaluations, state.verdict, estimate)
        if state.intercept is None:
            return progress
        return state.intercept.progress(progress, objective, params)

    def check(self) -> None:
        check_preconditioner(self.preconditioner)


class _State(NamedTuple):
    value: jax.Array
    norm: jax.Array
    gradient: Params
    image: Any
    direction: Params
    unit: jax.Array  # a power of two near the length of the first direction
    slope: jax.Array  # ``g.z`` of the last iteration, over the unit
    first_norm: jax.Array  # the norm of the gradient at the start
    largest: jax.Array  # the largest curvature seen along a unit direction
    step: jax.Array  # the length of the last step, in units of its direction times the unit
    ritz: SmallestRitz
    height: jax.Array  # the value minus the minimum, by the smallest Ritz value
    iteration: jax.Array
    verdict: jax.Array  # on the last step
    factor: Factor | None
    intercept: Intercept | None


def _power_of_two(norm: jax.Array) -> jax.Array:
    """The power of two nearest to a norm; one where there is none."""
    power = jax.lax.reduce_precision(norm, jnp.finfo(norm.dtype).nexp, 0)
    return jnp.where((power > 0) & (power < jnp.inf), power, 1)


def _at(objective: Objective, params: Params, image: Any) -> dict[str, Any]:
    """The entries of the state that belong to params with this image."""
    value, gradient = objective.value_and_gradient_at(params, image)
    return {"value": value, "norm": precision.norm(gradient), "gradient": gradient, "image": image}


def _image_anew(objective: Objective, params: Params, image: Any) -> Any:
    return jax.tree.map(lambda new, old: new.astype(old.dtype), objective.image(params), image)
