"""A regression's dense data with the means that its solvers subtract."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.designs import as_design
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.objectives.elimination import squared_products

Params = Any

ROUNDING = 0.2
"""The mean size of a rounding error, in eps times the number that is rounded."""


class Centred(NamedTuple):
    """The data that the solvers use; the means are zero without an intercept."""

    X: jax.Array
    weight: jax.Array  # (rows, 1)
    feature_mean: jax.Array  # (features,)
    target_mean: jax.Array  # (outputs,)
    weight_total: jax.Array


def centre(X: Any, y: Any, sample_weight: Any, intercept: bool) -> Centred:
    """X as a dense array, its row weights, and the means of X and y (zero if y is None)."""
    dense = as_design(X).to_dense()
    rows, features = dense.shape
    if sample_weight is None:
        weight = jnp.ones((rows, 1), dense.dtype)
    else:
        weight = sample_weight.astype(dense.dtype)[:, None]
    weight_total = jnp.sum(weight)
    outputs = 1 if y is None else columns(y).shape[1]
    if not intercept:
        zero = jnp.zeros((features,), dense.dtype), jnp.zeros((outputs,), dense.dtype)
        return Centred(dense, weight, *zero, weight_total)
    share = weight / weight_total
    feature_mean = jnp.sum(share * dense, axis=0)
    target_mean = jnp.zeros((outputs,), dense.dtype)
    if y is not None:
        target_mean = jnp.sum(share * columns(y).astype(dense.dtype), axis=0)
    return Centred(dense, weight, feature_mean, target_mean, weight_total)


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


def columns(array: jax.Array) -> jax.Array:
    """The array as (rows, outputs), with one column for a single output."""
    return array.reshape(array.shape[0], -1)
