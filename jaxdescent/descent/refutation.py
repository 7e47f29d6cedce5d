"""Whether a descent that says it has converged can be refuted by what the structure shows.

Features far from zero couple a regression's weights and its intercept: the gradient in both is
small wherever the intercept is at its best, and a method that sees nothing else creeps along a
valley so flat that its rate looks like an end. Without the intercept
(:mod:`jaxdescent.objectives.elimination`) the valley is gone. With the gradient g of that problem
of the weights alone and its Hessian H, the step along g that is best lowers the value by

    ``|g|^4 / (2 g.Hg)``

so that the minimum is at least so much lower. It is a bound from below: it refutes, and confirms
nothing.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective

Params = Any

REFUTED = 10.0
"""How many times more than the tolerance allows the value must fall: the estimate that it is to
refute is one."""


def can_refute(objective: Objective, params: Params) -> bool:
    """Whether the structure shows more than the gradient does; of params stored in 16 bits their
    own rounding is all that it would show.
    """
    regression = objective.linear_regression
    return regression is not None and regression.intercept and not precision.is_rounded(params)


def certain_decrease(objective: Objective, params: Params) -> jax.Array:
    """The decrease of the value that one step is sure to bring; zero where it is not known.

    It takes four passes over X.
    """
    elimination = objective.eliminated()
    assert elimination is not None  # or nothing can be refuted
    weights = {"weights": precision.widen(params)["weights"]}
    gradient = elimination.objective.gradient(weights)
    norm = precision.norm(gradient)
    unit = jax.tree.map(lambda g: g / jnp.where(norm > 0, norm, 1).astype(g.dtype), gradient)
    curvature = elimination.objective.curvature(weights, unit)
    is_known = (curvature > 0) & (norm > 0)
    return jnp.where(is_known, 0.5 * norm * (norm / jnp.where(is_known, curvature, 1)), 0)
