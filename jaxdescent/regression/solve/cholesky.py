"""The Cholesky factor of a symmetric matrix scaled to a unit diagonal, and its accuracy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.kernels import small_matrices
from jaxdescent.regression.solve.factor import InverseFactor, spectral_norm

FAIR = 6.5
"""The largest norm of the inverse Cholesky factor for which one solve suffices: it loses one or two
digits, which a second solve would not recover. The rows have unit length, and centring must not
have cancelled digits."""


def least_singular_value(dtype: Any) -> float:
    """The least singular value that counts as well-conditioned, for columns of unit length:
    ``8 sqrt(eps)``.
    """
    return 8 * float(jnp.finfo(dtype).eps) ** 0.5


def equilibrated(
    matrix: jax.Array, l2: Any, raw_diagonal: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``E (matrix + l2 I) E`` with a unit diagonal, E, and the least singular value that its
    Cholesky factor must have.

    ``raw_diagonal`` is the matrix's diagonal before centring. Its rounding errors remain after
    centring, and dominate if the data are far from zero; so the last number grows with it.
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
) -> tuple[InverseFactor, jax.Array, jax.Array]:
    """The factor of ``(matrix + l2 I)^-1`` for one l2, and two verdicts on it.

    Returns:
      The factor; ``is_ill``: whether the matrix is too ill-conditioned for it; ``is_fair``: whether
      one solve is as accurate as two.
    """
    scaled, scale, least = equilibrated(matrix, l2, raw_diagonal)
    inverse = small_matrices.inverse_cholesky(scaled)
    gain = jnp.ones((inverse.shape[0], 1), inverse.dtype)
    factor = InverseFactor(scale[:, None] * inverse.T, gain, mean, jnp.array(False))
    # The diagonal of the Cholesky factor would not show it: the rounding error in a last pivot of
    # zero grows with the number of columns. If the factorisation fails, NaN makes ``is_ill`` true.
    level = _norm_bound(inverse) * least
    return factor, ~(level < 1), level < FAIR * least_singular_value(inverse.dtype)


def _norm_bound(matrix: jax.Array) -> jax.Array:
    """An estimate of the spectral norm; for few columns the Frobenius norm, which is not much
    larger and takes one pass over a batch of matrices.
    """
    if matrix.shape[0] <= small_matrices.SMALL_COLUMNS:
        return jnp.sqrt(jnp.sum(jnp.square(matrix)))
    return spectral_norm(matrix)
