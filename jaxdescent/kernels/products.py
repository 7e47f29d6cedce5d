"""Products with a data matrix and with its transpose, also with a center subtracted from its rows
before anything is multiplied, and without a copy of it.

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

from jaxdescent.kernels.blocks import WIDENED_BYTES, Visit, block_rows, over_blocks
from jaxdescent.kernels.dtypes import HIGHEST, compute_dtype
from jaxdescent.kernels.platform import kept_apart, most_shards, on_cpu, on_one_cpu

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


def product(
    X: jax.Array, weights: jax.Array, *, is_whole: bool, center: jax.Array | None = None
) -> jax.Array:
    """``X @ weights``, for weights of (features,) or (features, outputs): one pass over X, which is
    of their dtype or of 16 bits, and known to lie on one device or not (``is_whole``). With a
    center, (features,), it is the product of ``X - 1 center'``, which is not stored.
    """

    def in_blocks() -> jax.Array:
        def visit(block: jax.Array, _: None) -> tuple[jax.Array, None]:
            return contract(block, 1, weights), None

        return over_blocks(visit, X, None, None, center)[0]

    if not _is_in_blocks(X, weights.dtype, center):
        return contract(X, 1, weights)
    return on_one_cpu(in_blocks, lambda: _at_once(X, 1, weights, center), is_whole=is_whole)


def transposed_product(
    X: jax.Array, residual: jax.Array, *, is_whole: bool, center: jax.Array | None = None
) -> jax.Array:
    """``X.T @ residual``, for a residual of (rows,) or (rows, outputs): one pass over X."""

    def in_blocks() -> jax.Array:
        return _summed_over_blocks(_transposed_on_cpu, X, residual, center)

    def plain() -> jax.Array:
        return _at_once(X, 0, residual, center)

    if _is_in_blocks(X, residual.dtype, center):
        return on_one_cpu(in_blocks, plain, is_whole=is_whole)
    if residual.size == X.shape[0]:
        shards = 1 if is_whole else most_shards()
        return on_cpu(lambda: _of_one_column(X, residual, shards), plain)
    return on_one_cpu(lambda: _transposed_on_cpu(X, residual), plain, is_whole=is_whole)


def there_and_back(
    X: jax.Array,
    weights: jax.Array,
    change: Visit,
    rows: Any,
    *,
    is_whole: bool,
    center: jax.Array | None = None,
) -> tuple[Any, Any]:
    """``kept`` and ``X.T @ residual``, where ``kept, residual = change(X @ weights, rows)``.

    ``change`` must treat each row independently, and ``rows`` is a pytree of arrays with a leading
    axis of rows: on a CPU a 16-bit X is widened and a center is subtracted block by block, and each
    block is used for both products.
    """

    def at_once() -> tuple[Any, Any]:
        kept, residual = change(product(X, weights, is_whole=is_whole, center=center), rows)
        return kept, transposed_product(X, residual, is_whole=is_whole, center=center)

    def visit(block: jax.Array, rows: Any) -> tuple[Any, jax.Array]:
        kept, residual = change(contract(block, 1, weights), rows)
        return kept, _transposed_on_cpu(block, residual)

    def in_blocks() -> tuple[Any, Any]:
        return over_blocks(visit, X, rows, jnp.zeros_like(weights), center)

    if not _is_in_blocks(X, weights.dtype, center):
        return at_once()
    return on_one_cpu(in_blocks, at_once, is_whole=is_whole)


def sum_of_rows(
    of_rows: Callable[[jax.Array, Any], jax.Array], X: jax.Array, rows: Any, *, is_whole: bool
) -> jax.Array:
    """``of_rows(X, rows)``, a sum over rows, of which one CPU sums a 16-bit X block by block: XLA
    for CPUs fuses nothing with the conversion of float16.
    """

    def in_blocks() -> jax.Array:
        total = jnp.zeros(X.shape[1], compute_dtype(X.dtype))
        return over_blocks(lambda *block: (None, of_rows(*block)), X, rows, total)[1]

    def at_once() -> jax.Array:
        return of_rows(X, rows)

    if not _is_in_blocks(X, compute_dtype(X.dtype), None):
        return at_once()
    return on_one_cpu(in_blocks, at_once, is_whole=is_whole)


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


def _is_in_blocks(X: jax.Array, dtype: Any, center: jax.Array | None) -> bool:
    """Whether one CPU multiplies block by block: an X from which a center is subtracted, or an X of
    16 bits that has more than one block.

    To multiply with 16-bit numbers, XLA for CPUs widens all of X first: a copy of twice its size,
    which takes most of the time.
    """
    if center is not None:
        return True
    return X.dtype != dtype and block_rows(X.shape[1], jnp.dtype(dtype).itemsize) < X.shape[0]


def _at_once(X: jax.Array, axis: int, columns: jax.Array, center: jax.Array | None) -> jax.Array:
    """The product of X, summed over an axis, by all rows at once. From an X with a center XLA fuses
    subtraction, product and sum, of one column after another: on several devices rows stay, and on
    an accelerator a loop over blocks is slower than one pass.
    """
    if center is None:
        return contract(X, axis, columns)

    def shifted(column: jax.Array) -> jax.Array:
        # Tie the center to the column: otherwise XLA would compute the differences before the loop,
        # or once for two products, and store them. (XLA removes a barrier on X itself.)
        own, column = kept_apart((center, column))
        entries = X.astype(compute_dtype(X.dtype)) - own[None, :]
        return jnp.sum(entries * jnp.expand_dims(column, 1 - axis), axis=axis)

    if columns.ndim == 1:
        return shifted(columns)
    return lax.map(shifted, columns.T).T


def _transposed_on_cpu(X: jax.Array, residual: jax.Array) -> jax.Array:
    rows = X.shape[0]
    if residual.size == rows:
        return _of_one_column(X, residual, 1)
    length = part_length(rows)
    if length is not None:
        return _by_groups(X, residual, length)
    # Blocks pay for long sums over an X that exceeds the cache.
    if rows < LEAST_PARTED or X.nbytes < FEW_BLOCKS * WIDENED_BYTES:
        return contract(X, 0, residual)
    return _summed_over_blocks(_of_block, X, residual)


def _summed_over_blocks(
    of_block: Callable[[jax.Array, jax.Array], jax.Array],
    X: jax.Array,
    residual: jax.Array,
    center: jax.Array | None = None,
) -> jax.Array:
    """``X' residual`` as the sum of a product for each block of rows."""
    zero = jnp.zeros((X.shape[1], *residual.shape[1:]), residual.dtype)

    def visit(block: jax.Array, rows: jax.Array) -> tuple[None, jax.Array]:
        return None, of_block(block, rows)

    return over_blocks(visit, X, residual, zero, center)[1]


def _of_one_column(X: jax.Array, residual: jax.Array, shards: int) -> jax.Array:
    """``X' residual`` for a residual of one column.

    XLA for CPUs adds row after row to the same sums: the error grows with the number of rows (to
    0.2 % for 4,000,000 rows of 10 columns in float32), and one core does all the work. Here runs
    of rows are summed separately.
    """
    (rows, features), column = X.shape, residual.reshape(-1)
    is_narrow = X.dtype != residual.dtype  # XLA would copy it to cut it into runs.
    run = None if is_narrow else run_length(rows, features, shards)
    if run is not None:
        pulled = jnp.sum(_in_groups(X, column, run, residual.dtype), axis=0)
    elif rows < MANY_ROWS:
        pulled = contract(X, 0, column)
    else:
        # To take a number of rows that can be cut into runs, XLA would copy a slice of X. The fused
        # products and sum take up to half as long again as one product where rows are wide, and
        # half as long where they are narrow.
        pulled = jnp.sum(X.astype(residual.dtype) * column[:, None], axis=0)
    return pulled.reshape(-1, *residual.shape[1:])


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
