"""One-hot columns of a categorical variable, which are never written out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.nn import one_hot
from jax.sharding import NamedSharding, PartitionSpec

from jaxdescent.designs.protocol import Design, registered
from jaxdescent.designs.row_sharding import RowSharding
from jaxdescent.designs.sparse import LEAVES, NAMES, STRUCTURE, Sparse
from jaxdescent.designs.sparse_layout import Entries, are_uneven, layout_of
from jaxdescent.designs.sparse_rows import RowPieces, SparseRows
from jaxdescent.inputs.numbers import check_count, refuse_masked
from jaxdescent.kernels.dtypes import compute_dtype
from jaxdescent.kernels.sparse_products import Layout, Slice

WRITTEN_OUT = 16
"""Rows of a batch are written out if they have no more levels: a product with zeros takes less than
gathering and scattering."""

NONE = -1
"""The code of a row that has none of the levels."""


@registered(LEAVES, STRUCTURE, NAMES)
class Categorical(Sparse):
    """``X_ij = 1`` where row i has level j, else zero: a dummy variable for each level.

    The product with the weights picks one of them for each row, and that with the transpose adds up
    the rows of each level, always in the same order: the codes are sorted once, when the design is
    made. A design whose levels have other numbers of rows compiles anew: weights of the rows, which
    compile nothing, take rows out or repeat them.

    Args:
      codes: (rows,), integers from 0 to ``levels - 1``, on the host or on a device; -1 for a row
        that has none of the levels, whose part of the prediction is zero: a missing value, or the
        reference level that is left out.
      levels: the number of levels.
      dtype: the dtype of the weights: float32 or float64.
      sharding: the ``jax.sharding.NamedSharding`` of the targets, if rows lie on several devices,
        as many on each. A product with the transpose then sends ``levels`` numbers.

    Raises:
      TypeError: if codes are not integers, or are traced: their order makes the design.
      ValueError: for codes that are not one-dimensional, are none, are none of the levels, or
        cannot be sharded so.

    >>> import jax.numpy as jnp
    >>> firm = Categorical(jnp.array([2, 0, 2, -1]), levels=3)
    >>> firm.product(jnp.array([10.0, 20.0, 30.0]))
    Array([30., 10., 30.,  0.], dtype=float32)
    >>> firm.transposed_product(jnp.array([1.0, 2.0, 3.0, 4.0]))
    Array([2., 0., 4.], dtype=float32)
    """

    def __init__(
        self, codes: Any, levels: int, *, dtype: Any = jnp.float32, sharding: Any = None
    ) -> None:
        check_count("Categorical.levels", levels)
        if isinstance(codes, Tracer):
            raise TypeError(
                "Categorical's codes must be known when it is made, got traced ones: make it "
                "outside jit, vmap and grad, and pass it in."
            )
        refuse_masked("codes", codes)
        given = np.asarray(codes)
        if not np.issubdtype(given.dtype, np.integer):
            raise TypeError(
                f"Categorical's codes must be integers, got dtype {given.dtype}: "
                "np.unique(values, return_inverse=True) gives levels and codes."
            )
        if given.ndim != 1 or not given.size:
            raise ValueError(
                f"Categorical's codes must have shape (rows,), rows at least 1, got {given.shape}."
            )
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"Categorical.dtype must be float32 or float64, got {dtype}.")
        if given.size > 2**31 - 1:
            raise ValueError(f"Categorical counts rows in int32, got {given.size:,} of them.")
        wrong = np.flatnonzero((given < NONE) | (given >= levels))
        if wrong.size:
            raise ValueError(
                f"Categorical's codes must be from 0 to {levels - 1}, or -1 for none of the "
                f"levels, got {given[wrong[0]]} in row {wrong[0]:,}."
            )
        over = RowSharding.of(sharding, given.size)
        parts = np.split(given.astype(np.int32), over.parts)
        # Each row has one place: that of its level, or the one behind the last, which is zero.
        places = over.stacked([np.where(own < 0, levels, own)[None] for own in parts])
        self._forward = Layout(((Slice(places, None),),), None)
        by_level = [_part(own, levels) for own in parts]
        self._backward = layout_of(by_level, over.rows_of_part, over)
        self._like = jnp.zeros((), jax.dtypes.canonicalize_dtype(compute_dtype(dtype)))
        self._shape, self._entries = (given.size, int(levels)), given.size
        self._is_uneven = are_uneven(np.bincount(given[given >= 0], minlength=levels))

    @property
    def levels(self) -> int:
        """The number of levels."""
        return self.shape[1]

    @property
    def codes(self) -> jax.Array:
        """The level of each row, (rows,), int32, and -1 for none."""
        return jnp.where(self._places < self.levels, self._places, NONE)

    def without(self, levels: Any) -> Categorical:
        """This factor with reference levels: their rows have no level, and their weight is zero.

        Args:
          levels: the reference levels, integers from 0 to ``levels - 1``, (any number,).

        Returns:
          A design of the same shape, in which the columns of these levels are zero.

        >>> firm = Categorical(jnp.array([2, 0, 2, 1]), levels=3)
        >>> firm.without([2]).product(jnp.array([10.0, 20.0, 30.0]))
        Array([ 0., 10.,  0., 20.], dtype=float32)
        """
        codes, sharding = np.asarray(self.codes), None
        codes = np.where(np.isin(codes, levels), NONE, codes)
        if self._forward.is_cut:
            there: Any = jax.tree.leaves(self._forward)[0].sharding
            sharding = NamedSharding(there.mesh, PartitionSpec(there.spec[0]))
        return Categorical(codes, self.levels, dtype=self.dtype, sharding=sharding)

    def _arguments(self) -> list[str]:
        return [f"{self.shape[0]:,} rows", f"{self.levels:,} levels"]

    @property
    def level_of_row(self) -> jax.Array:
        return self.codes

    def rows_at(self, index: jax.Array) -> jax.Array:
        places = jnp.take(self._places, index, mode="clip")
        return one_hot(places, self.levels, dtype=self.dtype)

    def by_rows(self) -> Any:
        return self

    def taken(self, index: jax.Array) -> Design | jax.Array:
        if self.levels <= WRITTEN_OUT:
            return self.rows_at(index)
        places = jnp.take(self._places, index, mode="clip")
        numbers = jnp.arange(places.size, dtype=jnp.int32)
        pieces = RowPieces(places[:, None], None, numbers, None)
        return SparseRows.of(pieces, self.levels, places.size, self.dtype)

    def row_block(self, start: Any, size: int) -> jax.Array:
        places = jax.lax.dynamic_slice_in_dim(self._places, start, size)
        return one_hot(places, self.levels, dtype=self.dtype)

    @property
    def _places(self) -> jax.Array:
        return self._forward.levels[0][0].places.reshape(-1)


def _part(codes: np.ndarray, levels: int) -> Entries:
    """The entries of the transpose: for each level its rows."""
    order = np.argsort(codes, kind="stable")
    order = order[np.searchsorted(codes[order], 0) :]  # rows without a level come first
    return Entries.of(codes[order], order, levels)
