"""The inverse of a regression's normal matrix as a product of factors, and its numerical rank."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.kernels import factors, loops
from jaxdescent.kernels.dtypes import HIGHEST

NULL = 32
"""Singular values up to this many eps times the largest count as zero, in a matrix of up to 64
columns. Where the columns are scaled to one length, it is times that length."""


class InverseFactor(NamedTuple):
    """``(X'SX + l2 I)^-1`` for the centred X, approximately: ``basis diag(gain) basis'``.

    If the rank is deficient it is the pseudo-inverse.
    """

    basis: jax.Array  # (features, features)
    gain: jax.Array  # (features, outputs), or one column for all outputs
    feature_mean: jax.Array  # (features,)
    is_deficient: jax.Array

    def apply(self, columns: jax.Array) -> jax.Array:
        """The inverse times ``columns``, (features, outputs)."""
        rotated = self.gain * jnp.matmul(self.basis.T, columns, precision=HIGHEST)
        return jnp.matmul(self.basis, rotated, precision=HIGHEST)


def null_level(dtype: Any, columns: int) -> float:
    """The largest singular value, relative to the norm, that rounding makes of a zero one.

    It is the norm of a matrix of rounding errors, which grows with the square root of its size.
    """
    return NULL * float(jnp.finfo(dtype).eps) * max(1.0, (columns / 64) ** 0.5)


def certain_lengths(lengths: jax.Array, whole: jax.Array) -> jax.Array:
    """The lengths of centred columns, zero for those that are constant but for rounding; ``whole``
    are the lengths before the columns were centred.
    """
    return jnp.where(lengths <= null_level(lengths.dtype, lengths.size) * whole, 0, lengths)


def spectral_factor(R: jax.Array, l2: jax.Array, mean: jax.Array) -> InverseFactor:
    """``V diag(1 / (s^2 + l2)) V'`` from ``R = U diag(s) V'``, without the null directions."""
    _, s, Vt = factors.svd(R)
    is_null = s <= null_level(s.dtype, s.size) * jnp.max(s)
    inverse = jnp.where(is_null, 0, 1 / jnp.where(is_null, 1, s))
    gain = 1 / (1 + l2[None, :] * jnp.square(inverse)[:, None])
    return InverseFactor(Vt.T * inverse[None, :], gain, mean, jnp.any(is_null))


def is_uneven(length: Any, level: float | None = None, xp: Any = jnp) -> Any:
    """Whether columns of these lengths must be divided by them before any direction counts as null.

    A direction is null if its image is negligible compared with the largest one, so that one long
    column would hide short columns that do not depend on it. Lengths of zero do not count.

    Args:
      length: of each column.
      level: as of :func:`null_level`; by default that of the dtype of ``length``.
      xp: ``numpy`` or ``jax.numpy``.
    """
    level = null_level(length.dtype, length.size) if level is None else level
    shortest = xp.min(xp.where(length > 0, length, xp.inf))
    return shortest < level**0.5 * xp.max(length)


def in_units(
    matrix: jax.Array,
    length: jax.Array,
    may_be: jax.Array | bool = True,
    level: float | None = None,
    xp: Any = jnp,
) -> tuple[jax.Array, jax.Array]:
    """The matrix with its columns in units of these lengths, and the units, if the lengths are
    uneven and ``may_be`` is true; columns of length zero are zeros then. Else the matrix and ones.
    ``level`` and ``xp`` are those of :func:`is_uneven`.
    """
    is_in_lengths, is_there = is_uneven(length, level, xp) & may_be, length > 0
    units = xp.where(is_in_lengths & is_there, length, 1)
    return xp.where(is_in_lengths & ~is_there[None, :], 0, matrix / units[None, :]), units


def deficient_factor(
    R: jax.Array, l2: jax.Array, triangle: jax.Array, length: jax.Array, mean: jax.Array
) -> InverseFactor:
    """:func:`spectral_factor` for one penalty, where the rank is deficient.

    If columns are uneven, the solution is the one of least norm in units of their lengths.

    Args:
      R: the triangle of the columns.
      l2: the part of the penalty that R does not contain, ().
      triangle: the triangle of the columns with the whole penalty, each divided by its ``length``.
      length: the lengths of these columns, (features,).
      mean: the mean of each feature, (features,).
    """
    # A negative penalty has no triangle.
    is_in_lengths = is_uneven(jnp.where(jnp.any(triangle != 0, axis=0), length, 0)) & (l2 >= 0)
    taken = jnp.where(is_in_lengths, triangle, R)
    factor = spectral_factor(taken, jnp.where(is_in_lengths, 0, l2)[None], mean)
    return factor._replace(basis=factor.basis / jnp.where(is_in_lengths, length, 1)[:, None])


def spectral_norm(matrix: jax.Array) -> jax.Array:
    """A lower estimate of the largest singular value, by three steps of the power method."""

    def iterate(_: jax.Array, vector: jax.Array) -> jax.Array:
        image = jnp.matmul(matrix, vector / jnp.linalg.norm(vector), precision=HIGHEST)
        return jnp.matmul(matrix.T, image, precision=HIGHEST)

    # The longest row is a start that is not orthogonal to the dominant singular vector by
    # construction, as a fixed vector may be.
    longest = matrix[jnp.argmax(jnp.sum(jnp.square(matrix), axis=1))]
    return jnp.sqrt(jnp.linalg.norm(loops.fori_loop(3, iterate, longest, turn_bytes=matrix.nbytes)))
