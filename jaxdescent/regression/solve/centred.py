"""A regression's data with its means apart."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.designs import as_design
from jaxdescent.kernels.dtypes import HIGHEST

Params = Any


class Centred(NamedTuple):
    """The data as the solvers see them; the means are zero where there is no intercept."""

    X: jax.Array
    weight: jax.Array  # (rows, 1)
    feature_mean: jax.Array  # (features,)
    target_mean: jax.Array  # (outputs,)
    weight_total: jax.Array


def centre(X: Any, y: Any, sample_weight: Any, intercept: bool) -> Centred:
    """X, dense, and y (or None) with what the solvers subtract of them."""
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
    """The weights as ``params`` hold them, and the intercept that belongs to them, if they have
    one.
    """
    new = {"weights": weights.reshape(params["weights"].shape)}
    if "intercept" in params:
        shift = jnp.matmul(feature_mean, weights, precision=HIGHEST)
        new["intercept"] = (target_mean - shift).reshape(params["intercept"].shape)
    return new


def columns(array: jax.Array) -> jax.Array:
    """With its outputs as columns, one at least."""
    return array.reshape(array.shape[0], -1)
