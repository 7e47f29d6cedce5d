"""One-hot columns of a categorical variable, which are never written out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.nn import one_hot

from jaxdescent.designs.decoding import NONE
from jaxdescent.designs.protocol import Design, registered
from jaxdescent.designs.row_sharding import RowSharding
from jaxdescent.designs.sparse import LEAVES, NAMES, STRUCTURE, Sparse
from jaxdescent.inputs.numbers import check_count, refuse_masked
from jaxdescent.kernels import sparse_products
from jaxdescent.kernels.dtypes import compute_dtype
from jaxdescent.kernels.sparse_products import Layout, Slice

WRITTEN_OUT = 16
"""Rows of a batch are arrays if they have no more levels: a product with zeros takes less than
gathering and scattering."""


@registered(LEAVES, STRUCTURE, NAMES)
class Categorical(Sparse):
    """``X_ij = 1`` where row i has level j, else zero: a dummy variable for each level.

    The product with the weights picks one of them for each row, and that with the transpose adds up
    the rows of each level, always in the same order: it is a :class:`Sparse` of ones, laid out when
    the design is made. A design whose levels have other numbers of rows compiles anew: weights of
    the rows, which compile nothing, take rows out or repeat them.

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
        rows = np.flatnonzero(given >= 0)
        shape, dtype = (given.size, levels), compute_dtype(dtype)
        self._build(rows, given[rows], None, shape, dtype=dtype, sharding=sharding)
        # A piece for each row, with or without a level, needs no positions of the rows' sums.
        over = RowSharding.of(sharding, given.size)
        parts = np.split(given.astype(np.int32)[None], over.parts, axis=1)
        places = over.stacked([np.maximum(part, 0) for part in parts])
        kept = over.stacked([part >= 0 for part in parts]) if rows.size < given.size else None
        self._forward = Layout(((Slice(places, None, kept),),), None)

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
        codes = np.asarray(self.level_of_row)
        codes = np.where(np.isin(codes, levels), NONE, codes)
        sharding = self._pieces.places.sharding if self._forward.is_cut else None
        return Categorical(codes, self.levels, dtype=self.dtype, sharding=sharding)

    def _arguments(self) -> list[str]:
        return [f"{self.shape[0]:,} rows", f"{self.levels:,} levels"]

    @property
    def levels(self) -> int:
        """The number of levels."""
        return self.shape[1]

    @property
    def level_of_row(self) -> jax.Array:
        places, _, kept = self._pieces
        codes = places if kept is None else jnp.where(kept, places, NONE)
        return codes.reshape(self.shape[0])

    @property
    def _pieces(self) -> Slice:
        """The one slice of the layout by rows: the level of each row."""
        return self._forward.levels[0][0]

    def product(self, weights: jax.Array) -> jax.Array:
        places, _, kept = self._pieces
        picked = sparse_products.at(self._operand(weights), places.reshape(self.shape[0]))
        if kept is None:
            return picked
        return jnp.where(kept.reshape(-1, *[1] * (picked.ndim - 1)), picked, 0)

    def rows_at(self, index: jax.Array) -> jax.Array:
        codes = jnp.take(self.level_of_row, index, mode="clip")
        return one_hot(codes, self.levels, dtype=self.dtype)

    def row_block(self, start: Any, size: int) -> jax.Array:
        codes = jax.lax.dynamic_slice_in_dim(self.level_of_row, start, size)
        return one_hot(codes, self.levels, dtype=self.dtype)

    def by_rows(self) -> Design:
        return self if self.levels <= WRITTEN_OUT else super().by_rows()

    def taken(self, index: jax.Array) -> Design | jax.Array | None:
        return self.rows_at(index) if self.levels <= WRITTEN_OUT else super().taken(index)
