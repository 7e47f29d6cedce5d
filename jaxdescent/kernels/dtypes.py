"""The dtype that arithmetic runs in, and the precision of products."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

HIGHEST = lax.Precision.HIGHEST
"""Matrix products that decide convergence: float32 stays float32 on GPUs (TF32) and TPUs (bf16)."""


def compute_dtype(dtype: Any) -> jnp.dtype:
    """The dtype that arithmetic on ``dtype`` runs in: float32 for 16-bit floats, else itself."""
    dtype = jnp.dtype(dtype)
    return jnp.dtype(jnp.float32) if dtype.itemsize < 4 else dtype
