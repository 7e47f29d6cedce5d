"""A design matrix held as an array."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdescent import loops, placement
from jaxdescent.designs.protocol import Design, RowFunction
from jaxdescent.designs.shifted import Shifted
from jaxdescent.precision import HIGHEST, compute_dtype

WIDENED_BYTES = 8 << 20
"""How much of X is widened or copied at a time on a CPU: what the last cache keeps."""


FEW_BLOCKS, BLOCK_PARTS = 4, 4
"""An X of so many blocks that has no equal parts is multiplied block by block, each in parts."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Dense(Design):
    """X as a (rows, features) array of any floating dtype, sharded or not.

    A 16-bit X is stored as it is and multiplied in float32; on a CPU it is widened block by block,
    and read once for a product there and back. ``is_on_one_device`` says that it is
    known not to be sharded.
    """

    array: jax.Array
    is_on_one_device: bool = dataclasses.field(default=False, repr=False, metadata={"static": True})

    @classmethod
    def from_array(cls, X: object) -> Dense:
        """An array, or anything NumPy makes one of, as a design.

        Raises:
          TypeError: if it is not an array of real floating-point numbers.
          ValueError: if it is not two-dimensional, or empty.
        """
        if not isinstance(X, jax.Array):
            try:
                X = np.asarray(X)
            except ValueError as error:
                raise TypeError(
                    f"X must be an array of shape (rows, features), got {type(X).__name__} "
                    f"that NumPy cannot make an array of: {error}."
                ) from error
        if not jnp.issubdtype(X.dtype, jnp.floating):
            raise TypeError(
                f"X must be real floating-point, got dtype {X.dtype}: convert it, for example "
                "with X.astype('float32')."
            )
        if X.ndim != 2:
            raise ValueError(
                f"X must have shape (rows, features), got {X.shape}: for a single feature pass "
                "X[:, None]."
            )
        if 0 in X.shape:
            raise ValueError(
                f"X must have at least one row and one feature, got shape {X.shape}: the data is "
                "empty."
            )
        array = jnp.asarray(X)
        concrete = placement.is_concrete(array)
        devices = len(array.sharding.device_set) if concrete else jax.device_count()
        return cls(array, devices == 1)

    @property
    def shape(self) -> tuple[int, int]:
        rows, features = self.array.shape
        return rows, features

    @property
    def dtype(self) -> Any:
        return compute_dtype(self.array.dtype)

    def product(self, weights: jax.Array) -> jax.Array:
        if self._is_read_in_blocks:
            return self.over_blocks(lambda part, _: (part.product(weights), None), None, None)[0]
        return self._contract(1, weights)

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        if self._is_read_in_blocks:
            return self._block_by_block(Dense.transposed_product, residual)
        is_vector = residual.size == self.shape[0]
        if jax.default_backend() != "cpu" or not (is_vector or self.is_on_one_device):
            return self._contract(0, residual)
        if is_vector:
            return self._by_runs(residual.reshape(-1)).reshape(-1, *residual.shape[1:])
        part = part_length(self.shape[0])
        if part is not None:
            return self._by_parts(residual, part)
        if not is_multiplied_in_blocks(*self.shape, self.array.dtype.itemsize):
            return self._contract(0, residual)
        return self._block_by_block(Dense._of_block, residual)

    def _block_by_block(
        self, of_block: Callable[[Dense, jax.Array], jax.Array], residual: jax.Array
    ) -> jax.Array:
        """``X' residual`` as the sum of a product for each block of rows."""
        zero = jnp.zeros((self.shape[1], *residual.shape[1:]), residual.dtype)
        return self.over_blocks(lambda X, rows: (None, of_block(X, rows)), residual, zero)[1]

    def _by_runs(self, residual: jax.Array) -> jax.Array:
        """``X' residual``, of one column, on a CPU.

        XLA adds row after row to the same sums: the error grows with the rows (to 0.2 % for
        4,000,000 of 10 columns in float32), and one core does the work. Runs of rows are summed
        apart.
        """
        is_narrow = self.array.dtype != residual.dtype  # cut into runs it would be copied
        run = None if is_narrow else run_length(*self.shape)
        if run is not None:
            runs = lax.dot_general(
                self.array.reshape(-1, run, self.shape[1]),
                residual.reshape(-1, run),
                dimension_numbers=(((1,), (1,)), ((0,), (0,))),
                precision=HIGHEST,
                preferred_element_type=residual.dtype,
            )
            return jnp.sum(runs, axis=0)
        if self.shape[0] < MANY_ROWS:
            return self._contract(0, residual)
        # A slice of X, to cut runs from, would be a copy. Products and a sum, which XLA fuses and
        # sums by blocks, take up to half as long again as a product for wide rows, half as long
        # for narrow ones.
        return jnp.sum(self.array.astype(residual.dtype) * residual[:, None], axis=0)

    def _by_parts(self, residual: jax.Array, length: int) -> jax.Array:
        """``X' residual``, of several columns, in parts of as many rows.

        XLA for CPUs multiplies in this form, the shorter side first, three to eight times as fast
        as in one product.
        """
        parts = lax.dot_general(
            residual.reshape(-1, length, residual.shape[1]),
            self.array.reshape(-1, length, self.shape[1]),
            dimension_numbers=(((1,), (1,)), ((0,), (0,))),
            precision=HIGHEST,
            preferred_element_type=residual.dtype,
        )
        return jnp.sum(parts, axis=0).T

    def _of_block(self, residual: jax.Array) -> jax.Array:
        """``X' residual``, of several columns, of few rows."""
        if self.shape[0] % BLOCK_PARTS:
            return self._contract(0, residual)
        return self._by_parts(residual, self.shape[0] // BLOCK_PARTS)

    def there_and_back(self, weights: jax.Array, change: RowFunction, rows: Any) -> tuple[Any, Any]:
        if not self._is_read_in_blocks:
            return super().there_and_back(weights, change, rows)

        def visit(part: Dense, rows: Any) -> tuple[Any, jax.Array]:
            kept, residual = change(part.product(weights), rows)
            return kept, part.transposed_product(residual)

        return self.over_blocks(visit, rows, jnp.zeros_like(weights))

    @property
    def _is_read_in_blocks(self) -> bool:
        # XLA on a CPU multiplies with a 16-bit X by widening it first, all of it: a copy of twice
        # its size, and most of the time. Slices of rows that lie on several devices would be
        # gathered.
        is_narrow = self.array.dtype != self.dtype
        return is_narrow and self.may_be_read_in_blocks and self._block_rows < self.shape[0]

    @property
    def may_be_read_in_blocks(self) -> bool:
        """Whether a loop over blocks of rows is a way to go over X: on a CPU, on one device."""
        return jax.default_backend() == "cpu" and self.is_on_one_device

    @property
    def _block_rows(self) -> int:
        return block_rows(self.shape[1], jnp.dtype(self.dtype).itemsize)

    def over_blocks(
        self,
        visit: Callable[[Dense, Any], tuple[Any, Any]],
        rows: Any,
        total: Any,
        *,
        block_bytes: int = WIDENED_BYTES,
    ) -> tuple[Any, Any]:
        """``visit(block of X, block of rows)`` to (kept, term): all that is kept, and the sum."""
        block = block_rows(self.shape[1], jnp.dtype(self.dtype).itemsize, block_bytes)
        block = min(block, self.shape[0])
        whole, rest = divmod(self.shape[0], block)

        def at(start: Any, size: int, total: Any) -> tuple[Any, Any]:
            of_rows = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, size), rows)
            kept, term = visit(Dense(self.row_block(start, size)), of_rows)
            return jax.tree.map(jnp.add, total, term), kept

        total, kept = loops.scan(
            whole,
            lambda total, index: at(index * block, block, total),
            total,
            turn_bytes=block_bytes,
        )
        kept = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), kept)
        if rest:
            total, last = at(whole * block, rest, total)
            kept = jax.tree.map(lambda *parts: jnp.concatenate(parts), kept, last)
        return kept, total

    def minus(self, center: jax.Array) -> Shifted:
        return Shifted(self, center)

    def to_dense(self) -> jax.Array:
        return self.array.astype(self.dtype)

    def dense_bytes(self) -> int:
        rows, features = self.shape
        is_copied = self.array.dtype != self.dtype
        return rows * features * jnp.dtype(self.dtype).itemsize if is_copied else 0

    def squared_norm(self, row_weight: jax.Array | None) -> jax.Array:
        squares = jnp.sum(jnp.square(self.array.astype(self.dtype)), axis=1)
        return jnp.sum(squares if row_weight is None else row_weight.astype(self.dtype) * squares)

    def column_squared_norms(
        self, row_weight: jax.Array | None, center: jax.Array | None
    ) -> jax.Array:
        X = self.array.astype(self.dtype)
        squares = jnp.square(X if center is None else X - center[None, :])
        if row_weight is not None:
            squares = row_weight.astype(self.dtype)[:, None] * squares
        return jnp.sum(squares, axis=0)

    def rows_at(self, index: jax.Array) -> jax.Array:
        return jnp.take(self.array, index, axis=0, mode="clip").astype(self.dtype)

    def row_block(self, start: Any, size: int) -> jax.Array:
        return self._block(start, size, axis=0)

    def column_block(self, start: Any, size: int) -> jax.Array:
        return self._block(start, size, axis=1)

    def _block(self, start: Any, size: int, axis: int) -> jax.Array:
        array, start = self.array, jnp.asarray(start, jnp.int32)
        if array.dtype != self.dtype:
            # On CPUs XLA slices 16-bit numbers as float32, and in a loop it widens all of X before
            # the first slice, unless it sees X only then.
            array, start = lax.optimization_barrier((array, start))
        return lax.dynamic_slice_in_dim(array, start, size, axis).astype(self.dtype)

    def _contract(self, axis: int, other: jax.Array) -> jax.Array:
        # The product takes a 16-bit X and float32 weights as they are: a cast would copy X.
        return lax.dot_general(
            self.array,
            other,
            dimension_numbers=(((axis,), (0,)), ((), ())),
            precision=HIGHEST,
            preferred_element_type=other.dtype,
        )


