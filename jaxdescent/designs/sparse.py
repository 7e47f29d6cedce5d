"""A design matrix that stores only its nonzero entries."""

from __future__ import annotations

import copy
import itertools
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdescent.designs.protocol import Design, Reading, registered
from jaxdescent.designs.row_sharding import RowSharding
from jaxdescent.designs.sparse_entries import (
    check_pairs,
    checked_index,
    checked_shape,
    checked_values,
    entries_of,
    without_duplicates,
)
from jaxdescent.designs.sparse_layout import Entries, are_uneven, layout_of
from jaxdescent.designs.sparse_rows import SparseRows, pieces_of_rows
from jaxdescent.kernels import sparse_products
from jaxdescent.kernels.dtypes import compute_dtype
from jaxdescent.kernels.sparse_products import Layout

ROUNDING = 8
"""The rounding of a column's squared norm, in eps times the terms that it is the sum of."""


LEAVES, STRUCTURE = ("_forward", "_backward", "_like"), ("_shape", "_entries", "_is_uneven")
NAMES = "forward", "backward", "like"
"""The attributes of a sparse matrix: its layouts and a scalar, and what is known of them; and the
names of the first."""


@registered(LEAVES, STRUCTURE, NAMES)
class Sparse(Design):
    """X as the entries that are stored: a product reads nothing else.

    Every method works on it, and every preconditioner. Direct solves make it dense, which
    ``jd.minimize`` does by itself only where that costs less than iterations.

    The entries are sorted on the host when the design is made, and laid out twice, for the products
    with X and with X': each layout takes about 8 bytes for an entry in float32, 4 where all values
    are one. No row and no column is padded to the longest. Products are about as accurate as with
    pairwise sums. Make it once and pass it to several regressions: making it takes as long as a
    hundred products. The layout is part of a program's structure: a matrix with entries at other
    places compiles anew, one with other values alone does not. If a weight is not finite, neither
    are the predictions of rows that read it (infinity and NaN may differ from those of a sum).

    Where the same place is given twice the values add up, as in SciPy. A zero that is stored counts
    as an entry. Values are float32 or float64, or of 16 bits, which are multiplied in float32. They
    may be traced, so that derivatives by them can be taken; the indices may not.

    Args:
      matrix: a SciPy sparse matrix or array of any format, or a ``jax.experimental.sparse`` BCOO
        or BCSR.
      sharding: the ``jax.sharding.NamedSharding`` of the targets, if rows lie on several devices,
        as many on each. Each device has a layout of its own rows; a product with the transpose
        sends as many numbers as there are features. Each of several processes must be given all
        entries.

    Raises:
      TypeError: if ``matrix`` is neither, or its values are not real floating-point numbers.
      ValueError: if it is not two-dimensional, is empty, an index is out of range, or the rows
        cannot be sharded so.

    >>> import jax.numpy as jnp
    >>> X = Sparse.from_indices([0, 2, 2], [1, 0, 3], jnp.array([5.0, 1.0, 2.0]), shape=(3, 4))
    >>> X, X.product(jnp.ones(4)).tolist()
    (Sparse(3 x 4, 3 entries), [5.0, 0.0, 3.0])
    """

    def __init__(self, matrix: Any, *, sharding: Any = None) -> None:
        self._build(*entries_of(matrix), dtype=jnp.float32, sharding=sharding)

    @classmethod
    def from_indices(
        cls,
        rows: Any,
        columns: Any,
        values: Any = None,
        *,
        shape: tuple[int, int],
        dtype: Any = jnp.float32,
        sharding: Any = None,
    ) -> Sparse:
        """The matrix with ``values[k]`` at ``[rows[k], columns[k]]``, in any order.

        Args:
          rows: (entries,), integers from 0 to ``shape[0] - 1``, known numbers and not traced.
          columns: (entries,), integers from 0 to ``shape[1] - 1``, likewise.
          values: (entries,), real floating-point; None for ones, which take no memory.
          shape: (rows, features).
          dtype: the dtype of the ones, if there are no values.
          sharding: the sharding of the rows, as for :class:`Sparse` itself.

        Returns:
          The design; values at the same place are added up.

        Raises:
          TypeError: if the indices are not integers, are traced, or the values are no real
            floating-point numbers.
          ValueError: if lengths differ, the shape is empty, or an index is out of range.
        """
        self = cls.__new__(cls)
        self._build(rows, columns, values, shape, dtype=dtype, sharding=sharding)
        return self

    def _build(
        self, row: Any, column: Any, values: Any, shape: Any, *, dtype: Any, sharding: Any
    ) -> None:
        rows, features = checked_shape(shape)
        over = RowSharding.of(sharding, rows)
        row = checked_index("row", row, rows)
        column = checked_index("column", column, features)
        check_pairs(row, column)
        values = checked_values(values, row.size)
        row, column, values = without_duplicates(row, column, values, features, dtype)
        ends = np.searchsorted(row, np.arange(over.parts + 1) * over.rows_of_part)
        forward_parts, backward_parts = [], []
        for number, (start, end) in enumerate(itertools.pairwise(ends)):
            own, where = row[start:end] - number * over.rows_of_part, column[start:end]
            place = None if over.parts == 1 else np.arange(start, end)
            forward_parts.append(Entries.of(own, where, over.rows_of_part, values, place))
            order = np.argsort(where, kind="stable")
            by_column = where[order], own[order]
            backward_parts.append(Entries.of(*by_column, features, values, start + order))
        forward, backward = layout_of(forward_parts, over), layout_of(backward_parts, over)
        given = dtype if values is None else values.dtype
        if not jnp.issubdtype(given, jnp.floating):
            raise TypeError(
                f"the dtype of ones must be that of floating-point numbers, got {given}."
            )
        # If values are traced, only the number of entries in each column is known.
        squares = None
        if values is not None and not isinstance(values, Tracer):
            squares = np.square(values.astype(np.float64))  # 16-bit squares would overflow
        self._forward: Layout = forward
        self._backward: Layout = backward
        # A scalar in the dtype of the values, which is cast with them; or its shape.
        self._like: Any = jnp.zeros((), jax.dtypes.canonicalize_dtype(given))
        self._shape: tuple[int, int] = rows, features
        self._entries: int = row.size
        self._is_uneven = are_uneven(np.bincount(column, squares, minlength=features))

    def repeated(self, over: RowSharding) -> Self:
        new = copy.copy(self)
        new._forward, new._backward = over.like(self._forward), over.like(self._backward)
        new._like = over.everywhere(self._like)
        new._shape, new._entries = (over.rows, self.shape[1]), self.entries * over.parts
        return new

    def _arguments(self) -> list[str]:
        rows, features = self.shape
        return [f"{rows:,} x {features:,}", f"{self.entries:,} entries"]

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    @property
    def entries(self) -> int:
        return self._entries

    @property
    def dtype(self) -> Any:
        return compute_dtype(self._like.dtype)

    @property
    def is_uneven(self) -> bool:
        return self._is_uneven

    @property
    def reading(self) -> Reading:
        read = max(self._forward.pass_bytes, self._backward.pass_bytes)
        return Reading(self._like.dtype, read)

    def product(self, weights: jax.Array) -> jax.Array:
        return sparse_products.product(self._forward, self._operand(weights))

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        return sparse_products.product_of_all(self._backward, self._operand(residual, axis=0))

    def to_dense(self) -> jax.Array:
        return sparse_products.dense(self._forward, self.shape, self.dtype)

    def dense_bytes(self) -> int:
        # The result, and the row, the column and the value of each entry.
        return super().dense_bytes() + 2 * (8 + self.dtype.itemsize) * self.entries

    def column_squared_norms(
        self, row_weight: jax.Array | None, center: jax.Array | None
    ) -> jax.Array:
        weight = jnp.ones((self.shape[0],), self.dtype)
        if row_weight is not None:
            weight = row_weight.astype(self.dtype)
        sums, total = sparse_products.product_of_all(self._backward, weight), jnp.sum(weight)
        if not self._backward.has_values:
            if center is None:
                return sums
            # x is one or zero, so that nothing cancels in a column that is one in nearly all rows.
            rest = jnp.maximum(total - sums, 0)
            return sums * jnp.square(1 - center) + rest * jnp.square(center)

        def squared(leaf: jax.Array) -> jax.Array:
            is_value = jnp.issubdtype(leaf.dtype, jnp.floating)
            return jnp.square(leaf.astype(self.dtype)) if is_value else leaf

        own = jax.tree.map(squared, self._backward)
        squares = sparse_products.product_of_all(own, weight)
        if center is None:
            return squares
        # sum s (x - c)^2 = sum s x^2 - 2 c sum s x + c^2 sum s, which needs only stored entries; it
        # is at least its rounding error, so that cancellation cannot make it negative.
        own = total * jnp.square(center)
        centred = squares - 2 * center * sums + own
        return jnp.maximum(centred, ROUNDING * jnp.finfo(self.dtype).eps * (squares + own))

    def sums_of_rows(self, target: jax.Array, factor: jax.Array, sums: int) -> jax.Array:
        shape = sums, self.shape[1]
        return sparse_products.sums_of_rows(self._forward, target, factor, shape)

    def by_rows(self) -> Design:
        pieces = pieces_of_rows(self._forward, self.shape, self.entries)
        return SparseRows.of(pieces, self.shape[1], self.entries, self.dtype)

    def taken(self, index: jax.Array) -> Design | jax.Array | None:
        return self.by_rows().taken(index)
