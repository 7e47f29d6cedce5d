"""When the first method of a hedge is given up, judged by the rate of its iterations."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.methods.protocol import StepReport
from jaxdescent.status import RUNNING, Status

DOUBTS = 3
"""The number of consecutive predictions beyond the budget that end the attempt."""

MARGIN = 3.0
"""The factor by which a prediction must exceed the rest of the budget to count as a doubt."""

LEAST_SHARE = 0.5
"""The share of the budget that is always spent. If the spectrum has two clusters, predictions are
wrong until the first one is iterated away. Giving up at half of the budget costs at most three
times as much where the attempt would have succeeded, and half as much less where it would not."""


class Attempt(NamedTuple):
    """Scalars that describe the first method's iterations.

    The observed rate is measured since the power of two of iterations before the last one, that is
    over at least the last half of the iterations.
    """

    steps: jax.Array
    doubts: jax.Array  # how many consecutive checks predict that the budget will not suffice
    first_norm: jax.Array
    first_value: jax.Array
    mark_norm: jax.Array  # |g| at the last power of two of iterations
    before_norm: jax.Array  # |g| at the power of two before that
    is_over: jax.Array

    @classmethod
    def start(cls, progress: StepReport) -> Attempt:
        """The state before the first iteration."""
        zero, norm = jnp.zeros((), jnp.int32), progress.gradient_norm
        is_over = _gives_up(progress)
        return cls(zero, zero, norm, jnp.abs(progress.value), norm, norm, is_over)

    def after(self, progress: StepReport, budget: int, tolerance: Any) -> Attempt:
        """The state after one more iteration."""
        steps, norm = self.steps + 1, progress.gradient_norm
        # The mark before the last one is at steps / 2, rounded down to a power of two.
        exponent = jnp.floor(jnp.log2(steps.astype(norm.dtype)))
        since = steps.astype(norm.dtype) - jnp.exp2(exponent - 1)
        is_mark = (steps & (steps - 1)) == 0
        before = jnp.where(is_mark, self.mark_norm, self.before_norm)
        observed = jnp.log(before / norm) / since
        left = self._logarithm(progress, tolerance) / jnp.maximum(observed, _rate(progress))
        is_doubtful = left > MARGIN * (budget - steps).astype(norm.dtype)
        doubts = jnp.where(is_doubtful, self.doubts + 1, 0)
        return self._replace(
            steps=steps,
            doubts=doubts,
            mark_norm=jnp.where(is_mark, norm, self.mark_norm),
            before_norm=before,
            is_over=(steps >= budget)
            | ((doubts >= DOUBTS) & (steps >= math.ceil(LEAST_SHARE * budget)))
            | _gives_up(progress),
        )

    def _logarithm(self, progress: StepReport, tolerance: Any) -> jax.Array:
        """The amount by which the logarithm of ``|g|`` has yet to fall."""
        norm, estimate = progress.gradient_norm, progress.estimate
        assert estimate is not None  # Hedge has replaced None by an estimate without evidence
        eps = jnp.finfo(norm.dtype).eps
        t = eps ** (2 / 3) if tolerance is None else tolerance
        t = jnp.maximum(jnp.asarray(t, norm.dtype), eps)
        by_gradient = jnp.log(norm / (t * self.first_norm))
        # The expected final value, and the excess asked for, divided by the method's caution.
        left = estimate.suboptimality
        end = jnp.maximum(jnp.abs(progress.value) - left, eps * self.first_value)
        asked = t.astype(end.dtype) * end
        excess = 0.5 * jnp.log(left / asked * estimate.caution).astype(norm.dtype)
        return jnp.maximum(by_gradient, jnp.where(left < jnp.inf, excess, -jnp.inf))


def _gives_up(progress: StepReport) -> jax.Array:
    verdict = progress.verdict
    return (verdict != RUNNING) & (verdict != Status.CONVERGED.value)


def _rate(progress: StepReport) -> jax.Array:
    """The predicted decrease of ``log |g|`` in an iteration, by the Ritz values seen so far."""
    estimate, norm = progress.estimate, progress.gradient_norm
    assert estimate is not None
    height = 2 * estimate.suboptimality.astype(norm.dtype)
    # The ratio of the largest curvature to the smallest one, which is |g|^2 / height.
    ratio = jnp.maximum(estimate.curvature * (height / norm) / norm, 1)
    is_known = (estimate.curvature > 0) & (height < jnp.inf) & (ratio < jnp.inf)
    root = jnp.sqrt(jnp.where(is_known, ratio, jnp.inf))
    return jnp.where(is_known, jnp.log1p(2 / jnp.maximum(root - 1, 1e-6)), 0)
