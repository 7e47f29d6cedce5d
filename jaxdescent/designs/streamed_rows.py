"""Some rows of a design whose rows stay where they are: their products, and no array of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.designs.operands import residual_of, weights_of
from jaxdescent.designs.protocol import Design


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StreamedRows(Design):
    """The rows at these places of a :class:`jaxdescent.Streamed`, such as a batch.

    Those that were asked for last are held, so that all products of a step with them take them out
    of their block once. Places should be of one block.

    Attributes:
      design: of all rows.
      index: (rows,), their places in it, int32.
    """

    design: Any
    index: jax.Array

    @property
    def shape(self) -> tuple[int, int]:
        return self.index.shape[0], self.design.shape[1]

    @property
    def dtype(self) -> Any:
        return self.design.dtype

    @property
    def entries(self) -> int:
        rows, _ = self.design.shape
        return max(self.design.entries // rows, 1) * self.shape[0]

    def product(self, weights: jax.Array) -> jax.Array:
        return self._multiplied(weights_of(self, weights), is_transposed=False)

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        return self._multiplied(residual_of(self, residual), is_transposed=True)

    def taken(self, index: jax.Array) -> Design:
        return StreamedRows(self.design, jnp.take(self.index, index))

    def rows_at(self, index: jax.Array) -> jax.Array:
        return self.design.rows_at(jnp.take(self.index, index))

    def minus(self, center: jax.Array) -> Design:
        return StreamedRows(self.design.minus(center), self.index)

    def to_dense(self) -> jax.Array:
        return self.design.rows_at(self.index)

    def dense_bytes(self) -> int:
        rows, features = self.shape
        return 3 * rows * features * jnp.dtype(self.dtype).itemsize

    def _multiplied(self, operand: jax.Array, *, is_transposed: bool) -> jax.Array:
        return self.design.multiplied(
            operand, is_transposed=is_transposed, block=self.index, rows=self.shape[0]
        )
