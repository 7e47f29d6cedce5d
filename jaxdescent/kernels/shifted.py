"""Products with ``X - 1 center'``: the center is subtracted before anything is multiplied, and X is
not copied.

On one CPU, blocks of rows are shifted in the cache and multiplied there; a gradient reads each
block once. On several devices, or on an accelerator, where a loop over blocks is slower than one
pass, XLA fuses subtraction, products and sums, for one output after another.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.kernels import products
from jaxdescent.kernels.dtypes import compute_dtype
from jaxdescent.kernels.platform import kept_apart, on_one_cpu

SHIFTED_BYTES = 1 << 20
"""The bytes of X that are shifted at a time on a CPU, so that they stay in a core's own cache for
the products."""


def product(X: jax.Array, center: jax.Array, weights: jax.Array, *, is_whole: bool) -> jax.Array:
    """``(X - 1 center') @ weights``; the arguments are as in :mod:`jaxdescent.kernels.products`."""

    def in_blocks() -> jax.Array:
        return _over_blocks(lambda part, _: (_product(part, weights), None), X, center, None, None)[
            0
        ]

    def fused() -> jax.Array:
        return _by_outputs(
            lambda X, column: jnp.sum(X * column[None, :], axis=1), X, center, weights
        )

    return on_one_cpu(in_blocks, fused, is_whole=is_whole)


def transposed_product(
    X: jax.Array, center: jax.Array, residual: jax.Array, *, is_whole: bool
) -> jax.Array:
    """``(X - 1 center')' @ residual``."""

    def in_blocks() -> jax.Array:
        zero = jnp.zeros((X.shape[1], *residual.shape[1:]), residual.dtype)
        return _over_blocks(
            lambda part, rows: (None, _transposed_product(part, rows)), X, center, residual, zero
        )[1]

    def fused() -> jax.Array:
        return _by_outputs(
            lambda X, column: jnp.sum(X * column[:, None], axis=0), X, center, residual
        )

    return on_one_cpu(in_blocks, fused, is_whole=is_whole)


def there_and_back(
    X: jax.Array,
    center: jax.Array,
    weights: jax.Array,
    change: products.Visit,
    rows: Any,
    *,
    is_whole: bool,
) -> tuple[Any, Any]:
    """``kept`` and ``(X - 1 center')' @ residual``, where ``kept, residual`` is
    ``change((X - 1 center') @ weights, rows)``, which treats each row independently.
    """

    def visit(part: jax.Array, rows: Any) -> tuple[Any, jax.Array]:
        kept, residual = change(_product(part, weights), rows)
        return kept, _transposed_product(part, residual)

    def in_blocks() -> tuple[Any, Any]:
        return _over_blocks(visit, X, center, rows, jnp.zeros_like(weights))

    def fused() -> tuple[Any, Any]:
        kept, residual = change(product(X, center, weights, is_whole=is_whole), rows)
        return kept, transposed_product(X, center, residual, is_whole=is_whole)

    return on_one_cpu(in_blocks, fused, is_whole=is_whole)


def _over_blocks(
    visit: products.Visit, X: jax.Array, center: jax.Array, rows: Any, total: Any
) -> tuple[Any, Any]:
    def shifted(part: jax.Array, rows: Any) -> tuple[Any, Any]:
        return visit(part - center[None, :], rows)

    return products.over_blocks(shifted, X, rows, total, block_bytes=SHIFTED_BYTES)


def _by_outputs(of_column: Any, X: jax.Array, center: jax.Array, columns: jax.Array) -> jax.Array:
    def shifted(column: jax.Array) -> jax.Array:
        # Tie the center to the column: otherwise XLA would compute the differences before the loop,
        # or once for two products, and store them. (XLA removes a barrier on X itself.)
        own, column = kept_apart((center, column))
        return of_column(X.astype(compute_dtype(X.dtype)) - own[None, :], column)

    if columns.ndim == 1:
        return shifted(columns)
    return lax.map(shifted, columns.T).T


# A block is too small to be cut into groups of rows.
_product = functools.partial(products.product, is_whole=False)
_transposed_product = functools.partial(products.transposed_product, is_whole=False)
