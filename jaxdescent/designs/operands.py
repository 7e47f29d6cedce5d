"""The operands of products with a design: shapes are checked, integers become floating-point
numbers, and vectors for designs side by side are cut; and sums of centers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.designs.protocol import Design


def weights_of(design: Design, weights: Any) -> jax.Array:
    """The operand of X, (features,) or (features, outputs).

    Raises:
      ValueError: if the operand has another shape: products that gather numbers by index would read
        wrong ones.
    """
    return _operand(design, weights, design.shape[1], "features")


def residual_of(design: Design, residual: Any) -> jax.Array:
    """The operand of X', (rows,) or (rows, outputs).

    Raises:
      ValueError: if the operand has another shape.
    """
    return _operand(design, residual, design.shape[0], "rows")


def _operand(design: Design, columns: Any, length: int, side: str) -> jax.Array:
    columns = jnp.asarray(columns)
    if columns.ndim not in (1, 2) or columns.shape[0] != length:
        rows, features = design.shape
        raise ValueError(
            f"X of {rows:,} rows and {features:,} features must be multiplied by ({length},) or "
            f"({length}, outputs), as many as {side}, got {columns.shape}."
        )
    if jnp.issubdtype(columns.dtype, jnp.inexact):
        return columns
    return columns.astype(design.dtype)


def columns_of(parts: Sequence[Design], columns: jax.Array) -> list[jax.Array]:
    """An array (features, ...) for designs side by side, cut into an array for each design."""
    ends = itertools.accumulate(part.shape[1] for part in parts)
    return jnp.split(columns, list(ends)[:-1])


def sum_of_centers(center: jax.Array | None, other: jax.Array | None) -> jax.Array | None:
    """The center of both subtractions, if one center is subtracted and then another one."""
    if center is None or other is None:
        return other if center is None else center
    return center + other
