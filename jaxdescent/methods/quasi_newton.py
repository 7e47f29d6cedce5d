"""Limited-memory BFGS: second-order steps from the last few moves and changes of the gradient."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent import precision
from jaxdescent.arguments import check_count
from jaxdescent.methods.inverse_by_entries import InverseByEntries
from jaxdescent.methods.inverse_by_pairs import InverseByPairs
from jaxdescent.methods.line_search import Idle, Point, first_length, search
from jaxdescent.methods.protocol import Estimate, LookingAhead, Params, State
from jaxdescent.methods.ritz import caution
from jaxdescent.objectives import Objective
from jaxdescent.result import RUNNING, Status


class _LBFGSState(NamedTuple):
    value: jax.Array
    gradient: Params
    norm: jax.Array  # of the gradient
    inverse: InverseByPairs | InverseByEntries  # of the Hessian
    idle: Idle
    unreported: jax.Array  # evaluations of the last step
    verdict: jax.Array  # on the last step


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LBFGS(LookingAhead):
    """Limited-memory BFGS with a line search that does not stall in float32: nothing to tune.

    ``x <- x - t H g``, with H the inverse Hessian that the last ``memory`` moves ``s`` and
    gradient changes ``y`` imply (:mod:`jaxdescent.methods.inverse_by_pairs` has the formula). Of up
    to ``2 memory`` unknowns H itself is no larger than the pairs, and is kept instead: it forgets
    no move (BFGS, :mod:`jaxdescent.methods.inverse_by_entries`). The first trial is ``t = 1``,
    which is nearly always taken: an iteration costs one value and gradient. The
    first step, along the gradient, has a length of the params' own size or that of
    ``2 |f| / |g|``, whichever is less. Quadratics take the exact step, one product with the Hessian
    more. A pair without positive curvature, ``s.y <= eps |s| |y|``, is not used. Where the search
    fails the pairs are dropped and the next step goes along the gradient; the descent ends
    ``STAGNATED`` where that fails too, or where neither value nor gradient has become lower beyond
    rounding for 30 steps.

    Keeps ``2 memory + 1`` parameter-sized vectors besides the params, and needs about six more
    while it steps: the newest pair, the direction, the trial and its gradient.

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
        _, value, gradient = Point.at(objective, params)
        norm = precision.norm(gradient)
        return _LBFGSState(
            value,
            gradient,
            norm,
            self._no_pairs(gradient, first_length(params, value, norm)),
            Idle.start(value, norm),
            jnp.ones((), jnp.int32),
            jnp.full((), RUNNING, jnp.int32),
        )

    def blind_step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State]:
        value, gradient, norm = state.value, state.gradient, state.norm
        direction, has_pairs = state.inverse.descent_direction(gradient, norm)
        slope = precision.inner(gradient, direction)
        first_step, verdict, products = 1.0, RUNNING, 0
        if objective.is_quadratic:
            curvature = objective.curvature(params, direction).astype(slope.dtype)
            is_unbounded = (curvature < 0) & (norm > 0)
            first_step = jnp.where(curvature > 0, -slope / curvature, 1)
            verdict, products = jnp.where(is_unbounded, Status.DIVERGED.value, RUNNING), 1
        found = search(objective, Point(params, value, gradient), direction, slope, first_step)

        has_moved = found.is_accepted
        idle = state.idle.after(value, norm)
        has_failed = ~has_moved & ~has_pairs | idle.is_over
        verdict = jnp.where(has_failed & (verdict == RUNNING), Status.STAGNATED.value, verdict)
        new_gradient = found.point.gradient
        new_norm = precision.norm(new_gradient)
        pair = direction, found.step, gradient, new_gradient, has_moved
        inverse = state.inverse.after(*pair, norm=new_norm)
        new_state = _LBFGSState(
            found.point.value,
            new_gradient,
            new_norm,
            inverse,
            idle,
            found.evaluations + products,
            jnp.asarray(verdict, jnp.int32),
        )
        return found.point.params, new_state

    @property
    def vectors(self) -> int:
        """Parameter-sized vectors at the peak, besides the params."""
        return 2 * self.memory + 7

    def after_rounding(self, objective: Objective, params: Params, state: State) -> State:
        point = Point.at(objective, params)
        norm = precision.norm(point.gradient)
        inverse = state.inverse.at(point.gradient, norm)
        return state._replace(
            value=point.value, gradient=point.gradient, norm=norm, inverse=inverse
        )

    def estimates(self, objective: Objective) -> bool:
        del objective
        return True

    def estimate(self, objective: Objective, state: State) -> Estimate:
        del objective
        # A direction that no step has gone along counts with the curvature of the last step, as
        # one that hardly shows in the gradient does in a Krylov space.
        left = state.inverse.decrement
        return Estimate(left, state.inverse.curvature, caution=caution(left.dtype))

    def check(self) -> None:
        check_count("LBFGS.memory", self.memory)

    def _no_pairs(self, gradient: Params, length: jax.Array) -> InverseByPairs | InverseByEntries:
        if sum(leaf.size for leaf in jax.tree.leaves(gradient)) <= 2 * self.memory:
            return InverseByEntries.start(gradient, length)
        return InverseByPairs.start(gradient, length, self.memory)
