"""Arrays and numbers of the host as JAX arrays."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent.inputs.tracing import is_top_level

MOST_COPIED_BYTES = 2**20
"""The most bytes of an array of the host that is copied there first."""


def as_array(value: Any, dtype: Any = None) -> jax.Array:
    """The value as ``jnp.asarray`` gives it, without a program.

    ``jnp.asarray`` compiles one for each new shape, which takes some milliseconds.
    ``jax.device_put`` compiles none, but may use the memory of a NumPy array, which its owner may
    change: so it is given a copy, unless the array is so large that a second copy would matter more
    than the compilation.

    >>> as_array(np.arange(3.0)), as_array(2.0).weak_type
    (Array([0., 1., 2.], dtype=float32), True)
    """
    is_large = isinstance(value, np.ndarray) and value.nbytes > MOST_COPIED_BYTES
    if isinstance(value, jax.Array) or is_large or not is_top_level():
        return jnp.asarray(value, dtype)
    if dtype is not None or isinstance(value, np.ndarray):
        value = np.array(value, dtype)
    return jax.device_put(value)


def zeros(shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Zeros as ``jnp.zeros`` gives them, without a program if they are few and not traced.

    >>> zeros((2,), np.float32)
    Array([0., 0.], dtype=float32)
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size > MOST_COPIED_BYTES or not is_top_level():
        return jnp.zeros(shape, dtype)
    return jax.device_put(np.zeros(shape, dtype))
