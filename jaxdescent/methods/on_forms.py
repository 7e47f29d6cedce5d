"""Descent on another form of a regression: its Gram matrix, or the space of its rows."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxdescent.designs import Center, as_design
from jaxdescent.designs.centred import shares
from jaxdescent.inputs.numbers import check_count
from jaxdescent.methods.conjugate_gradient import ConjugateGradient
from jaxdescent.methods.optax_method import as_method
from jaxdescent.methods.protocol import (
    Estimate,
    Method,
    Params,
    Progress,
    State,
    implied_curvature,
    measure_at_best_intercept,
)
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective
from jaxdescent.objectives.elimination import Means
from jaxdescent.preconditioners import CentredRegression
from jaxdescent.regression import LinearRegression
from jaxdescent.regression.forms import DualForm, GramForm
from jaxdescent.status import RUNNING, Evidence, Status


class _Rewritten(Method):
    """A method that is applied to another form of the regression, which its state holds."""

    method: Any

    def __post_init__(self) -> None:
        if isinstance(self.method, optax.GradientTransformation):
            # The functions of an optax transformation are no leaves.
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Gram(_Rewritten):
    """A method applied to the Gram matrix of a regression: X is read once, before the first step.

    ``G = X'SX`` (centred, with an intercept) and ``X'Sy`` are summed in one pass over X. After that
    a step is one of ``method`` on :class:`jaxdescent.regression.forms.GramForm`, the same function
    of the weights, at ``features^2`` operations for each output instead of ``2 rows features``. The
    intercept is always the best for the weights: the method sees neither the intercept nor how far
    from zero the features lie (:mod:`jaxdescent.objectives.elimination`). The penalty is not part
    of G: under ``jax.vmap`` over ``l2`` it is built once, and with an ``l2`` for each output, or a
    column of y for each ``l2``, one product serves all.

    It pays from about ``features / 2`` iterations on, and earlier if several outputs or penalties
    share G. It squares the condition number: in float32 the weights keep about
    ``7 - 2 log10(cond)`` digits. If these are too few, take ``jd.LSMR()``, which works with X
    itself.

    The method keeps ``features^2`` numbers and what ``method`` keeps; building G takes three times
    as many. Progress is that of the form, whose value has an error of ``eps sum_i s_i (y_i -
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

    def init(self, objective: Objective, params: Params) -> State:
        form = GramForm.from_regression(_regression("Gram", objective))
        first, elimination = None, form.eliminated()
        if elimination is not None:
            value, gradient = form.value_and_gradient(params)
            norm = precision.norm(gradient)
            left = _height(_regression("Gram", objective), elimination.means, gradient)
            first = _First(value, norm, left.astype(value.dtype), jnp.array(True))
        inner, weights = _without_intercept(form, params)
        return _GramState(form.with_penalty(0), self._inner.init(inner, weights), first)

    def step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State, Progress]:
        form = _with_own_penalty("Gram", state.form, objective)
        inner, weights = _without_intercept(form, params)
        weights, inner_state, progress = self._inner.step(inner, weights, state.inner)
        regression = _regression("Gram", objective)
        if progress.estimate is not None:
            least = _least_curvature(regression)
            estimate = progress.estimate.at_least_curvature(least, progress.gradient_norm)
            progress = progress._replace(estimate=estimate)
        curves_down = regression.curves_down()
        if curves_down is not None:
            progress = _unless(~curves_down, progress)
        first, elimination = state.first, form.eliminated()
        if elimination is None:
            return weights, _GramState(state.form, inner_state, None), progress
        # Only the start may have an intercept that is not the best one.
        progress = first.of(progress)
        first = first._replace(is_first=jnp.zeros_like(first.is_first))
        params = elimination.means.with_intercept(weights["weights"])
        return params, _GramState(state.form, inner_state, first), progress

    def estimates(self, objective: Objective) -> bool:
        return self._inner.estimates(objective)

    def after_rounding(self, objective: Objective, params: Params, state: State) -> State:
        form = _with_own_penalty("Gram", state.form, objective)
        inner, weights = _without_intercept(form, params)
        return state._replace(inner=self._inner.after_rounding(inner, weights, state.inner))

    def measured(self, objective: Objective, params: Params, state: State, always: Any) -> Progress:
        means = None
        elimination = state.form.eliminated()
        if elimination is not None:
            regression, own = _regression("Gram", objective), elimination.means
            design = as_design(regression.X)
            share = shares(design, regression.sample_weight)
            means = own._replace(features=Center.near(design, own.features.mean, share))
        progress = measure_at_best_intercept(objective, params, means, always)
        return progress if state.first is None else state.first.of(progress)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Dual(_Rewritten):
    """A method applied in the space of a regression's rows: for more features than rows.

    With A the centred and weighted X, ``K = A A'`` is summed in one pass over X (two with an
    intercept), and ``method`` minimises

        ``1/2 a.(K + l2 I) a - t.a``,  ``w = A'a``

    at ``rows^2`` operations for each output and iteration instead of ``2 rows features``
    (:class:`jaxdescent.regression.forms.DualForm`). Gradient steps with a given rate, with or
    without momentum, give the same weights as on the regression itself.

    A step makes ``iterations`` iterations of the method, and then computes the weights by one
    product with X'. So ``max_iterations`` and ``result.iterations`` count these steps, and
    ``result.evaluations`` all evaluations of the method. It may make up to ``iterations - 1``
    iterations more than the tolerance needs.

    It begins at zero weights: a start given as params is used in the first check only. It finds the
    solution of least norm if there are several. Without a penalty, equations without a solution
    (more rows than features, or linearly dependent rows) end ``DIVERGED``: take ``jd.Gram()``
    for them. A negative ``l2`` or sample weight ends ``DIVERGED`` too.

    The method keeps ``rows^2 + features`` numbers and what ``method`` keeps, in vectors of the size
    of y; building K takes three times ``rows^2``. Progress is computed in the space of the rows, by
    two products with K in a step; the descent measures the params that it returns on the regression
    itself.

    Args:
      method: None for ``jd.ConjugateGradient()``, or any method or optax transformation that
        needs only values, gradients and products (not ``jd.LSMR()``).
      iterations: the number of the method's iterations in one step, at least 1.

    Raises:
      TypeError: if the objective is not a ``jd.LinearRegression``.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> X = jnp.array([[1.0, 0.0, 2.0, 0.0], [0.0, 3.0, 0.0, 1.0]])
    >>> regression = jd.LinearRegression(X, jnp.array([5.0, 10.0]), intercept=False)
    >>> weights = jd.minimize(regression, method=jd.Dual()).params["weights"]
    >>> bool(jnp.allclose(weights, jnp.array([1.0, 3.0, 2.0, 1.0]), rtol=1e-4))
    True

    References: Saunders, Gammerman and Vovk (1998), "Ridge regression learning algorithm in dual
    variables"; Craig (1955), "The N-step iteration procedures".
    """

    method: Any = None
    iterations: int = dataclasses.field(default=8, kw_only=True, metadata={"static": True})

    def init(self, objective: Objective, params: Params) -> State:
        form = DualForm.from_regression(_regression("Dual", objective))
        rows = form.start()
        value, gradient = objective.value_and_gradient(params)
        return _DualState(
            form=form.with_penalty(0),
            rows=rows,
            inner=self._inner.init(form, rows),
            value=value,
            norm=precision.norm(gradient),
            left=_height(_regression("Dual", objective), form.means, gradient),
            is_first=jnp.array(True),
            verdict=jnp.full((), RUNNING, jnp.int32),
        )

    def step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State, Progress]:
        form = _with_own_penalty("Dual", state.form, objective)
        value, norm, left = form.progress(state.rows)
        value = jnp.where(state.is_first, state.value, value)
        norm = jnp.where(state.is_first, state.norm, norm)
        left = jnp.where(state.is_first, state.left, left)

        def iterate(_: Any, carry: Any) -> Any:
            rows, inner, evaluations, _ = carry
            rows, inner, progress = self._inner.step(form, rows, inner)
            evaluations = evaluations + jnp.asarray(progress.evaluations, jnp.int32)
            return rows, inner, evaluations, jnp.asarray(progress.verdict, jnp.int32)

        carry = state.rows, state.inner, jnp.zeros((), jnp.int32), state.verdict
        carry = lax.fori_loop(0, self.iterations, iterate, carry)
        rows, inner, evaluations, verdict = carry
        # The verdict is on the params that this step returns, so the next step reports it.
        is_convex = CentredRegression.is_convex(_regression("Dual", objective))
        estimate = Estimate(left, implied_curvature(norm, left), Evidence.BOUND.value)
        progress = Progress(value, norm, evaluations, state.verdict, estimate)
        progress = _unless(is_convex, progress)
        new = state._replace(
            rows=rows, inner=inner, is_first=jnp.zeros_like(state.is_first), verdict=verdict
        )
        return form.regression_params(_regression("Dual", objective), rows), new, progress

    def estimates(self, objective: Objective) -> bool:
        del objective
        return True

    def measured(self, objective: Objective, params: Params, state: State, always: Any) -> Progress:
        progress = measure_at_best_intercept(objective, params, state.form.means, always)
        # The intercept of a start need not be the best one.
        return progress._replace(
            value=jnp.where(state.is_first, state.value, progress.value),
            gradient_norm=jnp.where(state.is_first, state.norm, progress.gradient_norm),
        )

    def check(self) -> None:
        super().check()
        check_count("Dual.iterations", self.iterations)


