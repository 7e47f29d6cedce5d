"""Random numbers by hashing counters: fused into the code that uses them, and without state.

``jax.random`` allocates several temporary arrays as large as the result. Here each element hashes
the seed and its own index, in one round for each axis: nothing is allocated, the numbers do not
depend on the sharding, and 32-bit counters suffice for every axis.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def mix(x: jax.Array) -> jax.Array:
    """A bijective mixer of 32-bit words in which every input bit reaches every output bit.

    Reference: Wellons' "lowbias32" constants, from a search for low bias in hash functions.
    """
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def fold(seed: Any, *counters: Any, xp: Any = jnp) -> Any:
    """A new seed from a seed and counters (a leaf's number, an iteration)."""
    word = mix(xp.asarray(seed).astype(np.uint32) ^ np.uint32(0x9E3779B9))
    for counter in counters:
        word = mix(word ^ xp.asarray(counter).astype(np.uint32))
    return word


def bits(shape: tuple[int, ...], seed: Any, xp: Any = jnp) -> Any:
    """A uniform 32-bit word for each element of an array of this shape."""
    word = xp.broadcast_to(seed, shape)
    for axis in range(len(shape)):
        if xp is np:
            index = np.indices(shape, np.uint32, sparse=True)[axis]
        else:
            index = lax.broadcasted_iota(np.uint32, shape, axis)
        word = mix(word ^ index)
    return word


def normal(shape: tuple[int, ...], seed: Any, dtype: Any, xp: Any = jnp) -> Any:
    """Standard normal numbers, by the Box-Muller transform; the host's are those of a program up
    to rounding.
    """
    first, second = (
        (bits(shape, fold(seed, stream, xp=xp), xp) >> 8).astype(dtype)
        * xp.asarray(2.0**-24, dtype)
        for stream in (0, 1)
    )
    radius = xp.sqrt(-2 * xp.log1p(-first))
    return radius * xp.cos(xp.asarray(2 * np.pi, dtype) * second)


def normal_like(tree: Any, seed: Any) -> Any:
    """Standard normal numbers in place of the leaves of a tree."""
    leaves, treedef = jax.tree.flatten(tree)
    draws = [normal(leaf.shape, fold(seed, k), leaf.dtype) for k, leaf in enumerate(leaves)]
    return treedef.unflatten(draws)


def integers(shape: tuple[int, ...], seed: jax.Array, low: int, high: int, dtype: Any) -> jax.Array:
    """Integers uniform on [low, high), at most 2^16 of them, as floating-point numbers.

    They are made from 24 random bits, so that their probabilities differ by at most ``2^-24``.

    >>> import jax.numpy as jnp
    >>> draw = integers((10_000,), fold(0), -1000, 1000, jnp.float32)
    >>> bool((draw >= -1000).all() & (draw < 1000).all() & (draw == draw.round()).all())
    True
    """
    width = high - low
    # Computed in float32, which vector units multiply faster than integers. The largest 24-bit word
    # is 2^24 - 1, and width (1 - 2^-24) stays below width when rounded.
    share = (bits(shape, seed) >> 8).astype(jnp.float32) * jnp.float32(width * 2.0**-24)
    return (jnp.minimum(jnp.floor(share), width - 1) + low).astype(dtype)
