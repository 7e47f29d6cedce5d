"""Limited-memory BFGS: second-order steps from the last few moves and changes of the gradient.

The direction is ``-H g`` for the inverse Hessian that the stored pairs (s, y) imply, in its compact
form. With the rows of S and Y the pairs, ``R`` the part of ``S Y'`` on and above its diagonal D
(in order of age) and ``gamma = s.y / y.y`` of the newest pair,

    p = R^-1 S g,   q = R^-T (D p + gamma (Y Y' p - Y g)),   H g = gamma g + S' q - gamma Y' p.

This is the two-loop recursion in exact arithmetic. That one, and optax's ``scale_by_lbfgs`` with
it, walks over the pairs one after another, forty products that wait for each other; here a
direction is one product of the stored rows with three vectors and one with their coefficients. A
pair's place in the ring never changes: ``R^-T`` is kept instead of R, and loses its oldest row and
column, and gains a row ``-R^-1 (S y) / s.y``, whatever the order in memory.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent import precision
from jaxdescent.arguments import check_count
from jaxdescent.methods.line_search import Idle, Point, first_length, search
from jaxdescent.methods.protocol import Method, Params, Progress, State
from jaxdescent.objectives import Objective
from jaxdescent.result import RUNNING, Status

FEW_SUMMED, FEW_COMBINED = 16, 128
"""Up to so many unknowns of a leaf, inner products with the stored rows, and their combinations,
cost a CPU less spelled out than as products of matrices."""


class _LBFGSState(NamedTuple):
    value: jax.Array
    gradient: Params
    norm: jax.Array  # of the gradient
    pairs: Params  # (2 memory, *shape) for each leaf: the moves, then the gradient's changes
    inverse: jax.Array  # R^-T, in the ring's order
    changes: jax.Array  # Y Y'
    products: jax.Array  # s.y of each pair
    scale: jax.Array  # gamma, zero without any pair
    newest: jax.Array  # the slot of the last step's pair
    length: jax.Array  # of the move before
    idle: Idle
    unreported: jax.Array  # evaluations of the last step
    verdict: jax.Array  # on the last step


class _Memory(NamedTuple):
    """The small matrices with the newest pair taken in, and what a direction needs of them."""

    inverse: jax.Array
    changes: jax.Array
    products: jax.Array
    scale: jax.Array
    length: jax.Array
    coefficients: jax.Array  # of the stored rows in H g


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LBFGS(Method):
    """Limited-memory BFGS with a line search that does not stall in float32: nothing to tune.

    ``x <- x - t H g``, with H the inverse Hessian that the last ``memory`` moves ``s`` and
    gradient changes ``y`` imply (:mod:`jaxdescent.methods.quasi_newton` has the formula). The first
    trial is ``t = 1``, which is nearly always taken: an iteration costs one value and gradient. The
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
        rows = 2 * self.memory
        zeros = jnp.zeros((self.memory, self.memory), norm.dtype)
        return _LBFGSState(
            value,
            gradient,
            norm,
            jax.tree.map(lambda g: jnp.zeros((rows, *g.shape), g.dtype), gradient),
            zeros,
            zeros,
            zeros[0],
            zeros[0, 0],
            jnp.zeros((), jnp.int32),
            first_length(params, value, norm),
            Idle.start(value, norm),
            jnp.ones((), jnp.int32),
            jnp.full((), RUNNING, jnp.int32),
        )

    def step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State, Progress]:
        params, new = self.blind_step(objective, params, state)
        evaluations = state.unreported + new.unreported
        progress = Progress(state.value, state.norm, evaluations, new.verdict)
        none = jnp.zeros_like(new.unreported)
        return params, new._replace(unreported=none, verdict=none + RUNNING), progress

    def progress(self, objective: Objective, params: Params, state: State) -> Progress:
        del objective, params
        return Progress(state.value, state.norm, state.unreported, state.verdict)

    def blind_step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State]:
        value, gradient, norm = state.value, state.gradient, state.norm
        memory = self._with_newest(state)
        has_pairs = memory.scale > 0
        # Without pairs a step of one has the length of the last move.
        safe = jnp.where(norm > 0, norm, 1)
        scale = jnp.where(has_pairs, memory.scale, memory.length / safe)
        direction = jax.tree.map(
            lambda g, rows: (
                -scale.astype(g.dtype) * g - _combination(memory.coefficients.astype(g.dtype), rows)
            ),
            gradient,
            state.pairs,
        )
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
        newest = (state.newest + 1) % self.memory

        def store(rows: jax.Array, d: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
            # Element by element, in place: also where the descent keeps the old state instead.
            index = lax.broadcasted_iota(jnp.int32, (rows.shape[0],) + (1,) * d.ndim, 0)
            move = (found.step.astype(d.dtype) * d)[None]
            rows = jnp.where(index == newest, move, rows)
            return jnp.where(index == newest + self.memory, (new - old)[None], rows)

        new_state = _LBFGSState(
            found.point.value,
            found.point.gradient,
            precision.norm(found.point.gradient),
            jax.tree.map(store, state.pairs, direction, found.point.gradient, gradient),
            jnp.where(has_moved, memory.inverse, 0),
            memory.changes,
            memory.products,
            jnp.where(has_moved, memory.scale, 0),
            newest,
            memory.length,
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
        return state._replace(value=point.value, gradient=point.gradient, norm=norm)

    @property
    def looks_ahead(self) -> bool:
        return True

    def check(self) -> None:
        check_count("LBFGS.memory", self.memory)

    def _with_newest(self, state: _LBFGSState) -> _Memory:
        newest, dtype = state.newest, state.inverse.dtype
        move = precision.squared_norm(jax.tree.map(lambda rows: rows[newest], state.pairs))
        last = jax.tree.map(lambda rows: rows[newest + self.memory], state.pairs)
        with_gradient = _products(state.pairs, state.gradient, dtype)
        with_change = _products(state.pairs, last, dtype)
        curvature, change = with_change[newest], with_change[newest + self.memory]
        eps = jnp.finfo(dtype).eps
        is_kept = curvature > eps * jnp.sqrt(move) * jnp.sqrt(change)
        inverse_curvature = jnp.where(is_kept, 1 / jnp.where(is_kept, curvature, 1), 0)

        scale = jnp.where(is_kept, curvature / jnp.where(is_kept, change, 1), state.scale)
        length = jnp.where(move > 0, jnp.sqrt(move), state.length)
        # XLA for CPUs would compute an operand anew for each entry of what it goes into: what is
        # barred is computed once.
        inverse_curvature, scale, with_gradient, with_change = lax.optimization_barrier(
            (inverse_curvature, scale, with_gradient, with_change)
        )

        # The newest pair's row and column replace those of the oldest, whose slot it has.
        slots = jnp.arange(self.memory, dtype=newest.dtype)
        is_newest = slots == newest
        is_row, is_column = is_newest[:, None], is_newest[None, :]
        old = lax.optimization_barrier(jnp.where(is_row | is_column, 0, state.inverse))
        column = -inverse_curvature * _transposed_product(old, with_change[: self.memory])
        column = lax.optimization_barrier(jnp.where(is_newest, inverse_curvature, column))
        inverse = jnp.where(is_row, column[None, :], old)
        dots = jnp.where(is_row, with_change[None, self.memory :], state.changes)
        dots = jnp.where(is_column, with_change[self.memory :, None], dots)
        kept = jnp.where(is_newest, curvature, state.products)
        inverse, dots, kept = lax.optimization_barrier((inverse, dots, kept))

        p = _transposed_product(inverse, with_gradient[: self.memory])
        q = kept * p + scale * (_transposed_product(dots, p) - with_gradient[self.memory :])
        q = _transposed_product(inverse.T, q)
        return _Memory(inverse, dots, kept, scale, length, jnp.concatenate([q, -scale * p]))


def _transposed_product(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    return jnp.sum(matrix * vector[:, None], axis=0)


def _products(rows: Params, vector: Params, dtype: Any) -> jax.Array:
    """The inner products of every row with a vector."""

    def of_leaf(rows: jax.Array, leaf: jax.Array) -> jax.Array:
        axes = (tuple(range(1, rows.ndim)), tuple(range(leaf.ndim)))
        if leaf.size <= FEW_SUMMED:
            return jnp.sum(rows * leaf[None], axis=axes[0])
        return lax.dot_general(rows, leaf, (axes, ((), ())), precision=precision.HIGHEST)

    by_leaf = jax.tree.map(of_leaf, rows, vector)
    return functools.reduce(operator.add, [p.astype(dtype) for p in jax.tree.leaves(by_leaf)])


def _combination(coefficients: jax.Array, rows: jax.Array) -> jax.Array:
    """The sum of the rows, each times its coefficient."""
    if rows[0].size <= FEW_COMBINED:
        return jnp.sum(coefficients.reshape(-1, *[1] * (rows.ndim - 1)) * rows, axis=0)
    contraction = (((0,), (0,)), ((), ()))
    return lax.dot_general(coefficients, rows, contraction, precision=precision.HIGHEST)
