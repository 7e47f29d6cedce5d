"""A spectral factorisation that serves every penalty: ``V diag(1 / (eigenvalue + l2)) V'``."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, Self

import jax
import jax.numpy as jnp

from jaxdescent.display import argument
from jaxdescent.kernels import factors
from jaxdescent.kernels.products import contract
from jaxdescent.numerics import precision
from jaxdescent.objectives.protocol import Objective, Params


@dataclasses.dataclass(frozen=True, eq=False)
class SpectralObjective(Objective):
    """A quadratic whose Hessian is a matrix plus ``l2 I``, applied to columns of one length."""

    l2: Any = dataclasses.field(kw_only=True)

    def _arguments(self) -> list[str]:
        return [argument(self.matrix), f"l2={argument(self.l2)}"]

    @property
    @abc.abstractmethod
    def matrix(self) -> jax.Array:
        """The Hessian without the penalty, or its only dense submatrix: (n, n)."""

    @abc.abstractmethod
    def newton_step(self, spectrum: GramSpectrum, gradient: Params) -> Params:
        """Minus the inverse of the Hessian, times ``gradient``."""

    def with_penalty(self, l2: Any) -> Self:
        """This objective with another penalty, without a pass over its data."""
        return dataclasses.replace(self, l2=jnp.asarray(l2, self.matrix.dtype))

    def penalty(self) -> jax.Array:
        """l2 as a scalar, or as (1, outputs) to multiply columns of (n, outputs)."""
        l2 = jnp.asarray(self.l2, self.matrix.dtype)
        return l2[None, :] if l2.ndim == 1 else l2

    def check_params(self, params: Params) -> None:
        expected = jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(self.start))
        got = jax.tree.map(jnp.shape, params)
        if got != expected:
            raise ValueError(
                f"{type(self).__name__} needs params of shapes {expected}, got {got}: pass "
                "params=None to start from zeros."
            )

    def value(self, params: Params) -> jax.Array:
        return self.value_and_gradient(params)[0]

    def value_and_gradient(self, params: Params) -> tuple[jax.Array, Params]:
        return self.value_and_gradient_at(params, self.image(params))

    def gradient(self, params: Params) -> Params:
        return self.value_and_gradient(params)[1]

    def curvature(self, params: Params, direction: Params) -> jax.Array:
        return self.curvature_along(params, direction, self.image(direction))

    @property
    def is_quadratic(self) -> bool:
        return True

    def stationary_solver(self, params: Params) -> GramSpectrum:
        """The spectral factorisation of the matrix, which serves every penalty and output."""
        del params
        return GramSpectrum.of(self.matrix)

    def stationary_solver_bytes(self, params: Params) -> int:
        del params
        # The copy that the eigenvectors overwrite, and LAPACK's workspace.
        return 4 * self.matrix.size * self.matrix.dtype.itemsize


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
