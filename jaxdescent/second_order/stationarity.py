"""Whether the gradient is zero by the point's own scales, and how far the minimum may be.

A gradient is small only in relation to a scale. The scales here never depend on the start of a
descent, so that a point gets one verdict wherever it comes from. Let L be the largest absolute
eigenvalue of the Hessian, s Newton's step and ``X = max(|x|, |x + s|)``. The point is stationary if

    ``1/2 sum_i g_i^2 / |l_i|  <=  4 t max(|f|, t F)``,  ``F = 1/2 sum_ij |x_i H_ij x_j|``.

At a minimum the left side is the decrease of the value that is left, half the squared Newton
decrement. The value ``|f|`` counts only if the step is at most a tenth of X, because a constant in
the objective says nothing about the minimum. F is limited to ``|f|``, because across a curved
valley it is far more than any value in the valley; except if the decrease is at least half of
``|f|``, so that the value at the minimum may be zero. The factor four allows for a descent that
stopped by an estimate of the same quantity. The gradient along eigenvectors of zero eigenvalues
must be within t of the scale of the others. If Newton's step is not known, the rule is
``|g| <= t L X``; if the entries of H are not, ``F = 1/2 L X^2``. A change of the value by
``eps^2 max(|f|, F)``, which the dtype cannot distinguish from zero, counts as zero. If the params
are zero at the stationary point, they have no size: then X is one, and ``F = 1/2 L X^2``.

Rounding of the data may change eigenvalues below ``n eps |H|``, or make zero negative. A step that
is long by these alone counts as short if the expansion holds to its end: the value there is as
expected to within half the decrement. So a minimum that rounding blurs, or a curved valley of equal
values, is stationary, and a valley to infinity, which bends away from its expansion, is not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxdescent.numerics import precision
from jaxdescent.numerics.linear_systems import add_scaled, conjugate_gradient
from jaxdescent.objectives import Objective, Params
from jaxdescent.second_order import hessian_matrix
from jaxdescent.second_order.by_factors import Spectrum
from jaxdescent.second_order.curvature import Curvature
from jaxdescent.second_order.newton import Newton

SLACK = 4.0
"""The factor on the tolerance that allows for a descent which stopped by an estimate."""

HOLDS = 0.5
"""The deviation of the value at the end of Newton's step from its expansion, in decrements, up to
which the expansion holds."""

NOISE = 64 * float(np.finfo(np.float64).eps)
"""The rounding of a value, relative to its size and to the scale of its terms."""

SHORT_STEP = 0.1
"""The length of Newton's step, relative to X, up to which the value itself is a scale."""

ZERO = 0.5
"""The decrement, relative to the value, from which the value at the minimum may be zero."""

SOLVE_STEPS = 200
"""The most conjugate gradient steps for Newton's step if not all eigenvalues were computed."""

TOLERATED = 0.1
"""The largest deviation of the function from its quadratic model within the region, as a share of
the model's quadratic term."""

HALVINGS, RANDOM_DIRECTIONS = 20, 3
"""How often the radius of the region is halved in float32 (twice as often in float64), and the
number of random directions that are explored."""

MANY_UNKNOWNS = 100_000
"""The number of unknowns from which on fewer directions and radii of the region are explored."""


class Verdict(NamedTuple):
    """Whether a point is stationary; those of several points have arrays."""

    is_stationary: Any  # whether the gradient is zero
    decrement: Any  # the decrease that is left, by Newton's step; NaN if the step is not known
    step: np.ndarray | None  # Newton's step; None if it is not known
    size: Any  # X
    norm: Any  # the gradient's norm
    bound: Any  # on the decrement, or on the norm if Newton's step is not known
    is_flat: Any = True  # whether the gradient along directions without curvature is zero

    @property
    def reason(self) -> str:
        """Why one point is not stationary."""
        begin = f"|gradient| = {self.norm:.3g}"
        if not self.is_flat:
            return f"{begin} along a direction without curvature"
        if self.step is None:
            return f"{begin} exceeds the tolerance times |H| |params|, {self.bound:.3g}"
        return (
            f"{begin}: the value may change by {self.decrement:.3g}, more than {self.bound:.3g}, "
            "on the way to the nearest stationary point"
        )


def underflow(params: np.ndarray, eps: float) -> float:
    """How much of a value may be lost by underflow in the dtype with this eps: a term for each
    unknown.
    """
    return params.shape[-1] * float(np.finfo(np.float64 if eps < 1e-12 else np.float32).tiny)


