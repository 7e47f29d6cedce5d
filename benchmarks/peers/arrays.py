"""Data in JAX's own arrays."""

from __future__ import annotations

from typing import Any

import numpy as np


def shared(X: np.ndarray) -> Any:
    """A JAX array on the same memory, where the device is the host."""
    import jax
    import jax.numpy as jnp

    if np.ndim(X) and jax.devices()[0].platform == "cpu":
        return jnp.from_dlpack(X)
    return jnp.asarray(X)
