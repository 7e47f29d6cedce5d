"""Products with rows that are read while a program runs, as operations of JAX.

A product is linear in its operand, and its transpose is the product with X'. So it can be
differentiated in both modes, to any order, and a batch of operands shares one pass.
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

from jaxdescent.designs.stream_shares import Shares
from jaxdescent.kernels.host_calls import host_call


def multiplied(
    shares: Shares,
    operand: jax.Array,
    center: jax.Array | None,
    *,
    is_transposed: bool,
    block: Any,
    rows: int | None = None,
    after: jax.Array | None = None,
) -> jax.Array:
    """``(X - 1 center') @ operand``, or its transpose times ``operand``, for all rows or a block.

    Args:
      shares: the rows.
      operand: (features,) or (features, k); for the transpose (rows,) or (rows, k).
      center: (features,), or None for zeros.
      is_transposed: whether to multiply by the transpose.
      block: the code of a block or of all rows of a share, traced or not; or of a single share the
        numbers of some rows, (rows,).
      rows: the number of these rows.
      after: an array that is computed first, so that blocks are read in their order.
    """
    rows = shares.rows if rows is None else rows
    block = jnp.asarray(block, jnp.int32)
    none = jnp.zeros((0,), operand.dtype)
    after = none if after is None else lax.stop_gradient(after.ravel()[:1])
    # Derivatives by the center come from the terms with ``moved``, whose value is zero.
    still = none if center is None else lax.stop_gradient(center)
    static: dict[str, Any] = {"shares": shares, "is_transposed": is_transposed, "rows": rows}
    made = _product.bind(operand, block, still, after, **static)
    if center is None:
        return made
    moved = (center - still).astype(operand.dtype)
    if is_transposed:
        sums = jnp.sum(operand, axis=0)
        return made - moved.reshape(-1, *[1] * sums.ndim) * sums[None]
    return made - jnp.expand_dims(jnp.einsum("i,i...->...", moved, operand), 0)


def _host(
    operand: Any,
    block: Any,
    center: Any,
    after: Any,
    *,
    shares: Shares,
    is_transposed: bool,
    rows: int,
) -> np.ndarray:
    """The product by NumPy; a callback inside a program must not call JAX, which can deadlock."""
    operand, block, center = np.asarray(operand), np.asarray(block), np.asarray(center)
    static: dict[str, Any] = {"is_transposed": is_transposed, "rows": rows}
    like = _like(operand, shares=shares, **static)
    share, chosen = (shares.first, block) if block.ndim else shares.of_code(int(block))
    static |= {"operand": operand.reshape(operand.shape[0], -1), "chosen": chosen}
    static["center"] = center if center.size else None
    return shares.asked(share, lambda each: each.multiplied(**static).reshape(like.shape), like)


def _like(operand: Any, *, shares: Shares, is_transposed: bool, rows: int) -> Any:
    side = shares.features if is_transposed else rows
    return jax.ShapeDtypeStruct((side, *operand.shape[1:]), operand.dtype)


def _shaped(operand: Any, *rest: Any, **static: Any) -> ShapedArray:
    like = _like(operand, **static)
    return ShapedArray(like.shape, like.dtype)


def _called(*operands: Any, **static: Any) -> jax.Array:
    return host_call(functools.partial(_host, **static), _like(operands[0], **static), *operands)


def _tangent(tangent: Any, operand: Any, *rest: Any, **static: Any) -> jax.Array:
    return _product.bind(tangent, *rest, **static)


def _transposed(cotangent: Any, operand: Any, *rest: Any, **static: Any) -> Any:
    static = static | {"is_transposed": not static["is_transposed"]}
    return _product.bind(cotangent, *rest, **static), None, None, None


def _batched(operands: Any, axes: Any, **static: Any) -> tuple[jax.Array, int]:
    *main, after = operands
    if axes[3] is not None:  # any member serves
        after = jnp.moveaxis(after, axes[3], 0)[0]
    if axes[1] is None and axes[2] is None:
        # The members are columns of one operand, and share the pass.
        operand = jnp.moveaxis(main[0], axes[0], -1) if axes[0] is not None else main[0][..., None]
        flat = operand.reshape(operand.shape[0], -1)
        made = _product.bind(flat, *main[1:], after, **static)
        return made.reshape(made.shape[0], *operand.shape[1:]), operand.ndim - 1
    mapped = list(zip(main, axes[:3], strict=True))
    size = next(each.shape[axis] for each, axis in mapped if axis is not None)
    members = tuple(batching.bdim_at_front(each, axis, size) for each, axis in mapped)
    return lax.map(lambda member: _product.bind(*member, after, **static), members), 0


_product = Primitive("stream_product")
_product.def_impl(lambda *operands, **static: jnp.asarray(_host(*operands, **static)))
_product.def_abstract_eval(_shaped)
mlir.register_lowering(_product, mlir.lower_fun(_called, multiple_results=False))
ad.deflinear2(_product, _transposed)
ad.defjvp(_product, _tangent, None, None, None)
batching.primitive_batchers[_product] = _batched