def judged(spectrum: Spectrum, tolerance: float) -> Verdict:
    """The verdict by the rule of this module on the point of the spectrum."""
    curvature, eps = spectrum.curvature, spectrum.curvature.eps
    assert curvature.point is not None  # Curvature.at has computed it
    params, value = curvature.as_column(curvature.params), float(curvature.point[0])
    gradient = np.asarray(curvature.point[1], np.float64)
    if spectrum.newton is not None:
        here = params, value, gradient
        verdict, is_far, end = by_newton(spectrum.newton, *here, tolerance=tolerance, eps=eps)
        if not (is_far and curvature.is_double):
            return verdict
        assert verdict.step is not None  # it is known if all eigenvalues are
        there = curvature.run(_value_after, curvature.as_params(verdict.step))
        return verdict._replace(is_stationary=end.holds(float(there)))
    norm, length = float(np.linalg.norm(gradient)), float(np.linalg.norm(params))
    step, decrement = None, math.nan
    if norm == 0:
        step, decrement = np.zeros_like(gradient), 0.0
    elif spectrum.kind in ("minimum", "undetermined"):
        found, half_squared, is_convex = curvature.run(_newton_step)
        if is_convex:
            step, decrement = np.asarray(found, np.float64), float(half_squared)
    if step is None:
        size = length if length > 0 else 1.0
        bound = tolerance * spectrum.size * size
        return Verdict(norm <= bound, math.nan, None, size, norm, bound)
    how = {"tolerance": tolerance, "eps": eps, "floor": tolerance}
    return _judged((params, value, gradient), (step, decrement), lambda: spectrum.size, **how)


def by_newton(
    newton: Newton,
    params: np.ndarray,
    value: Any,
    gradient: np.ndarray,
    *,
    tolerance: Any,
    eps: float,
    floor: Any = None,
) -> tuple[Verdict, Any, Expected]:
    """The verdict by the rule of this module, if all eigenvalues of the Hessian are known; ``eps``
    is the rounding of data and params, and ``floor`` the share of F that is a scale of the value,
    by default t. All arrays may have leading axes, for several points.

    Returns:
      The verdict; whether Newton's step is long by eigenvalues alone that rounding of the data may
      change; and the value that is expected at the end of the step, which decides then.
    """
    here, worth = (params, value, gradient), newton.worth(params)
    how = {"tolerance": tolerance, "eps": eps, "floor": tolerance if floor is None else floor}

    def judged(newton: Newton) -> Verdict:
        found = newton.step(gradient), newton.decrement(gradient)
        flat = newton.flat_share(gradient, params)
        return _judged(here, found, lambda: newton.largest, worth, flat, **how)

    verdict = without = judged(newton)
    if not np.all(verdict.is_stationary):
        without = judged(newton.in_doubt(eps))
    is_far = np.logical_and(without.is_stationary, np.logical_not(verdict.is_stationary))
    step: Any = verdict.step
    change = np.sum(step * (gradient + 0.5 * newton.product(step)), axis=-1)
    rounding = NOISE * np.maximum(np.abs(value), worth)
    return verdict, is_far, Expected(value + change, HOLDS * verdict.decrement + rounding)


class Expected(NamedTuple):
    """The value at the end of Newton's step by the expansion, and how far from it a measured value
    may be; arrays for several points.
    """

    value: Any
    slack: Any

    def holds(self, there: Any) -> Any:
        """Whether the expansion holds, if the value is ``there``."""
        return abs(there - self.value) <= self.slack


def _judged(
    here: tuple[np.ndarray, Any, np.ndarray],
    newton: tuple[np.ndarray, Any],
    largest: Callable[[], Any],
    worth: Any = None,
    flat: Any = 0.0,
    *,
    tolerance: Any,
    eps: float,
    floor: Any,
) -> Verdict:
    """The verdict on a point, or several, of which params, value and gradient are given, and
    Newton's step with its decrement. ``largest`` is L, ``worth`` is F by the entries of H, if these
    are known, and ``flat`` the share of the gradient along directions of zero curvature.
    """
    (params, value, gradient), (step, decrement) = here, newton
    length, beyond = (np.linalg.norm(each, axis=-1) for each in (params, params + step))
    is_at_zero = (beyond <= 1e-3 * length) & (1e-3 * length < 1e-3)
    size = np.maximum(length, beyond)
    size = np.where(is_at_zero | (size == 0), 1.0, size)
    is_short = np.linalg.norm(step, axis=-1) <= SHORT_STEP * size
    if worth is None or np.any(is_at_zero):
        by_size = 0.5 * largest() * np.where(is_short, size, length) ** 2
        worth = by_size if worth is None else np.where(is_at_zero, by_size, worth)
    high = np.abs(value)
    # The change of the value by rounding of data and params, at least the smallest number.
    least = np.maximum(eps**2 * np.maximum(high, worth), underflow(step, eps))
    worth = np.where(decrement < ZERO * high, np.minimum(worth, high), worth)
    bound = SLACK * tolerance * np.maximum(np.where(is_short, high, 0.0), floor * worth)
    bound, is_flat = np.maximum(bound, least), flat <= tolerance
    norm = np.linalg.norm(gradient, axis=-1)
    return Verdict(is_flat & (decrement <= bound), decrement, step, size, norm, bound, is_flat)


