"""A dense X minus one number for each column, subtracted before anything is multiplied."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.designs.protocol import Design, RowFunction
from jaxdescent.kernels import products
from jaxdescent.kernels.platform import kept_apart, on_one_cpu

if TYPE_CHECKING:
    from jaxdescent.designs.dense import Dense

SHIFTED_BYTES = 1 << 20
"""How many bytes of X are shifted at a time on a CPU: what a core's own cache holds for the
products."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Shifted(Design):
    """``X - 1 center'``, (rows, features), without a copy of X.

    On one CPU, blocks of rows are shifted in the cache and multiplied there; a gradient reads each
    block once. On several devices, or on an accelerator, where a loop over blocks is slower than
    one pass, XLA fuses subtraction, products and sums, for one output after another.
    """

    dense: Dense
    center: jax.Array  # (features,)

    @property
    def shape(self) -> tuple[int, int]:
        return self.dense.shape

    @property
    def dtype(self) -> Any:
        return self.dense.dtype

    def product(self, weights: jax.Array) -> jax.Array:
        def in_blocks() -> jax.Array:
            return self._over_blocks(lambda part, _: (_product(part, weights), None), None, None)[0]

        def fused() -> jax.Array:
            return self._by_outputs(lambda X, column: jnp.sum(X * column[None, :], axis=1), weights)

        return self._on_one_cpu(in_blocks, fused)

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        def in_blocks() -> jax.Array:
            zero = jnp.zeros((self.shape[1], *residual.shape[1:]), residual.dtype)
            return self._over_blocks(
                lambda part, rows: (None, _transposed_product(part, rows)), residual, zero
            )[1]

        def fused() -> jax.Array:
            return self._by_outputs(
                lambda X, column: jnp.sum(X * column[:, None], axis=0), residual
            )

        return self._on_one_cpu(in_blocks, fused)

    def there_and_back(self, weights: jax.Array, change: RowFunction, rows: Any) -> tuple[Any, Any]:
        def visit(part: jax.Array, rows: Any) -> tuple[Any, jax.Array]:
            kept, residual = change(_product(part, weights), rows)
            return kept, _transposed_product(part, residual)

        def in_blocks() -> tuple[Any, Any]:
            return self._over_blocks(visit, rows, jnp.zeros_like(weights))

        def fused() -> tuple[Any, Any]:
            kept, residual = change(self.product(weights), rows)
            return kept, self.transposed_product(residual)

        return self._on_one_cpu(in_blocks, fused)

    def rows_at(self, index: jax.Array) -> jax.Array:
        return self.dense.rows_at(index) - self.center[None, :]

    def to_dense(self) -> jax.Array:
        return self.dense.to_dense() - self.center[None, :]

    def dense_bytes(self) -> int:
        rows, features = self.shape
        return self.dense.dense_bytes() + rows * features * jnp.dtype(self.dtype).itemsize

    def _on_one_cpu(self, own: Any, plain: Any) -> Any:
        return on_one_cpu(own, plain, is_whole=self.dense.is_whole)

    def _over_blocks(self, visit: products.Visit, rows: Any, total: Any) -> tuple[Any, Any]:
        def shifted(part: jax.Array, rows: Any) -> tuple[Any, Any]:
            return visit(part - self.center[None, :], rows)

        return self.dense.over_blocks(shifted, rows, total, block_bytes=SHIFTED_BYTES)

    def _by_outputs(self, of_column: Any, columns: jax.Array) -> jax.Array:
        def shifted(column: jax.Array) -> jax.Array:
            # Tie the center to the column: otherwise XLA would compute the differences before the
            # loop, or once for two products, and store them. (XLA removes a barrier on X itself.)
            center, column = kept_apart((self.center, column))
            return of_column(self.dense.array.astype(self.dtype) - center[None, :], column)

        if columns.ndim == 1:
            return shifted(columns)
        return lax.map(shifted, columns.T).T


# A block is too small to be cut into groups of rows.
_product = functools.partial(products.product, is_whole=False)
_transposed_product = functools.partial(products.transposed_product, is_whole=False)
