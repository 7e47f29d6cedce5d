"""The smallest Ritz value of a Krylov process, updated from the coefficients of each step.

Conjugate gradients and the Golub-Kahan process factorise the tridiagonal matrix of the Lanczos
process as ``T = L L'``, where L is lower bidiagonal and gains a row in each step. Let x be a unit
vector that nearly maximises ``|L^-1 x|``. When L gains a row, x gains an entry, and the best
combination of the old x and the new unit vector is the dominant eigenvector of a 2 x 2 matrix. Only
three numbers are kept. ``1 / |L^-1 x|^2`` is an upper estimate of the smallest Ritz value, which is
itself an upper estimate of the smallest eigenvalue whose eigenvector has a component in the
right-hand side.

References: Bischof (1990), "Incremental condition estimation"; Duff and Vömel (2002), "Incremental
norm estimation for dense and sparse matrices"; Meurant and Tichý (2019), "Approximating the extreme
Ritz values and upper bounds for the A-norm of the error in CG".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.numerics.linear_systems import hypotenuse


def caution(dtype: Any) -> float:
    """The factor by which a curvature may be smaller than the smallest Ritz value.

    It is 1e3 in float64, and 8e5 in float32, whose tolerance is wider by the same factor. A
    right-hand side may hardly have a component along the directions of least curvature, as the
    gradient of a regression on noisy targets; they show only once the other components are gone.
    """
    return 1e3 * float(jnp.finfo(dtype).eps / jnp.finfo(jnp.float64).eps) ** (1 / 3)


class SmallestRitz(NamedTuple):
    """The three numbers of a process; arrays of any shape hold one process for each entry."""

    inverse: jax.Array  # |L^-1 x|^2; zero before the first step
    last: jax.Array  # the last entry of L^-1 x
    diagonal: jax.Array  # the diagonal entry of the last row of L

    @classmethod
    def start(cls, shape: tuple[int, ...], dtype: Any) -> SmallestRitz:
        """The state before the first step."""
        zero = jnp.zeros(shape, dtype)
        return cls(zero, zero, jnp.ones(shape, dtype))

    def after(self, diagonal: jax.Array, below: jax.Array) -> SmallestRitz:
        """The state with one more row of L: ``below`` left of the diagonal, then ``diagonal``."""
        safe = jnp.where(diagonal > 0, diagonal, 1)
        unit = jnp.where(diagonal > 0, 1 / safe, 0)
        along = -below * unit * self.last
        # The matrix [[inverse + along^2, along unit], [along unit, unit^2]], scaled by unit^2.
        first = self.inverse + along * along
        half = 0.5 * (first - unit * unit)
        cross = along * unit
        root = hypotenuse(half, cross)
        largest = 0.5 * (first + unit * unit) + root
        is_first_larger = half >= 0
        one = jnp.where(is_first_larger, half + root, cross)
        other = jnp.where(is_first_larger, cross, root - half)
        length = hypotenuse(one, other)
        safe_length = jnp.where(length > 0, length, 1)
        one = jnp.where(length > 0, one / safe_length, 0)
        other = jnp.where(length > 0, other / safe_length, 1)
        return SmallestRitz(largest, one * along + other * unit, diagonal)

    def height(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """``first second / (2 smallest Ritz value)`` of two lengths, whose product may underflow;
        infinite before the first step.
        """
        is_known = self.inverse > 0
        return jnp.where(is_known, 0.5 * first * self.inverse * second, jnp.inf)


class ConjugateSteps(NamedTuple):
    """The smallest Ritz value from exact steps along conjugate directions.

    On a quadratic the directions of LBFGS are those of conjugate gradients up to their lengths. So
    ``alpha = t (-g.d) / |g|^2`` and ``beta = |g_new|^2 / |g|^2`` are the coefficients of the same
    Lanczos process.
    """

    ritz: SmallestRitz
    below: jax.Array  # the entry below the diagonal in the factor's next row
    first_norm: jax.Array  # the gradient's, at the start
    largest: jax.Array  # the largest curvature along a unit direction

    @classmethod
    def start(cls, norm: jax.Array) -> ConjugateSteps:
        zero = jnp.zeros_like(norm)
        return cls(SmallestRitz.start((), norm.dtype), zero, norm, zero)

    def along(
        self, curvature: jax.Array, slope: jax.Array, squared: jax.Array
    ) -> tuple[ConjugateSteps, jax.Array]:
        """The state with what a direction of this squared length shows, and whether the quadratic
        may fall along it without end: beside the largest curvature its own is rounding, and its
        slope is not.
        """
        limits = jnp.finfo(squared.dtype)
        is_seen = squared > float(limits.tiny) / float(limits.eps)
        quotient = jnp.where(is_seen, jnp.abs(curvature) / jnp.where(is_seen, squared, 1), 0)
        largest = jnp.maximum(self.largest, quotient.astype(self.largest.dtype))
        is_flat = is_seen & (quotient <= limits.eps * largest)
        is_steep = -slope > float(limits.eps) ** 0.5 * self.first_norm * jnp.sqrt(squared)
        return self._replace(largest=largest), is_flat & is_steep

    def after(
        self, step: jax.Array, slope: jax.Array, norm: jax.Array, new_norm: jax.Array
    ) -> ConjugateSteps:
        """The state after a step along a direction of this slope; a step of zero restarts it."""
        safe = jnp.where(norm > 0, norm, 1).astype(slope.dtype)
        alpha = step * (-slope / safe) / safe
        has_moved = alpha > 0
        root = jnp.where(has_moved, jax.lax.rsqrt(jnp.where(has_moved, alpha, 1)), 0)
        ritz = self.ritz.after(root, self.below)
        ritz = jax.tree.map(lambda a, b: jnp.where(has_moved, a, b), ritz, self.ritz)
        return self._replace(ritz=ritz, below=root * (new_norm.astype(slope.dtype) / safe))
