"""Some rows of a design whose rows stay in their files, such as a batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.designs.protocol import Design

WRITTEN_OUT = 4
"""Rows of a batch are dense arrays if these take at most so many times the bytes that are read."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StreamedRows(Design):
    """Some rows of a :class:`jaxdescent.Streamed`, such as a batch.

    The stream keeps the rows of the last request, so that all products of a step with the same rows
    extract them from their block once. The rows should be of one block.
    """

    design: Any  # of all rows
    index: jax.Array  # (rows,), int32: the indices of these rows in the design

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
        return self._multiplied(self._operand(weights), is_transposed=False)

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        return self._multiplied(self._operand(residual, axis=0), is_transposed=True)

    def taken(self, index: jax.Array) -> Design:
        return StreamedRows(self.design, jnp.take(self.index, index))

    def rows_at(self, index: jax.Array) -> jax.Array:
        return self.design.rows_at(jnp.take(self.index, index))

    def minus(self, center: jax.Array) -> Design:
        return StreamedRows(self.design.minus(center), self.index)

    def to_dense(self) -> jax.Array:
        return self.design.rows_at(self.index)

    def dense_bytes(self) -> int:
        return 3 * super().dense_bytes()

    def _multiplied(self, operand: jax.Array, *, is_transposed: bool) -> jax.Array:
        return self.design.multiplied(
            operand, is_transposed=is_transposed, block=self.index, rows=self.shape[0]
        )


def rows_taken(design: Any, index: jax.Array) -> Design | jax.Array:
    """Some rows of a streamed design, as a dense array where that is small."""
    written_out = design.shape[1] * jnp.dtype(design.dtype).itemsize
    if design.over.mesh is not None or written_out <= WRITTEN_OUT * design.decoding.row_bytes:
        return design.rows_at(index)
    return StreamedRows(design, index)
