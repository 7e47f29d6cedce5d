"""Loops that keep all cores busy, or one core's cache.

XLA for CPUs compiles a loop without library calls, sorts or collectives into one kernel, which one
thread runs, where it takes the loop for small: in jaxlib 0.12 up to half a gigabyte a turn. A sort
of two numbers in it keeps it a loop over kernels that share their work among all cores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.kernels.platform import on_cpu

LARGE_BYTES = 1 << 20
"""A turn that touches so many bytes is worth more than one core."""


def while_loop(
    goes_on: Callable[[Any], Any], body: Callable[[Any], Any], carry: Any, *, turn_bytes: int
) -> Any:
    """``lax.while_loop(goes_on, body, carry)``, on all cores where a turn is large.

    Args:
      goes_on: ``carry -> bool``.
      body: ``carry -> carry``.
      carry: a pytree of arrays.
      turn_bytes: how many bytes a turn touches, about.
    """
    if turn_bytes < LARGE_BYTES:
        return lax.while_loop(goes_on, body, carry)
    return lax.while_loop(
        lambda loop: (loop[0][0] >= 0) & goes_on(loop[1]),
        lambda loop: (_following(loop[0]), body(loop[1])),
        (_counter(), carry),
    )[1]


def fori_loop(
    count: Any, body: Callable[[jax.Array, Any], Any], carry: Any, *, turn_bytes: int
) -> Any:
    """``lax.fori_loop(0, count, body, carry)``, on all cores where a turn is large.

    Args:
      count: how many turns, an integer, traced or not.
      body: ``(index, carry) -> carry``.
      carry: a pytree of arrays.
      turn_bytes: how many bytes a turn touches, about.
    """
    if turn_bytes < LARGE_BYTES:
        return lax.fori_loop(0, count, body, carry)

    def turn(loop: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        counter, carry = loop
        return _following(counter), body(counter[0], carry)

    return lax.while_loop(lambda loop: loop[0][0] < count, turn, (_counter(), carry))[1]


def scan(
    length: int, body: Callable[[Any, jax.Array], tuple[Any, Any]], carry: Any, *, turn_bytes: int
) -> tuple[Any, Any]:
    """``lax.scan(body, carry, jnp.arange(length))``, on all cores where a turn is large.

    Args:
      length: how many turns.
      body: ``(carry, index) -> (carry, kept)``.
      carry: a pytree of arrays.
      turn_bytes: how many bytes a turn touches, about.
    """
    if turn_bytes < LARGE_BYTES:
        return lax.scan(body, carry, jnp.arange(length, dtype=jnp.int32))

    def turn(loop: tuple[jax.Array, Any], _: None) -> tuple[tuple[jax.Array, Any], Any]:
        counter, carry = loop
        carry, kept = body(carry, counter[0])
        return (_following(counter), carry), kept

    (_, carry), kept = lax.scan(turn, (_counter(), carry), length=length)
    return carry, kept


def by_blocks(function: Callable[..., Any], operands: tuple[Any, ...], size: int) -> Any:
    """``function(*operands)``, of blocks of the leading axis, one after another.

    Where ``function`` works on each entry of that axis by itself, and passes over all of them more
    than once, a block stays in the cache from one pass to the next.

    Args:
      function: to a pytree of arrays with the same leading axis, whatever its length.
      operands: pytrees of arrays.
      size: of a block. The last one begins earlier where the axis has no whole number of blocks.
    """
    (length,) = {leaf.shape[0] for leaf in jax.tree.leaves(operands)}
    if length <= size:
        return function(*operands)

    def block_at(start: Any) -> Any:
        parts = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, size), operands)
        return function(*parts)

    def visit(index: jax.Array, results: Any) -> Any:
        start = jnp.minimum(index * size, length - size)
        return jax.tree.map(
            # XLA refuses to write into an array without elements.
            lambda whole, new: (
                lax.dynamic_update_slice_in_dim(whole, new, start, 0) if new.size else whole
            ),
            results,
            block_at(start),
        )

    results = jax.tree.map(
        lambda like: jnp.zeros((length, *like.shape[1:]), like.dtype),
        jax.eval_shape(block_at, jnp.int32(0)),
    )
    return lax.fori_loop(0, -(-length // size), visit, results)


def _counter() -> jax.Array:
    return jnp.zeros((2,), jnp.int32)


def _following(counter: jax.Array) -> jax.Array:
    """One more. The two copies of the number are equal, which XLA does not know."""
    return on_cpu(lax.sort, lambda pair: pair, counter + 1)
