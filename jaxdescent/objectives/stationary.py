"""Set the gradient to zero and solve: for diagonal and for dense Hessians."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxdescent.objectives.protocol import Objective, Params
from jaxdescent.precision import HIGHEST


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DiagonalSolver:
    """``x - g / diag(H)``, one division for each unknown; where the diagonal is zero, x stays.

    Sums over the rows of a diagonal matrix are its diagonal: ``H @ ones``.
    """

    def solve(
        self, objective: Objective, params: Params, gradient: Params
    ) -> tuple[Params, jax.Array]:
        ones = jax.tree.map(jnp.ones_like, params)
        diagonal = objective.hessian_product(params, ones)
        solution = jax.tree.map(
            lambda x, g, h: x - jnp.where(h == 0, 0, g / jnp.where(h == 0, 1, h)),
            params,
            gradient,
            diagonal,
        )
        lowest = [jnp.min(leaf) < 0 for leaf in jax.tree.leaves(diagonal)]
        return solution, jnp.any(jnp.stack(lowest))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DenseSolver:
    """The spectral factorisation ``H = V diag(l) V'`` of a dense symmetric Hessian.

    The correction ``-V diag(1/l) V' g`` leaves directions of zero curvature alone: of all
    stationary points it finds the one nearest to the start.
    """

    eigenvalues: jax.Array
    eigenvectors: jax.Array

    @classmethod
    def from_hessian(cls, hessian: jax.Array) -> DenseSolver:
        """Factorise a symmetric (n, n) array."""
        eigenvalues, eigenvectors = jnp.linalg.eigh(hessian)
        return cls(eigenvalues, eigenvectors)

    @classmethod
    def from_objective(cls, objective: Objective, params: Params) -> DenseSolver:
        """Factorise the Hessian of a small objective at ``params``."""
        return cls.from_hessian(dense_hessian(objective, params))

    def solve(
        self, objective: Objective, params: Params, gradient: Params
    ) -> tuple[Params, jax.Array]:
        del objective
        step, is_negative = self.newton_step(gradient)
        return jax.tree.map(jnp.add, params, step), is_negative

    def newton_step(self, gradient: Params) -> tuple[Params, jax.Array]:
        """``-H^+ gradient``, and whether an eigenvalue is negative beyond rounding."""
        flat, unravel = ravel_pytree(gradient)
        magnitude = jnp.abs(self.eigenvalues)
        cutoff = jnp.finfo(flat.dtype).eps * flat.size * jnp.max(magnitude)
        is_flat = magnitude <= cutoff
        inverse = jnp.where(is_flat, 0, 1 / jnp.where(is_flat, 1, self.eigenvalues))
        coefficients = inverse * jnp.matmul(self.eigenvectors.T, flat, precision=HIGHEST)
        step = -jnp.matmul(self.eigenvectors, coefficients, precision=HIGHEST)
        return unravel(step), jnp.min(self.eigenvalues) < -cutoff


def dense_hessian(objective: Objective, params: Params) -> jax.Array:
    """The (n, n) Hessian at ``params``, symmetrised: n Hessian-vector products."""
    flat, unravel = ravel_pytree(params)

    def column(direction: jax.Array) -> jax.Array:
        return ravel_pytree(objective.hessian_product(params, unravel(direction)))[0]

    hessian: Any = jax.vmap(column)(jnp.eye(flat.size, dtype=flat.dtype))
    return 0.5 * (hessian + hessian.T)
