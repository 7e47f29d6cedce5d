"""Solvers that set the gradient to zero, for diagonal and for dense Hessians."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxdescent.kernels import factors
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.numerics import precision
from jaxdescent.numerics.linear_systems import on_vectors
from jaxdescent.objectives.protocol import Objective, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DiagonalSolver:
    """``x - g / diag(H)``, one division for each unknown; where the diagonal is zero, x is kept.

    The diagonal is ``H @ ones``, because the Hessian is diagonal.
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

    def height(
        self, objective: Objective, params: Params, gradient: Params, is_solution: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Infinity: a separable objective knows its minimum without the solver."""
        zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(gradient)))
        return zero + jnp.inf, zero


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DenseSolver:
    """The spectral factorisation ``D H D = V diag(l) V'`` of a dense symmetric Hessian.

    The positive diagonal D gives the rows of ``D H D`` similar size, so that zero curvature is
    recognised equally well for unknowns in large and in small units. The correction
    ``-D V diag(1/l) V' D g`` does not move along directions of zero curvature: of all stationary
    points it finds the one nearest to the start.
    """

    eigenvalues: jax.Array
    eigenvectors: jax.Array
    scale: jax.Array
    hessian: jax.Array

    @classmethod
    def from_hessian(cls, hessian: jax.Array) -> DenseSolver:
        """Factorise a symmetric (n, n) array."""
        scale = equilibrating(hessian)
        scaled = scale[:, None] * hessian * scale[None, :]
        eigenvalues, eigenvectors = factors.eigh(scaled)
        return cls(eigenvalues, eigenvectors, scale, hessian)

    def solve(
        self, objective: Objective, params: Params, gradient: Params
    ) -> tuple[Params, jax.Array]:
        step, is_negative = self.newton_step(gradient)
        is_sloping = self._is_sloping(params, gradient, step)
        return jax.tree.map(jnp.add, params, step), is_negative | is_sloping

    def height(
        self, objective: Objective, params: Params, gradient: Params, is_solution: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """``sum_i p_i^2 / (2 |l_i|)`` with ``p = V'D g``, and a curvature.

        No ``|l_i|`` counts as less than its rounding error. The curvature is
        ``|x|'|H||x| / |x|^2``, in which each unknown counts by its own size; at ``x = 0`` it is
        ``|H r| / |r|``, where r is the largest row of H.
        """
        flat, _ = ravel_pytree(gradient)
        coordinates = jnp.matmul(self.eigenvectors.T, self.scale * flat, precision=HIGHEST)
        curvatures = jnp.maximum(jnp.abs(self.eigenvalues), self._cutoff)
        is_known = curvatures > 0
        heights = jnp.square(coordinates) / jnp.where(is_known, curvatures, 1)
        # Without any curvature a slope falls for ever.
        falling = jnp.where(coordinates == 0, 0, jnp.inf)
        left = 0.5 * jnp.sum(jnp.where(is_known, heights, falling))
        rows = jnp.sum(jnp.square(self.scale[:, None] * self.hessian), axis=1)
        row = jnp.take(self.hessian, jnp.argmax(rows), axis=0)
        peak = jnp.max(jnp.abs(row))
        row = row / jnp.where(peak > 0, peak, 1)
        image = jnp.matmul(self.hessian, row, precision=HIGHEST)
        length = precision.norm(row)
        curvature = precision.norm(image) / jnp.where(length > 0, length, 1)
        x = jnp.abs(ravel_pytree(params)[0])
        worth = jnp.sum(x * jnp.matmul(jnp.abs(self.hessian), x, precision=HIGHEST))
        squared = jnp.sum(jnp.square(x))
        of_params = worth / jnp.where(squared > 0, squared, 1)
        return left, jnp.where(squared > 0, of_params, curvature)

    def newton_step(self, gradient: Params) -> tuple[Params, jax.Array]:
        """``-H^+ gradient``, and whether an eigenvalue is negative by more than rounding."""
        flat, unravel = ravel_pytree(gradient)
        is_flat = self._is_flat
        inverse = jnp.where(is_flat, 0, 1 / jnp.where(is_flat, 1, self.eigenvalues))
        coordinates = jnp.matmul(self.eigenvectors.T, self.scale * flat, precision=HIGHEST)
        step = -self.scale * jnp.matmul(self.eigenvectors, inverse * coordinates, precision=HIGHEST)
        step = lax.cond(jnp.any(is_flat), self._shortest, lambda step: step, step)
        return unravel(step), jnp.min(self.eigenvalues) < -self._cutoff

    @property
    def _cutoff(self) -> jax.Array:
        size = self.eigenvalues.size
        largest = jnp.max(jnp.abs(self.eigenvalues))
        return jnp.finfo(self.eigenvalues.dtype).eps * size * largest

    @property
    def _is_flat(self) -> jax.Array:
        return jnp.abs(self.eigenvalues) <= self._cutoff

    def _shortest(self, step: jax.Array) -> jax.Array:
        """The step without its component along directions of zero curvature.

        ``D H D`` and H have different null spaces, so that the scaled step may have one.
        """
        is_flat = self._is_flat
        null = jnp.where(is_flat[None, :], self.scale[:, None] * self.eigenvectors, 0)
        lengths = jnp.sqrt(jnp.sum(jnp.square(null), axis=0))
        null = null / jnp.where(lengths > 0, lengths, 1)[None, :]
        gram = jnp.matmul(null.T, null, precision=HIGHEST)
        gram = gram + jnp.diag(jnp.where(is_flat, 0, 1).astype(gram.dtype))
        coordinates = jnp.linalg.solve(gram, jnp.matmul(null.T, step, precision=HIGHEST))
        return step - jnp.matmul(null, coordinates, precision=HIGHEST)

    def _is_sloping(self, params: Params, gradient: Params, step: Params) -> jax.Array:
        """Whether the gradient has a component beyond rounding along a direction of zero curvature.

        Such a quadratic is unbounded below. The rounding error is estimated from the terms that
        should cancel: the gradient, and H times the params before and after the step.
        """
        flat, x, step = (ravel_pytree(tree)[0] for tree in (gradient, params, step))
        size = jnp.abs(x) + jnp.abs(step)
        terms = jnp.abs(flat) + jnp.matmul(jnp.abs(self.hessian), size, precision=HIGHEST)
        eps = jnp.finfo(flat.dtype).eps
        along = jnp.matmul(self.eigenvectors.T, self.scale * flat, precision=HIGHEST)
        weights = jnp.abs(self.eigenvectors.T)
        rounding = jnp.matmul(weights, self.scale * terms, precision=HIGHEST)
        rounding = jnp.maximum(rounding, 0.25 * jnp.sqrt(jnp.sum(jnp.square(self.scale * terms))))
        rounding = 4 * eps * jnp.sqrt(jnp.asarray(flat.size, flat.dtype)) * rounding
        return jnp.any(self._is_flat & (jnp.abs(along) > rounding))


def equilibrating(hessian: Any, xp: Any = jnp) -> Any:
    """Powers of two d, (..., n), for which the largest entries of the rows of ``d_i H_ij d_j`` are
    near one, for a Hessian (..., n, n) of this module, ``jax.numpy`` or ``numpy``.

    Multiplying by powers of two does not round. For a row of zeros d stays one.
    Reference: Ruiz (2001), "A scaling algorithm to equilibrate both rows and columns norms in
    matrices".
    """
    magnitude = xp.abs(hessian)
    scale = xp.ones(hessian.shape[:-1], hessian.dtype)
    for _ in range(4):
        peaks = scale * xp.max(magnitude * scale[..., None, :], axis=-1)
        is_usable = (peaks > 0) & xp.isfinite(peaks)
        scale = scale / xp.sqrt(xp.where(is_usable, peaks, 1))
    return xp.exp2(xp.round(xp.log2(scale)))


def dense_hessian(objective: Objective, params: Params) -> jax.Array:
    """The (n, n) Hessian at ``params``, symmetrised, from n Hessian-vector products."""
    flat, unravel = ravel_pytree(params)
    product = on_vectors(functools.partial(objective.hessian_product, params), unravel)
    hessian: Any = jax.vmap(product)(jnp.eye(flat.size, dtype=flat.dtype))
    return 0.5 * (hessian + hessian.T)
