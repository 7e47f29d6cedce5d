"""Random numbers by hashing counters: fused where they are used, and free of any state.

``jax.random`` draws with several arrays of temporaries as large as the result. Here each element
hashes the seed and its own index, one round for each axis: nothing is allocated, the numbers do
not depend on the sharding, and no axis is too long for 32-bit counters.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def mix(x: jax.Array) -> jax.Array:
    """A bijective mixer of 32-bit words in which every input bit reaches every output bit.

    Reference: Wellons' "lowbias32" constants, from a search for low bias in hash functions.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def fold(seed: Any, *counters: Any) -> jax.Array:
    """A new seed from a seed and counters (a leaf's number, an iteration)."""
    word = mix(jnp.asarray(seed).astype(jnp.uint32) ^ jnp.uint32(0x9E3779B9))
    for counter in counters:
        word = mix(word ^ jnp.asarray(counter).astype(jnp.uint32))
    return word


def bits(shape: tuple[int, ...], seed: jax.Array) -> jax.Array:
    """A uniform 32-bit word for each element of an array of this shape."""
    word = jnp.broadcast_to(seed, shape)
    for axis in range(len(shape)):
        word = mix(word ^ lax.broadcasted_iota(jnp.uint32, shape, axis))
    return word


def normal(shape: tuple[int, ...], seed: jax.Array, dtype: Any) -> jax.Array:
    """Standard normal numbers, by the transform of Box and Muller."""
    first, second = (
        (bits(shape, fold(seed, stream)) >> 8).astype(dtype) * jnp.asarray(2.0**-24, dtype)
        for stream in (0, 1)
    )
    radius = jnp.sqrt(-2 * jnp.log1p(-first))
    return radius * jnp.cos(jnp.asarray(2 * jnp.pi, dtype) * second)


def integers(
    shape: tuple[int, ...], seed: jax.Array, low: int, high: int, dtype: Any
) -> jax.Array:
    """Integers uniform on [low, high), as floating-point numbers of ``dtype``.

    The interval is cut from 32 bits, so probabilities differ by at most ``(high - low) / 2^32``.

    >>> import jax.numpy as jnp
    >>> draw = integers((10_000,), fold(0), -1000, 1000, jnp.float32)
    >>> bool((draw >= -1000).all() & (draw < 1000).all() & (draw == draw.round()).all())
    True
    """
    # The high word of a 32 x 16 bit product, without 64-bit integers.
    words = bits(shape, seed)
    width = jnp.uint32(high - low)
    scaled = ((words >> 16) * width + (((words & 0xFFFF) * width) >> 16)) >> 16
    return (scaled.astype(jnp.int32) + low).astype(dtype)
