"""The state that a descent carries from one step to the next."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.descent.rate import Rate


class Loop(NamedTuple):
    """The params, the method's state, and what the stopping rules keep.

    A negative status is a candidate: the code of an end that the gap has to verify.
    """

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


class Watch(NamedTuple):
    """Scalars that the stopping rules keep between checks."""

    own_norm: jax.Array | None  # the gradient's norm at the objective's own start; None without one
    first_norm: jax.Array  # the gradient's norm at the first check
    first_value: jax.Array  # the value there
    lowest_norm: jax.Array  # the lowest gradient norm so far
    checks_without_progress: jax.Array  # how many in a row; one without any change counts tenfold
    # Whether the gradient norm at the last check exceeded the first, or after the start that of one
    # more step; None if every step is checked, where the loop knows it.
    has_grown: Any
    own_value: jax.Array | None  # F, if the objective knows it, else None
    size: Size  # the norm of the params, a scale for their changes
    rate: Rate | None  # the estimate from the rate of progress; None if the method has its own
    scale: jax.Array  # the scale that the gradient norm was compared with at the last check
    suboptimality: jax.Array  # of the value at the last check: an estimate, at the end the gap
    evidence: jax.Array  # the kind of evidence for it
    next: jax.Array  # the iteration before which no candidate is nominated again
    proofs: jax.Array  # the evaluations that gaps have taken
    fruitless: jax.Array  # how many gaps in a row have led to no lower value
    flattest: jax.Array  # the smallest Ritz value of all gaps

    @property
    def reference(self) -> jax.Array:
        """G: the gradient's norm at the objective's own start if it is usable, else at the first
        check.
        """
        if self.own_norm is None:
            return self.first_norm
        is_usable = (self.own_norm > 0) & jnp.isfinite(self.own_norm)
        return jnp.where(is_usable, self.own_norm, self.first_norm)


class Size(NamedTuple):
    """The params' norm, now and in the earlier half of the descent: a scale for changes.

    At a minimum at zero the params give no scale, and the start must not set it: ``before`` does.
    """

    now: jax.Array  # at this check
    last: jax.Array  # at the last power of two of checks
    before: jax.Array  # at the last power of two of checks but one

    @classmethod
    def start(cls, dtype: Any) -> Size:
        """The state before the first check."""
        zero = jnp.zeros((), dtype)
        return cls(zero, zero, zero)

    def after(self, norm: jax.Array, checks: jax.Array) -> Size:
        """The state after one more check, where ``checks`` others came before it."""
        is_mark = (checks & (checks - 1)) == 0
        return Size(
            norm, jnp.where(is_mark, norm, self.last), jnp.where(is_mark, self.last, self.before)
        )

    @property
    def scale(self) -> jax.Array:
        """The size with which changes of the params are compared."""
        return jnp.maximum(self.now, self.before)
