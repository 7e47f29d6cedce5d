"""The smallest Ritz value of a Krylov process, from its coefficients one after another.

Conjugate gradients and the Golub-Kahan process factorise the tridiagonal matrix of the Lanczos
process as ``T = L L'`` with a lower bidiagonal L, a row a step. With x a unit vector that nearly
maximises ``|L^-1 x|``, the next row adds one entry to x: the best mixture of the old x and the new
unit vector is the larger eigenvector of a matrix of two rows. Three numbers are kept, and
``1 / |L^-1 x|^2`` is an estimate from above of the smallest Ritz value, which is an estimate from
above of the smallest eigenvalue that the right-hand side has a part along.

References: Bischof (1990), "Incremental condition estimation"; Duff and Vömel (2002), "Incremental
norm estimation for dense and sparse matrices"; Meurant and Tichý (2019), "Approximating the extreme
Ritz values and upper bounds for the A-norm of the error in CG".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


def caution(dtype: Any) -> float:
    """By how much less than the smallest Ritz value a curvature may be: 1e3 in float64, 8e5 in
    float32, whose tolerance is that much wider.

    A right-hand side that has hardly a part along the directions of least curvature, as the
    gradient of a regression on noisy targets, shows them when the others have gone.
    """
    return 1e3 * float(jnp.finfo(dtype).eps / jnp.finfo(jnp.float64).eps) ** (1 / 3)


class SmallestRitz(NamedTuple):
    """The three numbers, of any shape: one process for each entry."""

    inverse: jax.Array  # |L^-1 x|^2; zero before the first step
    last: jax.Array  # the last entry of L^-1 x
    diagonal: jax.Array  # of the last row of L

    @classmethod
    def start(cls, shape: tuple[int, ...], dtype: Any) -> SmallestRitz:
        """Before the first step."""
        zero = jnp.zeros(shape, dtype)
        return cls(zero, zero, jnp.ones(shape, dtype))

    def after(self, diagonal: jax.Array, below: jax.Array) -> SmallestRitz:
        """With one more row of L: ``below`` in the column of the last one, then ``diagonal``."""
        safe = jnp.where(diagonal > 0, diagonal, 1)
        unit = jnp.where(diagonal > 0, 1 / safe, 0)
        along = -below * unit * self.last
        # The matrix [[inverse + along^2, along unit], [along unit, unit^2]], scaled by unit^2.
        first = self.inverse + along * along
        half = 0.5 * (first - unit * unit)
        cross = along * unit
        root = jnp.hypot(half, cross)
        largest = 0.5 * (first + unit * unit) + root
        is_first_larger = half >= 0
        one = jnp.where(is_first_larger, half + root, cross)
        other = jnp.where(is_first_larger, cross, root - half)
        length = jnp.hypot(one, other)
        safe_length = jnp.where(length > 0, length, 1)
        one = jnp.where(length > 0, one / safe_length, 0)
        other = jnp.where(length > 0, other / safe_length, 1)
        return SmallestRitz(largest, one * along + other * unit, diagonal)

    def height(self, squared: jax.Array) -> jax.Array:
        """``squared / (2 smallest Ritz value)``, infinite before the first step."""
        is_known = self.inverse > 0
        return jnp.where(is_known, 0.5 * squared * self.inverse, jnp.inf)
