"""A design matrix with its column means subtracted and its columns multiplied by numbers, without a
copy of the matrix.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.designs.center import Center, known_to_be_far
from jaxdescent.designs.protocol import Design, Reading, RowFunction, columns_of, sum_of_centers
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.kernels.platform import kept_apart
from jaxdescent.kernels.products import outer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Standardised(Design):
    """``(X - 1 mean') diag(scale)``, known by its products and never stored.

    ``X w - mean.w`` costs next to nothing, but each of its rows has an error of
    ``eps |mean| |w|``. Where that is too much (``center.is_far``), or X is small, the means are
    subtracted from X's entries before these are multiplied; under ``vmap`` over X from those of
    all members, if the means of any are far. Of designs side by side each is centred by itself:
    most have no entries to read, or no mean far from zero.

    A penalty on the weights u of this design is one on ``w / scale`` for the weights
    ``w = scale u`` of X. Its weights are an array.

    >>> from jaxdescent.designs import as_design
    >>> X = as_design(jnp.array([[1.0, 2.0], [3.0, 6.0]]))
    >>> center, scale = Center(jnp.array([2.0, 4.0])), jnp.array([1.0, 0.5])
    >>> Standardised(X, center, scale).product(jnp.array([1.0, 1.0])).tolist()
    [-2.0, 2.0]
    """

    design: Design
    center: Center | None = None
    scale: jax.Array | None = None  # (features,)

    @property
    def shape(self) -> tuple[int, int]:
        return self.design.shape

    @property
    def dtype(self) -> Any:
        return self.design.dtype

    @property
    def entries(self) -> int:
        return self.design.entries

    @property
    def reading(self) -> Reading:
        return self.design.reading

    @property
    def is_uneven(self) -> bool:
        return self.design.is_uneven

    @property
    def is_whole(self) -> bool:
        return self.design.is_whole

    @property
    def side_by_side(self) -> tuple[Design, ...]:
        parts = self.design.side_by_side
        if len(parts) == 1:
            return (self,)
        centers: list[Any] = [None] * len(parts)
        scales: list[Any] = centers
        if self.center is not None:
            mean, is_far = self.center
            own = [None] * len(parts) if is_far is None else list(is_far)
            centers = [Center(*each) for each in zip(columns_of(parts, mean), own, strict=True)]
        if self.scale is not None:
            scales = columns_of(parts, self.scale)
        return tuple(Standardised(*each) for each in zip(parts, centers, scales, strict=True))

    def product(self, weights: jax.Array) -> jax.Array:
        if parts := self._centred_apart:
            own = zip(parts, columns_of(parts, weights), strict=True)
            return functools.reduce(jnp.add, [part.product(columns) for part, columns in own])

        def after(design: Design, weights: jax.Array) -> jax.Array:
            return design.product(weights) - self._offset(weights)

        return self._either(
            lambda design, weights: design.product(weights), after, self._scaled(weights)
        )

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        if parts := self._centred_apart:
            return jnp.concatenate([part.transposed_product(residual) for part in parts])

        def after(design: Design, residual: jax.Array) -> jax.Array:
            return design.transposed_product(residual) - self._share(residual)

        columns = self._either(
            lambda design, residual: design.transposed_product(residual), after, residual
        )
        return self._scaled(columns)

    def there_and_back(self, weights: jax.Array, change: RowFunction, rows: Any) -> tuple[Any, Any]:
        if self._centred_apart:
            return super().there_and_back(weights, change, rows)

        def before(design: Design, weights: jax.Array, rows: Any) -> tuple[Any, Any]:
            return design.there_and_back(weights, change, rows)

        def after(design: Design, weights: jax.Array, rows: Any) -> tuple[Any, Any]:
            offset = self._offset(weights)

            def change_product(product: jax.Array, rows: Any) -> tuple[Any, jax.Array]:
                kept, residual = change(product - offset, rows)
                return (kept, residual), residual

            (kept, residual), columns = design.there_and_back(weights, change_product, rows)
            return kept, columns - self._share(residual)

        kept, columns = self._either(before, after, self._scaled(weights), rows)
        return kept, self._scaled(columns)

    def minus(self, center: jax.Array) -> Design | None:
        own = self._center_of(center)
        assert own is not None  # because the center is not None
        near = self.design.minus(own)
        return None if near is None else Standardised(near, scale=self.scale)

    def to_dense(self) -> jax.Array:
        entries = self._standardised(self.design.to_dense())
        assert entries is not None  # it was not None before
        return entries

    def dense_bytes(self) -> int:
        return self.design.dense_bytes() + super().dense_bytes()

    def column_squared_norms(
        self, row_weight: jax.Array | None, center: jax.Array | None
    ) -> jax.Array | None:
        squares = self.design.column_squared_norms(row_weight, self._center_of(center))
        if squares is None or self.scale is None:
            return squares
        return squares * jnp.square(self.scale)

    def column_lengths(
        self, row_weight: jax.Array | None, center: jax.Array | None
    ) -> jax.Array | None:
        lengths = self.design.column_lengths(row_weight, self._center_of(center))
        if lengths is None or self.scale is None:
            return lengths
        return lengths * jnp.abs(self.scale)

    def rows_at(self, index: jax.Array) -> jax.Array | None:
        return self._standardised(self.design.rows_at(index))

    def by_rows(self) -> Standardised:
        return dataclasses.replace(self, design=self.design.by_rows())

    def taken(self, index: jax.Array) -> Design | jax.Array | None:
        rows = self.design.taken(index)
        if rows is None or isinstance(rows, jax.Array):
            return self._standardised(rows)
        return dataclasses.replace(self, design=rows)

    def sums_of_rows(self, target: jax.Array, factor: jax.Array, sums: int) -> jax.Array | None:
        of_rows = self.design.sums_of_rows(target, factor, sums)
        if of_rows is not None and self.center is not None:
            total = jax.ops.segment_sum(factor, target, sums)
            of_rows = of_rows - outer(total, self.center.mean)
        if of_rows is None or self.scale is None:
            return of_rows
        return of_rows * self.scale[None, :]

    def row_block(self, start: Any, size: int) -> jax.Array | None:
        return self._standardised(self.design.row_block(start, size))

    def hoisted(self, *, always: bool = False) -> Standardised:
        return dataclasses.replace(self, design=self.design.hoisted(always=always))

    @property
    def _centred_apart(self) -> tuple[Design, ...]:
        """The designs side by side, if there are several, each of which is centred by itself."""
        if self.center is None or self.center.is_far is None:
            return ()
        parts = self.side_by_side
        return parts if len(parts) > 1 else ()

    def _either(self, before: Any, after: Any, *operands: Any) -> Any:
        """``before`` of X less its means if these are far from zero, else ``after`` of X."""
        if self.center is None:
            return before(self.design, *operands)
        mean, is_far = self.center
        if is_far is None or self.design.minus(mean) is None:
            return after(self.design, *operands)

        def on_entries(design: Design, *operands: Any) -> Any:
            return before(design.minus(mean), *operands)

        known = known_to_be_far(self.design)  # as when the center was computed
        if known is not None:
            return (on_entries if known else after)(self.design, *operands)
        return lax.cond(is_far, on_entries, after, self.design, *operands)

    def _offset(self, weights: jax.Array) -> jax.Array:
        """``mean.w``, (1,) or (1, outputs)."""
        assert self.center is not None  # nothing is subtracted otherwise
        # XLA for CPUs would put this sum and all that reads it into one kernel for one core.
        return kept_apart(jnp.matmul(self.center.mean[None, :], weights, precision=HIGHEST))

    def _share(self, residual: jax.Array) -> jax.Array:
        """``mean`` times the sum of each residual."""
        assert self.center is not None  # nothing is subtracted otherwise
        return outer(self.center.mean, kept_apart(jnp.sum(residual, axis=0)))

    def _scaled(self, columns: jax.Array) -> jax.Array:
        """(features, ...) times the scale of each feature."""
        if self.scale is None:
            return columns
        scale = self.scale.astype(columns.dtype)
        return columns * (scale if columns.ndim == 1 else scale[:, None])

    def _standardised(self, rows: jax.Array | None) -> jax.Array | None:
        """The rows of this design from rows of X; None if those are None."""
        if rows is not None and self.center is not None:
            rows = rows - self.center.mean[None, :]
        if rows is not None and self.scale is not None:
            rows = rows * self.scale[None, :]
        return rows

    def _center_of(self, center: jax.Array | None) -> jax.Array | None:
        """The center to subtract from X itself, if ``center`` is subtracted from this design."""
        if center is not None and self.scale is not None:
            center = center / self.scale
        return sum_of_centers(None if self.center is None else self.center.mean, center)
