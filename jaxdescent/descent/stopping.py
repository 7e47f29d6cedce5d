"""When a descent stops: every rule and every tolerance, in one place.

With f the value and g the gradient at the params x, ``|x|`` their norm, t the tolerance and ``eps``
that of the coarsest dtype in which the params are stored:

=============  ==================================================================================
CONVERGED      the suboptimality s, estimated or bounded, and the gradient are small by scales of
               the point: ``s <= t max(|f|, eps F)`` and ``|g| <= t max(G, |f| / |x|, L |x|)``, by
               default with ``t = eps**(2/3)``: 2.4e-5 in float32, 3.7e-11 in float64, 0.039 in
               bfloat16; or the value or the step changes less than the
               :class:`jaxdescent.Tolerance` asks for, or ``|g|`` is below its absolute bound
STOPPED        the predicate of that tolerance holds
DIVERGED       ``|g|`` exceeds ``max(G, |g| at the start) / eps`` of the arithmetic's dtype and
               the value has risen; or they overflow, or end as NaN after ``|g|`` had grown; or
               the method saw negative curvature in a quadratic; or the descent ends where the
               params or ``-f`` are about to overflow
NON_FINITE     the value or the gradient is NaN (or infinite at the start) without such growth
STAGNATED      value and ``|g|`` were unchanged for as many consecutive checks as the method's
               patience (10); or for ten times as many the value changed by no more than
               ``4 eps`` of itself and ``|g|`` had no new minimum; or the method found no step
               that decreases the objective; or a measurement did not confirm what the method
               had converged to by recurrences
=============  ==================================================================================

L is the largest curvature that the method saw, or ``|g|^2 / (2 s)``, which the estimate implies.
F is the value of a regression's best constant model, else ``1/2 L |x|^2``, about the change of the
value when the params change by their own size. G is the gradient's norm at the objective's own
start (again the best constant model) or else at the given one. A far start makes G large, so that
the suboptimality alone decides; a start at the minimum makes G small, and the scales of the point
are used instead. At a minimum with value zero and params zero nothing gives a scale: there ``|x|``
is what it was in the earlier half of the descent
(:class:`jaxdescent.descent.suboptimality.Size`).

A tolerance of zero asks for every iteration: neither CONVERGED nor STAGNATED ends the descent.
``docs/stopping.md`` derives the rules, and the estimate of each method.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.descent.suboptimality import NOISE_ULPS, known_by_structure
from jaxdescent.descent.watch import SLACK, Watch
from jaxdescent.methods import Progress
from jaxdescent.objectives import Objective
from jaxdescent.status import RUNNING, Evidence, Status
from jaxdescent.tolerance import ResolvedTolerance

ROUNDED = 0.2
"""The mean rounding error of a number, in eps times the number."""

SURPRISE = 4
"""The factor by which a decrease may exceed the expected one without refuting the estimate."""


def judge(
    watch: Watch,
    last: Progress,
    progress: Progress,
    *,
    objective: Objective,
    size: jax.Array,
    rounding: Any,
    checks: jax.Array,
    is_start: Any,
    is_last: Any,
    is_early: Any,
    tolerance: ResolvedTolerance,
    norms: Any,
    is_stopped: jax.Array | bool,
    eps: float,
    patience: int,
) -> tuple[Watch, jax.Array]:
    """The status at the params of ``progress``; ``RUNNING`` if no rule ends the descent there.

    Args:
      watch: the scalars that the rules keep between checks.
      last: the values of the last check, NaN at the first.
      progress: the values of this check.
      objective: the objective.
      size: the params' norm.
      rounding: the change of the value by the rounding of params that ``size`` leaves out.
      checks: the number of earlier checks.
      is_start: whether these are the params of the start.
      is_last: whether no more iterations are allowed.
      is_early: whether it is too early to claim anything after a claim was refuted.
      tolerance: the tolerances.
      norms: the norm of the gradient, or of each leaf's, that its tolerance is compared with.
      is_stopped: whether the caller's predicate holds.
      eps: the eps of the coarsest dtype of the stored params.
      patience: the method's patience.
    """
    value, norm = progress.value, progress.gradient_norm
    first_value = lax.select(is_start, value, watch.first_value)
    first_norm = lax.select(is_start, norm, watch.first_norm)
    watch = watch._replace(
        first_value=first_value, first_norm=first_norm, size=watch.size.after(size, checks)
    )
    watch, is_converged, is_at_end = _with_estimate(
        watch,
        last,
        progress,
        objective=objective,
        checks=checks,
        tolerance=tolerance,
        norms=norms,
        eps=eps,
    )

    # The bound is relative to the arithmetic's eps, and counts only if the value rose as well: when
    # a descent leaves a saddle or a plateau, the gradient grows from almost nothing while the value
    # falls.
    bound = jnp.maximum(watch.reference, first_norm) / jnp.finfo(norm.dtype).eps
    is_nan = jnp.isnan(value) | jnp.isnan(norm)
    is_infinite = (jnp.abs(value) == jnp.inf) | (norm == jnp.inf)
    is_diverged = ~is_start & (is_infinite | (is_nan & watch.has_grown)) | (
        (norm > bound) & (bound > 0) & ~is_infinite & ~(value <= first_value)
    )

    off = tolerance.off
    is_endless = False if tolerance.has_changes else off.both
    is_stagnated = gives_up = False
    if is_endless is not True:
        watch = watch.counted(last, progress, eps)
        is_stagnated = watch.checks_without_progress >= SLACK * patience
        if is_endless is not False:
            is_stagnated = is_stagnated & ~is_endless
    verdict = progress.verdict
    if not (isinstance(verdict, int) and verdict == RUNNING):
        verdict = _code(verdict)
        ignored = (verdict == Status.STAGNATED.value) & is_endless
        gives_up = (verdict != RUNNING) & ~ignored
        is_at_end &= (verdict == Status.STAGNATED.value) | is_stagnated
    else:
        is_at_end &= is_stagnated
    if is_early is not False:
        # No bound was refuted. A descent that claims repeatedly to have converged, and makes no
        # more progress, is as near to the minimum as rounding allows.
        is_early &= watch.evidence >= Evidence.FACTORISATION.value
        is_stagnated |= is_converged & is_early & (watch.checks_without_progress >= patience)
        is_converged &= ~is_early
    is_converged |= is_at_end
    is_rounded = False
    if watch.own_value is not None and off.suboptimality is not True:
        watch = watch.with_rounding(rounding, eps)
        is_rounded = is_converged & ~tolerance.allows(watch.suboptimality, value, watch.floor)
    is_far = (size > _huge(size)) | (value < -_huge(value))

    # If nothing at all changed, an update may have been held back.
    is_changed = (value != last.value) | (norm != last.gradient_norm) | is_stagnated
    is_small_change = tolerance.is_small_change(value, last.value)
    if is_small_change is not False:
        is_small_change = is_small_change & is_changed
    is_small_step = False if watch.is_small_step is None else watch.is_small_step & is_changed

    # A later rule overrides the earlier ones. A rule that is False while tracing is not part of the
    # program: XLA compiles a kernel for most of the operations that the rules share.
    status = lax.select(is_last, _code(Status.MAX_ITERATIONS), _code(RUNNING))
    for is_so, code in (
        (gives_up, verdict),
        (is_stagnated, Status.STAGNATED),
        (is_stopped, Status.STOPPED),
        (is_converged, Status.CONVERGED),
        (is_rounded, Status.STAGNATED),
        (is_small_change, Status.CONVERGED),
        (is_small_step, Status.CONVERGED),
        (tolerance.is_below_bound(norm), Status.CONVERGED),
        (is_nan | is_infinite, Status.NON_FINITE),
        (is_diverged, Status.DIVERGED),
    ):
        if is_so is not False:
            status = lax.select(is_so, _code(code), status)
    if gives_up is not False or is_stagnated is not False:
        is_lost = (status == Status.STAGNATED.value) & is_far
        status = lax.select(is_lost, _code(Status.DIVERGED), status)

    return watch._replace(has_grown=norm > first_norm), status


def _with_estimate(
    watch: Watch,
    last: Progress,
    progress: Progress,
    *,
    objective: Objective,
    checks: jax.Array,
    tolerance: ResolvedTolerance,
    norms: Any,
    eps: float,
) -> tuple[Watch, jax.Array | bool, jax.Array | bool]:
    """The watch with suboptimality and scales, and two verdicts.

    The first is whether the params have converged; the second whether they have if no further step
    can be found, so that none can confirm the estimate.
    """
    value, norm = progress.value, progress.gradient_norm
    estimate = progress.estimate
    if watch.falling is not None:
        falling = watch.falling.after(value, norm, checks, progress.curvature)
        # A check at which nothing has changed says nothing about the rate.
        is_same = (value == last.value) & (norm == last.gradient_norm)
        falling = jax.tree.map(partial(jnp.where, is_same), watch.falling, falling)
        estimate = falling.estimate(value, norm, watch.falling.norm)
        watch = watch._replace(falling=falling)
    assert estimate is not None
    is_factorised = estimate.rests_on(Evidence.FACTORISATION)
    must_repeat = estimate.rests_on(Evidence.NEWTON_DECREMENT)
    estimate = known_by_structure(objective, value, norm, estimate)
    left = jnp.where(norm == 0, 0, estimate.suboptimality).astype(value.dtype)
    rounding: Any = 0.0
    if not (isinstance(estimate.rounding, float) and estimate.rounding == 0.0):
        rounding = 0.5 * estimate.rounding * jnp.square(ROUNDED * eps * watch.size.now)
        rounding = rounding.astype(left.dtype)
    seen, left = left, left + rounding
    is_known = jnp.isfinite(value) & jnp.isfinite(norm) & ~jnp.isnan(left)
    left = jnp.where(is_known, left, jnp.inf)

    size, curvature = watch.size.scale, estimate.curvature.astype(norm.dtype)
    height = jnp.abs(value)
    worth = 0.5 * (curvature * size) * size  # F
    if watch.own_value is not None:
        worth = watch.own_value.astype(norm.dtype)
    floor = jnp.where(worth < jnp.inf, eps * worth, 0).astype(value.dtype)
    own = jnp.where(size > 0, height.astype(norm.dtype) / jnp.where(size > 0, size, 1), 0)
    steepest = jnp.maximum(curvature, jnp.asarray(estimate.steepness, norm.dtype))
    scale = jnp.maximum(watch.reference, jnp.maximum(own, steepest * size))
    if is_factorised is not False:
        # |g| is the norm in the user's unknowns, which are coupled by means far from zero: the
        # rounding of one unknown is no suboptimality. The solver's estimate is exact, and decides
        # alone.
        is_known = (left > 0) & (left < jnp.inf) & is_factorised
        heights = jnp.maximum(height, floor) / jnp.where(is_known, left, 1)
        scale = jnp.maximum(scale, jnp.where(is_known, norm * heights.astype(norm.dtype), 0))
    expected = watch.suboptimality
    watch = watch._replace(
        scale=scale,
        suboptimality=left,
        floor=floor,
        evidence=jnp.where(left < jnp.inf, jnp.asarray(estimate.evidence, jnp.int32), 0),
    )
    off = tolerance.off
    if off.both is True:
        return watch, False, False

    by_rule = is_near = _is_near(watch, value, tolerance, norms)
    caution = estimate.caution
    if off.suboptimality is not True and not (isinstance(caution, float) and caution == 1.0):
        # The rounding of the products, and of the residual that they are applied to.
        heights = jnp.sqrt(height.astype(norm.dtype)) + jnp.sqrt(worth)
        is_rounding = norm <= jnp.finfo(norm.dtype).eps * jnp.sqrt(2 * curvature) * heights
        cautious = seen * jnp.asarray(caution, left.dtype) + rounding
        is_sure = tolerance.allows(cautious, value, floor)
        if objective.is_quadratic:
            is_rounding = False  # some methods reach a higher accuracy
        is_near &= is_sure | is_rounding
    was_near, watch = watch.was_near, watch._replace(was_near=is_near)
    if off.suboptimality is not True and (must_repeat is not False or watch.falling is not None):
        # A model of the Hessian is based on past steps, and so is a rate. So the next step must not
        # decrease the value by more than was expected.
        noise = NOISE_ULPS * eps * height
        is_kept = last.value - value <= SURPRISE * expected + noise
        is_repeated = was_near & is_kept | (norm == 0)
        if must_repeat is not True and watch.falling is None:
            is_repeated |= ~must_repeat
        elif must_repeat is not True:
            is_repeated |= watch.evidence != Evidence.RATE.value
            # A single large |g| between two checks near convergence does not interrupt them: it is
            # rounding.
            bounces = norm > 100 * last.gradient_norm
            watch = watch._replace(was_near=is_near | (was_near & by_rule & is_kept & bounces))
        is_near &= is_repeated | off.suboptimality
    return watch, is_near, False if watch.falling is None else by_rule


def _is_near(watch: Watch, value: jax.Array, tolerance: ResolvedTolerance, norms: Any) -> jax.Array:
    """Whether suboptimality and gradient are small by the watch's scales."""
    is_near = jnp.isfinite(value)
    is_near &= tolerance.is_small_gradient(norms, watch.scale)
    is_near &= tolerance.allows(watch.suboptimality, value, watch.floor)
    is_endless = tolerance.off.both
    return is_near if is_endless is False else is_near & ~jnp.asarray(is_endless)


