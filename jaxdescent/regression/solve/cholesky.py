"""The Cholesky factor of a symmetric matrix with a unit diagonal, and what it has lost."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.kernels import small_matrices
from jaxdescent.regression.solve.factor import Factor, spectral_norm

FAIR = 6.5
"""Up to such a norm of the inverse of the Cholesky factor, of lines of unit length and not
cancelled by centring, a solve loses one or two digits, which a second one would not give back."""


def least_singular_value(dtype: Any) -> float:
    """Of a well-conditioned X, with columns of unit length: ``8 sqrt(eps)``."""
    return 8 * float(jnp.finfo(dtype).eps) ** 0.5


def equilibrated(
    matrix: jax.Array, l2: Any, raw_diagonal: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``E (matrix + l2 I) E`` with unit diagonal, E, and the least singular value of the Cholesky
    factor of a well-conditioned one.

    ``raw_diagonal`` is the diagonal before centring, whose rounding errors centring leaves behind:
    far from zero they outweigh what is left.
    """
    diagonal = jnp.diagonal(matrix) + jnp.asarray(l2, matrix.dtype)
    is_positive = diagonal > 0
    safe = jnp.where(is_positive, diagonal, 1)
    scale = jnp.where(is_positive, lax.rsqrt(safe), 0)
    is_diagonal = jnp.eye(matrix.shape[0], dtype=bool)
    scaled = jnp.where(is_diagonal, 1, scale[:, None] * matrix * scale[None, :])
    cancelled = jnp.maximum(jnp.max(raw_diagonal / safe), 1)
    least = least_singular_value(matrix.dtype) * jnp.sqrt(cancelled)
    return scaled, scale, jnp.where(jnp.all(is_positive), least, jnp.inf)


def cholesky_factor(
    matrix: jax.Array, raw_diagonal: jax.Array, l2: jax.Array, mean: jax.Array
) -> tuple[Factor, jax.Array, jax.Array]:
    """Of ``matrix + l2 I``, for one l2; is too little left of the matrix (``is_ill``), and is so
    much left of it that one solve is as good as two (``is_fair``)?
    """
    scaled, scale, least = equilibrated(matrix, l2, raw_diagonal)
    inverse = small_matrices.inverse_cholesky(scaled)
    gain = jnp.ones((inverse.shape[0], 1), inverse.dtype)
    factor = Factor(scale[:, None] * inverse.T, gain, mean, jnp.array(False))
    # Not from the factor's diagonal: what rounding leaves of a last pivot of zero grows with the
    # number of columns. A failed factorisation is NaN: ill, as it should be.
    level = _norm_bound(inverse) * least
    return factor, ~(level < 1), level < FAIR * least_singular_value(inverse.dtype)


def _norm_bound(matrix: jax.Array) -> jax.Array:
    """Its spectral norm, nearly; of few columns Frobenius' norm, which is not much more and takes
    a batch of matrices one pass.
    """
    if matrix.shape[0] <= small_matrices.SMALL_COLUMNS:
        return jnp.sqrt(jnp.sum(jnp.square(matrix)))
    return spectral_norm(matrix)
