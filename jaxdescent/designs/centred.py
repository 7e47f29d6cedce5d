"""A design matrix whose column means are subtracted, without a copy of the matrix."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.designs.offset import less
from jaxdescent.designs.protocol import Design, RowFunction
from jaxdescent.designs.wrapped import Wrapped
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.kernels.platform import kept_apart
from jaxdescent.kernels.products import outer

SAMPLED_ROWS, SAMPLED_ENTRIES = 64, 1 << 13
"""How far the columns lie from zero is judged from SAMPLED_ROWS rows, which is right to about a
third. A wide X is sampled in fewer rows: SAMPLED_ENTRIES entries, but no fewer than four rows."""


class Center(NamedTuple):
    """The means of X's columns.

    Attributes:
      mean: (features,).
      is_far: whether some column's mean is so large compared with its spread that ``X w - mean.w``
        would cancel. It is False for an X whose entries cannot be read, where this cannot be
        avoided. Of designs side by side it is one for each.
    """

    mean: jax.Array
    is_far: jax.Array

    @classmethod
    def of(cls, design: Design, row_weight: jax.Array | None) -> Center:
        """The weighted means: one pass over X, and a second one if they are far from zero."""
        share = shares(design, row_weight)
        return cls.near(design, design.transposed_product(share), share)

    @classmethod
    def known(cls, design: Design, mean: jax.Array, share: jax.Array | None) -> Center:
        """The center from known means and each row's share in them, without a pass over X."""
        parts = design.side_by_side
        if len(parts) > 1:
            own = map(cls.known, parts, columns_of(parts, mean), [share] * len(parts))
            return cls._joined(list(own))
        if share is None or design.minus(mean) is None:
            return cls(mean, jnp.array(False))
        return cls(mean, _is_far(design, mean, share))

    @classmethod
    def near(cls, design: Design, mean: jax.Array, share: jax.Array) -> Center:
        """The center from means that carry the rounding of large sums, and each row's share.

        If they are far from zero, the mean of the centred columns is added, which corrects them.
        """
        parts = design.side_by_side
        if len(parts) > 1:
            own = map(cls.near, parts, columns_of(parts, mean), [share] * len(parts))
            return cls._joined(list(own))
        center = cls.known(design, mean, share)
        if design.minus(mean) is None:
            return center

        def corrected(design: Design, mean: jax.Array, share: jax.Array) -> jax.Array:
            centred = design.minus(mean)
            assert centred is not None
            return mean + centred.transposed_product(share)

        mean = lax.cond(center.is_far, corrected, lambda _, mean, __: mean, design, mean, share)
        return cls(mean, center.is_far)

    @classmethod
    def _joined(cls, parts: list[Center]) -> Center:
        mean, is_far = zip(*parts, strict=True)
        return cls(jnp.concatenate(mean), jnp.stack(is_far))


def columns_of(parts: Sequence[Design], columns: jax.Array) -> list[jax.Array]:
    """(features, ...) of designs side by side, cut into those of each."""
    ends = itertools.accumulate(part.shape[1] for part in parts)
    return jnp.split(columns, list(ends)[:-1])


