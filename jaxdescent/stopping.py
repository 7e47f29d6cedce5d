"""When a descent stops: every rule and every tolerance, in one place.

With g the gradient at the params, ``scale`` the gradient's norm at the objective's own start
(zeros for a regression) or else at the given start, and ``eps`` that of the coarsest dtype the
params are stored in:

=============  ==================================================================================
CONVERGED      ``|g| <= tolerance * scale``; by default ``tolerance = eps**(2/3)``: 2.4e-5 in
               float32, 3.7e-11 in float64, 0.039 in bfloat16; or value or step within the
               :class:`jaxdescent.Tolerance` that was asked for
STOPPED        the predicate of that tolerance holds
DIVERGED       ``|g|`` passes ``max(scale, |g| at the start) / eps`` of the arithmetic's dtype
               while the value has risen, overflows, or ends as NaN after it had grown; or the
               method saw negative curvature in a quadratic
NON_FINITE     the value or the gradient is NaN (or infinite at the start) without such growth
STAGNATED      for as many checks in a row as the method has patience (10), value and ``|g|`` are
               what they were; or for ten times as many, the value changed by no more than
               ``4 eps`` of itself and ``|g|`` made no new minimum; or the method found no step
               that decreases the objective
=============  ==================================================================================

A tolerance of zero asks for every iteration: neither CONVERGED nor STAGNATED ends the descent.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.methods import Progress
from jaxdescent.result import RUNNING, Status
from jaxdescent.tolerance import Tolerance

SLACK = 10
"""How many checks with nothing but noise count as one at which nothing changed."""


class Watch(NamedTuple):
    """What the stopping rules remember of earlier checks: scalars.

    Attributes:
      own_norm: the gradient's norm at the objective's own start; None without one.
      first_norm, first_value: at the first check.
      lowest_norm: the lowest norm so far.
      has_grown: whether the norm at the last check was above the first.
      checks_without_progress: in a row; one at which nothing changed counts as ``SLACK``.
      is_small_step: whether the last step was within the tolerance.
    """

    own_norm: jax.Array | None
    first_norm: jax.Array
    first_value: jax.Array
    lowest_norm: jax.Array
    has_grown: jax.Array
    checks_without_progress: jax.Array
    is_small_step: jax.Array

    @classmethod
    def start(cls, own_norm: jax.Array | None, value_dtype: Any, norm_dtype: Any) -> Watch:
        """Before the first check."""
        return cls(
            own_norm,
            jnp.full((), jnp.nan, norm_dtype),
            jnp.full((), jnp.nan, value_dtype),
            jnp.full((), jnp.inf, norm_dtype),
            jnp.array(False),
            jnp.zeros((), jnp.int32),
            jnp.array(False),
        )

    @property
    def scale(self) -> jax.Array:
        """The gradient's norm that the tolerance is relative to."""
        if self.own_norm is None:
            return self.first_norm
        is_usable = (self.own_norm > 0) & jnp.isfinite(self.own_norm)
        return jnp.where(is_usable, self.own_norm, self.first_norm)


def judge(
    watch: Watch,
    last: Progress,
    progress: Progress,
    *,
    is_start: Any,
    is_last: Any,
    tolerance: Tolerance,
    norms: Any,
    is_stopped: jax.Array,
    eps: float,
    patience: int,
) -> tuple[Watch, jax.Array]:
    """The status at the params of ``progress``, ``RUNNING`` if no rule ends the descent there.

    ``last`` is what the check before this one saw, NaN at the first; ``norms`` is what the
    gradient's tolerance is held against, the norm or each leaf's; ``is_stopped`` says that the
    caller's predicate holds, and ``is_last`` that no more iterations are allowed.
    """
    value, norm = progress.value, progress.gradient_norm
    watch = watch._replace(
        first_value=jnp.where(is_start, value, watch.first_value),
        first_norm=jnp.where(is_start, norm, watch.first_norm),
    )
    is_endless = tolerance.is_endless

    is_flat = jnp.abs(value - last.value) <= 4 * eps * jnp.abs(value)
    is_without_progress = is_flat & (norm >= watch.lowest_norm)
    is_unchanged = (value == last.value) & (norm == last.gradient_norm)
    weight = jnp.where(is_unchanged, SLACK, 1)
    count = jnp.where(is_without_progress, watch.checks_without_progress + weight, 0)

    # By the dtype of the arithmetic, and only where the value rose as well: leaving a saddle or a
    # plateau the gradient grows from almost nothing while the value falls.
    bound = jnp.maximum(watch.scale, watch.first_norm) / jnp.finfo(norm.dtype).eps
    is_nan = jnp.isnan(value) | jnp.isnan(norm)
    is_infinite = jnp.isinf(value) | jnp.isinf(norm)
    is_converged = (
        tolerance.is_small_gradient(norms, watch.scale)
        | tolerance.is_small_change(value, last.value)
        | watch.is_small_step
    )
    is_stagnated = (count >= SLACK * patience) & ~is_endless
    is_diverged = ~is_start & (is_infinite | (is_nan & watch.has_grown)) | (
        (norm > bound) & (bound > 0) & ~is_infinite & ~(value <= watch.first_value)
    )

    verdict = jnp.asarray(progress.verdict, jnp.int32)
    ignored = (verdict == Status.STAGNATED.value) & is_endless
    status = jnp.where(ignored, RUNNING, verdict)
    status = jnp.where(is_last & (status == RUNNING), Status.MAX_ITERATIONS.value, status)
    for is_so, code in (
        (is_stagnated, Status.STAGNATED),
        (is_stopped, Status.STOPPED),
        (is_converged, Status.CONVERGED),
        (is_nan | is_infinite, Status.NON_FINITE),
        (is_diverged, Status.DIVERGED),
    ):
        status = jnp.where(is_so, code.value, status)

    watch = watch._replace(
        lowest_norm=jnp.minimum(watch.lowest_norm, norm),
        has_grown=norm > watch.first_norm,
        checks_without_progress=count,
    )
    return watch, status.astype(jnp.int32)
