"""Sums over blocks of rows or columns of X, accumulated in double length.

A block's own product is summed in the working precision, over a thousand terms or so. The sum over
blocks keeps what each addition rounds off, so that its error does not grow with the data. A
symmetric product is made of submatrices, of which those below the diagonal are not computed: it has
about four fifths of the speed of OpenBLAS's ``syrk``, where one product has three fifths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.kernels import loops
from jaxdescent.kernels.double_length import Double, double, two_sum
from jaxdescent.kernels.platform import on_one_cpu
from jaxdescent.kernels.products import contract

BLOCK_BYTES = 1 << 22
"""The bytes of a block of X, which should stay in the processor's cache."""

LEAST_BLOCK = 2048
"""The least number of rows (or columns) in a block: with fewer, adding the block's product to the
sum would cost more than a tenth of computing it."""

LEAST_HALVED, MOST_HALVINGS = 256, 4
"""A symmetric matrix of at most LEAST_HALVED rows is computed as a whole: narrower products take as
long for half the work. A larger one is halved recursively, at most MOST_HALVINGS times: 31
products."""

Symmetric = Any
"""A symmetric matrix by its submatrices on and above the diagonal: the matrix itself, or (upper
left, upper right, lower right), where the first and the last are ``Symmetric`` themselves."""


def block_length(lines: int, line_length: int, itemsize: int) -> int:
    """The number of lines (rows, or columns) of X in a block that fits a CPU's cache."""
    return min(lines, max(LEAST_BLOCK, BLOCK_BYTES // (line_length * itemsize)))


def sum_over_blocks(of_block: Callable[[Any, int], Any], lines: int, block: int) -> Any:
    """``sum of_block(start, size)`` over the blocks of ``range(lines)``, a pytree of arrays.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([1.0, 1e8, 1.0, -1e8, 1.0])
    >>> float(sum_over_blocks(lambda i, size: lax.dynamic_slice(x, (i,), (size,)).sum(), 5, 1))
    3.0
    """
    count, rest = divmod(lines, block)
    first = of_block(count * block, rest) if rest else of_block(0, block)
    begin = 0 if rest else 1
    if begin == count:
        return first

    def add(index: jax.Array, totals: list[Double]) -> list[Double]:
        terms = jax.tree.leaves(of_block((begin + index) * block, block))
        return [_add(total, term) for total, term in zip(totals, terms, strict=True)]

    leaves, treedef = jax.tree.flatten(first)
    totals = loops.fori_loop(count - begin, add, list(map(double, leaves)), turn_bytes=BLOCK_BYTES)
    return treedef.unflatten([total.high + total.low for total in totals])


def symmetric_share(size: float, halvings: int = MOST_HALVINGS) -> float:
    """The operations of :func:`symmetric_product` of ``size`` lines, over those of a full product.

    >>> symmetric_share(256), symmetric_share(512)
    (1.0, 0.75)
    """
    if not halvings or size <= LEAST_HALVED:
        return 1.0
    return 1 / 4 + symmetric_share(size / 2, halvings - 1) / 2


def symmetric_product(
    a: jax.Array, b: jax.Array, axis: int, halvings: int = MOST_HALVINGS
) -> Symmetric:
    """The product of two arrays of one shape, summed over one axis, which must be symmetric.

    Only the submatrices on and above the diagonal of a large matrix are computed, little more than
    half the operations: the form for a CPU. With no halvings it is one product.
    """
    size = a.shape[1 - axis]
    if not halvings or size <= LEAST_HALVED:
        return contract(a, axis, b, axis)
    middle = -(-size // 128) * 64  # about half, in whole cache lines
    parts = [(0, middle), (middle, size)]
    (a1, a2), (b1, b2) = ([lax.slice_in_dim(x, *p, axis=1 - axis) for p in parts] for x in (a, b))
    return (
        symmetric_product(a1, b1, axis, halvings - 1),
        contract(a1, axis, b2, axis),
        symmetric_product(a2, b2, axis, halvings - 1),
    )


def square_matrix(a: jax.Array, b: jax.Array, axis: int) -> jax.Array:
    """The product of two arrays of one shape, summed over one axis, which must be symmetric; on one
    CPU over blocks of it.
    """
    lines = b.shape[axis]

    def of_block(start: Any, size: int) -> Symmetric:
        def read(array: jax.Array) -> jax.Array:
            return array if size == lines else lax.dynamic_slice_in_dim(array, start, size, axis)

        return symmetric_product(read(a), read(b), axis)

    def in_blocks() -> jax.Array:
        length = block_length(lines, b.shape[1 - axis], b.dtype.itemsize)
        return whole(sum_over_blocks(of_block, lines, length))

    return on_one_cpu(in_blocks, lambda: contract(a, axis, b, axis))


def whole(blocks: Symmetric) -> jax.Array:
    """The symmetric matrix from its submatrices on and above the diagonal.

    >>> import jax.numpy as jnp
    >>> print(whole((jnp.ones((1, 1)), jnp.full((1, 1), 2.0), jnp.full((1, 1), 3.0))))
    [[1. 2.]
     [2. 3.]]
    """
    if not isinstance(blocks, tuple):
        return blocks
    upper, corner, lower = blocks
    return jnp.block([[whole(upper), corner], [corner.T, whole(lower)]])


def _add(total: Double, term: jax.Array) -> Double:
    # The low part is a plain sum of the high part's rounding errors: fewer operations than a full
    # double-length addition, with an error of eps^2 times the number of blocks.
    exact = two_sum(total.high, term)
    return Double(exact.high, total.low + exact.low)
