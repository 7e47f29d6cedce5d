"""What methods that see only the weights of a regression report, and return, with an intercept."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.methods.protocol import Params, StepReport
from jaxdescent.objectives import Objective
from jaxdescent.objectives.elimination import Means, weights_alone


class GivenIntercept(NamedTuple):
    """The value and the gradient's norm at given params, whose intercept may not be the best one.

    Only the params before the first step are given: a step finds the best intercept.
    """

    value: jax.Array  # the value at the given params
    norm: jax.Array  # the gradient's norm there
    is_other: jax.Array  # whether the intercept of the current params is not the best one

    @classmethod
    def at(cls, params: Params, means: Means, value: jax.Array, gradient: Params) -> GivenIntercept:
        """The state before the first step, from value and gradient for the weights alone."""
        given = means.at_given_intercept(params, value, gradient["weights"])
        return cls(*given, jnp.any(means.excess(params) != 0))

    def of(self, progress: StepReport) -> StepReport:
        """The progress with the given intercept, from that of the weights alone."""
        estimate = progress.estimate
        if estimate is not None:
            more = jnp.where(self.is_other, self.value - progress.value, 0)
            left = estimate.suboptimality
            estimate = estimate._replace(suboptimality=left + more.astype(left.dtype))
        return progress._replace(
            estimate=estimate,
            value=jnp.where(self.is_other, self.value, progress.value),
            gradient_norm=jnp.where(self.is_other, self.norm, progress.gradient_norm),
        )

    def after_step(self) -> GivenIntercept:
        return self._replace(is_other=jnp.zeros_like(self.is_other))


class Intercept(NamedTuple):
    """The means from which the best intercept follows, and the intercept that was given."""

    means: Means
    given: GivenIntercept

    def progress(self, progress: StepReport, objective: Objective, params: Params) -> StepReport:
        """The progress at ``params``, from that of the weights alone."""
        if (estimate := progress.estimate) is not None:
            inner, weights = weights_alone(objective, params, self.means)
            estimate = estimate.with_means(self.means, **weights)
            estimate = estimate.at_least_curvature(inner.least_curvature(), progress.gradient_norm)
        return self.given.of(progress._replace(estimate=estimate))

    def after_step(self, weights: Params) -> tuple[Params, Intercept]:
        """The params with the best intercept."""
        params = self.means.with_intercept(**weights)
        return params, self._replace(given=self.given.after_step())
