"""An estimate of the suboptimality from the rate of progress, for methods without one of their own.

The checks of a descent are divided into blocks of about an eighth of all so far. Let C be the
decrease of the value over the last block, and q the factor by which the squared gradient fell from
the block before. If the value continues to fall in proportion to ``|g|^2``, it will still fall by
``C q / (1 - q)``. The estimate nominates points where a descent may end; the gap decides.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.methods import StepReport
from jaxdescent.methods.protocol import Estimate
from jaxdescent.status import Evidence

LEAST_BLOCK, BLOCK_SHARE = 2, 8
"""A block has at least LEAST_BLOCK checks, and at least 1/BLOCK_SHARE of all checks so far."""


class Rate(NamedTuple):
    """Scalars that describe the checks so far."""

    value: jax.Array  # the value at the end of the last block; NaN before the first check
    total: jax.Array  # the sum of ``|g|`` over the present block
    length: jax.Array  # the number of checks in the present block
    mean: jax.Array  # the mean of ``|g|`` over the last block; NaN before there is one
    left: jax.Array  # the estimate at the end of the last block; infinite before there is one
    curvature: jax.Array  # the largest that a recent step saw, halved at each check

    @classmethod
    def start(cls, value_dtype: Any, norm_dtype: Any) -> Rate:
        """The state before the first check."""
        zero, nan = jnp.zeros((), norm_dtype), jnp.full((), jnp.nan, norm_dtype)
        value, left = jnp.full((), jnp.nan, value_dtype), jnp.full((), jnp.inf, value_dtype)
        return cls(value, zero, jnp.zeros((), jnp.int32), nan, left, zero)

    def after(self, report: StepReport, checks: jax.Array) -> Rate:
        """The state after one more check, where ``checks`` others came before it."""
        value, norm = report.value, report.gradient_norm
        total, length = self.total + norm, self.length + 1
        is_end = length >= jnp.maximum(LEAST_BLOCK, checks // BLOCK_SHARE)
        mean = total / length.astype(total.dtype)
        falls = mean < self.mean
        ratio = jnp.where(falls, mean / jnp.where(falls, self.mean, 1), 0)
        q = jnp.square(ratio).astype(value.dtype)
        decrease = jnp.maximum(self.value - value, 0)
        left = jnp.where(falls, decrease * q / jnp.where(falls, 1 - q, 1), jnp.inf)
        seen = jnp.maximum(jnp.asarray(report.curvature, norm.dtype), 0.5 * self.curvature)
        return Rate(
            value=jnp.where(is_end | (checks == 0), value, self.value),
            total=jnp.where(is_end, 0, total),
            length=jnp.where(is_end, 0, length),
            mean=jnp.where(is_end, mean, self.mean),
            left=jnp.where(is_end, left, self.left),
            curvature=jnp.where(seen < jnp.inf, seen, 0),
        )

    @property
    def estimate(self) -> Estimate:
        """The estimate after the last check."""
        return Estimate(self.left, self.curvature, Evidence.RATE.value)
