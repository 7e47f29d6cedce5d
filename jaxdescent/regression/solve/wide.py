"""Solvers for more features than rows: the solution of least norm, in the space of the rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.designs import Center, Design, Standardised, as_design
from jaxdescent.kernels.branches import seldom
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.kernels.platform import on_one_cpu
from jaxdescent.kernels.symmetric import square_matrix
from jaxdescent.regression.solve.by_gram import dual_solution
from jaxdescent.regression.solve.centred import (
    centre,
    centred_slope,
    centred_targets,
    columns,
    rounding_of_products,
    with_intercept,
)
from jaxdescent.regression.solve.factor import (
    InverseFactor,
    certain_lengths,
    cholesky_factor,
    in_units,
    null_level,
)

Params = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class WideSolver:
    """More features than rows: ``w = A'a`` with ``(AA' + l2 I) a = t``, the minimum-norm solution.

    ``A = D (X - 1 x_bar')`` and ``t = D (y - y_bar)`` with ``D = diag(sqrt(s))``. The solve
    includes one refinement step: it takes one pass over X more, and without it a small penalty
    leaves the value up to a hundred times further above the minimum. The step is added to the
    weights: ``A'(a + da)`` would be rounded like ``A'a`` again, whose terms are as much longer than
    w as A is ill-conditioned. The solution does not depend on ``params``.

    If that matrix is too ill-conditioned (``is_ill``), and for several penalties, for which
    ``factor`` is None, the solution comes from QR of A' and the SVD of its triangle. With
    ``A' = QR`` and ``R' = U diag(s) V'`` it is ``Q V diag(s / (s^2 + l2)) U't``, where singular
    values below a few eps of the largest count as zero. Without a penalty, columns of uneven
    lengths are divided by their lengths.
    """

    factor: InverseFactor | None
    feature_mean: jax.Array  # (features,)
    weight: jax.Array  # (rows, 1)
    weight_total: jax.Array
    is_ill: jax.Array

    @classmethod
    def factorise(cls, regression: Any) -> WideSolver:
        data, intercept = centre(regression), regression.intercept
        own = data.feature_mean, data.weight, data.weight_total
        if jnp.ndim(regression.l2) == 1:
            return cls(None, *own, jnp.array(True))
        kernel = square_matrix(data.X, data.X, 1)
        root = jnp.sqrt(data.weight[:, 0])
        raw_diagonal = data.weight[:, 0] * jnp.diagonal(kernel)
        if intercept:
            share = data.weight[:, 0] / data.weight_total
            row = jnp.matmul(kernel, share, precision=HIGHEST)
            kernel = kernel - row[:, None] - row[None, :] + jnp.sum(share * row)
        kernel = root[:, None] * kernel * root[None, :]
        if intercept:
            # Centring makes sqrt(s) a null vector. The targets have no component along it, so any
            # positive curvature may be added there.
            unit = root / jnp.sqrt(data.weight_total)
            kernel = kernel + jnp.mean(jnp.diagonal(kernel)) * jnp.outer(unit, unit)
        l2 = jnp.asarray(regression.l2, kernel.dtype)
        factor, is_ill, _ = cholesky_factor(kernel, raw_diagonal, l2, data.feature_mean)
        return cls(factor, *own, is_ill)

    @property
    def overlooks(self) -> jax.Array:
        return self.is_ill

    def solve(self, objective: Any, params: Params, gradient: Params) -> tuple[Params, jax.Array]:
        # In X's null space the penalty is the only curvature, and QR needs the root of a weight.
        is_negative = ~objective.is_convex
        if self.factor is None:
            return _least_norm(objective, objective.y, params), is_negative
        solution = seldom(
            self.is_ill,
            lambda _, objective, params: _least_norm(objective, objective.y, params),
            _solved,
            *(self, objective, params),
        )
        return solution, is_negative

    def height(
        self, objective: Any, params: Params, gradient: Params, is_solution: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        mean, total = self.feature_mean, self.weight_total
        left = _height_by_penalty(objective, gradient, mean, total)
        if self.factor is not None:
            is_bounded = ~self.is_ill & (left > 0) & jnp.isfinite(left)
            at = left, self, objective, gradient
            left = seldom(is_bounded, _height_by_rows, lambda left, *_: left, *at)
        is_deficient = self.is_ill & is_solution & (left == jnp.inf)
        given = left, objective, params, gradient
        left = seldom(is_deficient, _height_by_correction, lambda left, *_: left, *given)
        if objective.intercept:
            left = left + rounding_of_products(mean, columns(params["weights"]), total)
        return left, jnp.zeros_like(left)

    def weights(self, objective: Any, dual: jax.Array) -> jax.Array:
        """``A'a``."""
        return self.centred(objective).transposed_product(jnp.sqrt(self.weight) * dual)

    def centred(self, objective: Any) -> Design:
        """``X - 1 x_bar'``."""
        return Standardised(as_design(objective.X), Center(self.feature_mean))


def _solved(solver: WideSolver, objective: Any, params: Params) -> Params:
    assert solver.factor is not None  # the solution is orthogonal otherwise
    means = solver.weight_total, objective.intercept
    targets, target_mean = centred_targets(objective.y, solver.weight, *means)
    root = jnp.sqrt(solver.weight)
    dual = solver.factor.apply(root * targets)
    weights = solver.weights(objective, dual)
    image = solver.centred(objective).product(weights)
    residual = root * (targets - image) - jnp.asarray(objective.l2, image.dtype) * dual
    weights = weights + solver.weights(objective, solver.factor.apply(residual))
    return with_intercept(weights, solver.feature_mean, target_mean, params)


def _height_by_rows(
    left: jax.Array, solver: WideSolver, objective: Any, gradient: Params
) -> jax.Array:
    """The bound ``|c|^2 / 2 + |g - A'c|^2 / (2 l2)`` on the excess of the value, or ``left``, the
    bound for c = 0, if that is smaller. It holds for any c; the factor gives the best c, from A g.

    Rounding of a residual leaves a gradient A'e, along which the curvature is far more than l2.
    """
    assert solver.factor is not None  # nothing is bounded otherwise
    slope, of_intercept = centred_slope(solver.feature_mean, objective, gradient)
    image = solver.centred(objective).product(slope)
    dual = solver.factor.apply(jnp.sqrt(solver.weight) * image)
    rest = slope - solver.weights(objective, dual)
    l2 = jnp.asarray(objective.l2, slope.dtype)
    squares = jnp.sum(jnp.square(dual)) + jnp.sum(jnp.square(rest)) / l2
    bound = 0.5 * (squares + jnp.sum(jnp.square(of_intercept)) / solver.weight_total)
    return jnp.where(bound < left, bound, left)  # the bound of a failed solve is NaN


def _height_by_correction(
    left: jax.Array, objective: Any, params: Params, gradient: Params
) -> jax.Array:
    """``-g.d / 2`` for the solution d of least norm for the residuals, the excess of the value
    without a penalty; ``left`` where an output has one.
    """
    image = as_design(objective.X).product(params["weights"])
    rest = jnp.asarray(objective.y).astype(image.dtype) - image
    if objective.intercept:
        rest = rest - params["intercept"][None]
    correction = _least_norm(objective, rest, params)["weights"]
    # The gradient is that at the intercept of the params, which is the best one.
    excess = 0.5 * jnp.abs(jnp.sum(correction * gradient["weights"]))
    return jnp.where(jnp.all(jnp.asarray(objective.l2) == 0), excess, left)


def _height_by_penalty(
    objective: Any, gradient: Params, mean: jax.Array, total: jax.Array
) -> jax.Array:
    """``|g|^2 / (2 l2)`` with the intercept at its optimum, a bound on the excess of the value.

    It is infinite without a penalty, where the value itself is a bound.
    """
    slope, of_intercept = centred_slope(mean, objective, gradient)
    l2 = jnp.asarray(objective.l2, slope.dtype).reshape(1, -1)
    left = jnp.zeros((), slope.dtype)
    if objective.intercept:
        left = jnp.sum(jnp.square(of_intercept)) / (2 * total)
    is_penalised = l2 > 0
    squares = jnp.sum(jnp.square(slope), axis=0, keepdims=True)
    of_output = jnp.where(is_penalised, squares / jnp.where(is_penalised, 2 * l2, 1), jnp.inf)
    return left + jnp.sum(of_output)


def _least_norm(objective: Any, y: Any, params: Params) -> Params:
    """The params of least norm for the targets y."""
    data = centre(objective)
    root, mean = jnp.sqrt(data.weight), data.feature_mean
    centred = data.X - mean[None, :]
    if objective.intercept:
        # Center twice: far from zero the rounding error of the mean would count as a direction.
        rest = jnp.sum(data.weight / data.weight_total * centred, axis=0)
        centred, mean = centred - rest[None, :], mean + rest
    X = root * centred
    targets, target_mean = centred_targets(y, data.weight, data.weight_total, objective.intercept)
    targets, l2 = root * targets, jnp.asarray(objective.l2, X.dtype)
    lengths, whole = (jnp.sqrt(jnp.sum(jnp.square(each), axis=0)) for each in (X, root * data.X))
    X, units = in_units(X, certain_lengths(lengths, whole), jnp.all(l2 == 0))

    def by_columns() -> jax.Array:
        Q, R = jnp.linalg.qr(X.T)
        return jnp.matmul(Q, _filtered(R.T, l2, targets), precision=HIGHEST)

    def by_gram() -> jax.Array:
        return jnp.matmul(X.T, dual_solution(X, l2, targets), precision=HIGHEST)

    is_whole = as_design(objective.X).is_whole
    weights = on_one_cpu(by_columns, by_gram, is_whole=is_whole) / units[:, None]
    return with_intercept(weights, mean, target_mean, params)


def _filtered(matrix: jax.Array, l2: jax.Array, rhs: jax.Array) -> jax.Array:
    """``V diag(s / (s^2 + l2)) U' rhs``, with one l2 for each column of ``rhs``."""
    U, s, Vt = jnp.linalg.svd(matrix, full_matrices=False)
    is_null = s <= null_level(s.dtype, s.size) * jnp.max(s)
    s = s[:, None]
    is_null = is_null[:, None]
    gain = jnp.where(is_null, 0, s / jnp.where(is_null, 1, s * s + l2.reshape(1, -1)))
    return jnp.matmul(Vt.T, gain * jnp.matmul(U.T, rhs, precision=HIGHEST), precision=HIGHEST)