FEW_ROWS, MANY_ROWS = 1 << 11, 1 << 14
"""From the first on runs of rows are a CPU's faster product, from the second on no sum may go over
all of them, row after row."""


LARGE_RUN = 40_000
"""From so many entries on XLA hands a CPU's product to a library, else it makes a loop of its own,
which takes twice as long for 64 to 200 columns."""


def run_length(rows: int, features: int) -> int | None:
    """The length of equal runs of rows that a CPU sums apart, or None if there is none."""
    if rows < FEW_ROWS:
        return None
    shortest = max(128, -(-LARGE_RUN // features))
    lengths = itertools.chain(range(shortest, min(8 * shortest, rows // 2)), range(128, 1025))
    return next((run for run in lengths if rows % run == 0), None)


LEAST_PARTED = 1 << 10
"""Fewer rows are summed in one."""


def block_rows(features: int, itemsize: int, block_bytes: int = WIDENED_BYTES) -> int:
    """The rows that make a block."""
    return max(8, block_bytes // (features * itemsize) // 8 * 8)


def is_multiplied_in_blocks(rows: int, features: int, itemsize: int) -> bool:
    """Whether an X of several outputs, with rows of which no equal parts can be made, is worth it:
    a long sum, over more than the cache holds.
    """
    return rows >= LEAST_PARTED and rows * features * itemsize >= FEW_BLOCKS * WIDENED_BYTES


def part_length(rows: int) -> int | None:
    """The length of the fewest equal parts of rows, or None for all in one."""
    if rows < LEAST_PARTED:
        return None
    return next((rows // parts for parts in range(2, 65) if rows % parts == 0), None)
