"""A symmetric matrix with a unit diagonal, and what cancellation has left of it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


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
