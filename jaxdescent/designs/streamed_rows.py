"""Some rows of a streamed design, known by their products and not held as an array."""

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
    """Some rows of a :class:`jaxdescent.Streamed`, such as a batch.

    The stream keeps the rows of the last request, so that all products of a step with the same rows
    extract them from their block once. The rows should be of one block.

    Attributes:
      design: the design of all rows.
      index: (rows,), the indices of these rows in the design, int32.
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
