"""A design matrix held as an array."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdescent import placement
from jaxdescent.designs.protocol import Design, Reading, RowFunction, sum_of_centers
from jaxdescent.inputs.arrays import as_array
from jaxdescent.inputs.numbers import refuse_masked
from jaxdescent.inputs.trees import check_floats
from jaxdescent.kernels import products
from jaxdescent.kernels.blocks import block_of
from jaxdescent.kernels.dtypes import compute_dtype
from jaxdescent.kernels.platform import has_one_cpu


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Dense(Design):
    """X as a (rows, features) array of any floating dtype, sharded or not.

    A 16-bit X is stored unconverted and multiplied in float32; on a CPU it is widened block by
    block, and read once for a product with X and one with X'. ``is_on_one_device`` says that X is
    known not to be sharded, or for a traced X that it cannot be sharded on a CPU; ``center``,
    (features,), is subtracted from the entries before these are multiplied.
    """

    array: jax.Array
    is_on_one_device: bool = dataclasses.field(default=False, repr=False, metadata={"static": True})
    center: jax.Array | None = dataclasses.field(default=None, repr=False)

    @classmethod
    def from_array(cls, X: object) -> Dense:
        """An array, or anything that NumPy can convert to one, as a design.

        Raises:
          TypeError: if it is not an array of real floating-point numbers.
          ValueError: if it is not two-dimensional, or empty.
        """
        refuse_masked("X", X)
        if not isinstance(X, jax.Array):
            try:
                X = np.asarray(X)
            except ValueError as error:
                raise TypeError(
                    f"X must be an array of shape (rows, features), got {type(X).__name__} "
                    f"that NumPy cannot make an array of: {error}."
                ) from error
        check_floats("X", X.dtype)
        if X.ndim != 2:
            way_out = "for a single feature pass X[:, None]"
            if X.ndim != 1:
                way_out = "reshape it, such as by X.reshape(rows, -1)"
            raise ValueError(f"X must have shape (rows, features), got {X.shape}: {way_out}.")
        if 0 in X.shape:
            raise ValueError(
                f"X must have at least one row and one feature, got shape {X.shape}: the data is "
                "empty."
            )
        array = as_array(X)
        if placement.is_concrete(array):
            return cls(array, len(array.sharding.device_set) == 1)
        return cls(array, has_one_cpu())

    @property
    def shape(self) -> tuple[int, int]:
        rows, features = self.array.shape
        return rows, features

    @property
    def dtype(self) -> Any:
        return compute_dtype(self.array.dtype)

    @property
    def reading(self) -> Reading:
        return Reading(self.array.dtype)

    @property
    def is_stored(self) -> bool:
        return self.center is None

    @property
    def is_whole(self) -> bool:
        return self.is_on_one_device

    def product(self, weights: jax.Array) -> jax.Array:
        return products.product(self.array, weights, **self._centring)

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        return products.transposed_product(self.array, residual, **self._centring)

    def there_and_back(self, weights: jax.Array, change: RowFunction, rows: Any) -> tuple[Any, Any]:
        return products.there_and_back(self.array, weights, change, rows, **self._centring)

    @property
    def _centring(self) -> dict[str, Any]:
        return {"is_whole": self.is_whole, "center": self.center}

    def minus(self, center: jax.Array) -> Self:
        return dataclasses.replace(self, center=sum_of_centers(self.center, center))

    def to_dense(self) -> jax.Array:
        return _less(self.array.astype(self.dtype, copy=False), self.center)

    def dense_bytes(self) -> int:
        is_copied = self.array.dtype != self.dtype or self.center is not None
        return super().dense_bytes() if is_copied else 0

    def column_squared_norms(
        self, row_weight: jax.Array | None, center: jax.Array | None
    ) -> jax.Array:
        return self._squared_norms(row_weight, center, None)

    def _squared_norms(
        self, row_weight: jax.Array | None, center: jax.Array | None, scale: jax.Array | None
    ) -> jax.Array:
        """:meth:`column_squared_norms` of the columns times a scale."""
        center = sum_of_centers(self.center, center)

        def of_rows(rows: jax.Array, weight: jax.Array | None) -> jax.Array:
            rows = _less(rows.astype(self.dtype), center)
            squares = jnp.square(rows if scale is None else rows * scale[None, :])
            if weight is not None:
                squares = weight.astype(self.dtype)[:, None] * squares
            return jnp.sum(squares, axis=0)

        return products.sum_of_rows(of_rows, self.array, row_weight, is_whole=self.is_whole)

    def column_lengths(self, row_weight: jax.Array | None, center: jax.Array | None) -> jax.Array:
        squares = self.column_squared_norms(row_weight, center)
        limits = jnp.finfo(self.dtype)
        is_short, is_long = squares <= limits.tiny / limits.eps, ~(squares < jnp.inf)

        def scaled() -> jax.Array:
            # Columns are scaled by powers of two that keep all squares in the dtype's range, as in
            # Blue (1978), "A portable Fortran program to find the Euclidean norm of a vector": the
            # largest number of a column need not be found first.
            far = 2.0 ** (0.6 * float(limits.maxexp) // 1)
            by = jnp.where(is_long, 1 / far, jnp.where(is_short, far, 1)).astype(self.dtype)
            return jnp.sqrt(self._squared_norms(row_weight, center, by)) / by

        return lax.cond(jnp.any(is_short | is_long), scaled, lambda: jnp.sqrt(squares))

    def rows_at(self, index: jax.Array) -> jax.Array:
        rows = jnp.take(self.array, index, axis=0, mode="clip").astype(self.dtype)
        return _less(rows, self.center)

    def sums_of_rows(self, target: jax.Array, factor: jax.Array, sums: int) -> jax.Array:
        return jax.ops.segment_sum(factor[:, None] * self.to_dense(), target, sums)

    def row_block(self, start: Any, size: int) -> jax.Array:
        return _less(block_of(self.array, start, size), self.center)


def _less(rows: jax.Array, center: jax.Array | None) -> jax.Array:
    return rows if center is None else rows - center[None, :]
