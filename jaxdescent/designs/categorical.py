"""One-hot columns of a categorical variable, which are never written out."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.nn import one_hot

from jaxdescent.data.entries import NONE
from jaxdescent.designs.protocol import Design, Reading, registered
from jaxdescent.designs.row_sharding import RowSharding
from jaxdescent.designs.sparse_layout import Entries, are_uneven, layout_of
from jaxdescent.designs.sparse_rows import RowPieces, SparseRows
from jaxdescent.inputs.numbers import check_count, refuse_masked
from jaxdescent.kernels import sparse_products
from jaxdescent.kernels.dtypes import compute_dtype

WRITTEN_OUT = 16
"""Rows of a batch are written out if they have no more levels: a product with zeros takes less than
gathering and scattering."""


@registered(("codes", "by_level"), ("levels", "is_even", "has_missing", "weights_dtype"))
@dataclasses.dataclass(frozen=True, eq=False, init=False)
class Categorical(Design):
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

    codes: jax.Array  # (rows,), int32
    by_level: sparse_products.Layout  # the layout of the transpose
    levels: int
    is_even: bool
    has_missing: bool
    weights_dtype: Any

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
        by_level = layout_of([_part(own, levels) for own in np.split(given, over.parts)], over)
        counts = np.bincount(given[given >= 0], minlength=levels)
        vars(self).update(
            codes=over.cut(given.astype(np.int32)),
            by_level=by_level,
            levels=int(levels),
            is_even=not are_uneven(counts),
            has_missing=bool(np.sum(counts) < given.size),
            weights_dtype=jax.dtypes.canonicalize_dtype(compute_dtype(dtype)),
        )

    def repeated(self, over: RowSharding) -> Categorical:
        new = copy.copy(self)
        vars(new).update(codes=over.like_rows(self.codes), by_level=over.like(self.by_level))
        return new

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
        codes = np.asarray(self.codes)
        codes = np.where(np.isin(codes, levels), NONE, codes)
        sharding = self.codes.sharding if self.by_level.is_cut else None
        return Categorical(codes, self.levels, dtype=self.weights_dtype, sharding=sharding)

    def _arguments(self) -> list[str]:
        return [f"{self.shape[0]:,} rows", f"{self.levels:,} levels"]

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.levels

    @property
    def dtype(self) -> Any:
        return self.weights_dtype

    @property
    def level_of_row(self) -> jax.Array:
        return self.codes

    @property
    def entries(self) -> int:
        return self.codes.shape[0]

    @property
    def is_uneven(self) -> bool:
        return not self.is_even

    @property
    def reading(self) -> Reading:
        return Reading(self.dtype, self.codes.size * 4)

    def product(self, weights: jax.Array) -> jax.Array:
        codes, weights = self.codes, self._operand(weights)
        picked = sparse_products.at(weights, jnp.maximum(codes, 0) if self.has_missing else codes)
        if not self.has_missing:
            return picked
        is_there = (codes >= 0).reshape(-1, *[1] * (picked.ndim - 1))
        return jnp.where(is_there, picked, 0)

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        return sparse_products.product_of_all(self.by_level, self._operand(residual, axis=0))

    def to_dense(self) -> jax.Array:
        return one_hot(self.codes, self.levels, dtype=self.dtype)

    def column_squared_norms(
        self, row_weight: jax.Array | None, center: jax.Array | None
    ) -> jax.Array:
        # sum s (x - c)^2, where x is one in the rows of the level and zero in the rest.
        weight = jnp.ones(self.codes.shape, self.dtype)
        if row_weight is not None:
            weight = row_weight.astype(self.dtype)
        counts = self.transposed_product(weight)
        if center is None:
            return counts
        rest = jnp.sum(weight) - counts
        return counts * jnp.square(1 - center) + rest * jnp.square(center)

    def rows_at(self, index: jax.Array) -> jax.Array:
        codes = jnp.take(self.codes, index, mode="clip")
        return one_hot(codes, self.levels, dtype=self.dtype)

    def taken(self, index: jax.Array) -> Design | jax.Array:
        if self.levels <= WRITTEN_OUT:
            return self.rows_at(index)
        codes = jnp.take(self.codes, index, mode="clip")
        columns = jnp.where(codes >= 0, codes, self.levels)[:, None]
        numbers = jnp.arange(codes.size, dtype=jnp.int32)
        pieces = RowPieces(columns, None, numbers, None)
        return SparseRows.of(pieces, self.levels, codes.size, self.dtype)

    def sums_of_rows(self, target: jax.Array, factor: jax.Array, sums: int) -> jax.Array:
        # Rows without a level get an index out of range, which is dropped.
        level = jnp.where(self.codes >= 0, self.codes, self.levels)
        whole = jnp.zeros((sums, self.levels), factor.dtype)
        return whole.at[target, level].add(factor, mode="drop")

    def row_block(self, start: Any, size: int) -> jax.Array:
        codes = jax.lax.dynamic_slice_in_dim(self.codes, start, size)
        return one_hot(codes, self.levels, dtype=self.dtype)


def _part(codes: np.ndarray, levels: int) -> Entries:
    """The entries of the transpose: for each level its rows."""
    order = np.argsort(codes, kind="stable")
    order = order[np.searchsorted(codes[order], 0) :]  # rows without a level come first
    return Entries.of(codes[order], order, levels)
