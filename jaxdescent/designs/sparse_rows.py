"""Rows of a sparse or categorical matrix, such as a batch: their entries alone are multiplied."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.designs.operands import residual_of, weights_of
from jaxdescent.designs.protocol import Design
from jaxdescent.kernels import row_pieces
from jaxdescent.kernels.row_pieces import RowPieces


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SparseRows(Design):
    """Some or all rows of a matrix that stores only its entries.

    Rows are taken from it without copying an entry. Products with all rows are slower than those of
    the design that it was made from.

    Attributes:
      pieces: the pieces of these rows.
      features: the number of columns of the matrix.
      usual: about how many pieces a row has.
      mean_entries: about how many entries a row has.
      weights_dtype: the dtype of the weights.
    """

    pieces: RowPieces
    features: int = dataclasses.field(metadata={"static": True})
    usual: int = dataclasses.field(metadata={"static": True})
    mean_entries: int = dataclasses.field(metadata={"static": True})
    weights_dtype: Any = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, pieces: RowPieces, features: int, entries: int, dtype: Any) -> SparseRows:
        """All rows of a matrix, which have ``entries`` entries in all."""
        rows = pieces.begin.size
        usual = -(-pieces.columns.shape[0] // rows)
        return cls(pieces, features, usual, max(entries // rows, 1), jnp.dtype(dtype))

    @property
    def shape(self) -> tuple[int, int]:
        return self.pieces.begin.size, self.features

    @property
    def dtype(self) -> Any:
        return self.weights_dtype

    @property
    def entries(self) -> int:
        return self.shape[0] * self.mean_entries

    def product(self, weights: jax.Array) -> jax.Array:
        return row_pieces.product(self.pieces, weights_of(self, weights), self.usual)

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        residual = residual_of(self, residual)
        return row_pieces.transposed_product(self.pieces, residual, self.features, self.usual)

    def taken(self, index: jax.Array) -> Design:
        return dataclasses.replace(self, pieces=self.pieces.taken(index))

    def rows_at(self, index: jax.Array) -> jax.Array:
        return self.taken(index).to_dense()

    def to_dense(self) -> jax.Array:
        return row_pieces.dense(self.pieces, self.features, self.dtype, self.usual)

    def dense_bytes(self) -> int:
        rows, features = self.shape
        return rows * features * jnp.dtype(self.dtype).itemsize
