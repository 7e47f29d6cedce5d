"""Ill-conditioned regressions solved by sums over rows alone, on accelerators or sharded rows.

A QR factorisation of all rows would gather them. Here its triangular factor comes from Gram
matrices of columns that are orthonormalised step by step
(:func:`jaxdescent.kernels.factors.triangle_by_gram`); they include the penalty.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdescent.kernels import factors
from jaxdescent.kernels.blocks import sum_over_strides
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.regression.solve.factor import (
    InverseFactor,
    null_level,
    spectral_factor,
    triangular_factor,
)


def factor_by_gram(
    X: jax.Array, weight: jax.Array, mean: jax.Array, raw_length: jax.Array, l2: jax.Array
) -> InverseFactor:
    """The factor of :func:`jaxdescent.regression.solve.refinement.orthogonal_factor`, by Gram
    matrices; the arguments are the same.
    """
    null = null_level(X.dtype, X.shape[1])
    squared = jnp.sum(weight * jnp.square(X - mean[None, :]), axis=0)
    # Other columns are constant but for rounding, and have no penalty that counts beside it.
    is_kept = jnp.sqrt(squared + jnp.maximum(jnp.min(l2), 0)) > null * raw_length
    squared = jnp.where(is_kept, squared, 0)
    # A negative penalty has no square root: it is added to the singular values instead.
    penalty = jnp.zeros((), l2.dtype) if l2.ndim else jnp.maximum(l2, 0)

    def gram(T: jax.Array) -> jax.Array:
        kept = jnp.where(is_kept[:, None], T, 0)
        return _turned_gram(X, weight, mean, kept) + penalty * jnp.matmul(T.T, T, precision=HIGHEST)

    if l2.ndim:
        return spectral_factor(factors.triangle_by_gram(gram, jnp.sqrt(squared))[0], l2, mean)
    length = jnp.sqrt(squared + penalty)
    R, inverse = factors.triangle_by_gram(gram, length)
    length = jnp.where(length > 0, length, 1)
    in_lengths = R / length[None, :], length[:, None] * inverse
    factor = triangular_factor(R, jnp.minimum(l2, 0), *in_lengths, length=length, mean=mean)
    return factor.without(~is_kept)


def turned_product(
    X: jax.Array, root: jax.Array, mean: jax.Array, T: jax.Array, rows: jax.Array
) -> jax.Array:
    """``(A T)' rows`` for ``A = root (X - 1 mean')``, without storing A T."""

    def of_block(X: jax.Array, root: jax.Array, rows: jax.Array) -> jax.Array:
        turned = jnp.matmul(root * (X - mean[None, :]), T, precision=HIGHEST)
        return jnp.matmul(turned.T, rows, precision=HIGHEST)

    return sum_over_strides(of_block, X, jnp.broadcast_to(root, (X.shape[0], 1)), rows)


def dual_solution(A: jax.Array, l2: jax.Array, targets: jax.Array) -> jax.Array:
    """``(A A' + l2 I)^+ targets``, with one l2 for each column, from sums over A's columns."""

    def gram(T: jax.Array) -> jax.Array:
        turned = jnp.matmul(T.T, A, precision=HIGHEST)
        return jnp.matmul(turned, turned.T, precision=HIGHEST)

    R, _ = factors.triangle_by_gram(gram, jnp.sqrt(jnp.sum(jnp.square(A), axis=1)))
    U, s, _ = factors.svd(R.T)
    is_null = (s <= null_level(s.dtype, s.size) * jnp.max(s))[:, None]
    gain = 1 / jnp.where(is_null, 1, jnp.square(s)[:, None] + l2.reshape(1, -1))
    rotated = jnp.where(is_null, 0, gain) * jnp.matmul(U.T, targets, precision=HIGHEST)
    return jnp.matmul(U, rotated, precision=HIGHEST)


def _turned_gram(X: jax.Array, weight: jax.Array, mean: jax.Array, T: jax.Array) -> jax.Array:
    """``(A T)'(A T)`` for ``A = sqrt(S) (X - 1 mean')``, without storing A T."""

    def of_block(X: jax.Array, weight: jax.Array) -> jax.Array:
        turned = jnp.matmul(X - mean[None, :], T, precision=HIGHEST)
        return jnp.matmul((weight * turned).T, turned, precision=HIGHEST)

    return sum_over_strides(of_block, X, weight)
