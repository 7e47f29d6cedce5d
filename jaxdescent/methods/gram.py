"""Descent on the Gram matrix of a regression."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdescent.designs import Center, as_design, shares
from jaxdescent.methods.conjugate_gradient import ConjugateGradient
from jaxdescent.methods.intercept import GivenIntercept
from jaxdescent.methods.optax_method import as_method
from jaxdescent.methods.protocol import (
    Method,
    Params,
    State,
    StepReport,
    implied_curvature,
    measure_at_best_intercept,
)
from jaxdescent.objectives import Objective
from jaxdescent.objectives.elimination import Means
from jaxdescent.regression import LinearRegression
from jaxdescent.regression.gram_form import GramForm
from jaxdescent.status import Status


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Gram(Method):
    """A method applied to the Gram matrix of a regression: X is read once, before the first step.

    ``G = X'SX`` (centred, with an intercept) and ``X'Sy`` are summed in one pass over X. After that
    a step is one of ``method`` on the Gram form (:mod:`jaxdescent.regression.gram_form`), the same
    function of the weights: ``features^2`` operations an output instead of ``2 rows features``. The
    intercept is always the best for the weights: the method sees neither the intercept nor how far
    from zero the features lie (:mod:`jaxdescent.objectives.elimination`). The penalty is not part
    of G: under ``jax.vmap`` over ``l2`` it is built once, and with an ``l2`` for each output, or a
    column of y for each ``l2``, one product serves all.

    It pays from about ``features / 2`` iterations on, and earlier if several outputs or penalties
    share G. It squares the condition number: in float32 the weights keep about
    ``7 - 2 log10(cond)`` digits. If these are too few, take ``jd.LSMR()``, which works with X
    itself.

    The method keeps ``features^2`` numbers and the state of ``method``; building G takes three
    times as many. Progress is that of the form, whose value has an error of ``eps sum_i s_i (y_i -
    y_bar)^2``; the descent measures the params that it returns on the regression itself.

    Args:
      method: None for ``jd.ConjugateGradient()``, or any method or optax transformation that
        needs only values, gradients and products (not ``jd.LSMR()``).

    Raises:
      TypeError: if the objective is not a ``jd.LinearRegression``.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> X = jnp.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [3.0, 5.0]])
    >>> regression = jd.LinearRegression(X, 1 + X @ jnp.array([2.0, -3.0]))
    >>> result = jd.minimize(regression, method=jd.Gram())
    >>> bool(jnp.allclose(result.params["weights"], jnp.array([2.0, -3.0]), rtol=1e-4))
    True

    Reference: Björck (1996), "Numerical methods for least squares problems", section 2.2.
    """

    method: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.method, optax.GradientTransformation):
            # The functions of an optax transformation cannot be leaves of the pytree.
            object.__setattr__(self, "method", as_method(self.method))

    def check(self) -> None:
        as_method(self._inner).check()

    def hoisted(self) -> Method:
        if self.method is None:
            return self
        return dataclasses.replace(self, method=self.method.hoisted())

    @property
    def patience(self) -> int:
        return self._inner.patience

    @property
    def _inner(self) -> Method:
        return ConjugateGradient() if self.method is None else self.method

    def init(self, objective: Objective, params: Params) -> State:
        form, means = GramForm.of(_regression_of(objective))
        weights, first = {"weights": params["weights"]}, None
        if means is not None:
            first = GivenIntercept.at(params, means, *form.value_and_gradient(weights))
        return _GramState(form.with_penalty(0), means, self._inner.init(form, weights), first)

    def step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State, StepReport]:
        regression, means = _regression_of(objective), state.means
        form = state.form.with_penalty(regression.l2)
        weights = {"weights": params["weights"]}
        weights, inner, progress = self._inner.step(form, weights, state.inner)
        if progress.estimate is not None:
            alone = dataclasses.replace(regression, intercept=False)
            estimate = progress.estimate.at_least_curvature(
                alone.least_curvature(), progress.gradient_norm
            )
            # The rounding of G, in sums over many rows, may be all of the least curvature.
            norm, rounding = progress.gradient_norm, form.gram.size * jnp.finfo(form.gram.dtype).eps
            least = implied_curvature(norm, estimate.suboptimality)
            forgets = least <= 2 * rounding * estimate.curvature
            products = 0.0 if means is None else means.products(weights["weights"])
            estimate = estimate._replace(forgets=forgets, products=products)
            progress = progress._replace(estimate=estimate)
        curves_down = regression.curves_down()
        if curves_down is not None:
            verdict = jnp.where(curves_down, Status.DIVERGED.value, progress.verdict)
            progress = progress._replace(verdict=verdict.astype(jnp.int32))
        if means is None:
            return weights, state._replace(inner=inner), progress
        new = state._replace(inner=inner, first=state.first.after_step())
        return means.with_intercept(weights["weights"]), new, state.first.of(progress)

    def is_estimate(self, state: State) -> bool:
        return True

    def estimates(self, objective: Objective) -> bool:
        return self._inner.estimates(objective)

    def after_rounding(self, objective: Objective, params: Params, state: State) -> State:
        form = state.form.with_penalty(_regression_of(objective).l2)
        weights = {"weights": params["weights"]}
        return state._replace(inner=self._inner.after_rounding(form, weights, state.inner))

    def measured(
        self, objective: Objective, params: Params, state: State, always: Any
    ) -> StepReport:
        means = state.means
        if means is None:
            return measure_at_best_intercept(objective, params, None, always)
        regression = _regression_of(objective)
        design = as_design(regression.X)
        share = shares(design, regression.sample_weight)
        means = means._replace(features=Center.near(design, means.features.mean, share))
        return state.first.of(measure_at_best_intercept(objective, params, means, always))


class _GramState(NamedTuple):
    form: GramForm  # the form without its penalty, which each step takes from the objective
    means: Means | None
    inner: State  # the state of the method on the weights alone
    first: GivenIntercept | None


def _regression_of(objective: Objective) -> LinearRegression:
    regression: LinearRegression | None = objective.linear_regression
    if regression is None:
        raise TypeError(
            f"Gram needs a jd.LinearRegression, got {type(objective).__name__}: give the inner "
            "method itself, for example method=jd.ConjugateGradient()."
        )
    return regression
