"""Exact solves of a regression: normal equations, QR with refinement, the dual form.

All work on the centred and scaled problem: with ``x_bar, y_bar`` the weighted means and
``D = diag(sqrt(s))``, the weights solve ``min |D (X - 1 x_bar') w - D (y - y_bar)|^2 + l2 |w|^2``
and the intercept is ``y_bar - x_bar.w``.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_solve

from jaxdescent.designs import Design, as_design
from jaxdescent.objectives import small_matrices
from jaxdescent.objectives.refinement import (
    Factor,
    null_level,
    orthogonal_factor,
    refined,
    spectral_norm,
)
from jaxdescent.objectives.seldom import if_any, seldom, unless_batched
from jaxdescent.precision import HIGHEST

Params = Any

FAIR = 6.5
"""Up to such a norm of the inverse of the Cholesky factor, of columns of unit length and not
cancelled by centring, a solve loses one or two digits, which a second one would not give back."""

SMALL = 1 << 14
"""Up to so many ``rows * features^2`` the solution is refined in double length, ill or not: that
takes less time than it takes to call for it."""


def regression_solver(design: Design, l2: Any, sample_weight: Any, intercept: bool) -> Any:
    """The form that fits the shapes: Cholesky of the smaller Gram matrix, or one SVD for all l2."""
    if design.shape[0] >= design.shape[1]:
        return GramSolver.factorise(design, l2, sample_weight, intercept)
    if jnp.ndim(l2) == 1:
        return OrthogonalSolver()
    return DualSolver.factorise(design, l2, sample_weight, intercept)


def normal_equations_bytes(design: Design) -> int:
    """What a well-conditioned solve touches: the Gram matrix, a scaled copy, factor and inverse."""
    return jnp.dtype(design.dtype).itemsize * 4 * min(design.shape) ** 2 + design.dense_bytes()


def regression_solver_bytes(
    design: Design, l2: Any, *, outputs: int, is_scaled: bool, is_weighted: bool
) -> int:
    """Peak bytes of the compiled solve, with what is reserved for branches that may not be taken.

    Those are the copies of X that QR works on, and the SVD of its triangle: on a CPU they become
    real only if they are needed, and :func:`normal_equations_bytes` is what it takes else.
    ``is_scaled`` says that there is an intercept or that rows are
    weighted, so that what QR works on is not X itself.
    """
    rows, features = design.shape
    smaller, larger = min(rows, features), max(rows, features)
    square, entries = smaller * smaller, rows * features
    has_many_l2 = jnp.ndim(l2) == 1
    if rows < features:
        peak = 2 * entries + 3 * square + larger * (1 + outputs)
    elif has_many_l2:
        centred = entries + 2 * square if is_scaled and not is_weighted else 0
        orthogonal = 2 * entries if is_scaled else entries + square
        peak = max(centred, orthogonal, 3 * square) + 2 * larger
    else:
        # What QR works on, and where that is not X itself, its centred and weighted copy.
        orthogonal = (2 if is_scaled else 1) * entries + 2 * square
        weighted = entries + 3 * square if is_weighted else 0
        peak = max(orthogonal, 6 * square, weighted) + 2 * larger
    return jnp.dtype(design.dtype).itemsize * peak + design.dense_bytes()


def least_singular_value(dtype: Any) -> float:
    """Of a well-conditioned X, with columns of unit length: ``8 sqrt(eps)``."""
    return 8 * float(jnp.finfo(dtype).eps) ** 0.5


class _Centred(NamedTuple):
    """The data as the solvers see them; the means are zero where there is no intercept."""

    X: jax.Array
    weight: jax.Array  # (rows, 1)
    feature_mean: jax.Array  # (features,)
    target_mean: jax.Array  # (outputs,)
    weight_total: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GramSolver:
    """``(X'SX + l2 I) d = -g`` by Cholesky of the (features, features) Gram matrix, equilibrated.

    The gradient g is computed from X, not from the Gram matrix, so that a second solve refines
    the first; it is left out where the factor shows the first to be as good (``is_fair``). Where
    the factor shows a condition number above ``1 / (8 sqrt(eps))`` the normal equations have lost
    half the digits: a factor from QR of X takes over, and g is computed in double length
    (:mod:`jaxdescent.objectives.refinement`). Small problems always take that way, except under
    ``vmap``.
    """

    factor: Factor
    weight_total: jax.Array
    is_ill: jax.Array
    is_fair: jax.Array

    @classmethod
    def factorise(cls, design: Design, l2: Any, sample_weight: Any, intercept: bool) -> GramSolver:
        data = _centre(design, None, sample_weight, intercept)
        l2 = jnp.asarray(l2, data.X.dtype)
        gram, raw_diagonal = _centred_gram(data, sample_weight is not None, intercept)
        of_gram = _spectral_factor if l2.ndim else _cholesky_factor
        factor, is_ill, is_fair = of_gram(gram, raw_diagonal, l2, data.feature_mean)
        if data.X.size * data.X.shape[1] <= SMALL:
            is_ill = unless_batched(is_ill)
        factor = seldom(
            is_ill,
            lambda factor, X, weight, raw, l2: orthogonal_factor(
                X, weight, factor.feature_mean, raw, l2
            ),
            lambda factor, *_: factor,
            *(factor, data.X, data.weight, jnp.sqrt(raw_diagonal), l2),
        )
        return cls(factor, data.weight_total, is_ill, is_fair)

    def solve(self, objective: Any, params: Params, gradient: Params) -> tuple[Params, jax.Array]:
        operands = self, objective, params, gradient
        solution = seldom(self.is_ill, _refined, _solved, *operands)
        return solution, jnp.array(False)


def _refined(solver: GramSolver, objective: Any, params: Params, gradient: Params) -> Params:
    del gradient
    return refined(solver.factor, objective, params)


def _solved(solver: GramSolver, objective: Any, params: Params, gradient: Params) -> Params:
    solution = _corrected(solver, objective, params, gradient)

    def again(solver: GramSolver, objective: Any, params: Params) -> Params:
        return _corrected(solver, objective, params, objective.gradient(params))

    def once(solver: GramSolver, objective: Any, params: Params) -> Params:
        del solver, objective
        return params

    return if_any(~solver.is_fair, again, once, solver, objective, solution)


def _corrected(solver: GramSolver, objective: Any, params: Params, gradient: Params) -> Params:
    weights = params["weights"]
    columns = _columns(gradient["weights"])
    mean = solver.factor.feature_mean
    if objective.intercept:
        columns = columns - jnp.outer(mean, gradient["intercept"].reshape(-1))
    step = solver.factor.apply(columns)
    new = {"weights": weights - step.reshape(weights.shape)}
    if objective.intercept:
        shift = gradient["intercept"].reshape(-1) / solver.weight_total
        shift = shift - jnp.matmul(mean, step, precision=HIGHEST)
        new["intercept"] = params["intercept"] - shift.reshape(params["intercept"].shape)
    return new


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
        data = _centre(design, None, sample_weight, intercept)
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
        scaled, scale, least = _equilibrated(kernel, l2, raw_diagonal)
        factor = jnp.linalg.cholesky(scaled)
        least = least * max(1.0, rows**0.5 / 4)  # what rounding may leave of a last pivot of zero
        return cls(factor, scale, ~(jnp.min(jnp.diagonal(factor)) > least))

    def solve(self, objective: Any, params: Params, gradient: Params) -> tuple[Params, jax.Array]:
        del gradient
        solution = seldom(self.is_ill, _orthogonal, DualSolver._solve, self, objective, params)
        return solution, jnp.array(False)

    def _solve(self, objective: Any, params: Params) -> Params:
        data = _centre(objective.X, objective.y, objective.sample_weight, objective.intercept)
        root = jnp.sqrt(data.weight)
        targets = root * (_columns(objective.y).astype(data.X.dtype) - data.target_mean[None, :])
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
        return _with_intercept(weights_of(dual), data, objective, params)


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
    data = _centre(objective.X, objective.y, objective.sample_weight, objective.intercept)
    root = jnp.sqrt(data.weight)
    centred = data.X - data.feature_mean[None, :]
    if objective.intercept:
        # Once more: the mean's own rounding, large far from zero, would count as a rank.
        rest = jnp.sum(data.weight / data.weight_total * centred, axis=0)
        centred = centred - rest[None, :]
        data = data._replace(feature_mean=data.feature_mean + rest)
    X = root * centred
    targets = root * (_columns(objective.y).astype(X.dtype) - data.target_mean[None, :])
    Q, R = jnp.linalg.qr(X.T)
    weights = _filtered(R.T, jnp.asarray(objective.l2, X.dtype), targets)
    weights = jnp.matmul(Q, weights, precision=HIGHEST)
    return _with_intercept(weights, data, objective, params)


def _centre(X: Any, y: Any, sample_weight: Any, intercept: bool) -> _Centred:
    dense = as_design(X).to_dense()
    rows, features = dense.shape
    if sample_weight is None:
        weight = jnp.ones((rows, 1), dense.dtype)
    else:
        weight = sample_weight.astype(dense.dtype)[:, None]
    weight_total = jnp.sum(weight)
    outputs = 1 if y is None else _columns(y).shape[1]
    if not intercept:
        zero = jnp.zeros((features,), dense.dtype), jnp.zeros((outputs,), dense.dtype)
        return _Centred(dense, weight, *zero, weight_total)
    share = weight / weight_total
    feature_mean = jnp.sum(share * dense, axis=0)
    target_mean = jnp.zeros((outputs,), dense.dtype)
    if y is not None:
        target_mean = jnp.sum(share * _columns(y).astype(dense.dtype), axis=0)
    return _Centred(dense, weight, feature_mean, target_mean, weight_total)


def _with_intercept(weights: jax.Array, data: _Centred, objective: Any, params: Params) -> Params:
    new = {"weights": weights.reshape(params["weights"].shape)}
    if objective.intercept:
        shift = jnp.matmul(data.feature_mean, weights, precision=HIGHEST)
        new["intercept"] = (data.target_mean - shift).reshape(params["intercept"].shape)
    return new


def _centred_gram(
    data: _Centred, is_weighted: bool, intercept: bool
) -> tuple[jax.Array, jax.Array]:
    """The Gram matrix, and its diagonal before centring."""
    # A product with the weights themselves, without a scaled copy of X where all are one.
    left = data.X * data.weight if is_weighted else data.X
    gram = small_matrices.gram(left, data.X)
    raw_diagonal = jnp.diagonal(gram)
    if intercept:
        gram = gram - data.weight_total * jnp.outer(data.feature_mean, data.feature_mean)
    return gram, raw_diagonal


def _cholesky_factor(
    gram: jax.Array, raw_diagonal: jax.Array, l2: jax.Array, mean: jax.Array
) -> tuple[Factor, jax.Array, jax.Array]:
    """For one l2; is too little left of the Gram matrix, and is so much left of it that one solve
    is as good as two?
    """
    scaled, scale, least = _equilibrated(gram, l2, raw_diagonal)
    inverse = small_matrices.inverse_cholesky(scaled)
    gain = jnp.ones((inverse.shape[0], 1), inverse.dtype)
    factor = Factor(scale[:, None] * inverse.T, gain, mean, jnp.array(False))
    # Not from the factor's diagonal: what rounding leaves of a last pivot of zero grows with the
    # number of columns. A failed factorisation is NaN: ill, as it should be.
    level = _norm_bound(inverse) * least
    return factor, ~(level < 1), level < FAIR * least_singular_value(inverse.dtype)


def _spectral_factor(
    gram: jax.Array, raw_diagonal: jax.Array, l2: jax.Array, mean: jax.Array
) -> tuple[Factor, jax.Array, jax.Array]:
    """The same for an l2 of each output: one spectrum serves all."""
    eigenvalues, basis = jnp.linalg.eigh(gram)
    curvature = eigenvalues[:, None] + l2[None, :]
    # By the l2 that leaves most to be lost; the columns are as long as they are.
    least = least_singular_value(gram.dtype)
    lost = jnp.maximum(jnp.max(raw_diagonal), eigenvalues[-1]) / jnp.min(curvature)
    level = jnp.where(lost > 0, least * jnp.sqrt(jnp.maximum(lost, 0)), jnp.inf)
    gain = 1 / jnp.where(curvature > 0, curvature, 1)
    factor = Factor(basis, gain, mean, jnp.array(False))
    return factor, ~(level < 1), level < FAIR * least


def _norm_bound(matrix: jax.Array) -> jax.Array:
    """Its spectral norm, nearly; of few columns Frobenius' norm, which is not much more and takes
    a batch of matrices one pass.
    """
    if matrix.shape[0] <= small_matrices.SMALL_COLUMNS:
        return jnp.sqrt(jnp.sum(jnp.square(matrix)))
    return spectral_norm(matrix)


def _equilibrated(
    matrix: jax.Array, l2: Any, raw_diagonal: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``E (matrix + l2 I) E`` with unit diagonal, E, and the least singular value of the Cholesky
    factor of a well-conditioned one.

    ``raw_diagonal`` is the diagonal before centring, whose rounding errors centring leaves behind:
    far from zero they outweigh what is left.
    """
    diagonal = jnp.diagonal(matrix) + jnp.asarray(l2, matrix.dtype)
    is_positive = diagonal > 0
    safe = jnp.where(is_positive, diagonal, 1)
    scale = jnp.where(is_positive, lax.rsqrt(safe), 0)
    is_diagonal = jnp.eye(matrix.shape[0], dtype=bool)
    scaled = jnp.where(is_diagonal, 1, scale[:, None] * matrix * scale[None, :])
    cancelled = jnp.maximum(jnp.max(raw_diagonal / safe), 1)
    least = least_singular_value(matrix.dtype) * jnp.sqrt(cancelled)
    return scaled, scale, jnp.where(jnp.all(is_positive), least, jnp.inf)


def _filtered(matrix: jax.Array, l2: jax.Array, rhs: jax.Array) -> jax.Array:
    """``V diag(s / (s^2 + l2)) U' rhs``, each column of ``rhs`` with its own l2."""
    U, s, Vt = jnp.linalg.svd(matrix, full_matrices=False)
    is_null = s <= null_level(s.dtype, s.size) * jnp.max(s)
    s = s[:, None]
    is_null = is_null[:, None]
    gain = jnp.where(is_null, 0, s / jnp.where(is_null, 1, s * s + l2.reshape(1, -1)))
    return jnp.matmul(Vt.T, gain * jnp.matmul(U.T, rhs, precision=HIGHEST), precision=HIGHEST)


def _columns(array: jax.Array) -> jax.Array:
    return array.reshape(array.shape[0], -1)
