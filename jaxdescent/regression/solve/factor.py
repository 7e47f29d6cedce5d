"""The inverse of a regression's normal matrix as a product of factors: its accuracy, its rank."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.kernels import factors, loops, small_matrices
from jaxdescent.kernels.dtypes import HIGHEST

NULL = 32
"""Singular values up to this many eps times the largest count as zero, in a matrix of up to 64
columns. Where the columns are scaled to one length, it is times that length."""

FAIR = 6.5
"""The largest norm of the inverse Cholesky factor for which one solve suffices: it loses one or two
digits, which a second solve would not recover. The rows have unit length, and centring must not
have cancelled digits."""


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

    def without(self, is_noise: jax.Array) -> InverseFactor:
        """The factor that leaves the weights of these columns at zero: a small penalty alone would
        make them as large as the penalty's inverse.
        """
        return self._replace(basis=jnp.where(is_noise[:, None], 0, self.basis))


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


def triangular_factor(
    R: jax.Array,
    l2: jax.Array,
    triangle: jax.Array,
    inverse: jax.Array,
    *,
    length: jax.Array,
    mean: jax.Array,
) -> InverseFactor:
    """The factor for one penalty: the inverse of a triangle, or :func:`spectral_factor` where that
    shows a deficient rank.

    If columns are uneven, the solution of a deficient rank has least norm in units of their
    lengths.

    Args:
      R: the triangle of the columns.
      l2: the part of the penalty that R does not contain, ().
      triangle: the triangle of the columns with the whole penalty, each divided by its ``length``.
      inverse: of ``triangle``; infinite or NaN if that is singular.
      length: the lengths of these columns, (features,).
      mean: the mean of each feature, (features,).
    """

    def spectral() -> InverseFactor:
        # A negative penalty has no triangle.
        is_there = jnp.any(triangle != 0, axis=0)
        is_in_lengths = is_uneven(jnp.where(is_there, length, 0)) & (l2 >= 0)
        taken = jnp.where(is_in_lengths, triangle, R)
        factor = spectral_factor(taken, jnp.where(is_in_lengths, 0, l2)[None], mean)
        return factor._replace(basis=factor.basis / jnp.where(is_in_lengths, length, 1)[:, None])

    def triangular() -> InverseFactor:
        gain = jnp.ones((mean.size, 1), R.dtype)
        return InverseFactor(inverse / length[:, None], gain, mean, jnp.array(False))

    # A comparison with NaN is false.
    is_regular = (l2 >= 0) & (spectral_norm(inverse) < 1 / null_level(R.dtype, mean.size))
    return lax.cond(is_regular, triangular, spectral)


def least_singular_value(dtype: Any) -> float:
    """The least singular value that counts as well-conditioned, for columns of unit length:
    ``8 sqrt(eps)``.
    """
    return 8 * float(jnp.finfo(dtype).eps) ** 0.5


def equilibrated(
    matrix: jax.Array, l2: Any, raw_diagonal: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``E (matrix + l2 I) E`` with a unit diagonal, E, and the least singular value that its
    Cholesky factor must have.

    ``raw_diagonal`` is the matrix's diagonal before centring. Its rounding errors remain after
    centring, and dominate if the data are far from zero; so the last number grows with it.
    """
    diagonal = jnp.diagonal(matrix) + jnp.asarray(l2, matrix.dtype)
    is_positive = diagonal > 0
    safe = jnp.where(is_positive, diagonal, 1)
    scale = jnp.where(is_positive, lax.rsqrt(safe), 0)
    is_diagonal = jnp.eye(matrix.shape[0], dtype=bool)
    scaled = jnp.where(is_diagonal, 1, scale[:, None] * matrix * scale[None, :])
    cancelled = jnp.maximum(jnp.max(raw_diagonal / safe), 1)
    least = least_singular_value(matrix.dtype) * jnp.sqrt(cancelled)
    return scaled, scale, jnp.where(jnp.all(is_positive), least, jnp.inf)


def cholesky_factor(
    matrix: jax.Array, raw_diagonal: jax.Array, l2: jax.Array, mean: jax.Array
) -> tuple[InverseFactor, jax.Array, jax.Array]:
    """The factor of ``(matrix + l2 I)^-1`` for one l2, and two verdicts on it.

    Returns:
      The factor; ``is_ill``: whether the matrix is too ill-conditioned for it; ``is_fair``: whether
      one solve is as accurate as two.
    """
    scaled, scale, least = equilibrated(matrix, l2, raw_diagonal)
    inverse = small_matrices.inverse_cholesky(scaled)
    gain = jnp.ones((inverse.shape[0], 1), inverse.dtype)
    factor = InverseFactor(scale[:, None] * inverse.T, gain, mean, jnp.array(False))
    # The diagonal of the Cholesky factor would not show ill-conditioning: the rounding error in a
    # last pivot of zero grows with the number of columns. If the factorisation fails, NaN makes
    # ``is_ill`` true.
    level = _norm_bound(inverse) * least
    return factor, ~(level < 1), level < FAIR * least_singular_value(inverse.dtype)


def _norm_bound(matrix: jax.Array) -> jax.Array:
    """An estimate of the spectral norm; for few columns the Frobenius norm, which is not much
    larger and takes one pass over a batch of matrices.
    """
    if matrix.shape[0] <= small_matrices.SMALL_COLUMNS:
        return jnp.sqrt(jnp.sum(jnp.square(matrix)))
    return spectral_norm(matrix)


def spectral_norm(matrix: jax.Array) -> jax.Array:
    """A lower estimate of the largest singular value, by three steps of the power method."""

    def iterate(_: jax.Array, vector: jax.Array) -> jax.Array:
        image = jnp.matmul(matrix, vector / jnp.linalg.norm(vector), precision=HIGHEST)
        return jnp.matmul(matrix.T, image, precision=HIGHEST)

    # The longest row is a start that is not orthogonal to the dominant singular vector by
    # construction, as a fixed vector may be.
    longest = matrix[jnp.argmax(jnp.sum(jnp.square(matrix), axis=1))]
    return jnp.sqrt(jnp.linalg.norm(loops.fori_loop(3, iterate, longest, turn_bytes=matrix.nbytes)))
