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
    """What the stopping rules remember of earlier checks: scalars."""

    scale: jax.Array
    first_norm: jax.Array
    first_value: jax.Array
    lowest_norm: jax.Array
    last_value: jax.Array
    last_norm: jax.Array
    has_grown: jax.Array
    checks_without_progress: jax.Array
    is_small_step: jax.Array


def start_watch(own_norm: Any, value: jax.Array, norm: jax.Array) -> Watch:
    """The watch at the start, where the value and the gradient's norm are these.

    ``own_norm`` is the gradient's norm at the objective's own start, NaN if it has none.
    """
    own_norm = jnp.asarray(own_norm, norm.dtype)
    return Watch(
        jnp.where((own_norm > 0) & jnp.isfinite(own_norm), own_norm, norm),
        norm,
        value,
        jnp.full_like(norm, jnp.inf),
        jnp.full_like(value, jnp.nan),
        jnp.full_like(norm, jnp.nan),
        jnp.array(False),
        jnp.zeros((), jnp.int32),
        jnp.array(False),
    )


def judge(
    watch: Watch,
    progress: Progress,
    *,
    is_start: Any,
    tolerance: Tolerance,
    norms: Any,
    is_stopped: jax.Array,
    eps: float,
    patience: int,
) -> tuple[Watch, jax.Array]:
    """The status at the params of ``progress``, ``RUNNING`` if no rule ends the descent there.

    ``norms`` is what the gradient's tolerance is held against, the norm or each leaf's; and
    ``is_stopped`` says that the caller's predicate holds.
    """
    value, norm = progress.value, progress.gradient_norm
    is_endless = tolerance.is_endless

    is_flat = jnp.abs(value - watch.last_value) <= 4 * eps * jnp.abs(value)
    is_without_progress = is_flat & (norm >= watch.lowest_norm)
    is_unchanged = (value == watch.last_value) & (norm == watch.last_norm)
    weight = jnp.where(is_unchanged, SLACK, 1)
    count = jnp.where(is_without_progress, watch.checks_without_progress + weight, 0)

    # By the dtype of the arithmetic, and only where the value rose as well: leaving a saddle or a
    # plateau the gradient grows from almost nothing while the value falls.
    bound = jnp.maximum(watch.scale, watch.first_norm) / jnp.finfo(norm.dtype).eps
    is_nan = jnp.isnan(value) | jnp.isnan(norm)
    is_infinite = jnp.isinf(value) | jnp.isinf(norm)
    is_converged = (
        tolerance.is_small_gradient(norms, watch.scale)
        | tolerance.is_small_change(value, watch.last_value)
        | watch.is_small_step
    )
    is_stagnated = (count >= SLACK * patience) & ~is_endless
    is_diverged = ~is_start & (is_infinite | (is_nan & watch.has_grown)) | (
        (norm > bound) & (bound > 0) & ~is_infinite & ~(value <= watch.first_value)
    )

    verdict = jnp.asarray(progress.verdict, jnp.int32)
    ignored = (verdict == Status.STAGNATED.value) & is_endless
    status = jnp.where(ignored, RUNNING, verdict)
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
        last_value=value,
        last_norm=norm,
        has_grown=norm > watch.first_norm,
        checks_without_progress=count,
    )
    return watch, status.astype(jnp.int32)
