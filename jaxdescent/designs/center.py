"""The means of a design's columns, and whether these lie so far from zero that subtracting them
after a product would cancel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdescent.designs.protocol import Design, columns_of
from jaxdescent.kernels import loops
from jaxdescent.kernels.branches import of_any
from jaxdescent.kernels.platform import compiled_for

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

    known = known_to_be_far(design)
    if known is not None:
        return Center(corrected(design, mean, share) if known else mean, jnp.array(known))
    index = jnp.asarray(_sampled(design))
    rows = design.rows_at(index)
    assert rows is not None  # A design that can subtract a center can read its rows.
    is_far = of_any(_is_far(rows, mean, _shares_of(jnp.take(share, index), jnp), jnp))
    mean = lax.cond(is_far, corrected, lambda _, mean, __: mean, design, mean, share)
    return Center(mean, is_far)


def known_to_be_far(design: Design) -> bool | None:
    """Whether means are subtracted from the entries of X, in the program that is traced; None if
    the program must decide that, by its data.

    A second form of each product would take long to compile. In a small X the means are subtracted
    from the entries in any case.
    """
    if loops.are_few(design):
        return True
    known = compiled_for.value
    return None if known is None else known.is_far


def is_far_on_host(design: Design, row_weight: jax.Array | None) -> bool | None:
    """Whether the means are far from zero, by some rows of an X that is in memory; None for other
    designs.
    """
    if not design.is_stored or len(leaves := jax.tree.leaves(design)) != 1:
        return None
    index = _sampled(design)
    rows = np.asarray(leaves[0])[index].astype(design.dtype)
    own = np.ones(index.size) if row_weight is None else np.asarray(row_weight)[index]
    own = _shares_of(own.astype(rows.dtype), np)
    with np.errstate(all="ignore"):
        return bool(_is_far(rows, own @ rows, own, np))


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


def _sampled(design: Design) -> np.ndarray:
    """The indices of the rows by which the means are judged."""
    return sample_index(design, min(SAMPLED_ROWS, max(SAMPLED_ENTRIES // design.shape[1], 4)))


def _shares_of(weight: Any, xp: Any) -> Any:
    """The share of each row of a sample; equal ones if no weight is positive."""
    total = xp.sum(weight)
    return xp.where(total > 0, weight / xp.where(total > 0, total, 1), 1 / weight.size)


def _is_far(rows: Any, mean: Any, share: Any, xp: Any) -> Any:
    """Whether ``eps |mean|`` exceeds a sixteenth of the default tolerance ``eps**(2/3)`` times the
    spread of these rows, for any column.

    A column that does not vary contributes only rounding to the products, which must be small
    compared with the other columns: its mean is compared with the largest spread, or with zero if
    no column varies.
    """
    spread = xp.sqrt(xp.sum(share[:, None] * xp.square(rows - mean[None, :]), axis=0))
    eps = float(jnp.finfo(mean.dtype).eps)
    varies = spread > 16 * eps * xp.abs(mean)
    spread = xp.where(varies, spread, xp.max(xp.where(varies, spread, 0)))
    return xp.any(16 * eps ** (1 / 3) * xp.abs(mean) > spread)
