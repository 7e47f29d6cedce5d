"""The factors N from a sketch of the rows, of full rank or rank-deficient."""

from __future__ import annotations

import dataclasses
import math

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
class OfSketch(Factor):
    """``V diag(gain)``: the inverse of a triangle, or singular vectors with a gain for each."""

    vectors: jax.Array  # (size, size)
    gain: jax.Array  # (size, 1), or (size, outputs)

    def apply(self, columns: jax.Array) -> jax.Array:
        return jnp.matmul(self.vectors, self.gain * columns, precision=HIGHEST)

    def apply_transpose(self, columns: jax.Array) -> jax.Array:
        return self.gain * jnp.matmul(self.vectors.T, columns, precision=HIGHEST)


def by_triangle(
    triangle: jax.Array, scaled: jax.Array, units: jax.Array
) -> tuple[OfSketch, jax.Array]:
    """``R^-1`` and the sketch's own solution, from ``[R, Q' S residual]``."""
    size = units.size
    identity = jnp.eye(size, dtype=triangle.dtype)
    known = jnp.concatenate([identity, triangle[:, size:]], axis=1)
    solved = solve_triangular(triangle[:, :size], known)
    return OfSketch(solved[:, :size], jnp.ones_like(triangle[:, :1])), solved[:, size:]


def by_values(
    triangle: jax.Array,
    scaled: jax.Array,
    units: jax.Array,
    of_penalty: tuple[jax.Array, jax.Array] | None = None,
    least: float = math.inf,
) -> tuple[OfSketch, jax.Array]:
    """N and the sketch's own solution by singular values, with no more than rounding in directions
    whose curvature is at most the square of ``least |A|``. The solution has least norm in units.

    Args:
      triangle: ``[R, Q' S residual]``.
      scaled: R with its columns divided by units.
      units: of the columns, (size,).
      of_penalty: what R does not contain: a penalty for each output, and its residuals.
      least: where some curvature is no more, the rank is deficient.
    """
    left, singular, right = factors.svd(scaled)
    shift, residual = (0.0, None) if of_penalty is None else of_penalty
    curvature = jnp.square(singular)[:, None] + shift
    is_missing = ~(jnp.min(curvature) > jnp.square(least * singular[0]))
    factor = OfSketch(right.T / units[:, None], _gain(curvature, singular, is_missing))
    rotated = jnp.matmul(left.T, triangle[:, units.size :], precision=HIGHEST)
    rotated = singular[:, None] * rotated
    if residual is not None:
        rotated += jnp.matmul(right, jnp.sqrt(shift) * residual, precision=HIGHEST)
    return factor, factor.apply(factor.gain * rotated)


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
