"""The means of a design's columns, and whether these lie so far from zero that subtracting them
after a product would cancel.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdescent.designs.protocol import Design, columns_of
from jaxdescent.kernels import loops
from jaxdescent.kernels.branches import of_any

SAMPLED_ROWS, SAMPLED_ENTRIES = 64, 1 << 13
"""The spread of the columns is estimated from SAMPLED_ROWS rows, to about a third. A wide X is
sampled in fewer rows: SAMPLED_ENTRIES entries, but no fewer than four rows."""


class Center(NamedTuple):
    """The means of X's columns.

    Attributes:
      mean: (features,).
      is_far: whether some column's mean is so large compared with its spread that ``X w - mean.w``
        would cancel; True for an X that is centred first in any case. It is False for an X whose
        entries cannot be read, where cancellation cannot be avoided. Designs side by side have an
        array with one flag for each. None: the means are subtracted after products in any case.
    """

    mean: jax.Array
    is_far: jax.Array | None = None

    @classmethod
    def of(cls, design: Design, row_weight: jax.Array | None) -> Center:
        """The weighted means: one pass over X, and a second one if they are far from zero."""
        share = shares(design, row_weight)
        return cls.near(design, design.transposed_product(share), share)

    @classmethod
    def near(cls, design: Design, mean: jax.Array, share: jax.Array) -> Center:
        """The center from means that carry the rounding of large sums, and each row's share.

        If they are far from zero, the mean of the centred columns is added, which corrects them.
        """
        parts = design.side_by_side
        if len(parts) == 1:
            return _near(design, mean, share)
        each = zip(parts, columns_of(parts, mean), strict=True)
        means, is_far = zip(*(_near(part, columns, share) for part, columns in each), strict=True)
        return cls(jnp.concatenate(means), jnp.stack(is_far))


def _near(design: Design, mean: jax.Array, share: jax.Array) -> Center:
    if design.minus(mean) is None:
        return Center(mean, jnp.array(False))

    def corrected(design: Design, mean: jax.Array, share: jax.Array) -> jax.Array:
        centred = design.minus(mean)
        assert centred is not None
        return mean + centred.transposed_product(share)

    # In a small X the means are subtracted from the entries in any case: a second form of each
    # product would take longer to compile than it could save.
    if loops.are_few(design):
        return Center(corrected(design, mean, share), jnp.array(True))
    is_far = of_any(_is_far(design, mean, share))
    mean = lax.cond(is_far, corrected, lambda _, mean, __: mean, design, mean, share)
    return Center(mean, is_far)


def shares(design: Design, row_weight: jax.Array | None) -> jax.Array:
    """The share of each row in a weighted mean, (rows,); the shares add up to one."""
    if row_weight is None:
        return jnp.full((design.shape[0],), 1 / design.shape[0], design.dtype)
    weight = row_weight.astype(design.dtype)
    return weight / jnp.sum(weight)


def sample_index(design: Design, count: int) -> np.ndarray:
    """The indices of at most ``count`` rows, int32, from which the spread of the columns is
    estimated: evenly spaced over all rows that are cheap to read.
    """
    rows = min(design.reading.block or design.shape[0], design.shape[0])
    last = min(rows, 2**31) - 1
    return np.linspace(0, last, min(rows, count), dtype=np.int64).astype(np.int32)


def _is_far(design: Design, mean: jax.Array, share: jax.Array) -> jax.Array:
    """Whether ``eps |mean|`` exceeds a sixteenth of the default tolerance ``eps**(2/3)`` times the
    spread, for any column.

    The spread is that of a sample of rows around the mean of all rows. A column that does not vary
    contributes only rounding to the products, which must be small compared with the other columns:
    its mean is compared with the largest spread, or with zero if no column varies.
    """
    most = max(SAMPLED_ENTRIES // design.shape[1], 4)
    index = jnp.asarray(sample_index(design, min(SAMPLED_ROWS, most)))
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