class _First(NamedTuple):
    """Value and gradient norm at the given params, and a bound on the value minus the minimum."""

    value: jax.Array
    norm: jax.Array
    left: jax.Array
    is_first: jax.Array

    def of(self, progress: Progress) -> Progress:
        """``progress``, but in the first step the values that hold at the given params."""
        estimate = progress.estimate
        if estimate is not None:
            given = Estimate(self.left, estimate.curvature, Evidence.BOUND.value)
            estimate = jax.tree.map(
                lambda a, b: jnp.where(self.is_first, a, b).astype(jnp.result_type(b)),
                given._replace(steepness=estimate.steepness),
                estimate,
            )
        return progress._replace(
            estimate=estimate,
            value=jnp.where(self.is_first, self.value, progress.value),
            gradient_norm=jnp.where(self.is_first, self.norm, progress.gradient_norm),
        )


class _GramState(NamedTuple):
    form: GramForm
    """The form without its penalty, which each step takes from the objective."""
    inner: State
    """The state of the method on the weights alone."""
    first: _First | None


def _without_intercept(form: GramForm, params: Params) -> tuple[Objective, Params]:
    elimination = form.eliminated()
    if elimination is None:
        return form, params
    return elimination.objective, {"weights": params["weights"]}


class _DualState(NamedTuple):
    form: DualForm
    rows: jax.Array
    inner: State
    value: jax.Array
    """The regression's value at the given params; ``norm`` is that of its gradient."""
    norm: jax.Array
    left: jax.Array
    """A bound on that value minus the minimum."""
    is_first: jax.Array
    verdict: jax.Array
    """The method's verdict on the iterate from which its last iteration began."""