def is_beyond_doubt(spectrum: Spectrum, step: np.ndarray) -> bool:
    """Whether the kind holds for the Hessian's changes within twice a step, and within twice the
    steps that rounding of the gradient may hide, or nothing says that it may not.
    """
    curvature = spectrum.curvature
    if curvature.objective.is_quadratic or spectrum.holds is None:
        return True
    newton = spectrum.newton
    if newton is None:
        scale = np.broadcast_to(spectrum.scale, step.shape)
        return spectrum.holds(2 * hessian_matrix.change(curvature, step, scale))
    share = 0.0
    for each in (step, _hidden_step(curvature, newton)):
        if np.any(each):
            beyond = curvature.shifted(curvature.as_params(2 * each))
            hessian = hessian_matrix.formed(beyond, math.inf)
            assert hessian is not None
            share += newton.share(hessian)
    return spectrum.holds(2 * share)


def _hidden_step(curvature: Curvature, newton: Newton) -> np.ndarray:
    """Newton's step for the rounding of the gradient, measured at params with other rounding
    errors; the longest step of several.
    """
    assert curvature.point is not None  # Curvature.at has computed it
    here, gradient = curvature.as_column(curvature.params), curvature.point[1]
    hessian = newton.matrix / newton.scale / newton.scale[:, None]
    longest, length = np.zeros_like(here), 0.0
    for draw in range(hessian_matrix.PROBES):
        other = curvature.jittered(draw)
        moved = hessian @ (curvature.as_column(other.params) - here)
        step = hessian_matrix.SAFETY * newton.step(other.gradient() - gradient - moved)
        scaled = float(np.linalg.norm(step / newton.scale))
        if length < scaled < math.inf:
            longest, length = step, scaled
    return longest


def _value_after(objective: Objective, params: Params, step: Params) -> jax.Array:
    return objective.value(jax.tree.map(jnp.add, params, step))


def _newton_step(objective: Objective, params: Params) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Newton's step, half its squared decrement, and whether no curvature is negative."""
    downhill = jax.tree.map(jnp.negative, objective.gradient(params))
    product = functools.partial(objective.hessian_product, params)
    step, is_convex = conjugate_gradient(product, downhill, 0.0, most_steps=SOLVE_STEPS)
    return ravel_pytree(step)[0], 0.5 * precision.inner(downhill, step), is_convex


def region(spectrum: Spectrum, step: np.ndarray | None, size: float) -> float:
    """The distance from the params up to which the quadratic model holds to 10 %.

    The function is compared with its quadratic model along the direction of least curvature,
    Newton's step and a few random directions, at distances r that are the params' norm (1 if it is
    zero) halved up to 40 times. The deviation is ``integral_0^r (r - s) (c(s) - c(0)) ds``, where
    ``c(s)`` is the curvature along the ray at s, so that no nearly equal values are subtracted. The
    region ends at the last distance up to which the deviation is at most a tenth of
    ``c(0) r^2 / 2`` on both sides of every ray. It is infinite for a quadratic, and zero if the
    model holds nowhere.
    """
    curvature = spectrum.curvature
    if curvature.objective.is_quadratic:
        return math.inf
    is_large = curvature.size >= MANY_UNKNOWNS
    rays = [curvature.direction(50 + k) for k in range(1 if is_large else RANDOM_DIRECTIONS)]
    if spectrum.lowest is not None:
        rays.append(spectrum.lowest)
    if step is not None and np.any(step):
        rays.append(curvature.as_params(step / np.linalg.norm(step)))
    halvings = 10 if is_large else HALVINGS * (1 + curvature.is_double)
    radii = size * 0.5 ** np.arange(halvings, -1, -1)
    return min(_reach(curvature, ray, radii * sign) for ray in rays for sign in (1, -1))


NODES, WEIGHTS = np.polynomial.legendre.leggauss(3)


def _reach(curvature: Curvature, ray: Params, radii: np.ndarray) -> float:
    """The last of the distances, all of one sign, up to which the model holds."""
    edges = np.concatenate([[0.0], radii])
    centers, halves = 0.5 * (edges[1:] + edges[:-1]), 0.5 * (edges[1:] - edges[:-1])
    nodes = centers[:, None] + halves[:, None] * NODES
    dtype = jnp.result_type(*jax.tree.leaves(curvature.params))
    at = np.concatenate([[0.0], nodes.ravel()]).astype(dtype)
    along = np.asarray(curvature.run(_curvatures_along, ray, at), np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        excess = (along[1:] - along[0]).reshape(nodes.shape)
        zeroth = np.cumsum(halves * (excess @ WEIGHTS))
        first = np.cumsum(halves * ((excess * nodes) @ WEIGHTS))
        error = np.abs(radii * zeroth - first)
        holds = error <= TOLERATED * 0.5 * np.abs(along[0]) * radii**2
    count = len(radii) if np.all(holds) else int(np.argmin(holds))
    return float(np.abs(edges[count]))


def _curvatures_along(
    objective: Objective, params: Params, ray: Params, distances: jax.Array
) -> jax.Array:
    def at(distance: jax.Array) -> jax.Array:
        return objective.curvature(add_scaled(params, distance, ray), ray)

    return lax.map(at, distances)
