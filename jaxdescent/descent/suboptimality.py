"""How far the value may still fall, from what a descent sees: values, gradients, the params' size.

A method without second-order knowledge is judged by the rate at which it has been going. The checks
of a descent are cut into blocks of about an eighth of all so far. With C the decrease of the value
over the last block, and A and B the means of ``|g|`` over the block before it and over it, the
squared gradient falls by ``q = (B / A)^2`` a block; if the value's decreases, each in proportion to
``|g|^2``, go on to do so, what is left after a check with gradient g is

    ``C sqrt(q) / (1 - q) (|g| / B)^2``.

For gradient descent on a quadratic that is ``|g|^2 / (2 h)``, h being the curvature of the slowest
direction that the gradient still has a part along. Where C drowns in rounding, that of the last
block where it did not is taken, with that block's B.

What a block expected to be left in all cannot be less than the next block's decrease. Where it was,
nothing is believed until a block keeps to what was expected, and what is expected from then on is
multiplied by twice the factor by which it was too little, of which each block that keeps to it
takes back a part.

Nor is it believed at a check at which ``|g|`` did not fall at three quarters of that pace, as where
the steep directions are done and a flat one has hardly begun. And no less can be left than what the
lowest value so far is below this one.

What the structure guarantees goes first where it is less: a least curvature m bounds it by
``|g|^2 / (2 m)``, a lower bound b of the value by ``f - b``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.methods.protocol import Estimate, implied_curvature
from jaxdescent.numerics.ritz import caution
from jaxdescent.objectives import Objective
from jaxdescent.result import Evidence

LEAST_BLOCK, BLOCK_SHARE = 2, 8
"""A block has at least so many checks, and that share of all checks so far."""

RELIEF, MOST_SURPRISE = 4.0, 1e6
"""By how much the factor of the expectations falls and grows after one block, at most."""

PACE = 0.75
"""What is left of the pace of the last blocks at a check at which their rate is believed."""

NOISE_ULPS = 64
"""Decreases of so many units in the last place of the value may be rounding."""


class Falling(NamedTuple):
    """What is remembered of the checks so far: scalars.

    Attributes:
      value: at the end of the last block.
      total: the sum of ``|g|`` over the present block.
      length: how many checks the present block has.
      mean: of ``|g|`` over the last block, NaN before there was one.
      decrease: C, over the last block where it was no rounding; NaN before.
      at_mean: B, of that block.
      share: ``sqrt(q) / (1 - q)`` of the last two blocks; infinite where ``|g|`` does not fall.
      pace: the factor by which ``|g|`` falls in a check at ``PACE`` times the pace of the last two
        blocks.
      norm: ``|g|`` at the last check.
      expected: what the end of the last block expected to be left, NaN before it could.
      factor: what expectations are multiplied by, at least 1.
      is_kept: whether the last block kept to what the one before expected.
      lowest: the least value so far.
      curvature: the largest that a step saw, of which each check forgets half, or as much more as
        ``|g|`` has fallen.
    """

    value: jax.Array
    total: jax.Array
    length: jax.Array
    mean: jax.Array
    decrease: jax.Array
    at_mean: jax.Array
    share: jax.Array
    pace: jax.Array
    norm: jax.Array
    expected: jax.Array
    factor: jax.Array
    is_kept: jax.Array
    lowest: jax.Array
    curvature: jax.Array

    @classmethod
    def start(cls, value_dtype: Any, norm_dtype: Any) -> Falling:
        """Before the first check."""
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
            norm=zero,
            expected=nan_value,
            factor=one,
            is_kept=never,
            lowest=jnp.full((), jnp.inf, value_dtype),
            curvature=zero,
        )

    def after(
        self, value: jax.Array, norm: jax.Array, checks: jax.Array, curvature: Any
    ) -> Falling:
        """With one more check, the one after ``checks`` others; ``curvature`` is what it saw."""
        total, length = self.total + norm, self.length + 1
        ends = length >= jnp.maximum(LEAST_BLOCK, checks // BLOCK_SHARE)
        mean = total / length.astype(total.dtype)
        decrease = self.value - value
        noise = NOISE_ULPS * jnp.finfo(value.dtype).eps * jnp.abs(value)
        # Where no decrease was ever more than rounding, rounding is what it may have been.
        is_seen = ends & ((decrease > noise) | jnp.isnan(self.decrease))
        seen = jnp.maximum(decrease, noise)
        ratio = mean / self.mean
        falls = ratio < 1  # not where there is no block before
        share = jnp.where(falls, ratio / jnp.where(falls, 1 - ratio * ratio, 1), jnp.inf)
        # The first value is where the first block begins.
        start = jnp.where(checks == 0, value, self.value)
        surprise = jnp.maximum(decrease - noise, 0) / self.expected
        grown = self.factor * jnp.clip(2 * surprise, 1 / RELIEF, MOST_SURPRISE)
        factor = jnp.where(ends & (surprise >= 0), jnp.maximum(grown, 1), self.factor)
        # A step on which |g| falls further than tenfold may lead to where all is that much flatter.
        kept = jnp.minimum(10 * norm / jnp.where(self.norm > 0, self.norm, 1), 1)
        seen_now = jnp.maximum(jnp.asarray(curvature, norm.dtype), 0.5 * self.curvature)
        is_known = (self.norm > 0) & (seen_now < jnp.inf)
        new = Falling(
            value=jnp.where(ends, value, start),
            total=jnp.where(ends, 0, total),
            length=jnp.where(ends, 0, length),
            mean=jnp.where(ends, mean, self.mean),
            decrease=jnp.where(is_seen, seen, self.decrease),
            at_mean=jnp.where(is_seen, mean, self.at_mean),
            share=jnp.where(ends, share.astype(norm.dtype), self.share),
            pace=jnp.where(ends, ratio ** (PACE / length.astype(ratio.dtype)), self.pace),
            norm=norm,
            expected=self.expected,
            factor=factor,
            is_kept=jnp.where(ends, surprise <= 1, self.is_kept),
            lowest=jnp.minimum(self.lowest, value),
            curvature=jnp.where(is_known, kept * seen_now, 0),
        )
        left = new._left(jnp.maximum(norm, self.norm))
        is_expected = ends & (left < jnp.inf)
        return new._replace(expected=jnp.where(is_expected, left, self.expected))

    def estimate(self, value: jax.Array, norm: jax.Array, before: jax.Array) -> Estimate:
        """What is left after a check with these, and one with ``before`` for ``|g|`` before it.

        Infinite until a block has kept to what was expected of it. Out of pace it is to be taken
        with caution, and where nothing has changed with endless caution.
        """
        left = jnp.where(self.is_kept, self._left(jnp.maximum(norm, before)), jnp.inf)
        noise = NOISE_ULPS * jnp.finfo(value.dtype).eps * jnp.abs(value)
        left = jnp.where(norm == 0, 0, jnp.maximum(left, value - self.lowest - noise))
        out_of_pace = jnp.where(norm == before, jnp.inf, caution(norm.dtype))
        caution_now = jnp.where(norm <= self.pace * before, 1, out_of_pace).astype(left.dtype)
        curvature = jnp.maximum(implied_curvature(norm, left), self.curvature)
        return Estimate(left, curvature, Evidence.RATE.value, jnp.where(left > 0, caution_now, 1))

    def _left(self, norm: jax.Array) -> jax.Array:
        ratio = norm / self.at_mean
        left = self.factor * self.decrease * (self.share * ratio * ratio).astype(self.factor.dtype)
        return jnp.where(jnp.isnan(left), jnp.inf, left)


def known_by_structure(
    objective: Objective, value: jax.Array, norm: jax.Array, estimate: Estimate
) -> Estimate:
    """The estimate, or what the structure guarantees where that is less or the truth itself."""
    lower = objective.lower_bound()
    if lower is not None:
        left = value - lower.astype(value.dtype)
        if objective.attains_lower_bound:
            curvature = jnp.maximum(estimate.curvature, implied_curvature(norm, left))
            return Estimate(left, curvature, Evidence.EXACT.value)
        estimate = estimate.at_most(left, Evidence.BOUND, norm)
    return estimate.at_least_curvature(objective.least_curvature(), norm)


class Size(NamedTuple):
    """The params' norm, now and in the earlier half of the descent: their scale.

    Of a minimum at zero the params themselves tell no scale, and the start must not set it: what
    counts is their norm at the last power of two of checks but one.
    """

    now: jax.Array
    last: jax.Array
    before: jax.Array

    @classmethod
    def start(cls, dtype: Any) -> Size:
        """Before the first check."""
        zero = jnp.zeros((), dtype)
        return cls(zero, zero, zero)

    def after(self, norm: jax.Array, checks: jax.Array) -> Size:
        """With one more check, the one after ``checks`` others."""
        is_mark = (checks & (checks - 1)) == 0
        return Size(
            norm, jnp.where(is_mark, norm, self.last), jnp.where(is_mark, self.last, self.before)
        )

    @property
    def scale(self) -> jax.Array:
        """What a change of the params is compared with."""
        return jnp.maximum(self.now, self.before)
