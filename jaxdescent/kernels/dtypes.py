"""The dtype in which arithmetic runs, and the precision of matrix products."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

HIGHEST = lax.Precision.HIGHEST
"""The precision of matrix products that decide convergence: products of float32 stay float32, where
GPUs would use TF32 and TPUs bfloat16 by default."""


def compute_dtype(dtype: Any) -> jnp.dtype:
    """The dtype of arithmetic on ``dtype``: float32 for 16-bit floats, else ``dtype`` itself."""
    dtype = jnp.dtype(dtype)
    return jnp.dtype(jnp.float32) if dtype.itemsize < 4 else dtype
