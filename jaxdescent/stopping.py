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
from jax import lax

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
      checks_without_progress: in a row; one at which nothing changed counts as ``SLACK``.
      has_grown: whether the norm at the last check was above the first.
      is_small_step: whether the last step was within the tolerance; None without one for steps.
    """

    own_norm: jax.Array | None
    first_norm: jax.Array
    first_value: jax.Array
    lowest_norm: jax.Array
    checks_without_progress: jax.Array
    has_grown: jax.Array
    is_small_step: jax.Array | None

    @classmethod
    def start(
        cls,
        own_norm: jax.Array | None,
        value_dtype: Any,
        norm_dtype: Any,
        *,
        judges_steps: bool,
    ) -> Watch:
        """Before the first check."""
        return cls(
            own_norm,
            jnp.full((), jnp.nan, norm_dtype),
            jnp.full((), jnp.nan, value_dtype),
            jnp.full((), jnp.inf, norm_dtype),
            jnp.zeros((), jnp.int32),
            jnp.array(False),
            jnp.array(False) if judges_steps else None,
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
    is_off: jax.Array | bool,
    norms: Any,
    is_stopped: jax.Array | bool,
    eps: float,
    patience: int,
) -> tuple[Watch, jax.Array]:
    """The status at the params of ``progress``, ``RUNNING`` if no rule ends the descent there.

    ``last`` is what the check before this one saw, NaN at the first; ``norms`` is what the
    gradient's tolerance is held against, the norm or each leaf's; ``is_off`` says that this
    tolerance is zero, ``is_stopped`` that the caller's predicate holds, and ``is_last`` that no
    more iterations are allowed.
    """
    value, norm = progress.value, progress.gradient_norm
    first_value = lax.select(is_start, value, watch.first_value)
    first_norm = lax.select(is_start, norm, watch.first_norm)
    watch = watch._replace(first_value=first_value, first_norm=first_norm)

    # By the dtype of the arithmetic, and only where the value rose as well: leaving a saddle or a
    # plateau the gradient grows from almost nothing while the value falls.
    bound = jnp.maximum(watch.scale, first_norm) / jnp.finfo(norm.dtype).eps
    is_nan = jnp.isnan(value) | jnp.isnan(norm)
    is_infinite = (jnp.abs(value) == jnp.inf) | (norm == jnp.inf)
    is_diverged = ~is_start & (is_infinite | (is_nan & watch.has_grown)) | (
        (norm > bound) & (bound > 0) & ~is_infinite & ~(value <= first_value)
    )

    is_endless = is_off if tolerance.is_of_gradient_alone else False
    is_stagnated = gives_up = False
    if is_endless is not True:
        watch = _counted(watch, last, progress, eps)
        is_stagnated = watch.checks_without_progress >= SLACK * patience
        if is_endless is not False:
            is_stagnated = is_stagnated & ~is_endless
    verdict = progress.verdict
    if not (isinstance(verdict, int) and verdict == RUNNING):
        verdict = _code(verdict)
        ignored = (verdict == Status.STAGNATED.value) & is_endless
        gives_up = (verdict != RUNNING) & ~ignored

    # Each rule goes before those above it. One that is False while tracing is no part of the
    # program: XLA compiles a kernel for most of what they share.
    status = lax.select(is_last, _code(Status.MAX_ITERATIONS), _code(RUNNING))
    for is_so, code in (
        (gives_up, verdict),
        (is_stagnated, Status.STAGNATED),
        (is_stopped, Status.STOPPED),
        (tolerance.is_small_gradient(norms, watch.scale, is_off), Status.CONVERGED),
        (tolerance.is_small_change(value, last.value), Status.CONVERGED),
        (False if watch.is_small_step is None else watch.is_small_step, Status.CONVERGED),
        (is_nan | is_infinite, Status.NON_FINITE),
        (is_diverged, Status.DIVERGED),
    ):
        if is_so is not False:
            status = lax.select(is_so, _code(code), status)

    return watch._replace(has_grown=norm > first_norm), status


def _counted(watch: Watch, last: Progress, progress: Progress, eps: float) -> Watch:
    """What is remembered for STAGNATED."""
    value, norm = progress.value, progress.gradient_norm
    is_flat = jnp.abs(value - last.value) <= 4 * eps * jnp.abs(value)
    is_without_progress = is_flat & (norm >= watch.lowest_norm)
    is_unchanged = (value == last.value) & (norm == last.gradient_norm)
    count = watch.checks_without_progress + lax.select(is_unchanged, _code(SLACK), _code(1))
    return watch._replace(
        lowest_norm=jnp.minimum(watch.lowest_norm, norm),
        checks_without_progress=lax.select(is_without_progress, count, _code(0)),
    )


def _code(number: Any) -> jax.Array:
    return jnp.asarray(number, jnp.int32)
