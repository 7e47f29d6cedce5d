"""A design matrix with the means of its columns taken off, without a copy of it."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdescent.designs.protocol import Design, RowFunction
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.kernels.platform import kept_apart
from jaxdescent.kernels.products import outer

SAMPLED_ROWS, SAMPLED_ENTRIES = 64, 1 << 13
"""So many rows tell how far from zero the columns lie: a third more or less is near enough. Of a
wide X no more of them than have that many entries, but four."""


class Center(NamedTuple):
    """The means of X's columns.

    Attributes:
      mean: (features,).
      is_far: whether some column's mean is so large against its spread that ``X w - mean.w``
        would cancel; false for an X that only multiplies, where it could not be helped.
    """

    mean: jax.Array
    is_far: jax.Array

    @classmethod
    def of(cls, design: Design, row_weight: jax.Array | None) -> Center:
        """The weighted means: one pass over X, and where they are far from zero a second one."""
        share = shares(design, row_weight)
        return cls.near(design, design.transposed_product(share), share)

    @classmethod
    def known(cls, design: Design, mean: jax.Array, share: jax.Array | None) -> Center:
        """From the means and each row's share in them: without a pass over X."""
        if share is None or design.minus(mean) is None:
            return cls(mean, jnp.array(False))
        return cls(mean, _is_far(design, mean, share))

    @classmethod
    def near(cls, design: Design, mean: jax.Array, share: jax.Array) -> Center:
        """From the means but for the rounding of large sums, and each row's share in them.

        Where they are far from zero, the mean of what they leave, which is free of it, is added.
        """
        center = cls.known(design, mean, share)
        if design.minus(mean) is None:
            return center

        def corrected(design: Design, mean: jax.Array, share: jax.Array) -> jax.Array:
            centred = design.minus(mean)
            assert centred is not None
            return mean + centred.transposed_product(share)

        mean = lax.cond(center.is_far, corrected, lambda _, mean, __: mean, design, mean, share)
        return cls(mean, center.is_far)


def shares(design: Design, row_weight: jax.Array | None) -> jax.Array:
    """What each row counts in a mean, (rows,)."""
    if row_weight is None:
        return jnp.full((design.shape[0],), 1 / design.shape[0], design.dtype)
    weight = row_weight.astype(design.dtype)
    return weight / jnp.sum(weight)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Centred(Design):
    """``X - 1 mean'``, applied and never stored.

    ``X w - mean.w`` costs nothing, but each of its rows carries an error of ``eps |mean| |w|``.
    Where that shows (``is_far``), the means are subtracted from X's entries before they are
    multiplied. Under ``vmap`` over X both are computed.
    """

    design: Design
    center: Center

    @property
    def shape(self) -> tuple[int, int]:
        return self.design.shape

    @property
    def dtype(self) -> Any:
        return self.design.dtype

    @property
    def is_whole(self) -> bool:
        return self.design.is_whole

    def product(self, weights: jax.Array) -> jax.Array:
        def apart(design: Design, weights: jax.Array) -> jax.Array:
            return design.product(weights) - self._offset(weights)

        return self._either(lambda design, weights: design.product(weights), apart, weights)

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        def apart(design: Design, residual: jax.Array) -> jax.Array:
            return design.transposed_product(residual) - self._share(residual)

        return self._either(
            lambda design, residual: design.transposed_product(residual), apart, residual
        )

    def there_and_back(self, weights: jax.Array, change: RowFunction, rows: Any) -> tuple[Any, Any]:
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
        """One function of X with its means subtracted, or one of X as it is."""

        def on_entries(design: Design, *operands: Any) -> Any:
            return subtracted(design.minus(self.center.mean), *operands)

        if self.design.minus(self.center.mean) is None:
            return apart(self.design, *operands)
        return lax.cond(self.center.is_far, on_entries, apart, self.design, *operands)

    def to_dense(self) -> jax.Array:
        return self.design.to_dense() - self.center.mean[None, :]

    def dense_bytes(self) -> int:
        rows, features = self.shape
        return self.design.dense_bytes() + rows * features * jnp.dtype(self.dtype).itemsize

    def column_squared_norms(
        self, row_weight: jax.Array | None, center: jax.Array | None
    ) -> jax.Array | None:
        mean = self.center.mean
        return self.design.column_squared_norms(
            row_weight, mean if center is None else mean + center
        )

    def rows_at(self, index: jax.Array) -> jax.Array | None:
        return self._less_mean(self.design.rows_at(index))

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
    """Whether ``eps |mean|`` is more than a sixteenth of ``eps**(2/3)``, the default tolerance, of
    some column's spread.

    The spread is that of a sample around the mean of all. A column that does not vary is a
    constant, whose part in the products is rounding either way.
    """
    most = max(SAMPLED_ENTRIES // design.shape[1], 4)
    count = min(design.shape[0], SAMPLED_ROWS, most)
    last = min(design.shape[0], 2**31) - 1
    index = jnp.asarray(np.linspace(0, last, count, dtype=np.int64).astype(np.int32))
    rows = design.rows_at(index)
    assert rows is not None  # what can be subtracted from can be read
    own = jnp.take(share, index)
    total = jnp.sum(own)
    own = jnp.where(total > 0, own / jnp.where(total > 0, total, 1), 1 / count)
    spread = jnp.sqrt(jnp.sum(own[:, None] * jnp.square(rows - mean[None, :]), axis=0))
    eps = float(jnp.finfo(mean.dtype).eps)
    varies = spread > 16 * eps * jnp.abs(mean)
    return jnp.any(varies & (16 * eps ** (1 / 3) * jnp.abs(mean) > spread))
