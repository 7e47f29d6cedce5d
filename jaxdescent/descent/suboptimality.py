"""An estimate of how far the value may still fall, from values, gradients and the params' size.

A method without second-order knowledge is judged by its rate of progress. The checks of a descent
are divided into blocks of about an eighth of all checks so far. Let C be the decrease of the value
over the last block, and A and B the means of ``|g|`` over the block before and over the last one:
the squared gradient falls by a factor ``q = (B / A)^2`` in a block. If the value continues to
decrease in proportion to ``|g|^2``, then after a check with gradient g it will still fall by

    ``C sqrt(q) / (1 - q) (|g| / B)^2``.

For gradient descent on a quadratic this is ``|g|^2 / (2 h)``, where h is the curvature of the
slowest direction in which the gradient still has a component. If C is rounding error, the C and B
of the last block without this problem are used.

The estimate at the end of a block cannot be less than the next block's decrease. If it was, no
estimate is believed until a block's decrease agrees with its expectation, and later expectations
are multiplied by twice the factor by which this one was too small; each block that agrees reduces
this factor.

An estimate is also not believed at a check at which ``|g|`` has not fallen at three quarters of the
rate of the last blocks, as happens when steep directions have converged and a flat one has hardly
begun. And the estimate is at least the current value minus the lowest value so far.

A bound from the structure is used if it is smaller: a least curvature m bounds the decrease by
``|g|^2 / (2 m)``, and a lower bound b on the value by ``f - b``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.methods.protocol import Estimate, StepReport, implied_curvature
from jaxdescent.numerics.ritz import caution
from jaxdescent.objectives import Objective
from jaxdescent.status import Evidence

LEAST_BLOCK, BLOCK_SHARE = 2, 8
"""A block has at least LEAST_BLOCK checks, and at least 1/BLOCK_SHARE of all checks so far."""

RELIEF, MOST_SURPRISE = 4.0, 1e6
"""The most by which the factor on expectations falls (RELIEF) and grows (2 MOST_SURPRISE, because
it is doubled) after one block."""

PACE = 0.75
"""The share of the last blocks' rate that a check must reach for the estimate to be believed."""

NOISE_ULPS = 64
"""Decreases of up to this many eps times the value may be rounding."""


