"""Passes over the rows of a data matrix, block by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.kernels import loops
from jaxdescent.kernels.dtypes import compute_dtype
from jaxdescent.kernels.platform import kept_apart, most_shards

WIDENED_BYTES = 8 << 20
"""The bytes of X that are widened or copied at a time on a CPU, which fit the last-level cache."""

SHIFTED_BYTES = 1 << 20
"""The bytes of X from which a center is subtracted at a time on a CPU, so that they stay in a
core's own cache for the products."""

Visit = Callable[[jax.Array, Any], tuple[Any, Any]]
"""A function of a block of rows of X, and of the same rows of other arrays, which returns a pytree
to keep for these rows and a term of a sum."""


def over_blocks(
    visit: Visit, X: jax.Array, rows: Any, total: Any, center: jax.Array | None = None
) -> tuple[Any, Any]:
    """The pairs ``kept, term = visit(block of X, block of rows)``: all kept rows, and the total
    with the terms added.

    This is a form for CPUs only: XLA would gather an X with sharded rows for each block. Blocks are
    converted to the dtype of the arithmetic, and a center, (features,), is subtracted from them.
    """
    length, features = X.shape
    block_bytes = WIDENED_BYTES if center is None else SHIFTED_BYTES
    most = min(block_rows(features, compute_dtype(X.dtype).itemsize, block_bytes), length)
    whole, rest = divmod(length, most)

    def at(start: Any, size: int, total: Any) -> tuple[Any, Any]:
        of_rows = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, size), rows)
        block = block_of(X, start, size)
        kept, term = visit(block if center is None else block - center[None, :], of_rows)
        return jax.tree.map(jnp.add, total, term), kept

    total, kept = loops.scan(
        whole,
        lambda total, index: at(index * most, most, total),
        total,
        turn_bytes=block_bytes,
    )
    kept = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), kept)
    if rest:
        total, last = at(whole * most, rest, total)
        kept = jax.tree.map(lambda *pieces: jnp.concatenate(pieces), kept, last)
    return kept, total


STRIDES, DEALT = (16, 8, 4, 2), 8
"""The numbers of blocks into which sharded rows may be dealt, of which the largest possible is
taken; and the number of rows that are dealt together, because a TPU stores eight rows in a tile."""


def stride_count(rows: int, features: int, shards: int) -> int:
    """The number of blocks into which :func:`sum_over_strides` deals rows that lie on this many
    devices.

    >>> stride_count(4096, 64, 1), stride_count(4100, 64, 1), stride_count(4096, 64, 64)
    (16, 1, 8)
    """
    fitting = (k for k in STRIDES if rows % (k * DEALT * shards) == 0 and rows >= k * features)
    return next(fitting, 1)


def sum_over_strides(of_block: Callable[..., jax.Array], X: jax.Array, *rows: jax.Array) -> Any:
    """``sum of_block(rows of X, rows...)`` over blocks, each of which has rows of every device.

    A block is every k-th group of eight rows. Since 8 k divides the number of rows in each device's
    shard, no row leaves its device, and the devices' sums are added once, after the last block.
    This is a form for accelerators. With few rows for each column there is one block.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(64.0)[:, None]
    >>> print(sum_over_strides(lambda X, w: (w * X).sum(), x, jnp.ones((64, 1))))
    2016.0
    """
    length, features = X.shape
    count = stride_count(length, features, most_shards())
    if count == 1:
        return of_block(X, *rows)
    dealt = [array.reshape(-1, count, DEALT, *array.shape[1:]) for array in (X, *rows)]

    def block(index: Any) -> list[jax.Array]:
        groups = [lax.dynamic_index_in_dim(array, index, 1, keepdims=False) for array in dealt]
        return [rows.reshape(-1, *rows.shape[2:]) for rows in groups]

    like = jax.eval_shape(lambda: of_block(*block(0)))
    total = jnp.zeros(like.shape, like.dtype)
    return lax.fori_loop(0, count, lambda index, sum_: sum_ + of_block(*block(index)), total)


def block_of(X: jax.Array, start: Any, size: int) -> jax.Array:
    """``size`` rows of X from ``start`` on, in the dtype of the arithmetic."""
    dtype, start = compute_dtype(X.dtype), jnp.asarray(start, jnp.int32)
    if X.dtype != dtype:
        # XLA for CPUs slices 16-bit numbers as float32. In a loop it would widen all of X before
        # the first slice; behind the barrier X depends on the loop, and only the slice is widened.
        X, start = kept_apart((X, start))
    return lax.dynamic_slice_in_dim(X, start, size).astype(dtype)


def block_rows(features: int, itemsize: int, block_bytes: int = WIDENED_BYTES) -> int:
    """The number of rows in a block of at most ``block_bytes``: a multiple of 8, at least 8."""
    return max(8, block_bytes // (features * itemsize) // 8 * 8)
