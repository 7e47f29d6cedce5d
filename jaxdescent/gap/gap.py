"""What a descent asks about a point, and the answer."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

LEAST_STEPS = 8
"""The fewest steps of a Krylov process: fewer accept points beside one tiny singular value."""

NOISE_ULPS = 64
"""Decreases of up to this many eps times the value may be rounding."""


class Query(NamedTuple):
    """A point where a descent may end, and what the answer may cost.

    Attributes:
      value: the objective there.
      share: the suboptimality that the tolerance allows, relative to the scale of the value.
      worth: F, the value of the objective's best constant model; None stands for the function's
        own (:func:`worth_of`), or ``1/2 L |x|^2`` with the largest curvature L.
      size: ``|x|``, the norm of the params.
      eps: the unit roundoff of the stored params.
      budget: how many evaluations the answer may take; at least :data:`LEAST_STEPS` are taken.
      flattest: the smallest Ritz value of earlier answers, infinite before there is one.
    """

    value: Any
    share: Any
    worth: Any
    size: Any
    eps: float
    budget: Any
    flattest: Any

    def allowed(self, curvature: Any, xp: Any = jnp) -> Any:
        """``share max(|value|, eps F)``: how far the value may be above the minimum."""
        worth = 0.5 * (curvature * self.size) * self.size if self.worth is None else self.worth
        floor = xp.where(worth < xp.inf, self.eps * worth, 0)
        return self.share * xp.maximum(xp.abs(self.value), floor)


class Gap(NamedTuple):
    """Two bounds of the value minus the minimum nearby.

    Attributes:
      lower: a decrease that was measured, with the rounding of values subtracted.
      upper: an estimate or a bound of all that is left; infinite where nothing is known.
      allowed: how far the value may be above the minimum, by the query's tolerance.
      evidence: an :class:`jaxdescent.status.Evidence` code, int32.
      params: the lowest point that was met.
      evaluations: how many evaluations the answer took, int32.
      flattest: the smallest Ritz value so far, for the next query.
      is_curved: whether no direction without positive curvature was met, so that a point that
        neither end decides may be a minimum.
    """

    lower: Any
    upper: Any
    allowed: Any
    evidence: Any
    params: Any
    evaluations: Any
    flattest: Any
    is_curved: Any = True


def worth_of(energy: Any, sizes: Any, eps: Any, xp: Any = jnp) -> Any:
    """F of a function with Hessian H at ``x``, from ``x'Hx`` and ``|x|'|H||x|``: half the energy of
    the params, in which directions without curvature count for rounding alone.
    """
    return 0.5 * xp.maximum(xp.abs(energy), NOISE_ULPS * eps * sizes)


class Trend(NamedTuple):
    """The smallest Ritz value after each step of a process.

    A Ritz value that still falls is taken to fall once more by as much as over the last half of
    the steps.
    """

    values: jax.Array  # (steps,)

    @classmethod
    def start(cls, most: int, dtype: Any) -> Trend:
        """The state before the first step of at most ``most``; later ones overwrite the last."""
        return cls(jnp.full((most,), jnp.inf, dtype))

    def after(self, step: jax.Array, value: jax.Array) -> tuple[Trend, jax.Array]:
        """The state after step 1, 2, ... with its Ritz value, and the value that the trend leads
        to.
        """
        last = self.values.size - 1
        values = self.values.at[jnp.minimum(step - 1, last)].set(value)
        half = values[jnp.clip(step // 2 - 1, 0, last)]
        ratio = jnp.where(half > 0, jnp.minimum(value / jnp.where(half > 0, half, 1), 1), 0)
        return Trend(values), value * jnp.where(jnp.isfinite(ratio), ratio, 1)
