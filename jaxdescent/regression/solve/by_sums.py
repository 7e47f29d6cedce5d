"""The solver for designs that add up the normal equations themselves, in one pass."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.data import NormalSolution
from jaxdescent.designs import Design
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.regression.solve.centred import (
    ROUNDING,
    centred_slope,
    columns,
    rounding_of_products,
    with_intercept,
)

Params = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SumsSolver:
    """``(X'SX + l2 I) w = X'S y`` of centred columns, summed and solved in float64.

    The solution is rounded to the dtype of the weights once. It is more accurate than a gradient in
    that dtype, so that there is nothing to refine.
    """

    solution: NormalSolution

    @classmethod
    def of(
        cls, design: Design, y: Any, l2: Any, sample_weight: Any, intercept: bool
    ) -> SumsSolver | None:
        """The solver; None for a design that cannot add up the normal equations."""
        targets = columns(jnp.asarray(y).astype(design.dtype))
        solution = design.normal_sums(sample_weight, targets, l2, intercept=intercept)
        return None if solution is None else cls(solution)

    def solve(self, objective: Any, params: Params, gradient: Params) -> tuple[Params, jax.Array]:
        """The minimum, and whether the curvature is negative in some direction."""
        del objective, gradient
        own = self.solution
        new = with_intercept(own.weights, own.feature_mean, own.target_mean, params)
        return new, own.is_negative > 0

    def height(
        self, objective: Any, params: Params, gradient: Params, is_solution: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """How far the value is above the minimum, and the largest curvature of a column."""
        own = self.solution
        mean, weights = own.feature_mean, columns(params["weights"])
        slope, of_intercept = centred_slope(mean, objective, gradient)
        turned = jnp.matmul(own.basis.T, slope, precision=HIGHEST)
        squares = jnp.sum(own.gain * jnp.square(turned))
        rounding = jnp.sum(own.diagonal * jnp.square(weights))
        if objective.intercept:
            squares = squares + jnp.sum(jnp.square(of_intercept)) / own.weight_total
            rounding = rounding + own.weight_total * jnp.sum(jnp.square(params["intercept"]))
        # At the solution the computed gradient is only rounding.
        rounding = jnp.square(ROUNDING * jnp.finfo(weights.dtype).eps) * rounding
        height = 0.5 * jnp.where(is_solution, rounding, jnp.maximum(squares, 0))
        if objective.intercept:
            height = height + rounding_of_products(mean, weights, own.weight_total)
        return height, jnp.max(jnp.abs(own.diagonal))
