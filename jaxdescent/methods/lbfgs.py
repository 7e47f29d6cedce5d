"""Limited-memory BFGS: quasi-Newton steps from the last few moves and changes of the gradient."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.inputs.numbers import check_count
from jaxdescent.methods.intercept import GivenIntercept, Intercept
from jaxdescent.methods.inverse_hessian import InverseHessian
from jaxdescent.methods.line_search import Idle, LinePoint, first_length, search
from jaxdescent.methods.protocol import Estimate, LookingAhead, Params, State, StepReport
from jaxdescent.numerics import precision
from jaxdescent.numerics.ritz import ConjugateSteps, caution
from jaxdescent.objectives import Objective
from jaxdescent.objectives.elimination import eliminated, weights_alone
from jaxdescent.status import RUNNING, Status


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LBFGS(LookingAhead):
    """Limited-memory BFGS, with a line search that does not stall in float32.

    ``x <- x - t H g``, where H is the inverse Hessian that the last ``memory`` moves ``s`` and
    gradient changes ``y`` imply (:mod:`jaxdescent.methods.inverse_hessian` has the formula). The
    first trial is ``t = 1``, which is nearly always taken: an iteration takes one value and
    gradient. The length of the first step, along the gradient, is the params' own size or ``2 |f| /
    |g|``, whichever is less. On quadratics the step is exact, which takes one more product with the
    Hessian. A pair without positive curvature, ``s.y <= eps |s| |y|``, is not used. If the search
    fails, the pairs are dropped and the next step goes along the gradient. The descent ends
    ``STAGNATED`` if that fails too, or if neither the value nor the gradient has decreased beyond
    rounding for 30 steps. A regression's intercept is eliminated, as in ``jd.ConjugateGradient``:
    the distance of the features from zero does not matter.

    It keeps ``2 memory + 1`` parameter-sized vectors besides the params, and a step needs about six
    more: the newest pair, the direction, the trial and its gradient.

    Args:
      memory: the number of pairs, at least 1; of up to ``2 memory`` unknowns twice as many are
        kept.

    Raises:
      TypeError: if ``memory`` is not an integer.
      ValueError: if it is less than 1.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> def rosenbrock(x):
    ...     return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
    >>> result = jd.minimize(rosenbrock, jnp.zeros(100), jd.LBFGS())
    >>> result.message.split(":")[0], bool(jnp.allclose(result.params, 1, atol=1e-2))
    ('CONVERGED', True)

    Reference: Liu and Nocedal (1989), "On the limited memory BFGS method for large scale
    optimization"; Byrd, Nocedal and Schnabel (1994), "Representations of quasi-Newton matrices and
    their use in limited memory methods".
    """

    memory: int = dataclasses.field(default=10, metadata={"static": True})

    def init(self, objective: Objective, params: Params) -> State:
        inner, weights, means = eliminated(objective, params)
        value, gradient = inner.value_and_gradient(weights)
        norm = precision.norm(gradient)
        length, intercept = first_length(weights, value, norm), None
        if means is not None:
            intercept = Intercept(means, GivenIntercept.at(params, means, value, gradient))
        return _State(
            value=value,
            gradient=gradient,
            norm=norm,
            idle=Idle.start(value, norm),
            inverse=InverseHessian.start(gradient, length, self._pairs(weights)),
            krylov=ConjugateSteps.start(norm) if objective.is_quadratic else None,
            evaluations=jnp.ones((), jnp.int32),
            verdict=jnp.full((), RUNNING, jnp.int32),
            intercept=intercept,
        )

    def unevaluated(self, objective: Objective, params: Params, value_dtype: Any) -> State | None:
        if objective.is_quadratic:
            return None
        value, gradient = jnp.zeros((), value_dtype), jax.tree.map(jnp.zeros_like, params)
        norm, none = jnp.zeros((), jnp.result_type(*jax.tree.leaves(params))), jnp.int32(0)
        inverse = InverseHessian.start(gradient, jnp.ones_like(norm), self._pairs(params))
        idle = Idle.start(value, norm)
        running = none + RUNNING
        return _State(
            value, gradient, norm, idle, inverse, None, none, running, None, jnp.array(False)
        )

    def is_start(self, state: State) -> Any:
        return False if state.is_evaluated is None else ~state.is_evaluated

    def blind_step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State]:
        intercept, is_start = state.intercept, self.is_start(state)
        means = None if intercept is None else intercept.means
        inner, weights = weights_alone(objective, params, means)
        direction, slope, is_plain = state.inverse.direction(state.gradient, state.norm)
        verdict, krylov, products, first = jnp.int32(RUNNING), state.krylov, 0, 1.0
        if krylov is not None:
            curvature = inner.curvature(weights, direction).astype(slope.dtype)
            is_unbounded, products = (curvature < 0) & (state.norm > 0), 1
            if inner.hessian_array is not None:
                krylov, is_endless = krylov.along(
                    curvature, slope, precision.squared_norm(direction)
                )
                given = inner.hessian_array, direction, curvature
                is_unbounded |= lax.cond(is_endless, _is_rounding, lambda *_: False, *given)
            first = jnp.where(curvature > 0, -slope / curvature, first)
            verdict = jnp.where(is_unbounded, jnp.int32(Status.DIVERGED.value), verdict)
        start = LinePoint(weights, state.value, state.gradient)
        found = search(inner, start, direction, slope, first, is_start=is_start)
        idle = state.idle.after(state.value, state.norm)
        has_failed = ~found.is_accepted & is_plain | idle.is_over
        verdict = jnp.where(has_failed & (verdict == RUNNING), Status.STAGNATED.value, verdict)
        new, value, gradient = found.point
        norm, inverse = precision.norm(gradient), state.inverse
        if krylov is not None:
            krylov = krylov.after(found.step, slope, state.norm, norm)
        if is_start is not False:
            # The evaluation of the start is no move: the pairs begin there.
            idle = jax.tree.map(lambda a, b: jnp.where(is_start, a, b), state.idle, idle)
            length = jnp.where(is_start, first_length(weights, value, norm), inverse.length)
            inverse = inverse._replace(length=length)
            step, is_move = jnp.where(is_start, 0, found.step), found.is_accepted & ~is_start
            found = found._replace(step=step, is_accepted=is_move)
        inverse = inverse.after(direction, found, state.gradient, norm)
        if (curves_down := objective.curves_down()) is not None:
            verdict = jnp.where(curves_down, Status.DIVERGED.value, verdict)
        if intercept is not None:
            new, intercept = intercept.after_step(new)
        return new, _State(
            value=value,
            gradient=gradient,
            norm=norm,
            idle=idle,
            inverse=inverse,
            krylov=krylov,
            evaluations=jnp.asarray(found.evaluations + products, jnp.int32),
            verdict=verdict.astype(jnp.int32),
            intercept=intercept,
            is_evaluated=None if is_start is False else jnp.array(True),
        )

    def progress(self, objective: Objective, params: Params, state: State) -> StepReport:
        # Along a direction that no step has taken so far, H has the curvature of the last step. So
        # the caution is that of a Krylov space: a direction may hardly show in the gradient.
        left, curvature = state.inverse.decrement, state.inverse.curvature
        forgets = state.krylov is None
        estimate = Estimate(left, curvature, caution=caution(left.dtype), forgets=forgets)
        if state.krylov is not None:
            # Unlike the pairs, the smallest Ritz value is never forgotten.
            height = state.krylov.ritz.height(state.norm, state.norm).astype(left.dtype)
            left = jnp.where(height < jnp.inf, jnp.maximum(left, height), left)
            estimate = estimate._replace(suboptimality=left, rounding=curvature)
        evaluations, verdict = state.evaluations, state.verdict
        progress = StepReport(state.value, state.norm, evaluations, verdict, estimate)
        if state.intercept is None:
            return progress
        return state.intercept.progress(progress, objective, params)

    def after_rounding(self, objective: Objective, params: Params, state: State) -> State:
        means = None if state.intercept is None else state.intercept.means
        inner, weights = weights_alone(objective, params, means)
        value, gradient = inner.value_and_gradient(weights)
        norm = precision.norm(gradient)
        inverse = state.inverse.at(gradient, norm)
        return state._replace(value=value, gradient=gradient, norm=norm, inverse=inverse)

    def _pairs(self, params: Params) -> int:
        is_few = sum(leaf.size for leaf in jax.tree.leaves(params)) <= 2 * self.memory
        return 2 * self.memory if is_few else self.memory

    @property
    def vectors(self) -> int:
        """Parameter-sized vectors at the peak, besides the params."""
        return 2 * self.memory + 7

    def estimates(self, objective: Objective) -> bool:
        return True

    def check(self) -> None:
        check_count("LBFGS.memory", self.memory)


class _State(NamedTuple):
    value: jax.Array
    gradient: Params
    norm: jax.Array
    idle: Idle
    inverse: InverseHessian
    krylov: ConjugateSteps | None  # for a quadratic objective
    evaluations: jax.Array  # of the last step
    verdict: jax.Array  # on the last step
    intercept: Intercept | None
    is_evaluated: jax.Array | None = None  # whether the start is evaluated; None: always


def _is_rounding(hessian: jax.Array, direction: Params, curvature: jax.Array) -> jax.Array:
    """Whether a curvature ``d.Hd`` is no more than the rounding of its terms; those of a positive
    diagonal do not cancel.
    """
    (leaf,) = jax.tree.leaves(direction)
    terms = jnp.abs(leaf[:, None] * hessian.astype(leaf.dtype) * leaf[None, :])
    return curvature <= 4 * float(jnp.finfo(leaf.dtype).eps) * jnp.sum(terms)
