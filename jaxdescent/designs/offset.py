"""Any X minus one number for each column, by products with X alone."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxdescent.designs.protocol import Design
from jaxdescent.designs.wrapped import Wrapped
from jaxdescent.kernels.platform import kept_apart


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Offset(Wrapped):
    """``X - 1 center'`` by products with X alone, whose entries cannot be read."""

    center: jax.Array  # (features,)

    def product(self, weights: jax.Array) -> jax.Array:
        offset = kept_apart(jnp.sum(_beside(self.center, weights) * weights, axis=0))
        return self.design.product(weights) - offset[None]

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        columns = self.design.transposed_product(residual)
        total = kept_apart(jnp.sum(residual, axis=0))
        return columns - _beside(self.center, columns) * total[None]

    def taken(self, index: jax.Array) -> Design | jax.Array | None:
        return less(self.design.taken(index), self.center)

    def to_dense(self) -> jax.Array:
        return self.design.to_dense() - self.center[None, :]


def less(rows: Design | jax.Array | None, center: jax.Array) -> Design | jax.Array | None:
    """``rows - 1 center'`` of rows that were taken out of a design, where they can be had."""
    if rows is None or isinstance(rows, jax.Array):
        return None if rows is None else rows - center[None, :]
    return rows.minus(center)


def _beside(center: jax.Array, columns: jax.Array) -> jax.Array:
    return center if columns.ndim == 1 else center[:, None]
