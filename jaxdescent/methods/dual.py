"""Descent in the space of a regression's rows."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.inputs.numbers import check_count
from jaxdescent.methods.on_forms import (
    Rewritten,
    height_at,
    regression_of,
    unless,
    with_own_penalty,
)
from jaxdescent.methods.protocol import (
    Estimate,
    Params,
    Progress,
    State,
    implied_curvature,
    measure_at_best_intercept,
)
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective
from jaxdescent.preconditioners import CentredRegression
from jaxdescent.regression.forms import DualForm
from jaxdescent.status import RUNNING, Evidence


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Dual(Rewritten):
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

    The method keeps ``rows^2 + features`` numbers and the state of ``method``, in vectors of the
    size of y; building K takes three times ``rows^2``. Progress is computed in the row space, by
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
        form = DualForm.from_regression(regression_of("Dual", objective))
        rows = form.start()
        value, gradient = objective.value_and_gradient(params)
        return _DualState(
            form=form.with_penalty(0),
            rows=rows,
            inner=self._inner.init(form, rows),
            value=value,
            norm=precision.norm(gradient),
            left=height_at(regression_of("Dual", objective), form.means, gradient),
            is_first=jnp.array(True),
            verdict=jnp.full((), RUNNING, jnp.int32),
        )

    def step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State, Progress]:
        form = with_own_penalty("Dual", state.form, objective)
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
        is_convex = CentredRegression.is_convex(regression_of("Dual", objective))
        estimate = Estimate(left, implied_curvature(norm, left), Evidence.BOUND.value)
        progress = Progress(value, norm, evaluations, state.verdict, estimate)
        progress = unless(is_convex, progress)
        new = state._replace(
            rows=rows, inner=inner, is_first=jnp.zeros_like(state.is_first), verdict=verdict
        )
        return form.regression_params(regression_of("Dual", objective), rows), new, progress

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


class _DualState(NamedTuple):
    form: DualForm
    rows: jax.Array
    inner: State
    value: jax.Array
    """The regression's value at the given params; ``norm`` is the norm of its gradient."""
    norm: jax.Array
    left: jax.Array
    """A bound on that value minus the minimum."""
    is_first: jax.Array
    verdict: jax.Array
    """The method's verdict on the iterate from which its last iteration began."""
