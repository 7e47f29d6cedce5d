"""Products with a data matrix and with its transpose, and passes over it block by block.

A block is a number of rows that are processed at a time; a group is one of several equal sets of
consecutive rows whose products XLA computes as one batched product; a run is the same for a product
with one column. The plain form of each function is one product. XLA for CPUs takes three to eight
times as long for some products as for others of the same work, and converts all of a 16-bit matrix
at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.kernels import loops
from jaxdescent.kernels.dtypes import HIGHEST, compute_dtype
from jaxdescent.kernels.platform import cpu_count, kept_apart, on_cpu, on_one_cpu

WIDENED_BYTES = 8 << 20
"""The bytes of X that are widened or copied at a time on a CPU, which fit the last-level cache."""

FEW_BLOCKS, BLOCK_GROUPS = 4, 4
"""An X of at least FEW_BLOCKS blocks whose rows have no equal groups is multiplied block by block,
each block in BLOCK_GROUPS groups."""

FEW_ROWS, MANY_ROWS = 1 << 11, 1 << 14
"""From FEW_ROWS rows on, a CPU multiplies faster by runs of rows. From MANY_ROWS on, rows must not
be added one after another to the same sums, for the sake of accuracy."""

LARGE_RUN = 40_000
"""From this many elements on, XLA for CPUs calls a library for a product. For fewer it generates a
loop, which takes twice as long for 64 to 200 columns."""

LEAST_PARTED = 1 << 10
"""The least number of rows that are multiplied in groups."""

Visit = Callable[[jax.Array, Any], tuple[Any, Any]]
"""A function of a block of rows of X, and of the same rows of other arrays, which returns a pytree
to keep for these rows and a term of a sum."""


def product(X: jax.Array, weights: jax.Array, *, is_whole: bool) -> jax.Array:
    """``X @ weights``: one pass over X.

    Args:
      X: (rows, features), of the weights' dtype or of 16 bits.
      weights: (features,) or (features, outputs).
      is_whole: whether X is known to lie on one device.
    """
    if not _is_widened_in_blocks(X, weights.dtype):
        return contract(X, 1, weights)

    def in_blocks() -> jax.Array:
        return over_blocks(lambda block, _: (contract(block, 1, weights), None), X, None, None)[0]

    return on_one_cpu(in_blocks, lambda: contract(X, 1, weights), is_whole=is_whole)


def transposed_product(X: jax.Array, residual: jax.Array, *, is_whole: bool) -> jax.Array:
    """``X.T @ residual``, for a residual of (rows,) or (rows, outputs): one pass over X."""

    def plain() -> jax.Array:
        return contract(X, 0, residual)

    if _is_widened_in_blocks(X, residual.dtype):

        def in_blocks() -> jax.Array:
            return _summed_over_blocks(_transposed_on_cpu, X, residual)

        return on_one_cpu(in_blocks, plain, is_whole=is_whole)
    if residual.size == X.shape[0]:
        shards = 1 if is_whole else max(cpu_count(), 1)
        return on_cpu(lambda: _of_one_column(X, residual, shards), plain)
    return on_one_cpu(lambda: _transposed_on_cpu(X, residual), plain, is_whole=is_whole)


def there_and_back(
    X: jax.Array, weights: jax.Array, change: Visit, rows: Any, *, is_whole: bool
) -> tuple[Any, Any]:
    """``kept`` and ``X.T @ residual``, where ``kept, residual = change(X @ weights, rows)``.

    ``change`` must treat each row independently, and ``rows`` is a pytree of arrays with a leading
    axis of rows: on a CPU a 16-bit X is widened block by block, and each block is used for both
    products.
    """

    def at_once() -> tuple[Any, Any]:
        kept, residual = change(contract(X, 1, weights), rows)
        return kept, transposed_product(X, residual, is_whole=is_whole)

    if not _is_widened_in_blocks(X, weights.dtype):
        return at_once()

    def visit(block: jax.Array, rows: Any) -> tuple[Any, jax.Array]:
        kept, residual = change(contract(block, 1, weights), rows)
        return kept, _transposed_on_cpu(block, residual)

    def in_blocks() -> tuple[Any, Any]:
        return over_blocks(visit, X, rows, jnp.zeros_like(weights))

    return on_one_cpu(in_blocks, at_once, is_whole=is_whole)


def over_blocks(
    visit: Visit, X: jax.Array, rows: Any, total: Any, *, block_bytes: int = WIDENED_BYTES
) -> tuple[Any, Any]:
    """The pairs ``kept, term = visit(block of X, block of rows)``: all kept rows, and the sum.

    This is a form for CPUs only: XLA would gather an X with sharded rows for each block. Blocks are
    converted to the dtype of the arithmetic.

    Args:
      visit: takes a block of X and the same rows of ``rows``, and returns ``kept, term``.
      X: (rows, features).
      rows: a pytree of arrays with a leading axis of rows.
      total: the start of the sum of the terms.
      block_bytes: the size of a block, in bytes of the arithmetic's dtype.
    """
    length, features = X.shape
    block = min(block_rows(features, compute_dtype(X.dtype).itemsize, block_bytes), length)
    whole, rest = divmod(length, block)

    def at(start: Any, size: int, total: Any) -> tuple[Any, Any]:
        of_rows = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, size), rows)
        kept, term = visit(block_of(X, start, size, axis=0), of_rows)
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
        kept = jax.tree.map(lambda *pieces: jnp.concatenate(pieces), kept, last)
    return kept, total


STRIDES, DEALT = (16, 8, 4, 2), 8
"""The numbers of blocks into which sharded rows may be dealt, of which the largest possible is
taken; and the number of rows that are dealt together, because a TPU stores eight rows in a tile."""


def stride_count(rows: int, features: int) -> int:
    """The number of blocks into which :func:`sum_over_strides` deals the rows.

    >>> stride_count(4096, 64), stride_count(4100, 64)
    (16, 1)
    """
    fitting = (k for k in STRIDES if rows % (k * DEALT) == 0 and rows >= k * features)
    return next(fitting, 1)


def sum_over_strides(of_block: Callable[..., jax.Array], X: jax.Array, *rows: jax.Array) -> Any:
    """``sum of_block(rows of X, rows...)`` over blocks, each of which has rows of every device.

    A block is every k-th group of eight rows. If 8 k divides the number of rows in each device's
    shard, no row leaves its device, and the devices' sums are added once, after the last block.
    This is a form for accelerators. With few rows for each column there is one block.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(64.0)[:, None]
    >>> print(sum_over_strides(lambda X, w: (w * X).sum(), x, jnp.ones((64, 1))))
    2016.0
    """
    length, features = X.shape
    count = stride_count(length, features)
    if count == 1:
        return of_block(X, *rows)
    dealt = [array.reshape(-1, count, DEALT, *array.shape[1:]) for array in (X, *rows)]

    def block(index: Any) -> list[jax.Array]:
        groups = [lax.dynamic_index_in_dim(array, index, 1, keepdims=False) for array in dealt]
        return [rows.reshape(-1, *rows.shape[2:]) for rows in groups]

    like = jax.eval_shape(lambda: of_block(*block(0)))
    total = jnp.zeros(like.shape, like.dtype)
    return lax.fori_loop(0, count, lambda index, sum_: sum_ + of_block(*block(index)), total)


def block_of(X: jax.Array, start: Any, size: int, *, axis: int) -> jax.Array:
    """``size`` rows or columns of X from ``start`` on, in the dtype of the arithmetic."""
    dtype, start = compute_dtype(X.dtype), jnp.asarray(start, jnp.int32)
    if X.dtype != dtype:
        # XLA for CPUs slices 16-bit numbers as float32. In a loop it would widen all of X before
        # the first slice; behind the barrier X depends on the loop, and only the slice is widened.
        X, start = kept_apart((X, start))
    return lax.dynamic_slice_in_dim(X, start, size, axis).astype(dtype)


def contract(a: jax.Array, axis: int, b: jax.Array, other_axis: int = 0) -> jax.Array:
    """The product of two arrays, summed over one axis of each, at full precision in b's dtype.

    A 16-bit matrix and float32 weights are passed to XLA unconverted: a cast would be a copy.
    """
    return lax.dot_general(
        a,
        b,
        dimension_numbers=(((axis,), (other_axis,)), ((), ())),
        precision=HIGHEST,
        preferred_element_type=b.dtype,
    )


def outer(column: jax.Array, numbers: jax.Array) -> jax.Array:
    """``column numbers'``: (features,) for a scalar, (features, outputs) for (outputs,) numbers.

    It is a broadcast multiplication: ``jnp.tensordot(column, numbers, 0)`` is a matrix product to
    XLA, which by default has less than full precision on accelerators.
    """
    return column.reshape(-1, *[1] * numbers.ndim) * numbers[None]


def block_rows(features: int, itemsize: int, block_bytes: int = WIDENED_BYTES) -> int:
    """The number of rows in a block of at most ``block_bytes``: a multiple of 8, at least 8."""
    return max(8, block_bytes // (features * itemsize) // 8 * 8)


def is_multiplied_in_blocks(rows: int, features: int, itemsize: int) -> bool:
    """Whether the transposed product with several outputs is to be summed block by block, where the
    rows have no equal groups: this pays for long sums over an X that exceeds the cache.
    """
    return rows >= LEAST_PARTED and rows * features * itemsize >= FEW_BLOCKS * WIDENED_BYTES


def part_length(rows: int) -> int | None:
    """The number of rows in each of the fewest equal groups, 2 to 64; None if there are none."""
    if rows < LEAST_PARTED:
        return None
    return next((rows // groups for groups in range(2, 65) if rows % groups == 0), None)


def run_length(rows: int, features: int, shards: int = 1) -> int | None:
    """The length of equal runs of rows that a CPU sums separately; None if there are none.

    If rows lie on several devices, each device has equally many runs: XLA would gather all rows to
    cut a run that lies on two devices.
    """
    if rows < FEW_ROWS or rows % shards:
        return None
    rows //= shards
    shortest = max(128, -(-LARGE_RUN // features))
    lengths = itertools.chain(range(shortest, min(8 * shortest, rows // 2)), range(128, 1025))
    return next((run for run in lengths if rows % run == 0), None)


def _is_widened_in_blocks(X: jax.Array, dtype: Any) -> bool:
    """Whether X has 16 bits and more than one block.

    To multiply with such an X, XLA for CPUs widens all of it first: a copy of twice its size, which
    takes most of the time.
    """
    return X.dtype != dtype and block_rows(X.shape[1], jnp.dtype(dtype).itemsize) < X.shape[0]


def _transposed_on_cpu(X: jax.Array, residual: jax.Array) -> jax.Array:
    rows, features = X.shape
    if residual.size == rows:
        return _of_one_column(X, residual, 1)
    length = part_length(rows)
    if length is not None:
        return _by_groups(X, residual, length)
    if not is_multiplied_in_blocks(rows, features, X.dtype.itemsize):
        return contract(X, 0, residual)
    return _summed_over_blocks(_of_block, X, residual)


def _summed_over_blocks(
    of_block: Callable[[jax.Array, jax.Array], jax.Array], X: jax.Array, residual: jax.Array
) -> jax.Array:
    """``X' residual`` as the sum of a product for each block of rows."""
    zero = jnp.zeros((X.shape[1], *residual.shape[1:]), residual.dtype)
    return over_blocks(lambda block, rows: (None, of_block(block, rows)), X, residual, zero)[1]


