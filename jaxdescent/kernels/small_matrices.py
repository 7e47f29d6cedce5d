"""Products and factors of small matrices, alone or in a batch.

XLA for CPUs multiplies and factorises each member of a batch by a library call, whose overhead
exceeds the arithmetic for a matrix of twenty columns. Under ``vmap`` these functions are loops over
whole arrays instead, whose innermost loops use vector registers. A library call inside a loop keeps
XLA from compiling the loop as one kernel, which takes less than half the seconds: so the triangle
of a matrix with a few columns, and solutions by it, are loops on CPUs, in a batch or not.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.scipy.linalg import solve_triangular

from jaxdescent.kernels import factors, loops
from jaxdescent.kernels.platform import on_cpu
from jaxdescent.kernels.symmetric import square_matrix

SMALL_COLUMNS = 32
"""The most columns for which the loops are faster than the library."""

FEW_COLUMNS, FEW_ENTRIES = 9, 4096
"""The most columns, and the most entries, for which a triangle by a loop takes no longer than by
a library: some microseconds."""

LANES = 128
"""The number of members that are eliminated at once, with the members along the last axis: as many
as a core's first-level cache holds."""


@custom_vmap
def gram(left: jax.Array, right: jax.Array) -> jax.Array:
    """``left' right`` for two arrays of (rows, columns), where it is known to be symmetric."""
    return square_matrix(left, right, 0)


@gram.def_vmap
def _gram_of_each(
    axis_size: int, in_batched: list[bool], left: jax.Array, right: jax.Array
) -> tuple[jax.Array, bool]:
    axes = [0 if is_batched else None for is_batched in in_batched]
    of_each = jax.vmap(functools.partial(square_matrix, axis=0), in_axes=axes)
    if not all(in_batched) or right.shape[-1] > SMALL_COLUMNS:
        return of_each(left, right), True

    def of_all(left: jax.Array, right: jax.Array) -> jax.Array:
        return jnp.sum(left[:, :, :, None] * right[:, :, None, :], axis=1)

    return on_cpu(of_all, of_each, left, right), True


@custom_vmap
def inverse_cholesky(matrix: jax.Array) -> jax.Array:
    """``L^-1``, where ``matrix = L L'``; NaN where the matrix is not positive definite."""
    return factors.inverse_cholesky(matrix)


@inverse_cholesky.def_vmap
def _inverse_of_each(axis_size: int, in_batched: list[bool], matrices: jax.Array) -> Any:
    of_each = jax.vmap(inverse_cholesky.fun)
    if matrices.shape[-1] > SMALL_COLUMNS:
        return of_each(matrices), True

    def of_all(matrices: jax.Array) -> jax.Array:
        return loops.by_blocks(_eliminated, (matrices,), LANES)

    return on_cpu(of_all, of_each, matrices), True


def _eliminated(matrices: jax.Array) -> jax.Array:
    """``L^-1`` of each of (members, n, n) matrices by elimination, with the members last.

    The elimination computes ``matrix = L D L'`` with a unit triangle L. The entries below a pivot
    are no longer needed once they are eliminated; the same place then holds the column of ``L^-1``.
    """
    size = matrices.shape[1]
    index = lax.broadcasted_iota(jnp.int32, (size, 1), 0)

    def eliminate(k: jax.Array, entries: jax.Array) -> jax.Array:
        row = lax.dynamic_index_in_dim(entries, k, 0, keepdims=False)
        column = lax.dynamic_index_in_dim(entries, k, 1, keepdims=False)
        pivot = lax.dynamic_index_in_dim(row, k, 0)
        multiples = jnp.where(index > k, column * (1 / pivot), 0)
        # The pivot's own column becomes m - (pivot + 1) m / pivot = -m / pivot.
        row = jnp.where(index == k, pivot + 1, row)
        return entries - multiples[:, None, :] * row[None, :, :]

    entries = lax.fori_loop(0, size, eliminate, jnp.moveaxis(matrices, 0, -1))
    roots = jnp.sqrt(jnp.diagonal(entries).T)
    unit = jnp.where(index > index.T, 1, 0)[:, :, None] * entries
    unit = unit + jnp.eye(size, dtype=entries.dtype)[:, :, None]
    return jnp.moveaxis(unit / roots[:, None, :], -1, 0)


def are_few(rows: int, columns: int) -> bool:
    """Whether the triangle of a matrix of this size is computed by a loop on a CPU."""
    return columns <= FEW_COLUMNS and rows * columns <= FEW_ENTRIES


def triangle_beside(columns: jax.Array) -> jax.Array:
    """``[R, Q'b]`` for columns ``[A, b]`` with ``A = QR``, (unknowns, unknowns + 1); Q is not
    formed, and A has at least as many rows as columns.

    The loop is the modified Gram-Schmidt process, which is as accurate for R and ``Q'b`` as
    Householder's.

    Reference: Bjorck (1967), "Solving linear least squares problems by Gram-Schmidt
    orthogonalization".
    """
    unknowns = columns.shape[1] - 1

    def by_library(columns: jax.Array) -> jax.Array:
        return jnp.linalg.qr(columns, mode="r")[:unknowns]

    def by_columns(columns: jax.Array) -> jax.Array:
        index = lax.broadcasted_iota(jnp.int32, (1, unknowns + 1), 1)

        def turn(k: jax.Array, made: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            left, triangle = made
            column = lax.dynamic_index_in_dim(left, k, 1)
            length = jnp.sqrt(jnp.sum(column * column, axis=0, keepdims=True))
            column = column / jnp.where(length > 0, length, 1)
            row = jnp.sum(column * left, axis=0, keepdims=True)
            row = jnp.where(index > k, row, jnp.where(index == k, length, 0))
            return left - column * row, lax.dynamic_update_slice(triangle, row, (k, 0))

        start = columns, jnp.zeros((unknowns, unknowns + 1), columns.dtype)
        return lax.fori_loop(0, unknowns, turn, start)[1]

    if not are_few(*columns.shape):
        return by_library(columns)
    return on_cpu(by_columns, by_library, columns)


def upper_solution(triangle: jax.Array) -> jax.Array:
    """The solution x of ``R x = c`` for ``[R, c]`` with an upper triangle R, (unknowns,)."""
    unknowns = len(triangle)

    def by_library(triangle: jax.Array) -> jax.Array:
        return solve_triangular(triangle[:, :unknowns], triangle[:, unknowns])

    def by_rows(triangle: jax.Array) -> jax.Array:
        def turn(turns: jax.Array, x: jax.Array) -> jax.Array:
            k = unknowns - 1 - turns
            row = lax.dynamic_index_in_dim(triangle, k, 0, keepdims=False)
            pivot = lax.dynamic_index_in_dim(row, k, 0, keepdims=False)
            left = row[unknowns] - jnp.sum(row[:unknowns] * x)
            return lax.dynamic_update_index_in_dim(x, left / pivot, k, 0)

        return lax.fori_loop(0, unknowns, turn, jnp.zeros((unknowns,), triangle.dtype))

    if not are_few(*triangle.shape):
        return by_library(triangle)
    return on_cpu(by_rows, by_library, triangle)
