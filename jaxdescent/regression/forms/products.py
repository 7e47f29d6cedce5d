"""A symmetric matrix computed column by column, for a design of which only products are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.kernels.symmetric import BLOCK_BYTES


def columns_of(
    column: Callable[[jax.Array], jax.Array], count: int, length: int, dtype: Any
) -> jax.Array:
    """The symmetric (count, count) array whose columns are ``column(index)``.

    At a time as many columns are computed as there are vectors of ``length`` elements in a cache.
    """
    batch = max(1, min(count, BLOCK_BYTES // (length * jnp.dtype(dtype).itemsize)))
    matrix = lax.map(column, jnp.arange(count, dtype=jnp.int32), batch_size=batch)
    return 0.5 * (matrix + matrix.T)


def unit(index: jax.Array, length: int, dtype: Any) -> jax.Array:
    """The unit vector along axis ``index``, (length,)."""
    return (jnp.arange(length, dtype=jnp.int32) == index).astype(dtype)
