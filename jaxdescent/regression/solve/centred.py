"""A regression's dense data with the means that its solvers subtract."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.designs import as_design
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.objectives.elimination import squared_products
from jaxdescent.regression.solve.factor import InverseFactor

Params = Any

ROUNDING = 0.2
"""The mean size of a rounding error, in eps times the number that is rounded."""


class Centred(NamedTuple):
    """The data that the solvers use; the mean is zero without an intercept."""

    X: jax.Array
    weight: jax.Array  # (rows, 1)
    feature_mean: jax.Array  # (features,)
    weight_total: jax.Array


def centre(regression: Any) -> Centred:
    """X as a dense array, its row weights, and the mean of its rows."""
    dense, weight = as_design(regression.X).to_dense(), regression.sample_weight
    rows, features = dense.shape
    if weight is None:
        weight = jnp.ones((rows, 1), dense.dtype)
    else:
        weight = weight.astype(dense.dtype)[:, None]
    weight_total = jnp.sum(weight)
    mean = jnp.zeros((features,), dense.dtype)
    if regression.intercept:
        mean = jnp.sum(weight / weight_total * dense, axis=0)
    return Centred(dense, weight, mean, weight_total)


def centred_targets(
    y: Any, weight: jax.Array, weight_total: jax.Array, intercept: bool
) -> tuple[jax.Array, jax.Array]:
    """``y - y_bar``, (rows, outputs), and ``y_bar``, which is zero without an intercept."""
    targets = columns(jnp.asarray(y)).astype(weight.dtype)
    mean = jnp.zeros_like(targets[0])
    if intercept:
        mean = jnp.sum(weight / weight_total * targets, axis=0)
    return targets - mean[None, :], mean


def with_intercept(
    weights: jax.Array, feature_mean: jax.Array, target_mean: jax.Array, params: Params
) -> Params:
    """The weights in the shape of those in ``params``, with their best intercept if any."""
    new = {"weights": weights.reshape(params["weights"].shape)}
    if "intercept" in params:
        shift = jnp.matmul(feature_mean, weights, precision=HIGHEST)
        new["intercept"] = (target_mean - shift).reshape(params["intercept"].shape)
    return new


def rounding_of_products(mean: jax.Array, weights: jax.Array, weight_total: Any) -> jax.Array:
    """How much the rounding of the means and of the weights raises the value.

    It is the rounding of ``x_bar.w``, which the intercept has however small it is itself, and which
    a computed gradient does not show: ``S sum_j (r x_bar_j w_j)^2``, r the mean rounding of a
    number, for one half of the sum of two squares.
    """
    eps = jnp.finfo(weights.dtype).eps
    return jnp.square(ROUNDING * eps) * squared_products(mean, weights, weight_total)


def centred_slope(mean: jax.Array, objective: Any, gradient: Params) -> tuple[jax.Array, jax.Array]:
    """The gradient for the weights at the best intercept, and the gradient for the intercept."""
    slope = columns(gradient["weights"])
    if not objective.intercept:
        return slope, jnp.zeros_like(slope[0])
    of_intercept = gradient["intercept"].reshape(-1)
    return slope - jnp.outer(mean, of_intercept), of_intercept


def height_by_factor(
    factor: InverseFactor,
    diagonal: jax.Array,
    weight_total: jax.Array,
    at: tuple[Any, Params, Params],
    *,
    is_exact: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """How far the value is above the minimum, and the largest curvature of a column.

    Args:
      factor: the inverse of ``X'SX + l2 I`` for the centred X.
      diagonal: of this matrix, (features,), or (features, outputs).
      weight_total: the sum of the row weights.
      at: the objective, its params and its gradient there.
      is_exact: whether the params are the solution, so that the computed gradient is rounding.
    """
    objective, params, gradient = at
    mean = factor.feature_mean
    slope, of_intercept = centred_slope(mean, objective, gradient)
    weights = columns(params["weights"])
    squares = jnp.sum(slope * factor.apply(slope))
    rounding = jnp.sum(diagonal.reshape(len(diagonal), -1) * jnp.square(weights))
    if objective.intercept:
        squares = squares + jnp.sum(jnp.square(of_intercept)) / weight_total
        rounding = rounding + weight_total * jnp.sum(jnp.square(params["intercept"]))
    rounding = jnp.square(ROUNDING * jnp.finfo(weights.dtype).eps) * rounding
    height = 0.5 * jnp.where(is_exact, rounding, jnp.maximum(squares, 0))
    if objective.intercept:
        height = height + rounding_of_products(mean, weights, weight_total)
    return height, jnp.max(jnp.abs(diagonal))


def columns(array: jax.Array) -> jax.Array:
    """The array as (rows, outputs), with one column for a single output."""
    return array.reshape(array.shape[0], -1)
