"""Matrix factorisations: by LAPACK or a similar library where the platform has one.

XLA has no such library for TPUs. There it generates programs that grow with the matrix: a QR of
2,048 columns takes minutes to compile. So the forms for TPUs here are loops over blocks of columns,
in which matrix products do nearly all of the work. :func:`triangle_by_gram` factorises a matrix
whose rows are sharded without gathering them.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular

from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.kernels.platform import on_tpu

BLOCK = 128
"""The number of columns in a block: the side of the matrices that a TPU multiplies in hardware."""

PASSES = 3
"""The number of Cholesky QR passes. From a condition number of ``1 / eps`` the first pass leaves
``1 / sqrt(8 n eps)``, the second a small one, and the third orthonormality to rounding."""


def inverse_cholesky(matrix: jax.Array) -> jax.Array:
    """``L^-1``, where ``matrix = L L'``; NaN where the matrix is not positive definite."""
    return on_tpu(_by_blocks, _by_library, matrix)[1]


def eigh(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The eigenvalues of a symmetric matrix in ascending order, and its eigenvectors as columns."""

    def by_rotations(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
        vectors, values = lax.linalg.eigh(
            matrix, implementation=lax.linalg.EighImplementation.JACOBI
        )
        return values, vectors

    return on_tpu(by_rotations, lambda matrix: tuple(jnp.linalg.eigh(matrix)), matrix)


def svd(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``U, s, V'`` of a matrix with at least as many rows as columns, with s descending; U has as
    many columns as the matrix.

    On a TPU they come from the eigenvalues of ``matrix' matrix``; singular values below
    ``sqrt(eps)`` times the largest are then rounding errors.
    """

    def by_spectrum(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        values, vectors = eigh(jnp.matmul(matrix.T, matrix, precision=HIGHEST))
        singular = jnp.sqrt(jnp.maximum(values[::-1], 0))
        right = vectors[:, ::-1]
        safe = jnp.where(singular > 0, singular, 1)
        return jnp.matmul(matrix, right, precision=HIGHEST) / safe[None, :], singular, right.T

    def by_library(matrix: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(jnp.linalg.svd(matrix, full_matrices=False))

    return on_tpu(by_spectrum, by_library, matrix)


def triangle(matrix: jax.Array) -> jax.Array:
    """The (columns, columns) R of ``matrix = Q R``, whose last rows are zero where the matrix has
    fewer rows than columns.
    """
    rows, columns = matrix.shape
    matrix = jnp.pad(matrix, ((0, max(columns - rows, 0)), (0, 0)))

    def by_gram(matrix: jax.Array) -> jax.Array:
        def gram(basis: jax.Array) -> jax.Array:
            turned = jnp.matmul(matrix, basis, precision=HIGHEST)
            return jnp.matmul(turned.T, turned, precision=HIGHEST)

        return triangle_by_gram(gram, jnp.sqrt(jnp.sum(jnp.square(matrix), axis=0)))[0]

    return on_tpu(by_gram, lambda matrix: jnp.linalg.qr(matrix, mode="r"), matrix)


def triangle_by_gram(
    gram: Callable[[jax.Array], jax.Array], length: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """R and its inverse, for an ``A = Q R`` that is known only by ``gram(T) = (A T)'(A T)`` and the
    lengths of its columns.

    Each pass takes a Cholesky factor ``R_k'R_k = gram(R^-1) + shift I``, where R is the product of
    the factors so far; the columns of ``A R^-1`` come closer to orthonormal with each pass. With
    the columns scaled to unit length, R is as accurate as Householder's up to a condition number of
    about ``1 / (10 eps)``; singular values below about that are raised to a few eps. A's rows may
    be sharded: only sums over them are needed.

    Reference: Fukaya, Kannan, Nakatsukasa, Yamamoto and Yanagisawa (2020), "Shifted Cholesky QR for
    computing the QR factorization of ill-conditioned matrices".
    """
    size, dtype = length.size, length.dtype
    eps = float(jnp.finfo(dtype).eps)
    # Shifts above the rounding errors of a zero eigenvalue: in the first pass all columns may be
    # nearly parallel.
    shifts = jnp.array([8 * size * eps, 4 * size**0.5 * eps, 4 * size**0.5 * eps], dtype)
    length = jnp.where(length > 0, length, 1)
    identity = jnp.eye(size, dtype=dtype)

    def turn(index: jax.Array, factors: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        upper, inverse = factors
        shifted = gram(inverse) + shifts[index] * identity
        new_upper, new_inverse = on_tpu(_by_blocks, _by_library, shifted)
        return (
            jnp.matmul(new_upper, upper, precision=HIGHEST),
            jnp.matmul(inverse, new_inverse.T, precision=HIGHEST),
        )

    start = length[:, None] * identity, identity / length[:, None]
    return lax.fori_loop(0, PASSES, turn, start)


def _by_library(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    lower = jnp.linalg.cholesky(matrix)
    identity = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    return lower.T, solve_triangular(lower, identity, lower=True)


def _by_blocks(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``L'`` and ``L^-1`` by elimination, one block of columns in each iteration.

    Each iteration updates the whole matrix instead of the remaining part of it, because shapes must
    be fixed: this takes six times the least number of operations, all of them in products.
    """
    size, dtype = matrix.shape[0], matrix.dtype
    padded = -(-size // BLOCK) * BLOCK
    index = jnp.arange(padded, dtype=jnp.int32)
    is_padding = (index >= size).astype(dtype)
    rest = jnp.pad(matrix, (0, padded - size)) + jnp.diag(is_padding)
    identity = jnp.eye(BLOCK, dtype=dtype)

    def eliminate(
        turn: jax.Array, parts: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        rest, inverse = parts
        start = turn * BLOCK
        rows = lax.dynamic_slice_in_dim(rest, start, BLOCK, 0)
        pivot = jnp.linalg.cholesky(lax.dynamic_slice_in_dim(rows, start, BLOCK, 1))
        pivot = solve_triangular(pivot, identity, lower=True)
        rows = jnp.matmul(pivot, rows, precision=HIGHEST)
        own = lax.dynamic_slice_in_dim(inverse, start, BLOCK, 0)
        own = jnp.matmul(pivot, own, precision=HIGHEST)
        rows = jnp.where(index[None, :] >= start, rows, 0)
        below = jnp.where(index[None, :] >= start + BLOCK, rows, 0)
        rest = rest - jnp.matmul(below.T, rows, precision=HIGHEST)
        inverse = inverse - jnp.matmul(below.T, own, precision=HIGHEST)
        return (
            lax.dynamic_update_slice_in_dim(rest, rows, start, 0),
            lax.dynamic_update_slice_in_dim(inverse, own, start, 0),
        )

    start = rest, jnp.eye(padded, dtype=dtype)
    upper, inverse = lax.fori_loop(0, padded // BLOCK, eliminate, start)
    return upper[:size, :size], inverse[:size, :size]
