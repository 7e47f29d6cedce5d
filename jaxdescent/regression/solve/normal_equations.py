"""Solvers for at least as many rows as features: Cholesky of the Gram matrix, or QR if that is too
inaccurate; and sums over rows in float64, where the design computes them itself.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.designs import as_design
from jaxdescent.designs.normal_sums import NormalSolution
from jaxdescent.kernels import factors, small_matrices
from jaxdescent.kernels.branches import of_any, seldom, unless_batched
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.kernels.platform import on_one_cpu
from jaxdescent.regression.solve.by_gram import factor_by_gram
from jaxdescent.regression.solve.centred import (
    Centred,
    centre,
    centred_slope,
    columns,
    height_by_factor,
    with_intercept,
)
from jaxdescent.regression.solve.factor import (
    FAIR,
    InverseFactor,
    cholesky_factor,
    least_singular_value,
)
from jaxdescent.regression.solve.refinement import SMALL, orthogonal_factor, refined

Params = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GramSolver:
    """``(X'SX + l2 I) d = -g`` by Cholesky of the equilibrated (features, features) Gram matrix.

    The gradient g is computed from X, not from the Gram matrix, so that a second solve refines the
    first; it is skipped if the factor shows that the first is as accurate (``is_fair``). If the
    factor shows a condition number of X above ``1 / (8 sqrt(eps))`` (``is_ill``), the normal
    equations have lost half the digits: a factor from QR of X is used instead, and g is computed in
    double length (:mod:`jaxdescent.regression.solve.refinement`). Small problems are always solved
    that way, except under ``vmap``.
    """

    factor: InverseFactor
    weight_total: jax.Array
    is_ill: jax.Array
    is_fair: jax.Array
    is_negative: jax.Array
    diagonal: jax.Array  # diag(X'SX + l2 I), centred: (features,), or (features, outputs)

    @classmethod
    def factorise(cls, regression: Any) -> GramSolver:
        data, is_weighted = centre(regression), regression.sample_weight is not None
        l2 = jnp.asarray(regression.l2, data.X.dtype)
        gram, raw_diagonal = _centred_gram(data, is_weighted, regression.intercept)
        of_gram = _spectral_factor if l2.ndim else cholesky_factor
        factor, is_ill, is_fair = of_gram(gram, raw_diagonal, l2, data.feature_mean)
        # QR needs square roots of the row weights. With a negative weight only the Cholesky factor
        # can tell whether the matrix is positive definite.
        is_signed = jnp.any(data.weight < 0) if is_weighted else jnp.array(False)
        is_negative = is_signed & (is_ill | (regression.intercept & ~(data.weight_total > 0)))
        if data.X.size * data.X.shape[1] <= SMALL:
            is_ill = unless_batched(is_ill)
        is_ill &= ~is_signed
        # JAX keeps the function of a branch beyond the program: it must not hold the regression.
        is_whole = as_design(regression.X).is_whole
        factor = seldom(
            is_ill,
            lambda factor, X, weight, raw, l2: on_one_cpu(
                *(orthogonal_factor, factor_by_gram),
                *(X, weight, factor.feature_mean, raw, l2),
                is_whole=is_whole,
            ),
            lambda factor, *_: factor,
            *(factor, data.X, data.weight, jnp.sqrt(raw_diagonal), l2),
        )
        # With a negative penalty there is a minimum only if the least eigenvalue of X'SX exceeds
        # its size.
        is_negative |= jnp.any(factor.gain < 0) | (factor.is_deficient & (jnp.min(l2) < 0))
        diagonal = jnp.diagonal(gram)
        diagonal = diagonal[:, None] + l2[None, :] if l2.ndim else diagonal + l2
        return cls(factor, data.weight_total, is_ill, is_fair, is_negative, diagonal)

    @property
    def overlooks(self) -> jax.Array:
        return self.is_ill

    def solve(self, objective: Any, params: Params, gradient: Params) -> tuple[Params, jax.Array]:
        solution = seldom(
            self.is_ill,
            lambda solver, objective, params, _: refined(solver.factor, objective, params),
            _solved,
            *(self, objective, params, gradient),
        )
        return solution, self.is_negative

    def height(
        self, objective: Any, params: Params, gradient: Params, is_solution: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        at, is_exact = (objective, params, gradient), is_solution & self.is_ill
        return height_by_factor(
            self.factor, self.diagonal, self.weight_total, at, is_exact=is_exact
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SumsSolver:
    """``(X'SX + l2 I) w = X'S y`` of centred columns, summed and solved in float64.

    The solution is rounded to the dtype of the weights once. In float32 it is more accurate than a
    gradient, so that there is nothing to refine, unless the rounding of the sums may hide a
    direction. In float64 each step takes a gradient of the rows then.
    """

    solution: NormalSolution

    @classmethod
    def of(cls, regression: Any) -> SumsSolver | None:
        """The solver; None for a design that cannot add up the normal equations."""
        design = as_design(regression.X)
        targets = columns(jnp.asarray(regression.y).astype(design.dtype))
        given = regression.sample_weight, targets, regression.l2
        solution = design.normal_sums(*given, intercept=regression.intercept)
        return None if solution is None else cls(solution)

    @property
    def overlooks(self) -> jax.Array:
        own = self.solution
        is_long = own.weights.dtype == jnp.float64  # whose half the sums' rounding takes
        return jnp.array(True) if is_long else own.overlooks > 0

    def solve(self, objective: Any, params: Params, gradient: Params) -> tuple[Params, jax.Array]:
        """The minimum, and whether the curvature is negative in some direction."""
        own = self.solution
        new = with_intercept(own.weights, own.feature_mean, own.target_mean, params)
        if own.weights.dtype == jnp.float64:
            # Where the sums have lost digits, those of the rows are in the gradient.
            may_hide, refined = own.overlooks > 0, _corrected(self, objective, params, gradient)
            new = jax.tree.map(lambda a, b: jnp.where(may_hide, a, b), refined, new)
        return new, own.is_negative > 0

    @property
    def factor(self) -> InverseFactor:
        """The inverse of the normal matrix."""
        own = self.solution
        return InverseFactor(own.basis, own.gain, own.feature_mean, jnp.array(False))

    @property
    def weight_total(self) -> jax.Array:
        """The sum of the row weights."""
        return self.solution.weight_total

    def height(
        self, objective: Any, params: Params, gradient: Params, is_solution: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """How far the value is above the minimum, and the largest curvature of a column."""
        own, at = self.solution, (objective, params, gradient)
        is_exact = is_solution & ~self.overlooks
        return height_by_factor(self.factor, own.diagonal, own.weight_total, at, is_exact=is_exact)


def _solved(solver: GramSolver, objective: Any, params: Params, gradient: Params) -> Params:
    solution = _corrected(solver, objective, params, gradient)

    def again(solver: GramSolver, objective: Any, params: Params) -> Params:
        return _corrected(solver, objective, params, objective.gradient(params))

    is_rough = of_any(~solver.is_fair)
    return lax.cond(is_rough, again, lambda *at: at[-1], solver, objective, solution)


def _corrected(
    solver: GramSolver | SumsSolver, objective: Any, params: Params, gradient: Params
) -> Params:
    weights = params["weights"]
    slope, _ = centred_slope(solver.factor.feature_mean, objective, gradient)
    mean = solver.factor.feature_mean
    step = solver.factor.apply(slope)
    new = {"weights": weights - step.reshape(weights.shape)}
    if objective.intercept:
        shift = gradient["intercept"].reshape(-1) / solver.weight_total
        shift = shift - jnp.matmul(mean, step, precision=HIGHEST)
        new["intercept"] = params["intercept"] - shift.reshape(params["intercept"].shape)
    return new


def _centred_gram(data: Centred, is_weighted: bool, intercept: bool) -> tuple[jax.Array, jax.Array]:
    """The Gram matrix, and its diagonal before centring."""
    # The row weights multiply one operand; without weights X is not copied.
    left = data.X * data.weight if is_weighted else data.X
    gram = small_matrices.gram(left, data.X)
    raw_diagonal = jnp.diagonal(gram)
    if intercept:
        gram = gram - data.weight_total * jnp.outer(data.feature_mean, data.feature_mean)
    return gram, raw_diagonal


def _spectral_factor(
    gram: jax.Array, raw_diagonal: jax.Array, l2: jax.Array, mean: jax.Array
) -> tuple[InverseFactor, jax.Array, jax.Array]:
    """The counterpart of :func:`cholesky_factor` for an l2 of each output: one spectrum for all."""
    eigenvalues, basis = factors.eigh(gram)
    curvature = eigenvalues[:, None] + l2[None, :]
    # The verdicts are those for the l2 that loses the most digits; columns are not equilibrated.
    least = least_singular_value(gram.dtype)
    lost = jnp.maximum(jnp.max(raw_diagonal), eigenvalues[-1]) / jnp.min(curvature)
    level = jnp.where(lost > 0, least * jnp.sqrt(jnp.maximum(lost, 0)), jnp.inf)
    gain = 1 / jnp.where(curvature > 0, curvature, 1)
    factor = InverseFactor(basis, gain, mean, jnp.array(False))
    return factor, ~(level < 1), level < FAIR * least
