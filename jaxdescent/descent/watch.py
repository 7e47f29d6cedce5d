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
    """The results of earlier looks at claims."""

    next: jax.Array  # the iteration before which no claim is made again
    # The lowest value that a step from some params is known to reach, so that the minimum is no
    # higher; infinite before any look.
    lowest: jax.Array
    nearest: jax.Array  # the least decrease that has refuted a claim
    standing: jax.Array  # how many refuted claims in succession were no nearer than an earlier one

    @classmethod
    def none(cls, value_dtype: Any) -> Looks:
        """The state before the first look."""
        zero, infinite = jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, value_dtype)
        return cls(zero, infinite, infinite, zero)


class Watch(NamedTuple):
    """Scalars that the stopping rules keep between checks."""

    own_norm: jax.Array | None  # the gradient's norm at the objective's own start; None without one
    first_norm: jax.Array  # the gradient's norm at the first check
    first_value: jax.Array  # the value there
    lowest_norm: jax.Array  # the lowest gradient norm so far
    checks_without_progress: jax.Array  # how many in a row; one without any change counts tenfold
    # Whether the gradient norm at the last check exceeded the first, or after the start that of one
    # more step; None if every step is checked, where the loop tells it.
    has_grown: Any
    # Whether the last step was within the tolerance; None without one for steps.
    is_small_step: jax.Array | None
    own_value: jax.Array | None  # F, if the objective knows it, else None
    size: Size  # the norm of the params, a scale for their changes
    falling: Falling | None  # the loop's own estimate; None if the method has estimates
    scale: jax.Array  # the scale that the gradient norm was compared with at the last check
    suboptimality: jax.Array  # the estimate of the value at the last check minus the minimum
    evidence: jax.Array  # the kind of evidence for that estimate
    floor: jax.Array  # ``eps F`` at the last check, the least scale of the value
    unsteady_at: jax.Array  # the number of checks before the last sudden change of the estimate
    is_steady: jax.Array  # whether the estimate may be said without a claim that rests on it
    # Whether the params of the last check had converged, up to a confirmation by the next step if
    # the estimate needs one.
    was_near: jax.Array
    # The results; None if claims cannot be looked at (:mod:`jaxdescent.descent.refutation`).
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
