"""When a descent may stop: every rule and every tolerance, in one place.

With f the value and g the gradient at the params x, ``|x|`` their norm, t the tolerance and ``eps``
that of the coarsest dtype in which the params are stored:

=============  ==================================================================================
CONVERGED      the gap's upper end s, or a bound from the structure, and the gradient are small by
               scales of the point: ``s <= t max(|f|, eps F)`` and
               ``|g| <= t max(G, |f| / |x|, L |x|)``, by default with ``t = eps**(2/3)``: 2.4e-5 in
               float32, 3.7e-11 in float64, 0.039 in bfloat16; or ``|g|`` is below an absolute bound
STOPPED        the predicate of the tolerance holds
DIVERGED       ``|g|`` exceeds ``max(G, |g| at the start) / eps`` of the arithmetic's dtype and
               the value has risen; or they overflow, or end as NaN after ``|g|`` had grown; or
               the method saw negative curvature in a quadratic; or the descent ends where the
               params or ``-f`` are about to overflow
NON_FINITE     the value or the gradient is NaN (or infinite at the start) without such growth
STAGNATED      value and ``|g|`` were unchanged for as many consecutive checks as the method's
               patience (10); or for ten times as many the value changed by no more than
               ``4 eps`` of itself and ``|g|`` had no new minimum; or the method found no step
               that decreases the objective; and the gap is larger than the tolerance allows
=============  ==================================================================================

L is the largest curvature that the method saw, or ``|g|^2 / (2 s)``, which its estimate implies.
F is the value of a regression's best constant model, else ``1/2 L |x|^2``, about the change of the
value when the params change by their own size. G is the gradient's norm at the objective's own
start (again the best constant model) or else at the given one. A far start makes G large, so that
the gap alone decides; a start at the minimum makes G small, and the scales of the point are used
instead. At a minimum with value zero and params zero nothing gives a scale: there ``|x|`` is what
it was in the earlier half of the descent (:class:`jaxdescent.descent.state.Size`).

Here a candidate is nominated: by the method's own estimate of s, or the rate of progress, or by a
gradient that is rounding. :mod:`jaxdescent.descent.verification` asks the gap. A tolerance of zero
asks for every iteration: neither CONVERGED nor STAGNATED ends the descent.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.descent.state import Loop, Watch
from jaxdescent.gap import known_by_structure
from jaxdescent.methods import Method, StepReport
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective
from jaxdescent.status import RUNNING, Evidence, Status
from jaxdescent.tolerance import ResolvedTolerance

SLACK = 10
"""A check without any change counts as this many checks with changes by noise only."""


class Rules(NamedTuple):
    """The constants of a descent, and the rules that end it."""

    objective: Objective
    method: Method
    tolerance: ResolvedTolerance
    rounding: precision.Rounding
    max_iterations: jax.Array
    check_every: int
    # Whether the gap is asked inside the program; otherwise the loop ends with a candidate.
    has_gap: bool = True
    # Whether a small program that is compiled for one call may hold the rules once: a method that
    # is checked after each step then checks the start in the first iteration of the loop.
    checks_in_loop: bool = False

    @property
    def verifies(self) -> bool:
        """Whether the ends of this descent are candidates, which the gap has to verify."""
        if self.tolerance.off.suboptimality is True or self.objective.attains_lower_bound:
            return False
        return self.method.seeks_minimum(self.objective)

    def judge(
        self, loop: Loop, report: StepReport, size: jax.Array, *, is_stopped: jax.Array | bool
    ) -> tuple[Watch, jax.Array]:
        """The watch and the status after a check; ``RUNNING`` if no rule ends the descent there.

        ``loop`` has the values of the check before, ``report`` those of this one; ``size`` is the
        norm of the params, ``is_stopped`` whether the caller's predicate holds.
        """
        value, norm, tolerance = report.value, report.gradient_norm, self.tolerance
        eps, watch = precision.epsilon(loop.params), loop.watch
        is_start, is_last = loop.iteration == 0, loop.iteration >= self.max_iterations
        first_value = lax.select(is_start, value, watch.first_value)
        first_norm = lax.select(is_start, norm, watch.first_norm)
        watch = watch._replace(
            first_value=first_value, first_norm=first_norm, size=watch.size.after(size, loop.checks)
        )
        watch, is_proven, is_near = self._nominated(loop, watch, report)

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

        is_endless = tolerance.is_endless
        is_stagnated: Any = False
        if is_endless is not True:
            # A change of the value by the rounding of params is no progress.
            is_flat = jnp.abs(value - loop.value) <= 4 * eps * jnp.abs(value)
            is_without_progress = is_flat & (norm >= watch.lowest_norm)
            is_unchanged = (value == loop.value) & (norm == loop.norm)
            more = jnp.where(is_unchanged, SLACK, 1).astype(jnp.int32)
            count = jnp.where(is_without_progress, watch.checks_without_progress + more, 0)
            lowest = jnp.minimum(watch.lowest_norm, norm)
            watch = watch._replace(lowest_norm=lowest, checks_without_progress=count)
            is_stagnated = watch.checks_without_progress >= SLACK * self.method.patience
            is_stagnated = is_stagnated & jnp.logical_not(is_endless)
        verdict, gives_up = report.verdict, False
        if not (isinstance(verdict, int) and verdict == RUNNING):
            verdict = _code(verdict)
            ignored = (verdict == Status.STAGNATED.value) & is_endless
            gives_up = (verdict != RUNNING) & ~ignored

        # A later rule overrides the earlier ones. A rule that is False while tracing is not part of
        # the program: XLA compiles a kernel for most of the operations that the rules share.
        sign = -1 if self.verifies else 1
        status = lax.select(is_last, _code(sign * Status.MAX_ITERATIONS), _code(RUNNING))
        lost = sign * Status.STAGNATED
        for is_so, code in (
            (gives_up, jnp.where(verdict == Status.STAGNATED.value, lost, verdict)),
            (is_stagnated, lost),
            (is_stopped, sign * Status.STOPPED),
            (is_near & ((loop.iteration >= watch.next) | is_last), sign * Status.CONVERGED),
            (is_proven, Status.CONVERGED),
            (tolerance.is_below_bound(norm), Status.CONVERGED),
            (is_nan | is_infinite, Status.NON_FINITE),
            (is_diverged, Status.DIVERGED),
        ):
            if is_so is not False:
                status = lax.select(is_so, _code(code), status)
        if gives_up is not False or is_stagnated is not False:
            # So far away a gradient of zero has underflowed.
            is_far = (size > _huge(size)) | (value < -_huge(value))
            is_underflow = (jnp.abs(status) == Status.CONVERGED.value) & (norm == 0)
            is_lost = ((status == lost) | is_underflow) & is_far
            status = lax.select(is_lost, _code(Status.DIVERGED), status)
        if watch.has_grown is not None:
            watch = watch._replace(has_grown=norm > first_norm)
        if tolerance.absolute_gradient is not None:
            is_alone = (status == Status.CONVERGED.value) & jnp.logical_not(is_proven)
            watch = self._bounded(watch, value, norm, is_alone)
        return watch, status

    def _nominated(
        self, loop: Loop, watch: Watch, report: StepReport
    ) -> tuple[Watch, jax.Array | bool, jax.Array | bool]:
        """The watch with suboptimality and scale after a check, whether the structure proves that
        the params have converged, and whether they are a candidate.
        """
        value, norm, tolerance = report.value, report.gradient_norm, self.tolerance
        eps, estimate = precision.epsilon(loop.params), report.estimate
        if watch.rate is not None:
            rate = watch.rate.after(report, loop.checks)
            watch, estimate = watch._replace(rate=rate), rate.estimate
        assert estimate is not None
        bound, evidence = known_by_structure(self.objective, value, norm)
        # The structure bounds what is measured: a value that is estimated can be below the minimum.
        is_estimate = self.method.is_estimate(loop.state)
        if is_estimate is not False:
            bound = jnp.where(is_estimate, jnp.inf, bound)
        left = jnp.asarray(estimate.suboptimality, value.dtype)
        left = jnp.where(jnp.isnan(left), jnp.inf, left)
        curvature = jnp.asarray(estimate.curvature, norm.dtype)
        implied = jnp.minimum(left, bound).astype(norm.dtype)
        is_usable = (implied > 0) & (implied < jnp.inf)
        implied = jnp.where(is_usable, norm * (0.5 * norm / jnp.where(is_usable, implied, 1)), 0)
        curvature = jnp.maximum(curvature, implied)
        size, height = watch.size.scale, jnp.abs(value)
        worth = 0.5 * (curvature * size) * size  # F
        if watch.own_value is not None:
            worth = watch.own_value.astype(norm.dtype)
        floor = jnp.where(worth < jnp.inf, eps * worth, 0).astype(value.dtype)
        own = jnp.where(size > 0, height.astype(norm.dtype) / jnp.where(size > 0, size, 1), 0)
        steepest = jnp.maximum(curvature, jnp.asarray(estimate.steepness, norm.dtype))
        scale = jnp.maximum(watch.reference, jnp.maximum(own, steepest * size))
        if not self.verifies and self.method.seeks_minimum(self.objective):
            left = jnp.full_like(left, jnp.inf)
        is_exact = jnp.isfinite(bound) & (bound <= left)
        least = jnp.where(norm == 0, 0, jnp.minimum(left, bound))
        code = jnp.asarray(estimate.evidence, jnp.int32)
        if is_estimate is not False:
            is_bound = is_estimate & (code == Evidence.BOUND.value)
            code = jnp.where(is_bound, Evidence.RITZ_VALUES.value, code)
        code = jnp.where(is_exact, evidence, code)
        watch = watch._replace(
            scale=scale,
            suboptimality=least.astype(value.dtype),
            evidence=jnp.where(least < jnp.inf, code, 0),
        )
        if tolerance.off.both is True:
            return watch, False, False
        least = watch.suboptimality
        is_active = jnp.isfinite(value) & jnp.logical_not(tolerance.off.both)
        is_proven = is_active & tolerance.allows(bound, value, floor)
        is_proven &= tolerance.is_level(norm, scale, is_proven)
        if not self.verifies:
            is_near = is_active & tolerance.is_small_gradient(norm, scale)
            return watch, is_proven | (is_near & tolerance.allows(least, value, floor)), False
        # Rounding of the residual that the products are applied to.
        heights = jnp.sqrt(height.astype(norm.dtype)) + jnp.sqrt(worth)
        is_rounding = norm <= jnp.finfo(norm.dtype).eps * jnp.sqrt(2 * curvature) * heights
        is_near = is_active & tolerance.is_level(norm, scale, True)
        is_near &= tolerance.allows(least, value, floor) | is_rounding | (norm == 0)
        return watch, is_proven, is_near

    def _bounded(self, watch: Watch, value: jax.Array, norm: jax.Array, is_so: Any) -> Watch:
        """The watch with what the structure bounds in place of an estimate that no gap verifies."""
        bound, evidence = known_by_structure(self.objective, value, norm)
        return watch._replace(
            suboptimality=jnp.where(is_so, bound, watch.suboptimality),
            evidence=jnp.where(is_so, evidence, watch.evidence),
        )


def _huge(number: jax.Array) -> float:
    """The size beyond which a number is about to overflow."""
    limits = jnp.finfo(number.dtype)
    return float(limits.max) * float(limits.eps)


def _code(number: Any) -> jax.Array:
    return jnp.asarray(number, jnp.int32)
