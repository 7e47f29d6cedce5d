"""A regression without its intercept, which is at its best for whatever the weights are.

With ``S = sum_i s_i`` and the weighted means ``x_bar, y_bar``, in the unknowns w and ``c = b +
x_bar.w`` the Hessian is block-diagonal, ``X_c'S X_c + l2 I`` for ``X_c = X - 1 x_bar'`` and S. The
best c is ``y_bar`` for every w, and what remains is

    ``1/2 sum_i s_i ((x_i - x_bar).w - (y_i - y_bar))^2 + l2/2 |w|^2``

Its gradient is that of the regression where the intercept is at its best. In the unknowns (w, b)
features far from zero make the problem ill-conditioned, however good it is: by ``|x_bar|^2``
against their variance.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.designs import Center
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.kernels.products import outer
from jaxdescent.numerics import precision

Params = Any


class Means(NamedTuple):
    """What an elimination keeps of the data, so that the next one reads none."""

    features: Center
    targets: jax.Array  # () or (outputs,)
    weight_total: jax.Array

    def with_intercept(self, weights: jax.Array) -> Params:
        """The params with these weights and their best intercept, ``y_bar - x_bar.w``."""
        offset = jnp.tensordot(self.features.mean, weights, 1, precision=HIGHEST)
        return {"weights": weights, "intercept": self.targets - offset}

    def steepness(self) -> jax.Array:
        """``S (1 + |x_bar|^2)``: the curvature that features far from zero add where b is free."""
        return self.weight_total * (1 + jnp.sum(jnp.square(self.features.mean)))

    def excess(self, params: Params) -> jax.Array:
        """S times the best intercept less that of ``params``: minus the gradient for it."""
        best = self.with_intercept(params["weights"])["intercept"]
        return self.weight_total * (best - params["intercept"])

    def height(self, gradient: Params, least: jax.Array) -> jax.Array:
        """``S m^2 / 2 + |g_w - g_b x_bar|^2 / (2 least)``: how far the minimum may be below.

        ``gradient`` is that for w and b, ``-S m`` for the latter, and ``least`` the least curvature
        of the problem of the weights alone.
        """
        of_intercept = gradient["intercept"]
        alone = gradient["weights"] - outer(self.features.mean, of_intercept)
        squared = jnp.sum(jnp.square(of_intercept)) / self.weight_total
        return 0.5 * (squared + precision.squared_norm(alone) / least)

    def at_given_intercept(
        self, params: Params, value: jax.Array, gradient: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The regression's value and gradient norm at ``params``, from those of the weights alone.

        With m the best intercept less the given one the objective is larger by ``S m^2 / 2``, and
        the gradient by ``-S m x_bar`` for the weights and ``-S m``.
        """
        excess = self.excess(params)
        more = jnp.sum(jnp.square(excess)) / self.weight_total
        of_weights = gradient - outer(self.features.mean, excess)
        return value + 0.5 * more, precision.norm((of_weights, excess))


class Elimination(NamedTuple):
    """The problem of the weights alone, with params ``{"weights"}``, and the means taken off."""

    objective: Any
    means: Means