def measured(
    watch: Watch, status: jax.Array, estimated: Progress, truth: Progress, *, judged: Any
) -> tuple[Watch, jax.Array]:
    """The watch and status after an estimated progress has been measured.

    A descent that has converged by the estimates, but not by the measurement, has stagnated,
    because the recurrences lead no further. ``judged`` is (tolerance, norms).
    """
    noise = NOISE_ULPS * jnp.finfo(truth.value.dtype).eps * jnp.abs(truth.value)
    rise = truth.value - estimated.value
    rise = jnp.where(rise > noise, rise, 0)
    watch = watch._replace(suboptimality=watch.suboptimality + rise)
    has_failed = watch.was_near & ~_is_near(watch, truth.value, *judged)
    bound: ResolvedTolerance = judged[0]
    was_below = bound.is_below_bound(estimated.gradient_norm)
    if was_below is not False:
        is_above = ~bound.is_below_bound(truth.gradient_norm)
        has_failed = (has_failed | ~watch.was_near) & was_below & is_above
    has_failed &= status == Status.CONVERGED.value
    return watch, lax.select(has_failed, _code(Status.STAGNATED), status)


def _huge(number: jax.Array) -> float:
    """The size beyond which a number is about to overflow."""
    limits = jnp.finfo(number.dtype)
    return float(limits.max) * float(limits.eps)


def _code(number: Any) -> jax.Array:
    return jnp.asarray(number, jnp.int32)