def _of_one_column(X: jax.Array, residual: jax.Array, shards: int) -> jax.Array:
    return _by_runs(X, residual.reshape(-1), shards).reshape(-1, *residual.shape[1:])


def _by_runs(X: jax.Array, residual: jax.Array, shards: int) -> jax.Array:
    """``X' residual`` for a residual of one column.

    XLA for CPUs adds row after row to the same sums: the error grows with the number of rows (to
    0.2 % for 4,000,000 rows of 10 columns in float32), and one core does all the work. Here runs
    of rows are summed separately.
    """
    rows, features = X.shape
    is_narrow = X.dtype != residual.dtype  # XLA would copy it to cut it into runs.
    run = None if is_narrow else run_length(rows, features, shards)
    if run is not None:
        return jnp.sum(_in_groups(X, residual, run, residual.dtype), axis=0)
    if rows < MANY_ROWS:
        return contract(X, 0, residual)
    # To take a number of rows that can be cut into runs, XLA would copy a slice of X. The fused
    # products and sum below take up to half as long again as one product where rows are wide, and
    # half as long where they are narrow.
    return jnp.sum(X.astype(residual.dtype) * residual[:, None], axis=0)


def _by_groups(X: jax.Array, residual: jax.Array, length: int) -> jax.Array:
    """``X' residual`` for several columns, by groups of ``length`` rows.

    XLA for CPUs multiplies in this form, with the shorter side first, three to eight times as fast
    as in one product.
    """
    return jnp.sum(_in_groups(residual, X, length, residual.dtype), axis=0).T


def _of_block(X: jax.Array, residual: jax.Array) -> jax.Array:
    """``X' residual`` for several columns and the rows of one block."""
    if X.shape[0] % BLOCK_GROUPS:
        return contract(X, 0, residual)
    return _by_groups(X, residual, X.shape[0] // BLOCK_GROUPS)


def _in_groups(left: jax.Array, right: jax.Array, length: int, dtype: Any) -> jax.Array:
    """``left' right`` of each group of ``length`` rows, along a leading axis."""
    return lax.dot_general(
        left.reshape(-1, length, *left.shape[1:]),
        right.reshape(-1, length, *right.shape[1:]),
        dimension_numbers=(((1,), (1,)), ((0,), (0,))),
        precision=HIGHEST,
        preferred_element_type=dtype,
    )
