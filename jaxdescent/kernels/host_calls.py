"""Calls of the host from a program, in which numbers keep their 64 bits on any thread.

JAX passes a callback's numbers on threads of XLA, where a 64-bit mode that
``jax.enable_x64(True)`` set for the caller's thread alone does not hold: float64 is cut to float32
there. So 64-bit numbers are passed as pairs of 32-bit words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

WORDS = jnp.uint32


def host_call(compute: Callable[..., Any], like: Any, *operands: Any, **options: Any) -> Any:
    """``compute(*operands)`` on the host, by NumPy: operands are trees of arrays, and ``like`` has
    the shapes and dtypes of the result. The options are those of :func:`jax.pure_callback`.
    """
    dtypes = [jnp.asarray(leaf).dtype for leaf in jax.tree.leaves(operands)]
    structure = jax.tree.structure(operands)

    def on_host(*given: Any) -> Any:
        own = [_whole(np.asarray(leaf), dtype) for leaf, dtype in zip(given, dtypes, strict=True)]
        return jax.tree.map(_words, compute(*jax.tree.unflatten(structure, own)))

    words = [_words_of(jnp.asarray(leaf)) for leaf in jax.tree.leaves(operands)]
    like_words = jax.eval_shape(lambda like: jax.tree.map(_words_of, like), like)
    made = jax.pure_callback(on_host, like_words, *words, **options)
    return jax.tree.map(lambda leaf, own: _numbers_of(leaf, own.dtype), made, like)


def _is_long(dtype: Any) -> bool:
    return jnp.dtype(dtype).itemsize == 8


def _words_of(array: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(array, WORDS) if _is_long(array.dtype) else array


def _numbers_of(words: jax.Array, dtype: Any) -> jax.Array:
    return lax.bitcast_convert_type(words, dtype) if _is_long(dtype) else words


def _whole(array: np.ndarray, dtype: Any) -> np.ndarray:
    if not _is_long(dtype):
        return array
    return np.asarray(array, order="C").view(dtype)[..., 0]


def _words(array: np.ndarray) -> np.ndarray:
    if not _is_long(array.dtype):
        return array
    return np.asarray(array, order="C")[..., None].view(np.uint32)
