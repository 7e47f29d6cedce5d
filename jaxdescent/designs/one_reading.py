"""Products there and back with one reading of each block, and their derivatives."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from jaxdescent.designs.protocol import RowFunction
from jaxdescent.inputs.functions import hoist
from jaxdescent.kernels.double_length import Double, add, double


def at_once(design: Any, weights: jax.Array, change: RowFunction, rows: Any) -> tuple[Any, Any]:
    """``kept`` and ``X.T @ residual``, where ``kept, residual = change(X @ weights, rows)``.

    The same block of every part is multiplied by X and by X' one after the other. The parts' terms
    are added up at the end, in double length.
    """
    parts, of_part, block = _sizes(design)
    changes = tuple(
        _for_rows(change, parts * size, weights, rows) if size else None
        for size in (of_part, block, of_part % block)
    )
    return _at_once(design, changes, weights, rows)


def _sizes(design: Any) -> tuple[int, int, int]:
    """The number of parts, and the numbers of rows of a part and of a block."""
    over = design.over
    return over.parts, over.rows_of_part, design.shares.block


def _for_rows(change: RowFunction, size: int, weights: jax.Array, rows: Any) -> Partial:
    """``change`` for ``size`` rows, with the arrays that it closes over as leaves."""
    product = jax.ShapeDtypeStruct((size, *weights.shape[1:]), weights.dtype)
    own = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), rows)
    function = hoist(change, product, own)
    return function if isinstance(function, Partial) else Partial(function)


@jax.custom_jvp
def _at_once(design: Any, changes: Any, weights: jax.Array, rows: Any) -> tuple[Any, Any]:
    """``there_and_back`` with one reading of each block. ``changes`` are for all rows, for a block
    of every part, and for the shorter last block; each device applies them to rows of its own part.
    """
    parts, of_part, block = _sizes(design)
    count, rest = divmod(of_part, block)

    def of(index: Any, size: int, change: Any, after: jax.Array) -> tuple[Any, Any]:
        def cut(leaf: jax.Array) -> jax.Array:
            by_part = leaf.reshape(parts, of_part, *leaf.shape[1:])
            here = lax.dynamic_slice_in_dim(by_part, index * block, size, axis=1)
            return here.reshape(parts * size, *leaf.shape[1:])

        here: dict[str, Any] = {"block": index, "rows": size, "after": after}
        product = design.multiplied(weights, is_transposed=False, **here)
        kept, residual = change(product, jax.tree.map(cut, rows))
        kept = jax.tree.map(lambda leaf: leaf.reshape(parts, size, *leaf.shape[1:]), kept)
        terms = design.multiplied(residual, is_transposed=True, **here)
        return kept, terms.reshape(parts, *weights.shape)

    def add_block(total: Double, index: jax.Array) -> tuple[Double, Any]:
        kept, terms = of(index, block, changes[1], total.high)
        return add(total, double(terms)), kept

    like: Any = jax.ShapeDtypeStruct((parts, *weights.shape), weights.dtype)
    like = jax.eval_shape(lambda after: of(0, block, changes[1], after)[1], like)
    total = double(jnp.zeros(like.shape, like.dtype))
    total, kept = lax.scan(add_block, total, jnp.arange(count, dtype=jnp.int32))

    def in_order(leaf: jax.Array) -> jax.Array:
        return jnp.moveaxis(leaf, 0, 1).reshape(parts, -1, *leaf.shape[3:])

    kept = jax.tree.map(in_order, kept)
    if rest:
        last, terms = of(count, rest, changes[2], total.high)
        total = add(total, double(terms))
        kept = jax.tree.map(lambda *pieces: jnp.concatenate(pieces, axis=1), kept, last)
    kept = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), kept)
    return kept, jnp.sum(total.high + total.low, axis=0)


@_at_once.defjvp
def _(primals: Any, tangents: Any) -> Any:
    """Derivatives take two passes: a transposed loop would read the blocks in reverse order."""

    def in_two(design: Any, changes: Any, weights: jax.Array, rows: Any) -> tuple[Any, Any]:
        kept, residual = changes[0](design.product(weights), rows)
        return kept, design.transposed_product(residual)

    return jax.jvp(in_two, primals, tangents)