def shares(design: Design, row_weight: jax.Array | None) -> jax.Array:
    """The share of each row in a weighted mean, (rows,); the shares add up to one."""
    if row_weight is None:
        return jnp.full((design.shape[0],), 1 / design.shape[0], design.dtype)
    weight = row_weight.astype(design.dtype)
    return weight / jnp.sum(weight)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Centred(Wrapped):
    """``X - 1 mean'``, known by its products and never stored.

    ``X w - mean.w`` costs next to nothing, but each of its rows has an error of
    ``eps |mean| |w|``. Where that is too much (``is_far``), the means are subtracted from X's
    entries before these are multiplied. Under ``vmap`` over X both are computed. Of designs side by
    side each is centred by itself: most have no entries to read, or no mean far from zero.
    """

    center: Center

    @property
    def largest_rank(self) -> int:
        return min(self.shape[0] - 1, self.shape[1])

    @property
    def side_by_side(self) -> tuple[Design, ...]:
        parts = self.design.side_by_side
        if len(parts) == 1:
            return (self,)
        means = columns_of(parts, self.center.mean)
        return tuple(
            Centred(part, Center(mean, self.center.is_far[index]))
            for index, (part, mean) in enumerate(zip(parts, means, strict=True))
        )

    def product(self, weights: jax.Array) -> jax.Array:
        parts = self.side_by_side
        if len(parts) > 1:
            own = zip(parts, columns_of(parts, weights), strict=True)
            return functools.reduce(jnp.add, [part.product(columns) for part, columns in own])

        def apart(design: Design, weights: jax.Array) -> jax.Array:
            return design.product(weights) - self._offset(weights)

        return self._either(lambda design, weights: design.product(weights), apart, weights)

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        parts = self.side_by_side
        if len(parts) > 1:
            return jnp.concatenate([part.transposed_product(residual) for part in parts])

        def apart(design: Design, residual: jax.Array) -> jax.Array:
            return design.transposed_product(residual) - self._share(residual)

        return self._either(
            lambda design, residual: design.transposed_product(residual), apart, residual
        )

    def there_and_back(self, weights: jax.Array, change: RowFunction, rows: Any) -> tuple[Any, Any]:
        if len(self.side_by_side) > 1:
            return super().there_and_back(weights, change, rows)

        def at_once(design: Design, weights: jax.Array, rows: Any) -> tuple[Any, Any]:
            return design.there_and_back(weights, change, rows)

        def apart(design: Design, weights: jax.Array, rows: Any) -> tuple[Any, Any]:
            offset = self._offset(weights)

            def change_product(product: jax.Array, rows: Any) -> tuple[Any, jax.Array]:
                kept, residual = change(product - offset, rows)
                return (kept, residual), residual

            (kept, residual), columns = design.there_and_back(weights, change_product, rows)
            return kept, columns - self._share(residual)

        return self._either(at_once, apart, weights, rows)

    def _offset(self, weights: jax.Array) -> jax.Array:
        """``mean.w``, (1,) or (1, outputs)."""
        # XLA for CPUs would put this sum and all that reads it into one kernel for one core.
        return kept_apart(jnp.matmul(self.center.mean[None, :], weights, precision=HIGHEST))

    def _share(self, residual: jax.Array) -> jax.Array:
        """``mean`` times the sum of each residual."""
        return outer(self.center.mean, kept_apart(jnp.sum(residual, axis=0)))

    def _either(self, subtracted: Any, apart: Any, *operands: Any) -> Any:
        """``subtracted`` of X with its means subtracted if they are far, else ``apart`` of X."""

        def on_entries(design: Design, *operands: Any) -> Any:
            return subtracted(design.minus(self.center.mean), *operands)

        if self.design.minus(self.center.mean) is None:
            return apart(self.design, *operands)
        return lax.cond(self.center.is_far, on_entries, apart, self.design, *operands)

    def to_dense(self) -> jax.Array:
        return self.design.to_dense() - self.center.mean[None, :]

    def column_squared_norms(
        self, row_weight: jax.Array | None, center: jax.Array | None
    ) -> jax.Array | None:
        mean = self.center.mean
        return self.design.column_squared_norms(
            row_weight, mean if center is None else mean + center
        )

    def column_lengths(
        self, row_weight: jax.Array | None, center: jax.Array | None
    ) -> jax.Array | None:
        mean = self.center.mean
        return self.design.column_lengths(row_weight, mean if center is None else mean + center)

    def rows_at(self, index: jax.Array) -> jax.Array | None:
        return self._less_mean(self.design.rows_at(index))

    def taken(self, index: jax.Array) -> Design | jax.Array | None:
        return less(self.design.taken(index), self.center.mean)

    def row_block(self, start: Any, size: int) -> jax.Array | None:
        return self._less_mean(self.design.row_block(start, size))

    def column_block(self, start: Any, size: int) -> jax.Array | None:
        block = self.design.column_block(start, size)
        if block is None:
            return None
        return block - lax.dynamic_slice_in_dim(self.center.mean, start, size)[None, :]

    def hoisted(self, *, always: bool = False) -> Design:
        return dataclasses.replace(self, design=self.design.hoisted(always=always))

    def _less_mean(self, rows: jax.Array | None) -> jax.Array | None:
        return None if rows is None else rows - self.center.mean[None, :]


def _is_far(design: Design, mean: jax.Array, share: jax.Array) -> jax.Array:
    """Whether ``eps |mean|`` exceeds a sixteenth of the default tolerance ``eps**(2/3)`` times the
    spread, for any column.

    The spread is that of a sample of rows around the mean of all rows. A column that does not vary
    leaves nothing but rounding in the products, which must be small beside the other columns: it is
    held against the largest spread, and against none where nothing varies.
    """
    most = max(SAMPLED_ENTRIES // design.shape[1], 4)
    index = jnp.asarray(design.sample_index(min(SAMPLED_ROWS, most)))
    rows = design.rows_at(index)
    assert rows is not None  # A design that can subtract a center can read its rows.
    own = jnp.take(share, index)
    total = jnp.sum(own)
    own = jnp.where(total > 0, own / jnp.where(total > 0, total, 1), 1 / index.size)
    spread = jnp.sqrt(jnp.sum(own[:, None] * jnp.square(rows - mean[None, :]), axis=0))
    eps = float(jnp.finfo(mean.dtype).eps)
    varies = spread > 16 * eps * jnp.abs(mean)
    spread = jnp.where(varies, spread, jnp.max(jnp.where(varies, spread, 0)))
    return jnp.any(16 * eps ** (1 / 3) * jnp.abs(mean) > spread)
