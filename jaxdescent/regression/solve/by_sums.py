"""The solver for designs that add up the normal equations themselves, in one pass."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.data import NormalSolution
from jaxdescent.designs import Design
from jaxdescent.regression.solve.centred import columns, height_by_inverse, with_intercept
from jaxdescent.regression.solve.factor import InverseFactor

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
        factor = InverseFactor(own.basis, own.gain, own.feature_mean, jnp.array(False))
        return height_by_inverse(
            factor.apply,
            own.diagonal,
            (objective, params, gradient),
            mean=own.feature_mean,
            weight_total=own.weight_total,
            is_exact=is_solution,
        )
