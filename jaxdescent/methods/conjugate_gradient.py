"""Conjugate gradients: linear for quadratic objectives, after Hager and Zhang for all others."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent import precision
from jaxdescent.methods.nonlinear_conjugate_gradient import NonlinearConjugateGradient
from jaxdescent.methods.protocol import Method, Params, Progress, State
from jaxdescent.objectives import Objective
from jaxdescent.objectives.seldom import seldom
from jaxdescent.preconditioners import CentredRegression, Factor, shifted_hessian
from jaxdescent.preconditioners.protocol import check_preconditioner
from jaxdescent.result import RUNNING, Status

REPLACE_EVERY = 50
"""After so many iterations the image is computed from the params anew."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ConjugateGradient(Method):
    """Minimise along directions that are conjugate: ``d_i . H d_j = 0``.

    For an objective that is not quadratic the directions are those of
    :class:`jaxdescent.methods.nonlinear_conjugate_gradient.NonlinearConjugateGradient`: one to two
    values and gradients an iteration, two vectors kept. What follows is for quadratics.

    With ``z = N N' g`` (``z = g`` without a preconditioner)::

        d <- -z + (g.z / g_old.z_old) d
        x <- x - (g.d / d.Hd) d

    The error after k iterations is at most ``2 ((sqrt(c) - 1) / (sqrt(c) + 1))^k`` of the first,
    c being the condition number of H, or of ``N' H N``. An iteration makes two passes over a
    regression's X, one for the image of the direction, one for the gradient, which is therefore
    that of the residual and not a recurrence (CGLS); for a ``jd.Quadratic`` it is one product with
    H. Every 50 iterations the image of the params is computed anew, so that rounding cannot part
    the reported gradient from the true one; under ``vmap`` members that are due take turns.
    Keeps one parameter-sized vector besides the params and the image (the residual's size for a
    regression, for a ``jd.Quadratic`` the params'), and needs two more within an iteration.
    Outputs of one regression share the steps' lengths. From zeros it finds the solution of least
    norm where there are many. Negative curvature, or none at all along a slope, means that there
    is no minimum: ``DIVERGED``.

    Args:
      preconditioner: None, or for example ``jd.Jacobi()``, ``jd.Nystrom(rank)``, ``jd.Sketch()``.

    Raises:
      TypeError: for a preconditioner that is none, asks more than the objective can answer, or
        is given for an objective that is not quadratic.

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
            if self.preconditioner is not None:
                raise TypeError(
                    "ConjugateGradient takes a preconditioner for quadratic objectives alone "
                    "(jd.Quadratic, jd.LinearRegression, jd.SumOfSquares), got "
                    f"{type(objective).__name__}: leave it out, or take jd.LBFGS()."
                )
            return NonlinearConjugateGradient().init(objective, params)
        factor = feature_mean = None
        if self.preconditioner is not None:
            hessian = shifted_hessian(objective, params)
            factor = self.preconditioner.factorise(hessian)
            if isinstance(hessian, CentredRegression):
                feature_mean = hessian.feature_mean
        dtype = jnp.result_type(*jax.tree.leaves(params))
        return _State(
            image=_first_image(objective, params),
            direction=jax.tree.map(jnp.zeros_like, params),
            slope=jnp.ones((), dtype),
            largest=jnp.zeros((), dtype),
            iteration=jnp.zeros((), jnp.int32),
            factor=factor,
            feature_mean=feature_mean,
        )

    def step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State, Progress]:
        if not objective.is_quadratic:
            return NonlinearConjugateGradient().step(objective, params, state)
        image = state.image
        if image is not None:
            is_due = (state.iteration > 0) & (state.iteration % REPLACE_EVERY == 0)
            image = seldom(is_due, _image_anew, _image_kept, objective, params, image)
        value, gradient = objective.value_and_gradient_at(params, image)
        preconditioned = _preconditioned(objective, params, state, gradient)
        slope = precision.inner(gradient, preconditioned)

        # The first direction, and one that rounding has turned uphill, is the preconditioned
        # gradient alone.
        ratio = jnp.where((state.iteration > 0) & (state.slope > 0), slope / state.slope, 0)
        ratio = jnp.where(jnp.isfinite(ratio), ratio, 0)
        along_old = precision.inner(gradient, state.direction)
        ratio = jnp.where(ratio * along_old < slope, ratio, 0)
        direction = jax.tree.map(
            lambda d, z: ratio.astype(d.dtype) * d - z, state.direction, preconditioned
        )
        descent = ratio * along_old - slope

        direction_image = objective.image(direction)
        curvature = objective.curvature_along(params, direction, direction_image)
        squared = precision.squared_norm(direction)
        quotient = curvature / jnp.where(squared > 0, squared, 1)
        largest = jnp.maximum(state.largest, jnp.abs(quotient))
        is_negative = quotient < -16 * jnp.finfo(quotient.dtype).eps * largest
        is_unbounded = is_negative | ((largest == 0) & (descent < 0) & (squared > 0))
        is_curved = curvature > 0
        step = jnp.where(is_curved, -descent / jnp.where(is_curved, curvature, 1), 0)

        new = _State(
            image=_add_scaled(image, step, direction_image),
            direction=direction,
            slope=slope,
            largest=largest,
            iteration=state.iteration + 1,
            factor=state.factor,
            feature_mean=state.feature_mean,
        )
        verdict = jnp.where(is_unbounded, Status.DIVERGED.value, RUNNING)
        progress = Progress(value, precision.norm(gradient), 2, verdict)
        return _add_scaled(params, step, direction), new, progress

    def after_rounding(self, objective: Objective, params: Params, state: State) -> State:
        if not objective.is_quadratic:
            return NonlinearConjugateGradient().after_rounding(objective, params, state)
        return state._replace(image=objective.image(params))

    def check(self) -> None:
        check_preconditioner(self.preconditioner)


class _State(NamedTuple):
    image: Any
    direction: Params
    slope: jax.Array
    """``g.z`` of the last iteration."""
    largest: jax.Array
    """The largest curvature seen along a unit direction."""
    iteration: jax.Array
    factor: Factor | None
    feature_mean: jax.Array | None


def _first_image(objective: Objective, params: Params) -> Any:
    """The image of the start; of zeros, the usual start, without a pass over X."""
    is_zero = jnp.all(jnp.stack([jnp.all(leaf == 0) for leaf in jax.tree.leaves(params)]))
    shapes = jax.eval_shape(objective.image, params)

    def zeros(_: Params) -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    return lax.cond(is_zero, zeros, objective.image, params)


def _preconditioned(
    objective: Objective, params: Params, state: _State, gradient: Params
) -> Params:
    if state.factor is None:
        return gradient
    hessian = shifted_hessian(objective, params, feature_mean=state.feature_mean)
    return hessian.solve(state.factor.solve, gradient)


def _image_anew(objective: Objective, params: Params, image: Any) -> Any:
    return jax.tree.map(lambda new, old: new.astype(old.dtype), objective.image(params), image)


def _image_kept(objective: Objective, params: Params, image: Any) -> Any:
    del objective, params
    return image


def _add_scaled(a: Any, scale: jax.Array, b: Any) -> Any:
    return jax.tree.map(lambda x, y: x + scale.astype(x.dtype) * y, a, b)
