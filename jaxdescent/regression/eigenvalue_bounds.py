"""Bounds on the eigenvalues of a regression's Hessian, from sums over X."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdescent.objectives.answers import Bounds


def regression_bounds(
    squared: jax.Array | None, l2: jax.Array, weight_total: jax.Array | None
) -> Bounds | None:
    """Bounds on the Hessian's eigenvalues.

    Args:
      squared: ``sum_ij s_i X_ij^2``, or None if it is not known.
      l2: the penalty, or one penalty for each output.
      weight_total: ``sum_i s_i``, or None without an intercept.

    Returns:
      The bounds, or None if nothing is known.
    """
    # Let F = |D X|_F >= |D X| with D = diag(sqrt(s)), S = sum(s) and r = sqrt(S) / (2 F). For a
    # unit direction (d, b) either sqrt(S) |b| >= 2 F |d|, and the data term alone is at least
    # S |b|^2 / 4, or |d| >= r |b|, and the penalty is at least l2 |d|^2.
    lower = jnp.min(l2)
    if squared is None:
        return None if weight_total is not None else Bounds(lower, jnp.full_like(lower, jnp.inf))
    upper = squared + jnp.max(l2)
    if weight_total is None:
        return Bounds(lower, upper)
    share = weight_total / (4 * squared)
    lower = jnp.minimum(lower * share, weight_total / 4) / (1 + share)
    return Bounds(lower, upper + weight_total)
