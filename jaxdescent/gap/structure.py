"""The gap that an objective's structure bounds, without reading the data."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.objectives import Objective
from jaxdescent.status import Evidence


def known_by_structure(
    objective: Objective, value: jax.Array, norm: jax.Array
) -> tuple[Any, jax.Array]:
    """A bound on the value minus the minimum, infinite if none is known, and its evidence.

    A lower bound b on the objective gives ``f - b``, which is exact where the minimum attains b; a
    least curvature m gives ``|g|^2 / (2 m)``.
    """
    left, evidence = jnp.full_like(value, jnp.inf), jnp.int32(Evidence.NONE.value)
    least = objective.least_curvature()
    if least is not None:
        least = least.astype(norm.dtype)
        bound = 0.5 * norm * (norm / jnp.where(least > 0, least, 1))
        left = jnp.where(least > 0, bound.astype(value.dtype), left)
    lower = objective.lower_bound()
    if lower is not None:
        height = value - lower.astype(value.dtype)
        if objective.attains_lower_bound:
            return height, jnp.where(height < jnp.inf, Evidence.EXACT.value, evidence)
        left = jnp.minimum(left, jnp.where(jnp.isnan(height), jnp.inf, height))
    return left, jnp.where(left < jnp.inf, jnp.int32(Evidence.BOUND.value), evidence)
