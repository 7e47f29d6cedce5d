"""A regression whose intercept is eliminated, because its best value follows from the weights.

Let ``S = sum_i s_i`` be the sum of the row weights, and ``x_bar, y_bar`` the weighted means. In the
unknowns w and ``c = b + x_bar.w`` the Hessian is block-diagonal: ``X_c' diag(s) X_c + l2 I`` for w,
with ``X_c = X - 1 x_bar'``, and S for c. The best c is ``y_bar`` for every w, which leaves

    ``1/2 sum_i s_i ((x_i - x_bar).w - (y_i - y_bar))^2 + l2/2 |w|^2``

Its gradient is the regression's gradient for w at the best intercept. In the unknowns (w, b),
features far from zero make the problem ill-conditioned, by the ratio of ``|x_bar|^2`` to their
variance, even where the eliminated problem is well-conditioned.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.designs import Center
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.kernels.products import outer
from jaxdescent.numerics import precision
from jaxdescent.objectives.answers import Params


class Means(NamedTuple):
    """The means of the data, kept by an elimination so that the next one need not read the data."""

    features: Center
    targets: jax.Array  # () or (outputs,)
    weight_total: jax.Array

    def with_intercept(self, weights: jax.Array) -> Params:
        """The params with these weights and their best intercept, ``y_bar - x_bar.w``."""
        offset = jnp.tensordot(self.features.mean, weights, 1, precision=HIGHEST)
        return {"weights": weights, "intercept": self.targets - offset}

    def products(self, weights: jax.Array) -> jax.Array:
        """``S sum_j (x_bar_j w_j)^2``: about ``eps^2 / 2`` times this the value rises by the
        rounding of ``x_bar.w``, which the best intercept has even where it is small itself.
        """
        return squared_products(self.features.mean, weights, self.weight_total)

    def steepness(self) -> jax.Array:
        """``S (1 + |x_bar|^2)``: the curvature that features far from zero add if b is unknown."""
        return self.weight_total * (1 + jnp.sum(jnp.square(self.features.mean)))

    def excess(self, params: Params) -> jax.Array:
        """S times the best intercept minus that of ``params``: the negative gradient for b."""
        best = self.with_intercept(params["weights"])["intercept"]
        return self.weight_total * (best - params["intercept"])

    def at_given_intercept(
        self, params: Params, value: jax.Array, gradient: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The regression's value and gradient norm at ``params``, from those of the weights alone.

        Let m be the best intercept minus the given one. The value is larger by ``S m^2 / 2``; the
        gradient is larger by ``-S m x_bar`` for the weights, and is ``-S m`` for the intercept.
        """
        excess = self.excess(params)
        more = jnp.sum(jnp.square(excess)) / self.weight_total
        of_weights = gradient - outer(self.features.mean, excess)
        return value + 0.5 * more, precision.norm((of_weights, excess))


def squared_products(mean: jax.Array, weights: jax.Array, weight_total: Any) -> jax.Array:
    """``S sum_j (x_bar_j w_j)^2``, over all outputs."""
    terms = mean[:, None] * weights.reshape(mean.size, -1)
    return weight_total * jnp.sum(jnp.square(terms))


class Elimination(NamedTuple):
    """The problem in the weights alone, with params ``{"weights"}`` and centred data; its means."""

    objective: Any
    means: Means


def eliminated(objective: Any, params: Params) -> tuple[Any, Params, Means | None]:
    """The problem in the weights alone, these weights, and the means; the objective, the params and
    None where there is no intercept to eliminate.
    """
    elimination = objective.eliminated()
    if elimination is None:
        return objective, params, None
    return elimination.objective, {"weights": params["weights"]}, elimination.means


def weights_alone(objective: Any, params: Params, means: Means | None) -> tuple[Any, Params]:
    """The problem and the weights of :func:`eliminated`, by the means that it returned."""
    if means is None:
        return objective, params
    return objective.eliminated(means).objective, {"weights": params["weights"]}
