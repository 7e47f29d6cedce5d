"""Arrays in the host's memory, of which a device is given one chunk after another.

A sharding with ``memory_kind="pinned_host"`` puts an array there. XLA computes only on arrays in
the device's memory: a chunk is sliced on the host, copied to the device, and written back, by
copies that the program starts. The array itself stays on the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

CHUNK_BYTES = 64 << 20
"""About how many bytes of an array a device is given at a time, while the next chunk is copied."""


class Cut(NamedTuple):
    """How an array is cut into chunks: ``size`` entries of ``axis`` in each."""

    axis: int
    size: int


def is_on_host(leaf: Any) -> bool:
    """Whether an array (concrete, traced, or a shape with a sharding) is in pinned host memory."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return getattr(leaf.sharding, "memory_kind", None) == "pinned_host"
    return isinstance(leaf, jax.Array) and jax.typeof(leaf).memory_space == jax.memory.Space.Host


def refuse(tree: Any, name: str) -> None:
    """Raise a ValueError for arrays in the host's memory, where nothing is computed."""
    if any(map(is_on_host, jax.tree.leaves(tree))):
        raise ValueError(
            f"{name} must have its arrays in the device's memory, got some in the host's: move "
            'them with jax.device_put(array, sharding.with_memory_kind("device")).'
        )


def cut_of(leaf: Any) -> Cut | None:
    """How to cut an array so that no device takes more than :data:`CHUNK_BYTES` at a time.

    The array is cut along the longest of the axes that are not sharded, since slices of others
    would be sent between devices. None if the array is one chunk, as it is without such an axis.
    The sharding of a traced array is not known: it is cut along its first axis.
    """
    shape, axes = leaf.shape, [0] if leaf.ndim else []
    if not isinstance(leaf, Tracer):
        shape = leaf.sharding.shard_shape(leaf.shape)
        axes = [axis for axis in range(leaf.ndim) if shape[axis] == leaf.shape[axis]]
    total = math.prod(shape) * leaf.dtype.itemsize
    if total <= CHUNK_BYTES or not axes:
        return None
    axis = max(axes, key=lambda axis: shape[axis])
    size = max(shape[axis] * CHUNK_BYTES // total, 1)
    return Cut(axis, size) if size < shape[axis] else None


def chunk_bytes(leaf: Any, cut: Cut | None) -> int:
    """Bytes of a chunk on each device."""
    shape = list(leaf.sharding.shard_shape(leaf.shape))
    if cut is not None:
        shape[cut.axis] = cut.size
    return math.prod(shape) * leaf.dtype.itemsize


def on_device(tree: Any) -> Any:
    """The arrays, moved to the device's memory."""
    return jax.tree.map(
        lambda leaf: jax.device_put(leaf, jax.memory.Space.Device) if is_on_host(leaf) else leaf,
        tree,
    )


def empty(like: jax.Array, dtype: Any) -> jax.Array:
    """An array in the host's memory with the shape of ``like``, whose numbers are yet to be set."""
    return jax.device_put(jnp.zeros(like.shape, dtype), jax.memory.Space.Host)


def taken(array: jax.Array, cut: Cut | None, start: Any, size: int) -> jax.Array:
    """A chunk of an array, in the device's memory."""
    if cut is not None:
        array = lax.dynamic_slice_in_dim(array, start, size, cut.axis)
    return on_device(array)


def visit(
    leaf: jax.Array,
    cut: Cut | None,
    when: Any,
    function: Callable[[Any, int, Any, Any], Any],
    carry: Any,
) -> Any:
    """``carry = function(start, size, number, carry)`` for each chunk of an array, if ``when``; an
    array that is not cut is one chunk, whose size is one.

    If ``when`` is false, traced or not, no chunk is visited: XLA would copy arrays of the host that
    pass through a branch, but not those of a loop without iterations.
    """
    when = jnp.asarray(when, jnp.int32)
    if cut is None:
        return lax.fori_loop(0, when, lambda _, carry: function(0, 1, 0, carry), carry)
    length = leaf.shape[cut.axis]
    whole, rest = divmod(length, cut.size)
    carry = lax.fori_loop(
        0,
        whole * when,
        lambda number, carry: function(number * cut.size, cut.size, number, carry),
        carry,
    )
    if not rest:
        return carry
    start = length - rest
    return lax.fori_loop(0, when, lambda _, carry: function(start, rest, whole, carry), carry)


def written(array: jax.Array, part: jax.Array, cut: Cut | None, start: Any) -> jax.Array:
    """The array with a chunk of it replaced by new numbers, in the memory of the array."""
    if is_on_host(array):
        part = jax.device_put(part, jax.memory.Space.Host)
    return part if cut is None else lax.dynamic_update_slice_in_dim(array, part, start, cut.axis)
