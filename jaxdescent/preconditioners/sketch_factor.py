"""The factors N from a sketch of the rows, of full rank or rank-deficient."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular

from jaxdescent.kernels import factors
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.preconditioners.protocol import Factor

ROUNDING = 4
"""Singular values below this many eps times A's norm count as rounding errors."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Square(Factor):
    """The inverse of a triangular R, or ``V diag(gain)`` if R is rank-deficient."""

    matrix: jax.Array  # (size, size): the upper triangular R, or V diag(gain)
    is_product: jax.Array

    def apply(self, columns: jax.Array) -> jax.Array:
        return lax.cond(self.is_product, _product, solve_triangular, self.matrix, columns)

    def apply_transpose(self, columns: jax.Array) -> jax.Array:
        return lax.cond(
            self.is_product,
            lambda matrix, columns: _product(matrix.T, columns),
            lambda matrix, columns: solve_triangular(matrix, columns, trans=1),
            *(self.matrix, columns),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Spectral(Factor):
    """``V diag(gain)``, with a gain for each output."""

    vectors: jax.Array  # (size, size)
    gain: jax.Array  # (size, outputs)

    def apply(self, columns: jax.Array) -> jax.Array:
        return jnp.matmul(self.vectors, self.gain * columns, precision=HIGHEST)

    def apply_transpose(self, columns: jax.Array) -> jax.Array:
        return self.gain * jnp.matmul(self.vectors.T, columns, precision=HIGHEST)


def spectral(
    sketch: jax.Array, shift: jax.Array, penalty_residual: jax.Array, least: float
) -> tuple[Factor, jax.Array]:
    """N and the sketch's own solution, where each output has a penalty of its own."""
    features = penalty_residual.shape[0]
    triangle = factors.triangle(sketch)[:features]
    left, singular, right = factors.svd(triangle[:, :features])
    curvature = jnp.square(singular)[:, None] + shift
    is_missing = jnp.min(curvature) <= jnp.square(least * singular[0])
    factor = Spectral(right.T, _gain(curvature, singular, is_missing))
    rotated = jnp.matmul(left.T, triangle[:, features:], precision=HIGHEST)
    penalty = jnp.matmul(right, jnp.sqrt(shift) * penalty_residual, precision=HIGHEST)
    return factor, factor.apply(factor.gain * (singular[:, None] * rotated + penalty))


def by_triangle(triangle: jax.Array, *_: jax.Array) -> tuple[jax.Array, jax.Array]:
    """R and the sketch's own solution, from ``[R, Q' S residual]``."""
    size = triangle.shape[0]
    return triangle[:, :size], solve_triangular(triangle[:, :size], triangle[:, size:])


def by_values(
    triangle: jax.Array, in_units: jax.Array, units: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """``V diag(gain)`` divided by the units, and the solution of least norm in these units, for a
    rank-deficient R.
    """
    left, singular, right = factors.svd(in_units)
    gain = _gain(jnp.square(singular), singular, jnp.array(True))
    rotated = jnp.matmul(left.T, triangle[:, len(units) :], precision=HIGHEST)
    matrix = right.T * gain[None, :] / units[:, None]
    return matrix, _product(matrix, (gain * singular)[:, None] * rotated)


def _gain(curvature: jax.Array, singular: jax.Array, is_missing: jax.Array) -> jax.Array:
    """``curvature^-1/2``, limited if the rank is deficient.

    A ridge of ``sqrt(eps) |A|`` is added then, because the rounding errors along small singular
    values would be amplified beyond the solution. Singular values that are rounding errors
    themselves get a gain of zero: the unknowns would follow noise alone in their directions.
    """
    eps, size = jnp.finfo(singular.dtype).eps, jnp.linalg.norm(singular)
    ridge = jnp.where(is_missing, eps * jnp.square(size), 0)
    is_none = is_missing & (curvature <= jnp.square(ROUNDING * eps * size))
    return jnp.where(is_none, 0, lax.rsqrt(jnp.where(is_none, 1, curvature + ridge)))


def _product(matrix: jax.Array, columns: jax.Array) -> jax.Array:
    return jnp.matmul(matrix, columns, precision=HIGHEST)
