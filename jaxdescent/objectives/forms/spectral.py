"""One spectral factorisation for every penalty: ``V diag(1 / (eigenvalue + l2)) V'``."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.objectives.forms.blocks import contract
from jaxdescent.objectives.protocol import Objective, Params


class SpectralObjective(Objective):
    """A quadratic whose Hessian is a matrix plus a penalty, on columns of one length."""

    @abc.abstractmethod
    def newton_step(self, spectrum: Spectrum, gradient: Params) -> Params:
        """Minus the inverse of the Hessian, times ``gradient``."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """The factorisation ``matrix = V diag(eigenvalues) V'``, positive semidefinite."""

    eigenvalues: jax.Array
    eigenvectors: jax.Array

    @classmethod
    def of(cls, matrix: jax.Array) -> Spectrum:
        """Factorise a symmetric (n, n) array."""
        return cls(*jnp.linalg.eigh(matrix))

    def coordinates(self, columns: jax.Array) -> jax.Array:
        """``V' columns``."""
        return contract(self.eigenvectors, 0, columns)

    def combined(self, coordinates: jax.Array) -> jax.Array:
        """``V coordinates``."""
        return contract(self.eigenvectors, 1, coordinates)

    def gain(self, l2: jax.Array) -> jax.Array:
        """``1 / (eigenvalue + l2)``, (n, *l2.shape); zero where the sum is but rounding."""
        eigenvalues, l2 = self.eigenvalues, l2.astype(self.eigenvalues.dtype)
        eps = jnp.finfo(eigenvalues.dtype).eps
        cutoff = eps * eigenvalues.size * jnp.max(jnp.abs(eigenvalues))
        positive = jnp.maximum(eigenvalues, 0).reshape(-1, *[1] * l2.ndim)
        shifted = positive + l2[None]
        return jnp.where(shifted > cutoff, 1 / jnp.where(shifted > cutoff, shifted, 1), 0)

    def inverse(self, columns: jax.Array, l2: jax.Array) -> jax.Array:
        """``(matrix + l2 I)^+ columns``; ``l2`` is a scalar or one for each column."""
        gain = self.gain(l2)
        if l2.ndim == 0:
            gain = gain.reshape(-1, *[1] * (columns.ndim - 1))
        return self.combined(gain * self.coordinates(columns))

    def solve(self, objective: Any, params: Params) -> tuple[Params, jax.Array]:
        """A Newton step, which is exact; again from its end, it refines."""
        step = objective.newton_step(self, objective.gradient(params))
        return jax.tree.map(jnp.add, params, step), jnp.array(False)
