"""A spectral factorisation that serves every penalty: ``V diag(1 / (eigenvalue + l2)) V'``."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.kernels import factors
from jaxdescent.kernels.products import contract
from jaxdescent.numerics import precision
from jaxdescent.objectives.protocol import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GramSpectrum:
    """The factorisation ``matrix = V diag(eigenvalues) V'`` of a positive semidefinite matrix."""

    eigenvalues: jax.Array
    eigenvectors: jax.Array

    @classmethod
    def of(cls, matrix: jax.Array) -> GramSpectrum:
        """Factorise a symmetric (n, n) array."""
        return cls(*factors.eigh(matrix))

    def coordinates(self, columns: jax.Array) -> jax.Array:
        """``V' columns``."""
        return contract(self.eigenvectors, 0, columns)

    def combined(self, coordinates: jax.Array) -> jax.Array:
        """``V coordinates``."""
        return contract(self.eigenvectors, 1, coordinates)

    def gain(self, l2: jax.Array) -> jax.Array:
        """``1 / (eigenvalue + l2)``, (n, *l2.shape); zero where the sum is rounding error only."""
        eigenvalues, l2 = self.eigenvalues, l2.astype(self.eigenvalues.dtype)
        cutoff = self._rounding()
        positive = jnp.maximum(eigenvalues, 0).reshape(-1, *[1] * l2.ndim)
        shifted = positive + l2[None]
        return jnp.where(shifted > cutoff, 1 / jnp.where(shifted > cutoff, shifted, 1), 0)

    def _rounding(self) -> jax.Array:
        """A bound on the computed eigenvalue where the exact one is zero."""
        eps = jnp.finfo(self.eigenvalues.dtype).eps
        return eps * self.eigenvalues.size * jnp.max(jnp.abs(self.eigenvalues))

    def inverse(self, columns: jax.Array, l2: jax.Array) -> jax.Array:
        """``(matrix + l2 I)^+ columns``, where ``l2`` is a scalar or one number for each column."""
        gain = self.gain(l2)
        if l2.ndim == 0:
            gain = gain.reshape(-1, *[1] * (columns.ndim - 1))
        return self.combined(gain * self.coordinates(columns))

    def height(
        self, objective: Any, params: Params, gradient: Params, is_solution: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """``-g.step / 2`` for the Newton step, and the largest curvature."""
        del params, is_solution
        step = objective.newton_step(self, gradient)
        largest = jnp.max(jnp.abs(self.eigenvalues)) + jnp.max(objective.penalty())
        return jnp.maximum(-0.5 * precision.inner(gradient, step), 0), largest

    def solve(self, objective: Any, params: Params, gradient: Params) -> tuple[Params, jax.Array]:
        """The end of a Newton step, which is exact up to rounding; a second step refines it."""
        step = objective.newton_step(self, gradient)
        least = jnp.min(self.eigenvalues) + jnp.min(objective.penalty())
        return jax.tree.map(jnp.add, params, step), least < -self._rounding()
