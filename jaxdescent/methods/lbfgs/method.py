"""Limited-memory BFGS: quasi-Newton steps from the last few moves and changes of the gradient."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.inputs.numbers import check_count
from jaxdescent.methods.lbfgs.inverse_by_entries import InverseByEntries
from jaxdescent.methods.lbfgs.inverse_by_pairs import InverseByPairs
from jaxdescent.methods.line_search import Idle, LinePoint, first_length, search
from jaxdescent.methods.protocol import Estimate, KeepingProgress, Params, State
from jaxdescent.numerics import precision
from jaxdescent.numerics.ritz import SmallestRitz, caution
from jaxdescent.objectives import Objective
from jaxdescent.objectives.elimination import Means, eliminated, weights_alone
from jaxdescent.status import RUNNING, Status


class _LBFGSState(NamedTuple):
    value: jax.Array  # the objective at the params
    norm: jax.Array  # the norm of the objective's gradient
    gradient: Params  # for the weights alone, if an intercept is eliminated
    inverse: InverseByPairs | InverseByEntries  # the approximate inverse Hessian
    idle: Idle
    unreported: jax.Array  # the evaluations of the last step
    verdict: jax.Array  # on the last step
    means: Means | None  # the means of a regression with an intercept
    value_alone: jax.Array | None  # at the best intercept, which the start may not have
    krylov: _Krylov | None  # for a quadratic objective


class _Krylov(NamedTuple):
    """An estimate of the smallest curvature from exact steps along conjugate directions.

    On a quadratic the directions of LBFGS are those of conjugate gradients up to their lengths. So
    ``alpha = t (-g.d) / |g|^2`` and ``beta = |g_new|^2 / |g|^2`` are the coefficients of the same
    Lanczos process.
    """

    ritz: SmallestRitz
    below: jax.Array  # the entry below the diagonal in the factor's next row

    @classmethod
    def start(cls, dtype: Any) -> _Krylov:
        return cls(SmallestRitz.start((), dtype), jnp.zeros((), dtype))

    def after(
        self, step: jax.Array, slope: jax.Array, norm: jax.Array, new_norm: jax.Array
    ) -> _Krylov:
        """The state after a step along a direction of this slope; a step of zero restarts it."""
        safe = jnp.where(norm > 0, norm, 1).astype(slope.dtype)
        alpha = step * (-slope / safe) / safe
        has_moved = alpha > 0
        root = jnp.where(has_moved, jax.lax.rsqrt(jnp.where(has_moved, alpha, 1)), 0)
        ritz = self.ritz.after(root, self.below)
        ritz = jax.tree.map(lambda a, b: jnp.where(has_moved, a, b), ritz, self.ritz)
        return _Krylov(ritz, root * (new_norm.astype(slope.dtype) / safe))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LBFGS(KeepingProgress):
    """Limited-memory BFGS, with a line search that does not stall in float32.

    ``x <- x - t H g``, where H is the inverse Hessian that the last ``memory`` moves ``s`` and
    gradient changes ``y`` imply (:mod:`jaxdescent.methods.lbfgs.inverse_by_pairs` has the formula).
    For up to ``2 memory`` unknowns, H itself is no larger than the pairs and is kept instead: it
    forgets no move (BFGS, :mod:`jaxdescent.methods.lbfgs.inverse_by_entries`). The first trial is
    ``t = 1``, which is nearly always taken: an iteration takes one value and gradient. The length
    of the first step, along the gradient, is the params' own size or ``2 |f| / |g|``, whichever is
    less. On quadratics the step is exact, which takes one more product with the Hessian. A pair
    without positive curvature, ``s.y <= eps |s| |y|``, is not used. If the search fails, the pairs
    are dropped and the next step goes along the gradient. The descent ends ``STAGNATED`` if that
    fails too, or if neither the value nor the gradient has decreased beyond rounding for 30 steps.
    A regression's intercept is eliminated, as in ``jd.ConjugateGradient``: the distance of the
    features from zero does not matter.

    It keeps ``2 memory + 1`` parameter-sized vectors besides the params, and a step needs about six
    more: the newest pair, the direction, the trial and its gradient.

    Args:
      memory: the number of pairs, at least 1.

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
        _, value, gradient = LinePoint.at(inner, weights)
        norm = precision.norm(gradient)
        inverse = self._no_pairs(gradient, first_length(weights, value, norm))
        idle = Idle.start(value, norm)
        value_alone = None
        if means is not None:
            value_alone = value
            value, norm = means.at_given_intercept(params, value, gradient["weights"])
        return _LBFGSState(
            value,
            norm,
            gradient,
            inverse,
            idle,
            jnp.ones((), jnp.int32),
            jnp.full((), RUNNING, jnp.int32),
            means,
            value_alone,
            _Krylov.start(norm.dtype) if inner.is_quadratic else None,
        )

    def blind_step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State]:
        value, gradient, norm = state.value, state.gradient, state.norm
        means = state.means
        inner, params = weights_alone(objective, params, means)
        if means is not None:
            value, norm = state.value_alone, precision.norm(gradient)
        direction, has_pairs = state.inverse.descent_direction(gradient, norm)
        slope = precision.inner(gradient, direction)
        first_step, verdict, products = 1.0, RUNNING, 0
        if inner.is_quadratic:
            curvature = inner.curvature(params, direction).astype(slope.dtype)
            is_unbounded = (curvature < 0) & (norm > 0)
            first_step = jnp.where(curvature > 0, -slope / curvature, 1)
            verdict, products = jnp.where(is_unbounded, Status.DIVERGED.value, RUNNING), 1
        curves_down = objective.curves_down()
        if curves_down is not None:
            verdict = jnp.where(curves_down, Status.DIVERGED.value, verdict)
        found = search(inner, LinePoint(params, value, gradient), direction, slope, first_step)

        has_moved = found.is_accepted
        idle = state.idle.after(value, norm)
        has_failed = ~has_moved & ~has_pairs | idle.is_over
        verdict = jnp.where(has_failed & (verdict == RUNNING), Status.STAGNATED.value, verdict)
        new_params, new_value, new_gradient = found.point
        new_norm = precision.norm(new_gradient)
        krylov = state.krylov
        if krylov is not None:
            krylov = krylov.after(found.step, slope, norm, new_norm)
        pair = direction, found.step, gradient, new_gradient, has_moved
        new_state = _LBFGSState(
            new_value,
            new_norm,
            new_gradient,
            state.inverse.after(*pair, norm=new_norm),
            idle,
            found.evaluations + products,
            jnp.asarray(verdict, jnp.int32),
            means,
            None if means is None else new_value,
            krylov,
        )
        return new_params if means is None else means.with_intercept(**new_params), new_state

    @property
    def vectors(self) -> int:
        """Parameter-sized vectors at the peak, besides the params."""
        return 2 * self.memory + 7

    def after_rounding(self, objective: Objective, params: Params, state: State) -> State:
        objective, params = weights_alone(objective, params, state.means)
        _, value, gradient = LinePoint.at(objective, params)
        norm = precision.norm(gradient)
        inverse = state.inverse.at(gradient, norm)
        state = state._replace(value=value, norm=norm, gradient=gradient, inverse=inverse)
        return state if state.means is None else state._replace(value_alone=value)

    def estimates(self, objective: Objective) -> bool:
        del objective
        return True

    def estimate(self, objective: Objective, params: Params, state: State) -> Estimate:
        # In a direction without steps so far, H has the curvature of the last step. So the caution
        # is that of a Krylov space, where a direction may hardly show in the gradient.
        left, curvature = state.inverse.decrement, state.inverse.curvature
        forgets = state.krylov is None and state.inverse.forgets
        estimate = Estimate(left, curvature, caution=caution(left.dtype), forgets=forgets)
        if state.krylov is not None:
            # Unlike the pairs, the smallest Ritz value is never forgotten.
            height = state.krylov.ritz.height(jnp.square(state.norm)).astype(left.dtype)
            left = jnp.where(height < jnp.inf, jnp.maximum(left, height), left)
            estimate = estimate._replace(suboptimality=left, rounding=curvature)
        if state.means is None:
            return estimate
        estimate = estimate._replace(
            steepness=state.means.steepness() + curvature,
            products=state.means.products(params["weights"]),
        )
        inner, _ = weights_alone(objective, params, state.means)
        return estimate.at_least_curvature(inner.least_curvature(), state.norm)

    def check(self) -> None:
        check_count("LBFGS.memory", self.memory)

    def _no_pairs(self, gradient: Params, length: jax.Array) -> InverseByPairs | InverseByEntries:
        if sum(leaf.size for leaf in jax.tree.leaves(gradient)) <= 2 * self.memory:
            return InverseByEntries.start(gradient, length)
        return InverseByPairs.start(gradient, length, self.memory)
