"""How near a minimum the params of a check are, by the suboptimality that is estimated there.

Where a descent ends without a claim, nothing has tested the estimate. It is reported if it has been
steady for a while: the value did not fall by more than was left, and the estimate did not fall or
rise suddenly. What the structure bounds is reported otherwise, or that nothing is known.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.descent.suboptimality import NOISE_ULPS, known_by_structure
from jaxdescent.descent.watch import Loop, Watch
from jaxdescent.methods import Method, StepReport
from jaxdescent.methods.protocol import Estimate
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective
from jaxdescent.status import Evidence
from jaxdescent.tolerance import ResolvedTolerance

FACTORISED = Evidence.FACTORISATION.value
"""The last kind of evidence that does not rest on what the descent has seen of the function."""

ROUNDED = 0.2
"""The mean rounding error of a number, in eps times the number."""

SURPRISE = 4
"""The factor by which a decrease may exceed the expected one without refuting the estimate."""

SUDDEN = 10
"""The factor by which a steady estimate may change from one check to the next. Where it falls by
more, the curvatures that were seen may be those of steep directions alone, along which the gradient
has just become small; where it rises by more, a flat direction has just been seen."""


class Nearness(NamedTuple):
    """The constants of a descent, and how near a minimum its params are."""

    objective: Objective
    method: Method
    tolerance: ResolvedTolerance
    rounding: precision.Rounding
    max_iterations: jax.Array
    check_every: int
    # Whether claims are tested by the structure, or by the function, inside the program.
    looks: bool = True
    # Whether a small program that is compiled for one call may hold the rules once: a method that
    # looks ahead then checks the start in the first turn of the loop.
    checks_in_loop: bool = False

    def with_estimate(
        self, loop: Loop, watch: Watch, progress: StepReport, norms: Any
    ) -> tuple[Watch, jax.Array | bool, jax.Array | bool]:
        """The watch with suboptimality and scales after a check of this progress, and two verdicts.

        The first verdict is whether the params have converged; the second whether they have if no
        further step can be found, so that none can confirm the estimate. ``loop`` has the values of
        the check before; ``norms`` are what the gradient's tolerance is compared with.
        """
        value, norm, estimate = progress.value, progress.gradient_norm, progress.estimate
        tolerance, eps = self.tolerance, precision.epsilon(loop.params)
        if watch.falling is not None:
            falling = watch.falling.after(progress, loop.value, loop.norm, loop.checks)
            estimate = falling.estimate(norm, loop.norm)
            watch = watch._replace(falling=falling)
        assert estimate is not None
        is_factorised = estimate.rests_on(Evidence.FACTORISATION)
        must_repeat = estimate.rests_on(Evidence.NEWTON_DECREMENT)
        may_be_unsteady = not is_certain(estimate)
        estimate = known_by_structure(self.objective, value, norm, estimate)
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
            # rounding of one unknown is no suboptimality. The solver's estimate is exact, and
            # decides alone.
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
        noise = NOISE_ULPS * eps * height
        is_kept = loop.value - value <= SURPRISE * expected + noise
        if may_be_unsteady:
            is_gradual = (left >= expected / SUDDEN) & (left <= SUDDEN * expected)
            unsteady_at = jnp.where(is_kept & is_gradual, watch.unsteady_at, loop.checks)
            # The estimate is steady once it was so in half as many checks as came before, at least
            # two.
            is_steady = 2 * loop.checks > 3 * unsteady_at + 1
            if watch.falling is not None:
                is_steady &= estimate.caution <= 1
            is_steady |= watch.evidence <= FACTORISED
            is_steady &= jnp.logical_not(estimate.forgets)
            is_steady |= norm == 0
            watch = watch._replace(unsteady_at=unsteady_at, is_steady=is_steady)
        off = tolerance.off
        if off.both is True:
            return watch, False, False

        by_rule = is_near = is_near_by(watch, value, tolerance, norms)
        caution = estimate.caution
        if off.suboptimality is not True and not (isinstance(caution, float) and caution == 1.0):
            # The rounding of the products, and of the residual that they are applied to.
            heights = jnp.sqrt(height.astype(norm.dtype)) + jnp.sqrt(worth)
            is_rounding = norm <= jnp.finfo(norm.dtype).eps * jnp.sqrt(2 * curvature) * heights
            if isinstance(caution, float):  # float16 may not hold it
                caution = min(caution, float(jnp.finfo(left.dtype).max))
            cautious = seen * jnp.asarray(caution, left.dtype) + rounding
            is_sure = tolerance.allows(cautious, value, floor)
            if self.objective.is_quadratic:
                is_rounding = False  # some methods reach a higher accuracy
            is_near &= is_sure | is_rounding
        was_near, watch = watch.was_near, watch._replace(was_near=is_near)
        if off.suboptimality is not True and (
            must_repeat is not False or watch.falling is not None
        ):
            # A model of the Hessian is based on past steps, and so is a rate. So the next step must
            # not decrease the value by more than was expected.
            is_repeated = was_near & is_kept | (norm == 0)
            if must_repeat is not True and watch.falling is None:
                is_repeated |= ~must_repeat
            elif must_repeat is not True:
                is_repeated |= watch.evidence != Evidence.RATE.value
                # A single large |g| between two checks near convergence does not interrupt them: it
                # is rounding.
                bounces = norm > 100 * loop.norm
                watch = watch._replace(was_near=is_near | (was_near & by_rule & is_kept & bounces))
            is_near &= is_repeated | off.suboptimality
        return watch, is_near, False if watch.falling is None else by_rule


def is_near_by(
    watch: Watch, value: jax.Array, tolerance: ResolvedTolerance, norms: Any
) -> jax.Array:
    """Whether suboptimality and gradient are small by the watch's scales."""
    is_near = jnp.isfinite(value)
    is_near &= tolerance.is_small_gradient(norms, watch.scale)
    is_near &= tolerance.allows(watch.suboptimality, value, watch.floor)
    is_endless = tolerance.off.both
    return is_near if is_endless is False else is_near & ~jnp.asarray(is_endless)


def is_certain(estimate: Estimate) -> bool:
    """Whether an estimate of this method never rests on what the descent has seen alone."""
    is_known = isinstance(estimate.evidence, int) and estimate.evidence <= FACTORISED
    return is_known and estimate.forgets is False


def with_bound_alone(
    watch: Watch, objective: Objective, value: jax.Array, norm: jax.Array, is_unknown: jax.Array
) -> Watch:
    """The watch with what the structure bounds, or infinity, in place of an unknown estimate."""
    nothing = Estimate(jnp.full_like(value, jnp.inf), jnp.zeros_like(norm), Evidence.NONE.value)
    bound = known_by_structure(objective, value, norm, nothing)
    left = bound.suboptimality.astype(watch.suboptimality.dtype)
    code = jnp.where(left < jnp.inf, jnp.asarray(bound.evidence, jnp.int32), 0)
    return watch._replace(
        suboptimality=jnp.where(is_unknown, left, watch.suboptimality),
        evidence=jnp.where(is_unknown, code, watch.evidence),
    )
