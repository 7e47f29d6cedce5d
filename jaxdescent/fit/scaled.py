"""A design whose columns are multiplied by numbers: what --standardize minimises over."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.designs import Design
from jaxdescent.designs.protocol import RowFunction
from jaxdescent.designs.wrapped import Wrapped


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ScaledColumns(Wrapped):
    """``X diag(scale)``, which is never written out; its weights are an array.

    A penalty on its weights u is one on ``w / scale`` for the weights ``w = scale u`` of X.

    >>> from jaxdescent.designs import as_design
    >>> X = ScaledColumns(as_design(jnp.ones((2, 2))), jnp.array([2.0, 3.0]))
    >>> X.product(jnp.array([1.0, 1.0])).tolist()
    [5.0, 5.0]
    """

    scale: jax.Array  # (features,)

    @property
    def stored_dtype(self) -> Any:
        return self.design.stored_dtype

    @property
    def entries(self) -> int:
        return self.design.entries

    @property
    def pass_bytes(self) -> int:
        return self.design.pass_bytes

    @property
    def reading_seconds(self) -> float:
        return self.design.reading_seconds

    @property
    def reading_bytes(self) -> int:
        return self.design.reading_bytes

    @property
    def is_uneven(self) -> bool:
        return self.design.is_uneven

    def _times(self, columns: jax.Array) -> jax.Array:
        scale = self.scale.astype(columns.dtype)
        return columns * (scale if columns.ndim == 1 else scale[:, None])

    def product(self, weights: jax.Array) -> jax.Array:
        return self.design.product(self._times(weights))

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        return self._times(self.design.transposed_product(residual))

    def there_and_back(self, weights: jax.Array, change: RowFunction, rows: Any) -> tuple[Any, Any]:
        kept, columns = self.design.there_and_back(self._times(weights), change, rows)
        return kept, self._times(columns)

    def to_dense(self) -> jax.Array:
        return self.design.to_dense() * self.scale[None, :]

    def column_squared_norms(
        self, row_weight: jax.Array | None, center: jax.Array | None
    ) -> jax.Array | None:
        own = None if center is None else center / self.scale
        squares = self.design.column_squared_norms(row_weight, own)
        return None if squares is None else squares * jnp.square(self.scale)

    def rows_at(self, index: jax.Array) -> jax.Array | None:
        rows = self.design.rows_at(index)
        return None if rows is None else rows * self.scale[None, :]

    def taken(self, index: jax.Array) -> Design | jax.Array | None:
        rows = self.design.taken(index)
        if rows is None or isinstance(rows, jax.Array):
            return None if rows is None else rows * self.scale[None, :]
        return ScaledColumns(rows, self.scale)

    def minus(self, center: jax.Array) -> Design | None:
        near = self.design.minus(center / self.scale)
        return None if near is None else ScaledColumns(near, self.scale)