class Falling(NamedTuple):
    """Scalars that describe the checks so far."""

    value: jax.Array  # the value at the end of the last block
    total: jax.Array  # the sum of ``|g|`` over the present block
    length: jax.Array  # the number of checks in the present block
    mean: jax.Array  # the mean of ``|g|`` over the last block; NaN before there is one
    decrease: jax.Array  # C, over the last block where it was more than rounding; NaN before
    at_mean: jax.Array  # B, of that block
    # ``sqrt(q) / (1 - q)`` of the last two blocks; infinite if ``|g|`` does not fall.
    share: jax.Array
    # The factor by which ``|g|`` falls in a check at ``PACE`` times the last two blocks' rate.
    pace: jax.Array
    expected: jax.Array  # the estimate at the end of the last block; NaN before there is one
    factor: jax.Array  # the factor on estimates, at least 1
    is_kept: jax.Array  # whether the last block's decrease agreed with the estimate before it
    lowest: jax.Array  # the lowest value so far
    # The largest curvature that a step saw, halved at each check, and reduced further if ``|g|``
    # has fallen more than tenfold.
    curvature: jax.Array
    # The estimate at the last check, infinite before a block has agreed with its expectation. The
    # loop carries it although no later check reads it, because XLA for CPUs computes a carried
    # scalar once, and any other scalar again in each kernel that uses it.
    left: jax.Array

    @classmethod
    def start(cls, value_dtype: Any, norm_dtype: Any) -> Falling:
        """The state before the first check."""
        zero, nan = jnp.zeros((), norm_dtype), jnp.full((), jnp.nan, norm_dtype)
        nan_value = jnp.full((), jnp.nan, value_dtype)
        infinite = jnp.full((), jnp.inf, norm_dtype)
        length = jnp.zeros((), jnp.int32)
        one, never = jnp.ones((), value_dtype), jnp.array(False)
        return cls(
            value=nan_value,
            total=zero,
            length=length,
            mean=nan,
            decrease=nan_value,
            at_mean=nan,
            share=infinite,
            pace=zero,
            expected=nan_value,
            factor=one,
            is_kept=never,
            lowest=jnp.full((), jnp.inf, value_dtype),
            curvature=zero,
            left=nan_value,
        )

    def after(
        self, progress: StepReport, last_value: jax.Array, before: jax.Array, checks: jax.Array
    ) -> Falling:
        """The state after one more check, where ``checks`` others came before it, the last with
        this value and ``|g| = before``. A check at which nothing has changed says nothing about the
        rate.
        """
        value, norm = progress.value, progress.gradient_norm
        is_same = (value == last_value) & (norm == before)
        total = self.total + jnp.where(is_same, 0, norm)
        length = self.length + jnp.where(is_same, 0, 1)
        ends = length >= jnp.maximum(LEAST_BLOCK, checks // BLOCK_SHARE)
        mean = total / length.astype(total.dtype)
        decrease = self.value - value
        noise = NOISE_ULPS * jnp.finfo(value.dtype).eps * jnp.abs(value)
        # If no decrease was ever more than rounding, the rounding is a bound on it.
        is_seen = ends & ((decrease > noise) | jnp.isnan(self.decrease))
        seen = jnp.maximum(decrease, noise)
        ratio = mean / self.mean
        falls = ratio < 1  # false if there is no block before
        share = jnp.where(falls, ratio / jnp.where(falls, 1 - ratio * ratio, 1), jnp.inf)
        # The first block begins at the first value.
        start = jnp.where(checks == 0, value, self.value)
        surprise = jnp.maximum(decrease - noise, 0) / self.expected
        grown = self.factor * jnp.clip(2 * surprise, 1 / RELIEF, MOST_SURPRISE)
        factor = jnp.where(ends & (surprise >= 0), jnp.maximum(grown, 1), self.factor)
        # A step on which |g| falls more than tenfold may lead to a region that is flatter by as
        # much.
        kept = jnp.minimum(10 * norm / jnp.where(before > 0, before, 1), 1)
        seen_now = jnp.maximum(jnp.asarray(progress.curvature, norm.dtype), 0.5 * self.curvature)
        is_known = (before > 0) & (seen_now < jnp.inf)
        new = Falling(
            value=jnp.where(ends, value, start),
            total=jnp.where(ends, 0, total),
            length=jnp.where(ends, 0, length),
            mean=jnp.where(ends, mean, self.mean),
            decrease=jnp.where(is_seen, seen, self.decrease),
            at_mean=jnp.where(is_seen, mean, self.at_mean),
            share=jnp.where(ends, share.astype(norm.dtype), self.share),
            pace=jnp.where(ends, ratio ** (PACE / length.astype(ratio.dtype)), self.pace),
            expected=self.expected,
            factor=factor,
            is_kept=jnp.where(ends, surprise <= 1, self.is_kept),
            lowest=jnp.minimum(self.lowest, value),
            curvature=jnp.where(is_same, self.curvature, jnp.where(is_known, kept * seen_now, 0)),
            left=self.left,
        )
        ratio = jnp.maximum(norm, before) / new.at_mean
        rate = (new.share * ratio * ratio).astype(factor.dtype)
        left = factor * new.decrease * rate
        left = jnp.where(jnp.isnan(left), jnp.inf, left)
        is_expected = ends & (left < jnp.inf)
        expected = jnp.where(is_expected, left, self.expected)
        left = jnp.where(new.is_kept, left, jnp.inf)
        left = jnp.where(norm == 0, 0, jnp.maximum(left, value - new.lowest - noise))
        return new._replace(expected=expected, left=left)

    def estimate(self, norm: jax.Array, before: jax.Array) -> Estimate:
        """The estimate after a check with this ``|g|``, and ``|g| = before`` at the last.

        If ``|g|`` falls too slowly the caution is larger, and if it has not changed the caution is
        infinite.
        """
        left = self.left
        out_of_pace = jnp.where(norm == before, jnp.inf, caution(norm.dtype))
        caution_now = jnp.where(norm <= self.pace * before, 1, out_of_pace).astype(left.dtype)
        curvature = jnp.maximum(implied_curvature(norm, left), self.curvature)
        return Estimate(left, curvature, Evidence.RATE.value, jnp.where(left > 0, caution_now, 1))


def known_by_structure(
    objective: Objective, value: jax.Array, norm: jax.Array, estimate: Estimate
) -> Estimate:
    """The estimate, or the bound that the structure guarantees if that is smaller or exact."""
    lower = objective.lower_bound()
    if lower is not None:
        left = value - lower.astype(value.dtype)
        if objective.attains_lower_bound:
            curvature = jnp.maximum(estimate.curvature, implied_curvature(norm, left))
            return Estimate(left, curvature, Evidence.EXACT.value)
        estimate = estimate.at_most(left, norm)
    return estimate.at_least_curvature(objective.least_curvature(), norm)


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
