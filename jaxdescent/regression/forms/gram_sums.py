"""The sums over rows that make a Gram form, computed in one pass over X; without an intercept the
means are None.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.data import NormalSums
from jaxdescent.designs import Center, Dense, Design, Standardised, shares
from jaxdescent.kernels.platform import on_one_cpu
from jaxdescent.kernels.products import contract, outer
from jaxdescent.kernels.symmetric import (
    BLOCK_BYTES,
    MOST_HALVINGS,
    block_length,
    sum_over_blocks,
    symmetric_product,
    whole,
)
from jaxdescent.regression.linear_model import scaled_rows


def by_rows(design: Design, y: jax.Array, weight: jax.Array | None, intercept: bool) -> NormalSums:
    """The sums for a design whose rows can be read: block by block as they fit the cache of one
    CPU, and elsewhere of all rows at once, since X may be sharded.
    """
    rows, features = design.shape
    length = block_length(rows, features, jnp.dtype(design.dtype).itemsize)
    return on_one_cpu(
        lambda: _by_blocks(design, y, weight, intercept, length, halvings=MOST_HALVINGS),
        lambda: _by_blocks(design, y, weight, intercept, rows, halvings=0),
    )


def _by_blocks(
    design: Design,
    y: jax.Array,
    weight: jax.Array | None,
    intercept: bool,
    block: int,
    *,
    halvings: int,
) -> NormalSums:
    rows = design.shape[0]

    def of(array: jax.Array, start: Any, size: int) -> jax.Array:
        return array if size == rows else lax.dynamic_slice_in_dim(array, start, size)

    def read(start: Any, size: int) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        X = design.to_dense() if size == rows else design.row_block(start, size)
        assert X is not None  # GramForm.of uses by_products otherwise
        return X, of(y, start, size), None if weight is None else of(weight, start, size)

    origin = None
    if intercept:
        X, targets, own = read(0, block)
        share = _total(own, block, X.dtype)
        share = jnp.where(share > 0, share, 1)  # A block of zero weights has its origin at zero.
        origin = (
            jnp.sum(scaled_rows(X, own), axis=0) / share,
            jnp.sum(scaled_rows(targets, own), axis=0) / share,
        )

    def moments(start: Any, size: int) -> tuple[Any, ...]:
        X, targets, own = read(start, size)
        if origin is not None:
            X, targets = X - origin[0][None], targets - origin[1][None]
        weighted = scaled_rows(targets, own)
        return (
            symmetric_product(scaled_rows(X, own), X, 0, halvings),
            _cross(X, weighted),
            jnp.sum(weighted * targets),
            _total(own, size, X.dtype),
            jnp.sum(scaled_rows(X, own), axis=0) if intercept else None,
            jnp.sum(weighted, axis=0) if intercept else None,
        )

    gram, cross, squares, total, *firsts = sum_over_blocks(moments, rows, block)
    gram = whole(gram)
    if origin is None:
        return NormalSums(gram, cross, squares, None, None, total)
    # Shift from the origin to the mean, which is near, so that little cancels.
    features, targets = firsts
    feature_shift, target_shift = features / total, targets / total
    return NormalSums(
        gram=gram - jnp.outer(feature_shift, features),
        cross=cross - outer(feature_shift, targets),
        squares=jnp.maximum(squares - jnp.sum(target_shift * targets), 0),
        feature_mean=origin[0] + feature_shift,
        target_mean=origin[1] + target_shift,
        weight_total=total,
    )


def _cross(X: jax.Array, weighted: jax.Array) -> jax.Array:
    """``X' weighted``; one output takes the plain form, which does not copy a centred X."""
    if weighted.ndim == 1 or weighted.shape[1] == 1:
        return contract(weighted, 0, X).T
    return Dense.from_array(X).transposed_product(weighted)


def by_products(
    design: Design, y: jax.Array, weight: jax.Array | None, intercept: bool
) -> NormalSums:
    """The sums for a design of which only products are known: G is computed column by column."""
    rows, features = design.shape
    weight_total = _total(weight, rows, design.dtype)
    feature_mean = target_mean = None
    targets, centred = y, design
    if intercept:
        share = shares(design, weight)
        feature_mean = design.transposed_product(share)
        target_mean = contract(share, 0, y)
        targets, centred = y - target_mean[None], Standardised(design, Center(feature_mean))
    weighted = scaled_rows(targets, weight)
    cross = centred.transposed_product(weighted)

    def column(index: jax.Array) -> jax.Array:
        unit = jnp.arange(features, dtype=jnp.int32) == index
        image = centred.product(unit.astype(design.dtype))
        return centred.transposed_product(scaled_rows(image, weight))

    # As many columns are computed at a time as the cache holds images of.
    at_once = max(1, min(features, BLOCK_BYTES // (rows * jnp.dtype(design.dtype).itemsize)))
    gram = lax.map(column, jnp.arange(features, dtype=jnp.int32), batch_size=at_once)
    gram = 0.5 * (gram + gram.T)
    squares = jnp.sum(weighted * targets)
    return NormalSums(gram, cross, squares, feature_mean, target_mean, weight_total)


def _total(weight: jax.Array | None, rows: int, dtype: Any) -> jax.Array:
    return jnp.full((), rows, dtype) if weight is None else jnp.sum(weight)
