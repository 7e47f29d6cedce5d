"""The gap of a regression, by the Golub-Kahan process on its residual.

The gap is half the squared norm of the residual's projection onto the range of X, and LSQR's
iteration measures this projection: with phi_i the entries of its rotated right-hand side, i steps
lower the value by ``sum(phi_i^2) / 2``, and what is left is at most ``|g|^2 / (2 theta)``, for the
gradient g after these steps and the smallest eigenvalue theta of X'X. Columns are centred and have
norm one; a penalty enters as extra rows; several outputs are one problem. The residual is computed
anew, so that the end of the process is a refined point. In place of theta stands the smallest Ritz
value that any query about the same data has met, or where its trend leads
(:class:`jaxdescent.gap.gap.Trend`). Conjugate gradients on X'X could not answer: in float32 the
gradient does not show singular values below ``sqrt(eps)`` of the largest.

References: Paige and Saunders (1982), "LSQR: an algorithm for sparse linear equations and sparse
least squares"; Golub and Meurant (2010), "Matrices, moments and quadrature with applications".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.gap.gap import LEAST_STEPS, Gap, Query, Trend
from jaxdescent.numerics import precision
from jaxdescent.numerics.linear_systems import hypotenuse, inverse
from jaxdescent.numerics.ritz import SmallestRitz
from jaxdescent.preconditioners import CentredRegression
from jaxdescent.status import Evidence

MOST_MARKS = 4096
"""The number of steps whose Ritz values are kept."""

FLOOR_ULPS = 2.0
"""With columns of norm one a gradient of this many eps times the residual is rounding."""

CONSTANT_ULPS = 16.0
"""A centred column of this many eps times its mean is the rounding of a constant one."""

SETTLED = 0.1
"""A point is rejected where what is left is at most this part of what was gained."""


class _State(NamedTuple):
    rows: jax.Array  # u = (rows, penalty), a left vector
    penalty: jax.Array
    direction: jax.Array  # v, a right vector
    search: jax.Array
    step: jax.Array  # the sum of the steps, in units of the columns
    alpha: jax.Array
    rho_bar: jax.Array
    phi_bar: jax.Array  # the norm of the residual
    below: jax.Array  # theta, the entry beside the next diagonal entry of R
    gained: jax.Array
    normal: jax.Array  # the norm of the gradient
    ritz: SmallestRitz
    trend: Trend
    flattest: jax.Array
    upper: jax.Array
    steps: jax.Array
    is_over: jax.Array


def gap(regression: Any, params: Any, query: Query) -> Gap:
    """The gap of a ``jd.LinearRegression`` at ``params``: two passes over X a step, and three."""
    wide = precision.widen(params)
    centred = CentredRegression.from_objective(regression)
    weights = wide["weights"].reshape(centred.size, -1)
    dtype = jnp.result_type(weights)
    units, root = _units(centred, regression.sample_weight), jnp.sqrt(centred.shift)
    eps = jnp.finfo(dtype).eps
    allowed = query.allowed(jnp.ones((), dtype)).astype(dtype)
    # A penalty bounds the smallest eigenvalue in these units.
    is_bounded = jnp.min(jnp.where(units > 0, jnp.square(root) * jnp.square(units), jnp.inf))
    budget = jnp.maximum(query.budget, LEAST_STEPS)

    def targets_less(image: jax.Array, targets: jax.Array) -> jax.Array:
        return targets - image

    rows, pulled = centred.there_and_back(weights, targets_less, (centred.targets(),))
    penalty = -root * weights
    beta = precision.norm((rows, penalty))
    rows, penalty = rows * inverse(beta), penalty * inverse(beta)
    pulled = units * (pulled * inverse(beta) + root * penalty)
    alpha = precision.norm(pulled)
    direction = pulled * inverse(alpha)
    zero = jnp.zeros((), dtype)
    state = _State(
        rows=rows,
        penalty=penalty,
        direction=direction,
        search=direction,
        step=jnp.zeros_like(weights),
        alpha=alpha,
        rho_bar=alpha,
        phi_bar=beta,
        below=zero,
        gained=zero,
        normal=alpha * beta,
        ritz=SmallestRitz.start((), dtype),
        trend=Trend.start(MOST_MARKS, dtype),
        flattest=jnp.asarray(query.flattest, dtype),
        upper=jnp.full((), jnp.inf, dtype),
        steps=jnp.zeros((), jnp.int32),
        is_over=(alpha * beta == 0) | ~jnp.isfinite(alpha * beta),
    )

    def advanced(old: _State) -> _State:
        def next_rows(image: jax.Array, rows: jax.Array) -> jax.Array:
            return image - old.alpha * rows

        argument = units * old.direction
        rows, pulled = centred.there_and_back(argument, next_rows, (old.rows,))
        penalty = root * argument - old.alpha * old.penalty
        beta = precision.norm((rows, penalty))
        unit = inverse(beta)
        rows, penalty = rows * unit, penalty * unit
        pulled = units * (pulled * unit + root * penalty) - beta * old.direction
        alpha = precision.norm(pulled)
        direction = pulled * inverse(alpha)
        rho = hypotenuse(old.rho_bar, beta)
        c, s = old.rho_bar * inverse(rho), beta * inverse(rho)
        phi, phi_bar = c * old.phi_bar, s * old.phi_bar
        gained = old.gained + 0.5 * phi * phi
        normal = phi_bar * alpha * jnp.abs(c)
        ritz, count = old.ritz.after(rho, old.below), old.steps + 1
        smallest = jnp.where(ritz.inverse > 0, inverse(ritz.inverse), jnp.inf)
        trend, ahead = old.trend.after(count, smallest)
        flattest = jnp.minimum(old.flattest, smallest)
        theta = jnp.maximum(jnp.minimum(flattest, ahead), is_bounded)
        left = 0.5 * normal * (normal * inverse(theta))
        left = jnp.where((theta > 0) | (normal == 0), left, jnp.inf)
        at_floor = normal <= FLOOR_ULPS * eps * phi_bar
        is_accepted = (gained + left <= allowed) & ((count >= LEAST_STEPS) | at_floor)
        is_rejected = (gained > allowed) & (left <= SETTLED * gained)
        is_over = is_accepted | is_rejected | at_floor | (count >= budget) | (normal == 0)
        return _State(
            rows=rows,
            penalty=penalty,
            direction=direction,
            search=direction - s * alpha * inverse(rho) * old.search,
            step=old.step + phi * inverse(rho) * old.search,
            alpha=alpha,
            rho_bar=-c * alpha,
            phi_bar=phi_bar,
            below=s * alpha,
            gained=gained,
            normal=normal,
            ritz=ritz,
            trend=trend,
            flattest=flattest,
            upper=gained + left,
            steps=count,
            is_over=is_over | ~jnp.isfinite(normal),
        )

    end = lax.while_loop(lambda state: ~state.is_over, advanced, state)
    moved = (weights + units * end.step).reshape(wide["weights"].shape)
    upper = jnp.where((state.normal == 0) & (end.steps == 0), 0, end.upper)
    excess, best = jnp.zeros((), dtype), {"weights": moved}
    if centred.means is not None:
        own = centred.means.excess(wide)
        excess = 0.5 * jnp.sum(jnp.square(own)) / centred.means.weight_total
        best = centred.means.with_intercept(moved)
        best["intercept"] = best["intercept"].reshape(wide["intercept"].shape)
    is_known = jnp.isfinite(upper) & regression.is_convex
    code = jnp.where(is_known, Evidence.RITZ_VALUES.value, Evidence.NONE.value)
    value_dtype = jnp.asarray(query.value).dtype
    return Gap(
        lower=(end.gained + excess).astype(value_dtype),
        upper=jnp.where(is_known, upper + excess, jnp.inf).astype(value_dtype),
        allowed=allowed.astype(value_dtype),
        evidence=code.astype(jnp.int32),
        params=jax.tree.map(lambda new, old: new.astype(old.dtype), best, params),
        evaluations=end.steps + 2,
        flattest=end.flattest,
    )


def _units(centred: CentredRegression, sample_weight: Any) -> jax.Array:
    """One over the length of each column, with the penalty's rows, (features, 1); zero for columns
    that are the rounding of constants, and one for all if the design does not know lengths.
    """
    design = centred.centred_design
    squares = design.column_squared_norms(sample_weight, None)
    if squares is None:
        return jnp.ones((centred.size, 1), centred.dtype)
    least = jnp.max(centred.shift)
    is_length = squares > 0
    if centred.means is not None:
        eps = CONSTANT_ULPS * jnp.finfo(squares.dtype).eps
        mean, total = centred.means.features.mean, centred.means.weight_total
        is_length &= squares > jnp.square(eps * mean) * total
    squares = jnp.where(is_length, squares, 0) + least
    return jnp.where(squares > 0, lax.rsqrt(jnp.where(squares > 0, squares, 1)), 0)[:, None]