def _least_curvature(regression: LinearRegression) -> jax.Array | None:
    """A lower bound on the curvature of the problem in the weights alone, from its structure."""
    return dataclasses.replace(regression, intercept=False).least_curvature()


def _height(regression: LinearRegression, means: Means | None, gradient: Params) -> jax.Array:
    """A bound on the value minus the minimum, from the gradient; infinite if none is known."""
    least = _least_curvature(regression)
    assert least is not None  # without an intercept a regression always has one
    safe = jnp.where(least > 0, least, 1)
    if means is None:
        height = 0.5 * precision.squared_norm(gradient) / safe
    else:
        height = means.height(gradient, safe)
    return jnp.where(least > 0, height, jnp.inf)


def _unless(is_convex: jax.Array, progress: Progress) -> Progress:
    """``progress`` with the verdict that there is no minimum, unless ``is_convex``."""
    verdict = jnp.where(is_convex, progress.verdict, Status.DIVERGED.value)
    return progress._replace(verdict=verdict.astype(jnp.int32))


def _regression(name: str, objective: Objective) -> LinearRegression:
    regression: LinearRegression | None = objective.linear_regression
    if regression is None:
        raise TypeError(
            f"{name} needs a jd.LinearRegression, got {type(objective).__name__}: give the inner "
            "method itself, for example method=jd.ConjugateGradient()."
        )
    return regression


def _with_own_penalty(name: str, form: Any, objective: Objective) -> Any:
    return form.with_penalty(_regression(name, objective).l2)
