"""More features than rows: the solution of least norm, in the space of the rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from jaxdescent.designs import Design
from jaxdescent.objectives.exact.centred import centre, columns, with_intercept
from jaxdescent.objectives.exact.equilibrated import equilibrated
from jaxdescent.objectives.exact.refinement import null_level
from jaxdescent.objectives.seldom import seldom
from jaxdescent.precision import HIGHEST

Params = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DualSolver:
    """More features than rows: ``w = X' a`` with ``(XX' + l2 I) a = y``, the minimum-norm solution.

    One refinement step on ``a`` is part of the solve. The start plays no part in it.
    """

    factor: jax.Array
    row_scale: jax.Array
    is_ill: jax.Array

    @classmethod
    def factorise(cls, design: Design, l2: Any, sample_weight: Any, intercept: bool) -> DualSolver:
        data = centre(design, None, sample_weight, intercept)
        rows = design.shape[0]
        kernel = jnp.matmul(data.X, data.X.T, precision=HIGHEST)
        root = jnp.sqrt(data.weight[:, 0])
        raw_diagonal = data.weight[:, 0] * jnp.diagonal(kernel)
        if intercept:
            share = data.weight[:, 0] / data.weight_total
            row = jnp.matmul(kernel, share, precision=HIGHEST)
            kernel = kernel - row[:, None] - row[None, :] + jnp.sum(share * row)
        kernel = root[:, None] * kernel * root[None, :]
        if intercept:
            # Centring makes sqrt(s) a null vector; the targets have no part along it, so any
            # curvature may be put there.
            unit = root / jnp.sqrt(data.weight_total)
            kernel = kernel + jnp.mean(jnp.diagonal(kernel)) * jnp.outer(unit, unit)
        scaled, scale, least = equilibrated(kernel, l2, raw_diagonal)
        factor = jnp.linalg.cholesky(scaled)
        least = least * max(1.0, rows**0.5 / 4)  # what rounding may leave of a last pivot of zero
        return cls(factor, scale, ~(jnp.min(jnp.diagonal(factor)) > least))

    def solve(self, objective: Any, params: Params, gradient: Params) -> tuple[Params, jax.Array]:
        del gradient
        solution = seldom(self.is_ill, _orthogonal, DualSolver._solve, self, objective, params)
        return solution, jnp.array(False)

    def _solve(self, objective: Any, params: Params) -> Params:
        data = centre(objective.X, objective.y, objective.sample_weight, objective.intercept)
        root = jnp.sqrt(data.weight)
        targets = root * (columns(objective.y).astype(data.X.dtype) - data.target_mean[None, :])
        l2 = jnp.asarray(objective.l2, targets.dtype)

        def weights_of(dual: jax.Array) -> jax.Array:
            scaled = root * dual
            return jnp.matmul(data.X.T, scaled, precision=HIGHEST) - jnp.outer(
                data.feature_mean, jnp.sum(scaled, axis=0)
            )

        def solve(rhs: jax.Array) -> jax.Array:
            scale = self.row_scale[:, None]
            return scale * cho_solve((self.factor, True), scale * rhs)

        dual = solve(targets)
        weights = weights_of(dual)
        offset = jnp.matmul(data.feature_mean, weights, precision=HIGHEST)
        image = jnp.matmul(data.X, weights, precision=HIGHEST) - offset[None, :]
        dual = dual + solve(targets - root * image - l2 * dual)
        return with_intercept(weights_of(dual), data, objective, params)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class OrthogonalSolver:
    """More features than rows: QR of X' and the SVD of its triangle, the minimum-norm solution.

    With ``X' = QR`` and ``R' = U diag(s) V'`` it is ``Q V diag(s / (s^2 + l2)) U'y``, singular
    values below a few eps of the largest counting as zero. Nothing is kept between solves; each
    works on a scaled copy of X.
    """

    def solve(self, objective: Any, params: Params, gradient: Params) -> tuple[Params, jax.Array]:
        del gradient
        return _orthogonal(self, objective, params), jnp.array(False)


def _orthogonal(solver: Any, objective: Any, params: Params) -> Params:
    del solver
    data = centre(objective.X, objective.y, objective.sample_weight, objective.intercept)
    root = jnp.sqrt(data.weight)
    centred = data.X - data.feature_mean[None, :]
    if objective.intercept:
        # Once more: the mean's own rounding, large far from zero, would count as a rank.
        rest = jnp.sum(data.weight / data.weight_total * centred, axis=0)
        centred = centred - rest[None, :]
        data = data._replace(feature_mean=data.feature_mean + rest)
    X = root * centred
    targets = root * (columns(objective.y).astype(X.dtype) - data.target_mean[None, :])
    Q, R = jnp.linalg.qr(X.T)
    weights = _filtered(R.T, jnp.asarray(objective.l2, X.dtype), targets)
    weights = jnp.matmul(Q, weights, precision=HIGHEST)
    return with_intercept(weights, data, objective, params)


def _filtered(matrix: jax.Array, l2: jax.Array, rhs: jax.Array) -> jax.Array:
    """``V diag(s / (s^2 + l2)) U' rhs``, each column of ``rhs`` with its own l2."""
    U, s, Vt = jnp.linalg.svd(matrix, full_matrices=False)
    is_null = s <= null_level(s.dtype, s.size) * jnp.max(s)
    s = s[:, None]
    is_null = is_null[:, None]
    gain = jnp.where(is_null, 0, s / jnp.where(is_null, 1, s * s + l2.reshape(1, -1)))
    return jnp.matmul(Vt.T, gain * jnp.matmul(U.T, rhs, precision=HIGHEST), precision=HIGHEST)
