"""The base class and helpers of methods that are applied to another form of a regression."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdescent.methods.conjugate_gradient import ConjugateGradient
from jaxdescent.methods.optax_method import as_method
from jaxdescent.methods.protocol import (
    Method,
    Params,
    Progress,
    State,
)
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective
from jaxdescent.objectives.elimination import Means
from jaxdescent.regression import LinearRegression
from jaxdescent.status import Status


class Rewritten(Method):
    """A method that is applied to another form of the regression, which its state holds."""

    method: Any

    def __post_init__(self) -> None:
        if isinstance(self.method, optax.GradientTransformation):
            # The functions of an optax transformation cannot be leaves of the pytree.
            object.__setattr__(self, "method", as_method(self.method))

    def check(self) -> None:
        as_method(self._inner).check()

    def hoisted(self) -> Method:
        changed: Any = self
        return (
            self
            if self.method is None
            else dataclasses.replace(changed, method=self.method.hoisted())
        )

    def is_estimate(self, state: State) -> bool:
        del state
        return True

    @property
    def patience(self) -> int:
        return self._inner.patience

    @property
    def _inner(self) -> Method:
        return ConjugateGradient() if self.method is None else self.method


def least_curvature_of(regression: LinearRegression) -> jax.Array | None:
    """A lower bound on the curvature of the problem in the weights alone, from its structure."""
    return dataclasses.replace(regression, intercept=False).least_curvature()


def height_at(regression: LinearRegression, means: Means | None, gradient: Params) -> jax.Array:
    """A bound on the value minus the minimum, from the gradient; infinite if none is known."""
    least = least_curvature_of(regression)
    assert least is not None  # without an intercept a regression always has one
    safe = jnp.where(least > 0, least, 1)
    if means is None:
        height = 0.5 * precision.squared_norm(gradient) / safe
    else:
        height = means.height(gradient, safe)
    return jnp.where(least > 0, height, jnp.inf)


def unless(is_convex: jax.Array, progress: Progress) -> Progress:
    """``progress`` with the verdict that there is no minimum, unless ``is_convex``."""
    verdict = jnp.where(is_convex, progress.verdict, Status.DIVERGED.value)
    return progress._replace(verdict=verdict.astype(jnp.int32))


def regression_of(name: str, objective: Objective) -> LinearRegression:
    """The objective as a regression.

    Args:
      name: the name of the method, for the error.
      objective: any objective.

    Raises:
      TypeError: if the objective is no regression.
    """
    regression: LinearRegression | None = objective.linear_regression
    if regression is None:
        raise TypeError(
            f"{name} needs a jd.LinearRegression, got {type(objective).__name__}: give the inner "
            "method itself, for example method=jd.ConjugateGradient()."
        )
    return regression


def with_own_penalty(name: str, form: Any, objective: Objective) -> Any:
    """The form, which a state keeps without a penalty, with the penalty of the objective."""
    return form.with_penalty(regression_of(name, objective).l2)
