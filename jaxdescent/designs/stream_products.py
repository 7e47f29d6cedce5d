"""Products with rows that are read while a program runs, as operations of JAX.

A product is linear in its operand, and its transpose is the other product: so it has derivatives of
both modes, of any order, and a batch of operands shares one pass.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxdescent.data import RowStream

ALL = -1
"""In place of a block's number: all rows."""


def multiplied(
    stream: RowStream,
    operand: jax.Array,
    center: jax.Array | None,
    *,
    is_transposed: bool,
    block: Any = ALL,
    rows: int | None = None,
) -> jax.Array:
    """``(X - 1 center') @ operand``, or with the transpose: one pass, or one block of it.

    Args:
      stream: where the rows are.
      operand: (features,) or (features, k); of the transpose (rows,) or (rows, k).
      center: (features,), or None for zeros.
      is_transposed: which product.
      block: the number of a block, traced or not; :data:`ALL` for all rows.
      rows: how many rows the block has.
    """
    rows = stream.rows if rows is None else rows
    block = jnp.asarray(block, jnp.int32)
    # Derivatives by the center are those of its own terms, which are zero here in value.
    still = jnp.zeros((0,), operand.dtype) if center is None else lax.stop_gradient(center)
    made = _product.bind(
        block, operand, still, stream=stream, is_transposed=is_transposed, rows=rows
    )
    if center is None:
        return made
    moved = (center - still).astype(operand.dtype)
    if is_transposed:
        sums = jnp.sum(operand, axis=0)
        return made - moved.reshape(-1, *[1] * sums.ndim) * sums[None]
    return made - jnp.expand_dims(jnp.einsum("i,i...->...", moved, operand), 0)


def _host(
    block: Any, operand: Any, center: Any, *, stream: RowStream, is_transposed: bool, rows: int
) -> np.ndarray:
    """The product by NumPy; inside a program nothing here may call JAX, which can deadlock."""
    block, operand, center = int(np.asarray(block)), np.asarray(operand), np.asarray(center)
    columns = operand.reshape(operand.shape[0], -1)
    center = center if center.size else None
    side = stream.features if is_transposed else rows
    like = jax.ShapeDtypeStruct((side, *operand.shape[1:]), operand.dtype)

    def compute() -> np.ndarray:
        if block == ALL:
            product = stream.transposed_product if is_transposed else stream.product
            return product(columns, center).reshape(like.shape)
        of_block = stream.block_transposed_product if is_transposed else stream.block_product
        return of_block(block, columns, center).reshape(like.shape)

    return stream.attempt(compute, like)


def _shape(operand: Any, stream: RowStream, is_transposed: bool, rows: int) -> tuple[int, ...]:
    return (stream.features if is_transposed else rows, *operand.shape[1:])


_product = Primitive("stream_product")


@_product.def_impl
def _impl(block: Any, operand: Any, center: Any, **static: Any) -> jax.Array:
    return jnp.asarray(_host(block, operand, center, **static))


@_product.def_abstract_eval
def _abstract(
    block: Any, operand: Any, center: Any, *, stream: RowStream, is_transposed: bool, rows: int
) -> ShapedArray:
    del block, center
    return ShapedArray(_shape(operand, stream, is_transposed, rows), operand.dtype)


def _lowered(block: Any, operand: Any, center: Any, **static: Any) -> jax.Array:
    shape = _shape(operand, **static)
    like = jax.ShapeDtypeStruct(shape, operand.dtype)
    return jax.pure_callback(functools.partial(_host, **static), like, block, operand, center)


mlir.register_lowering(_product, mlir.lower_fun(_lowered, multiple_results=False))


def _tangent(tangent: Any, block: Any, operand: Any, center: Any, **static: Any) -> jax.Array:
    del operand
    return _product.bind(block, tangent, center, **static)


ad.defjvp(_product, None, _tangent, None)


def _transposed(cotangent: Any, block: Any, operand: Any, center: Any, **static: Any) -> Any:
    static = static | {"is_transposed": not static["is_transposed"]}
    if type(cotangent) is ad.Zero:
        return None, ad.Zero(operand.aval), None
    return None, _product.bind(block, cotangent, center, **static), None


ad.primitive_transposes[_product] = _transposed


def _batched(args: Any, axes: Any, **static: Any) -> tuple[jax.Array, int]:
    block, operand, center = args
    mapped = [axis is not None for axis in axes]
    if not mapped[0] and not mapped[2]:
        # The members are columns of one operand, and share the pass.
        operand = jnp.moveaxis(operand, axes[1], -1)
        made = _product.bind(block, operand.reshape(operand.shape[0], -1), center, **static)
        return made.reshape(made.shape[0], *operand.shape[1:]), operand.ndim - 1
    size = next(
        arg.shape[axis] for arg, axis, is_one in zip(args, axes, mapped, strict=True) if is_one
    )
    whole = [
        jnp.moveaxis(arg, axis, 0) if is_one else jnp.broadcast_to(arg, (size, *arg.shape))
        for arg, axis, is_one in zip(args, axes, mapped, strict=True)
    ]
    return lax.map(lambda each: _product.bind(*each, **static), tuple(whole)), 0


batching.primitive_batchers[_product] = _batched
