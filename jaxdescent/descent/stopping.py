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

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.descent.nearness import FACTORISED, Nearness, is_certain, with_bound_alone
from jaxdescent.descent.watch import Loop, Watch
from jaxdescent.methods import StepReport
from jaxdescent.numerics import precision
from jaxdescent.status import RUNNING, Status

SLACK = 10
"""A check without any change counts as this many checks with changes by noise only."""


class Stopping(Nearness):
    """A descent, and the rules that end it."""

    def judge(
        self,
        loop: Loop,
        progress: StepReport,
        size: jax.Array,
        *,
        rounding: Any,
        norms: Any,
        is_stopped: jax.Array | bool,
    ) -> tuple[Watch, jax.Array]:
        """The watch and the status after a check; ``RUNNING`` if no rule ends the descent there.

        ``loop`` has the values of the check before, ``progress`` those of this one. ``rounding`` is
        the change of the value by the rounding of params that ``size``, their norm, leaves out;
        ``norms`` are the gradient's, or each leaf's, that the tolerance is compared with;
        ``is_stopped`` is whether the caller's predicate holds.
        """
        value, norm, tolerance = progress.value, progress.gradient_norm, self.tolerance
        eps, watch = precision.epsilon(loop.params), loop.watch
        is_start, is_last = loop.iteration == 0, loop.iteration >= self.max_iterations
        first_value = lax.select(is_start, value, watch.first_value)
        first_norm = lax.select(is_start, norm, watch.first_norm)
        watch = watch._replace(
            first_value=first_value, first_norm=first_norm, size=watch.size.after(size, loop.checks)
        )
        watch, is_converged, is_at_end = self.with_estimate(loop, watch, progress, norms)

        # The bound is relative to the arithmetic's eps, and counts only if the value rose as well:
        # when a descent leaves a saddle or a plateau, the gradient grows from almost nothing while
        # the value falls.
        bound = jnp.maximum(watch.reference, first_norm) / jnp.finfo(norm.dtype).eps
        has_grown = loop.norm > first_norm if watch.has_grown is None else watch.has_grown
        is_nan = jnp.isnan(value) | jnp.isnan(norm)
        is_infinite = (jnp.abs(value) == jnp.inf) | (norm == jnp.inf)
        is_diverged = ~is_start & (is_infinite | (is_nan & has_grown)) | (
            (norm > bound) & (bound > 0) & ~is_infinite & ~(value <= first_value)
        )

        off = tolerance.off
        is_endless = False if tolerance.has_changes else off.both
        is_stagnated = gives_up = False
        if watch.own_value is not None and progress.estimate is not None:
            squared = jnp.asarray(progress.estimate.products, value.dtype)
            rounding += 0.5 * eps**2 * squared
        if is_endless is not True:
            # A change of the value by the rounding of params is no progress.
            is_flat = jnp.abs(value - loop.value) <= 4 * eps * jnp.abs(value) + rounding
            is_without_progress = is_flat & (norm >= watch.lowest_norm)
            is_unchanged = (value == loop.value) & (norm == loop.norm)
            more = jnp.where(is_unchanged, SLACK, 1).astype(jnp.int32)
            lowest = jnp.minimum(watch.lowest_norm, norm)
            if progress.is_provisional is not False:
                is_without_progress &= ~progress.is_provisional
                lowest = jnp.where(progress.is_provisional, jnp.inf, lowest)
            count = jnp.where(is_without_progress, watch.checks_without_progress + more, 0)
            watch = watch._replace(lowest_norm=lowest, checks_without_progress=count)
            is_stagnated = watch.checks_without_progress >= SLACK * self.method.patience
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
        if watch.looks is not None:
            # No bound was refuted. A descent that claims repeatedly to have converged, and makes no
            # more progress, is as near to the minimum as rounding allows.
            is_early = (loop.iteration < watch.looks.next) & ~is_last
            is_early &= watch.evidence >= FACTORISED
            is_stagnated |= (
                is_converged & is_early & (watch.checks_without_progress >= self.method.patience)
            )
            is_converged &= ~is_early
        is_converged |= is_at_end
        is_rounded = False
        if watch.own_value is not None and is_endless is not True:
            # No further step removes the rounding of the intercept. If squares of the targets
            # underflow, values mean nothing; a constant that is met exactly is not rounded.
            own, left = watch.own_value, watch.suboptimality
            is_lost = (own < jnp.finfo(own.dtype).tiny / eps) & (watch.reference > 0)
            more = jnp.where(is_lost, jnp.inf, jnp.where(own > 0, rounding, 0))
            watch = watch._replace(suboptimality=left + more.astype(left.dtype))
            if off.suboptimality is not True:
                is_rounded = is_converged & ~tolerance.allows(
                    watch.suboptimality, value, watch.floor
                )
        is_far = (size > _huge(size)) | (value < -_huge(value))

        # If nothing at all changed, an update may have been held back.
        is_changed = (value != loop.value) | (norm != loop.norm) | is_stagnated
        is_small_change = tolerance.is_small_change(value, loop.value)
        if is_small_change is not False:
            is_small_change = is_small_change & is_changed
        is_small_step = False if watch.is_small_step is None else watch.is_small_step & is_changed

        # A later rule overrides the earlier ones. A rule that is False while tracing is not part of
        # the program: XLA compiles a kernel for most of the operations that the rules share.
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
            # So far away a gradient of zero has underflowed.
            is_underflow = (status == Status.CONVERGED.value) & (norm == 0)
            is_lost = ((status == Status.STAGNATED.value) | is_underflow) & is_far
            status = lax.select(is_lost, _code(Status.DIVERGED), status)

        if watch.has_grown is not None:
            watch = watch._replace(has_grown=norm > first_norm)
        if progress.estimate is None or not is_certain(progress.estimate):
            is_no_claim = (status == Status.MAX_ITERATIONS.value) | (status == Status.STOPPED.value)
            ends_itself = not isinstance(progress.verdict, int)
            if ends_itself or tolerance.has_changes or off.suboptimality is not False:
                # Other rules than that for the suboptimality may have ended the descent.
                is_other = (status == Status.CONVERGED.value) & ~jnp.asarray(is_converged)
                is_ended = (status == Status.CONVERGED.value) | (status == Status.STAGNATED.value)
                is_no_claim |= is_other | (is_ended & off.suboptimality)
            is_unknown = is_no_claim & ~watch.is_steady
            watch = with_bound_alone(watch, self.objective, value, norm, is_unknown)
        return watch, status


def _huge(number: jax.Array) -> float:
    """The size beyond which a number is about to overflow."""
    limits = jnp.finfo(number.dtype)
    return float(limits.max) * float(limits.eps)


def _code(number: Any) -> jax.Array:
    return jnp.asarray(number, jnp.int32)
