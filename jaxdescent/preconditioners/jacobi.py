"""Diagonal scaling of the unknowns."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.preconditioners.hessians import ShiftedHessian
from jaxdescent.preconditioners.protocol import Factor, Preconditioner, SymmetricFactor


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Jacobi(Preconditioner):
    """Scale every unknown by the root of its own curvature: ``N = diag(H + l2)^(-1/2)``.

    For a regression the roots of the curvatures are the norms of X's centred and weighted columns:
    this helps where features have different units. The condition number is within a factor of the
    number of features of the best diagonal scaling's. It costs one pass over X once (two with an
    intercept), one vector, and one multiplication for each unknown in an iteration. Unknowns of
    zero curvature are not scaled.

    Raises:
      TypeError: for a matrix-free X or Hessian, whose diagonal is not known.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> X = jnp.array([[1.0, 2e3], [2.0, -1e3], [3.0, 5e3]])
    >>> objective = jd.LinearRegression(X, X @ jnp.array([1.0, 1e-3]), intercept=False)
    >>> result = jd.minimize(objective, method=jd.ConjugateGradient(jd.Jacobi()), tolerance=1e-6)
    >>> print(int(result.iterations), result.params["weights"][0].round(3))
    2 1.0

    Reference: van der Sluis (1969), "Condition numbers and equilibration of matrices".
    """

    def factorise(self, hessian: ShiftedHessian) -> Factor:
        diagonal = hessian.diagonal()[:, None] + hessian.shift
        return _Scaling(inverse_roots(diagonal))


def inverse_roots(curvature: jax.Array) -> jax.Array:
    """``curvature^-1/2``, and one where no curvature is."""
    is_positive = curvature > 0
    scale = jnp.where(is_positive, lax.rsqrt(jnp.where(is_positive, curvature, 1)), 1)
    # If the squares of a column overflow, a scale of zero would remove the column, and the descent
    # would converge without it.
    return jnp.where(jnp.isfinite(curvature), scale, jnp.nan)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Scaling(SymmetricFactor):
    scale: jax.Array  # (size, 1), or (size, outputs)

    def apply(self, columns: jax.Array) -> jax.Array:
        return self.scale * columns
