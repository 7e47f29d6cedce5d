"""Linear regression with several outputs, row weights, an intercept and a ridge penalty."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.designs import Center, Standardised
from jaxdescent.numerics import precision
from jaxdescent.objectives.answers import Bounds, Parts, StationarySolver
from jaxdescent.objectives.elimination import Elimination, Means
from jaxdescent.objectives.protocol import Params
from jaxdescent.regression.linear_model import LinearModel, scaled_rows
from jaxdescent.regression.solve.normal_equations import GramSolver, SumsSolver
from jaxdescent.regression.solve.reserved import regression_solver_bytes
from jaxdescent.regression.solve.wide import WideSolver


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LinearRegression(LinearModel):
    """``1/2 sum_i s_i (x_i.w + b - y_i)^2 + l2/2 |w|^2``, summed over outputs.

    The params are ``{"weights": (features,) or (features, outputs), "intercept": () or
    (outputs,)}``; without an intercept ``{"weights"}`` alone. The intercept is not penalised. The
    minimiser equals that of scikit-learn's ``Ridge(alpha=l2)``.

    Args:
      X: the design matrix, (rows, features): an array, a sparse matrix of SciPy's or JAX's, or a
        design such as ``jd.Sparse`` and ``jd.MatrixFree``.
      y: the targets, (rows,) or (rows, outputs).
      l2: the ridge penalty, a number >= 0 or one for each output.
      sample_weight: s, (rows,), >= 0; None stands for ones.
      intercept: whether to fit b.

    Raises:
      TypeError: by ``minimize``, if X and y are not floating-point arrays of one dtype, or ``l2``
        is not a number.
      ValueError: by ``minimize``, if shapes do not fit together, data are empty, or ``l2`` or a
        weight is negative.

    >>> import jax.numpy as jnp
    >>> X = jnp.array([[0.0], [1.0], [2.0]])
    >>> line = LinearRegression(X, jnp.array([1.0, 3.0, 5.0]))
    >>> float(line.value({"weights": jnp.array([2.0]), "intercept": jnp.array(1.0)}))
    0.0
    """

    def loss(self, predictions: jax.Array, targets: jax.Array) -> jax.Array:
        return 0.5 * jnp.square(predictions - targets)

    def value(self, params: Params) -> jax.Array:
        params = self.packed(params)
        predictions = self.image(params)
        return self._value(params, predictions - self.y.astype(predictions.dtype))

    def value_and_gradient(self, params: Params) -> tuple[jax.Array, Params]:
        given, params = params, self.packed(params)
        way = self._way(params, self.y)
        residual, columns = self._design.there_and_back(*way)
        gradient = self._gradient(params, residual, columns)
        return self._value(params, residual), self._as_given(gradient, given)

    def hessian_product(self, params: Params, direction: Params) -> Params:
        given, direction = direction, self.packed(direction)
        way = self._way(direction, None)
        predictions, columns = self._design.there_and_back(*way)
        return self._as_given(self._gradient(direction, predictions, columns), given)

    def curvature(self, params: Params, direction: Params) -> jax.Array:
        return self.curvature_along(params, direction, self.image(direction))

    def image(self, direction: Params) -> jax.Array:
        return self._predictions(self._design, direction)

    def image_of_start(self, params: Params) -> jax.Array:
        shape = jax.eval_shape(self.image, params)

        def constant(params: Params) -> jax.Array:
            return self._with_intercept(jnp.zeros(shape.shape, shape.dtype), params)

        return lax.cond(jnp.all(params["weights"] == 0), constant, self.image, params)

    def value_and_gradient_at(self, params: Params, image: jax.Array) -> tuple[jax.Array, Params]:
        residual = image - self.y.astype(image.dtype)
        columns = self._design.transposed_product(scaled_rows(residual, self.sample_weight))
        return self._value(params, residual), self._gradient(params, residual, columns)

    def curvature_along(self, params: Params, direction: Params, image: jax.Array) -> jax.Array:
        return 2 * self._value(direction, image)

    def residuals(self, params: Params) -> tuple[jax.Array, jax.Array]:
        weights, predictions = params["weights"], self.image(params)
        residual = predictions - self.y.astype(predictions.dtype)
        if self.sample_weight is not None:
            residual = scaled_rows(residual, jnp.sqrt(self.sample_weight))
        return residual, jnp.sqrt(self._penalty(weights)) * weights

    def curvature_bounds(self, params: Params) -> Bounds | None:
        l2 = jnp.asarray(self.l2, self._design.dtype)
        squares, lower = self._design.column_squared_norms(self.sample_weight, None), jnp.min(l2)
        if squares is None:
            return None if self.intercept else Bounds(lower, jnp.full_like(lower, jnp.inf))
        upper = jnp.sum(squares) + jnp.max(l2)
        if not self.intercept:
            return Bounds(lower, upper)
        # Let F = |D X|_F >= |D X| with D = diag(sqrt(s)), S = sum(s) and r = sqrt(S) / (2 F). For a
        # unit direction (d, b) either sqrt(S) |b| >= 2 F |d|, and the data term alone is at least
        # S |b|^2 / 4, or |d| >= r |b|, and the penalty is at least l2 |d|^2.
        total = self._weight_total
        share = total / (4 * jnp.sum(squares))
        lower = jnp.minimum(lower * share, total / 4) / (1 + share)
        return Bounds(lower, upper + total)

    def curves_down(self) -> jax.Array | None:
        rows, features = self._design.shape
        is_down = None
        if features > rows - self.intercept:  # X has a null space, where only l2 counts
            is_down = jnp.min(jnp.asarray(self.l2)) < 0
        if self.intercept and self.sample_weight is not None:
            is_down = (self._weight_total < 0) | (jnp.array(False) if is_down is None else is_down)
        return is_down

    def least_curvature(self) -> jax.Array | None:
        # With an intercept the bound holds for the weights alone (:meth:`eliminated`).
        if self.intercept:
            return None
        least = jnp.min(jnp.asarray(self.l2, self._design.dtype))
        return jnp.where(self.is_convex, least, -jnp.inf)

    def lower_bound(self) -> jax.Array:
        return jnp.where(self.is_convex, 0.0, -jnp.inf)

    @property
    def is_convex(self) -> jax.Array:
        """Whether no penalty and no weight of a row is negative."""
        is_convex = jnp.min(jnp.asarray(self.l2)) >= 0
        if self.sample_weight is None:
            return is_convex
        return is_convex & (jnp.min(self.sample_weight) >= 0)

    @property
    def is_quadratic(self) -> bool:
        return True

    def placed_start(self, start: Params) -> Params:
        if not self.intercept:
            return start
        mean = self._means_of_targets()[0]
        return start | {"intercept": mean.astype(start["intercept"].dtype)}

    def start_norm(self) -> jax.Array:
        # The norm at the best constant model takes one product. The residuals sum to zero, so that
        # features far from zero do not amplify the rounding of the mean.
        targets = self._centred_targets
        if self.intercept:
            weighted = scaled_rows(targets, self.sample_weight)
            targets = targets - (jnp.sum(weighted, axis=0) / self._weight_total)[None]
        return precision.norm(
            self._design.transposed_product(scaled_rows(targets, self.sample_weight))
        )

    def start_value(self) -> jax.Array:
        targets = self._centred_targets
        return 0.5 * precision.total(scaled_rows(targets, self.sample_weight) * targets)

    def rounding_beside_size(self, params: Params, share: float) -> Any:
        if not self.intercept:
            return 0.0
        return 0.5 * self._weight_total * jnp.sum(jnp.square(share * params["intercept"]))

    def eliminated(self, means: Means | None = None) -> Elimination | None:
        if not self.intercept:
            return None
        if means is None:
            center = Center.of(self._design, self.sample_weight)
            means = Means(center, *self._means_of_targets())
        targets = self._targets - means.targets[None]
        design = Standardised(self._design, means.features)
        weights_alone = dataclasses.replace(self, X=design, y=targets, intercept=False)
        return Elimination(weights_alone, means)

    def stationary_solver(self, params: Params) -> StationarySolver:
        by_sums = SumsSolver.of(self)
        if by_sums is not None:  # The design computes sums over rows itself.
            return by_sums
        rows, features = self._design.shape
        # Cholesky of the smaller Gram matrix, or one SVD for a wide X and several penalties.
        return (GramSolver if rows >= features else WideSolver).factorise(self)

    def stationary_solver_bytes(self, params: Params) -> int:
        return regression_solver_bytes(self)

    def parts(self) -> Parts | None:
        if self.sample_weight is not None or not isinstance(self.X, jax.Array):
            return None
        return Parts(self.intercept, (self.X, self.y), self.l2)

    @property
    def linear_regression(self) -> LinearRegression:
        return self

    def _means_of_targets(self) -> tuple[jax.Array, jax.Array]:
        """The weighted mean of each output, and the sum of the sample weights."""
        targets, total = self._targets, self._weight_total

        def mean(targets: jax.Array) -> jax.Array:
            return jnp.sum(scaled_rows(targets, self.sample_weight), axis=0) / total

        rough = mean(targets)
        return rough + mean(targets - rough[None]), total  # corrected for the first mean's rounding

    @property
    def _centred_targets(self) -> jax.Array:
        """The residuals of the best constant model: the targets, minus their means if there is an
        intercept.
        """
        return (
            self._targets - self._means_of_targets()[0][None] if self.intercept else self._targets
        )

    def _value(self, params: Params, residual: jax.Array) -> jax.Array:
        loss = precision.total(scaled_rows(residual, self.sample_weight) * residual)
        return 0.5 * loss + self._ridge(params)

    def _way(self, params: Params, y: Any) -> tuple[Any, ...]:
        """The arguments of the design's ``there_and_back``, whose results are the residual
        ``X w + b - y`` (the predictions if y is None) and ``X'S residual``.
        """

        def change(product: jax.Array, rows: Any) -> tuple[jax.Array, jax.Array]:
            y, sample_weight = rows
            residual = self._with_intercept(product, params)
            if y is not None:
                residual = residual - y.astype(residual.dtype)
            return residual, scaled_rows(residual, sample_weight)

        return params["weights"], change, (y, self.sample_weight)

    def _gradient(self, params: Params, residual: jax.Array, columns: jax.Array) -> Params:
        """The gradient from the residual and ``X'S residual``."""
        return self._pulled(params, scaled_rows(residual, self.sample_weight), columns)
