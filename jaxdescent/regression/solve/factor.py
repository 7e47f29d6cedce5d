"""The inverse of a regression's normal matrix in factors, and what rounding leaves of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.kernels import factors, loops
from jaxdescent.kernels.dtypes import HIGHEST

NULL = 32
"""Singular values up to so many eps of the largest (of the columns' length, where the columns
are of one length) are what rounding leaves of zero, in a matrix of up to 64 columns."""


class Factor(NamedTuple):
    """``(X'SX + l2 I)^-1``, nearly, of the centred X: ``basis diag(gain) basis'``.

    Where the rank is deficient it is the pseudo-inverse.
    """

    basis: jax.Array  # (features, features)
    gain: jax.Array  # (features, outputs), or one column for all outputs
    feature_mean: jax.Array  # (features,)
    is_deficient: jax.Array

    def apply(self, columns: jax.Array) -> jax.Array:
        """The inverse times (features, outputs)."""
        rotated = self.gain * jnp.matmul(self.basis.T, columns, precision=HIGHEST)
        return jnp.matmul(self.basis, rotated, precision=HIGHEST)


def null_level(dtype: Any, columns: int) -> float:
    """The share of the largest singular value that rounding leaves of zero.

    It is the norm of a matrix of rounding errors, which grows as the root of its size.
    """
    return NULL * float(jnp.finfo(dtype).eps) * max(1.0, (columns / 64) ** 0.5)


def spectral_factor(R: jax.Array, l2: jax.Array, mean: jax.Array) -> Factor:
    """With ``R = U diag(s) V'``: ``V diag(1 / (s^2 + l2)) V'``, without the null directions."""
    _, s, Vt = factors.svd(R)
    is_null = s <= null_level(s.dtype, s.size) * jnp.max(s)
    inverse = jnp.where(is_null, 0, 1 / jnp.where(is_null, 1, s))
    gain = 1 / (1 + l2[None, :] * jnp.square(inverse)[:, None])
    return Factor(Vt.T * inverse[None, :], gain, mean, jnp.any(is_null))


def spectral_norm(matrix: jax.Array) -> jax.Array:
    """The largest singular value, from below, by a few steps of the power method."""

    def iterate(_: jax.Array, vector: jax.Array) -> jax.Array:
        image = jnp.matmul(matrix, vector / jnp.linalg.norm(vector), precision=HIGHEST)
        return jnp.matmul(matrix.T, image, precision=HIGHEST)

    # The longest row's direction is a start that no singular vector is orthogonal to by design.
    longest = matrix[jnp.argmax(jnp.sum(jnp.square(matrix), axis=1))]
    return jnp.sqrt(jnp.linalg.norm(loops.fori_loop(3, iterate, longest, turn_bytes=matrix.nbytes)))
