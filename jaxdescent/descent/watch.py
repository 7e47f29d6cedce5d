"""The state of a descent, and the scalars that its stopping rules keep from earlier checks."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.descent.suboptimality import Falling, Size


class Loop(NamedTuple):
    """The state that a descent carries from one step to the next."""

    params: Any
    state: Any
    iteration: jax.Array
    evaluations: jax.Array
    status: jax.Array
    value: jax.Array
    norm: jax.Array
    watch: Watch
    history: Any
    checks: jax.Array


class Looks(NamedTuple):
    """The results of earlier looks at claims.

    Attributes:
      next: the iteration before which no claim is made again.
      lowest: the lowest value that a step from some params is known to reach, so that the minimum
        is no higher; infinite before any look.
      nearest: the least decrease that has refuted a claim.
      standing: how many refuted claims in succession were no nearer than an earlier one.
    """

    next: jax.Array
    lowest: jax.Array
    nearest: jax.Array
    standing: jax.Array

    @classmethod
    def none(cls, value_dtype: Any) -> Looks:
        """The state before the first look."""
        zero, infinite = jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, value_dtype)
        return cls(zero, infinite, infinite, zero)


class Watch(NamedTuple):
    """Scalars that the stopping rules keep between checks.

    Attributes:
      own_norm: the gradient's norm at the objective's own start; None without one.
      first_norm, first_value: gradient norm and value at the first check.
      lowest_norm: the lowest gradient norm so far.
      checks_without_progress: how many in a row; one without any change counts tenfold.
      has_grown: whether the gradient norm at the last check exceeded the first, or after the start
        that of one more step; None if every step is checked, where the loop tells it.
      is_small_step: whether the last step was within the tolerance; None without one for steps.
      own_value: F, if the objective knows it, else None.
      size: the norm of the params, a scale for their changes.
      falling: the state of the loop's own estimate; None if the method has estimates.
      scale: the scale that the gradient norm was compared with at the last check.
      suboptimality: the estimate of the value at the last check minus the minimum.
      evidence: the kind of evidence for that estimate.
      floor: ``eps F`` at the last check, the least scale of the value.
      unsteady_at: the number of checks before the one at which the estimate last changed suddenly.
      is_steady: whether the estimate may be said without a claim that rests on it.
      was_near: whether the params of the last check had converged, up to a confirmation by the next
        step if the estimate needs one.
      looks: the results of looks at earlier claims; None if claims cannot be looked at
        (:mod:`jaxdescent.descent.refutation`).
    """

    own_norm: jax.Array | None
    first_norm: jax.Array
    first_value: jax.Array
    lowest_norm: jax.Array
    checks_without_progress: jax.Array
    has_grown: Any
    is_small_step: jax.Array | None
    own_value: jax.Array | None
    size: Size
    falling: Falling | None
    scale: jax.Array
    suboptimality: jax.Array
    evidence: jax.Array
    floor: jax.Array
    unsteady_at: jax.Array
    is_steady: jax.Array
    was_near: jax.Array
    looks: Looks | None

    @property
    def reference(self) -> jax.Array:
        """G: the gradient's norm at the objective's own start if it is usable, else at the first
        check.
        """
        if self.own_norm is None:
            return self.first_norm
        is_usable = (self.own_norm > 0) & jnp.isfinite(self.own_norm)
        return jnp.where(is_usable, self.own_norm, self.first_norm)
