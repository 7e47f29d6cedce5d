"""Levenberg-Marquardt: Gauss-Newton steps, damped until they decrease a sum of squares.

With r the residuals and J their Jacobian at the params, a step p solves

    (J'J + mu D^2) p = -J'r,

and the damping mu follows the ratio of the decrease of ``1/2 |r|^2`` to the one that its linear
model predicts. Small problems form J and solve by QR, which does not square its condition number.
Large ones do not form J and solve by conjugate gradients, the more accurately the smaller the
gradient.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxdescent.inputs.functions import anew
from jaxdescent.inputs.numbers import check_number
from jaxdescent.kernels import dtypes, small_matrices
from jaxdescent.kernels.branches import where
from jaxdescent.methods.line_search import NOISE_ULPS, Idle
from jaxdescent.methods.protocol import Estimate, Method, Params, State, StepReport
from jaxdescent.numerics import precision
from jaxdescent.numerics.linear_systems import add_scaled, conjugate_gradient
from jaxdescent.objectives import Objective
from jaxdescent.objectives.forward import linearized, pushed
from jaxdescent.status import RUNNING, Status

DENSE_PARAMS = 256
"""The most unknowns for which the Jacobian is formed, if it has at most DENSE_ELEMENTS entries."""

DENSE_ELEMENTS = 1 << 20

MAX_TRIALS = 30
"""The most dampings tried in one step: the last is 2^435 times the first."""

MAX_PRODUCTS = 200
"""The most conjugate gradient iterations for one damping, each a product with J and one with J'."""


class _DampingState(NamedTuple):
    damping: jax.Array
    scale: jax.Array  # D, for the dense solve
    first_norm: jax.Array
    idle: Idle


class _Trial(NamedTuple):
    params: Params
    damping: jax.Array
    ahead: jax.Array  # the decrease to the linear model's minimum along the first trial's direction
    growth: jax.Array
    is_accepted: jax.Array
    trials: jax.Array


Solve = Callable[[jax.Array], tuple[Params, jax.Array]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LevenbergMarquardt(Method):
    """Damped Gauss-Newton for ``jd.LeastSquares`` and other objectives that have residuals.

    ``x <- x + p`` with ``(J'J + mu D^2) p = -J'r``. A step is taken if it decreases the objective
    and, where J is formed, the residuals have derivatives at its end. With the gain ratio ``rho``
    of the decrease to the predicted one, then ``mu <- mu max(1/3, 1 - (2 rho - 1)^3)``. Otherwise
    mu grows by factors of 2, 4, 8, ... and the step is solved again; after 30 such trials the
    descent ends ``STAGNATED``. If the predicted decrease is below rounding the step is taken
    anyway, until 30 steps have brought neither a lower value nor a lower gradient.

    Up to 256 unknowns, and 2^20 elements in J, J is formed by forward differentiation and the
    system solved by QR; D holds the largest norm that each column has had, so that scaling an
    unknown changes nothing. Beyond, D is the identity and conjugate gradients solve to a residual
    of ``min(1/10, sqrt(|g| / |g at the start|)) |g|``, within 200 products with J and J'. An
    evaluation is one of the residuals: an iteration takes one with its derivatives, and one for
    each damping tried, usually one. The matrix-free form keeps no parameter-sized vector between
    steps; a step needs about seven, and the arrays that the residuals' linearisation stores.

    Args:
      damping: the first mu, positive, relative to the squared norms of J's columns (matrix-free:
        relative to ``|J g|^2 / |g|^2``).

    Raises:
      TypeError: if the objective has no residuals, or ``damping`` is not a number.
      ValueError: if ``damping`` is not positive and finite.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> t = jnp.linspace(0.0, 1.0, 20)
    >>> y = 2 * jnp.exp(-3 * t)
    >>> fit = jd.LeastSquares(lambda p: p["size"] * jnp.exp(-p["rate"] * t) - y)
    >>> result = jd.minimize(fit, {"size": 1.0, "rate": 1.0}, jd.LevenbergMarquardt())
    >>> print(result.message.split(":")[0], result.params["size"].round(3))
    CONVERGED 2.0

    Reference: More (1978), "The Levenberg-Marquardt algorithm: implementation and theory"; Nielsen
    (1999), "Damping parameter in Marquardt's method".
    """

    damping: Any = 1e-3

    def init(self, objective: Objective, params: Params) -> State:
        shapes = jax.eval_shape(anew(objective.residuals), params)
        if shapes is None:
            raise TypeError(
                f"LevenbergMarquardt needs an objective with residuals, got "
                f"{type(objective).__name__}: write it as jd.LeastSquares(residual), or take "
                "jd.LBFGS()."
            )
        size = _size(params) if _is_dense(params, shapes) else 0
        zero = jnp.zeros((), jax.eval_shape(precision.norm, params).dtype)
        value = jnp.zeros((), jax.eval_shape(precision.norm, shapes).dtype)
        return _DampingState(
            jnp.full_like(zero, jnp.nan),
            jnp.zeros((size,), zero.dtype),
            jnp.full_like(zero, jnp.nan),
            Idle.start(value, zero),
        )

    def step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State, StepReport]:
        residuals, push = linearized(objective.residuals, params)
        transpose = jax.linear_transpose(push, params)

        def pull(residuals: Any) -> Params:
            return transpose(residuals)[0]

        value = 0.5 * precision.squared_norm(residuals)
        gradient = pull(residuals)
        norm = precision.norm(gradient)
        first_norm = jnp.where(jnp.isnan(state.first_norm), norm, state.first_norm)
        is_dense = _is_dense(params, residuals)
        if is_dense:
            solve, scale, curvature = _dense(push, params, residuals, state.scale)
            size = jnp.ones_like(norm)
        else:
            accuracy = jnp.minimum(0.1, jnp.sqrt(norm / first_norm)) * norm
            solve, scale = _matrix_free(push, pull, gradient, accuracy), state.scale
            unit = jax.tree.map(
                lambda g: g / jnp.where(norm > 0, norm, 1).astype(g.dtype), gradient
            )
            size = curvature = precision.squared_norm(push(unit)).astype(norm.dtype)
        first = jnp.asarray(self.damping, norm.dtype) * size
        damping = jnp.where(jnp.isnan(state.damping), first, state.damping)
        eps = jnp.finfo(value.dtype).eps
        # The rounding of the params changes residuals that vanish by about this much.
        floor = 8 * (eps**2 * curvature * jnp.square(precision.norm(params))).astype(value.dtype)
        noise = jnp.maximum(NOISE_ULPS * eps * value, floor)

        def attempt(trial: _Trial) -> _Trial:
            move, image = solve(trial.damping)
            new = jax.tree.map(jnp.add, params, move)
            if is_dense:
                # Where a denominator overflows a residual is finite, and its derivatives infinity
                # over infinity: no further step leads from there.
                new_residuals, change = pushed(objective.residuals, (new,), (move,))
            else:  # of many unknowns another derivative would take seconds to compile
                new_residuals, change = objective.residuals(new), ()
            new_value = 0.5 * precision.squared_norm(new_residuals)
            is_inside = jnp.isfinite(new_value)
            for leaf in jax.tree.leaves(change):
                is_inside &= jnp.all(jnp.isfinite(leaf))
            slope = precision.inner(move, gradient)
            predicted = -slope - 0.5 * image
            is_curved = image > 0
            share = slope / jnp.where(is_curved, image, 1)
            ahead = jnp.where(is_curved, 0.5 * slope * share, jnp.inf).astype(norm.dtype)
            gain = (value - new_value) / predicted.astype(value.dtype)
            is_noise = (jnp.abs(value - new_value) <= noise) & (predicted <= noise)
            gain = jnp.where(is_noise, 1, gain).astype(norm.dtype)
            is_accepted = (gain > 0) & is_inside & (predicted > 0)
            shrink = jnp.maximum(1 / 3, 1 - (2 * jnp.minimum(gain, 2) - 1) ** 3)
            factor = jnp.where(is_accepted, shrink, trial.growth)
            # At rounding level the damping has no effect, but must not become zero and stay there.
            least = jnp.finfo(norm.dtype).eps ** 4 * size
            return _Trial(
                new,
                jnp.maximum(trial.damping * factor, least),
                jnp.where(trial.trials == 0, ahead, trial.ahead),
                2 * trial.growth,
                is_accepted,
                trial.trials + 1,
            )

        trial = lax.while_loop(
            lambda trial: ~trial.is_accepted & (trial.trials < MAX_TRIALS) & (norm > 0),
            attempt,
            _Trial(
                params,
                damping,
                jnp.zeros_like(norm),
                jnp.full_like(norm, 2),
                jnp.array(False),
                jnp.zeros((), jnp.int32),
            ),
        )
        params = where(trial.is_accepted, trial.params, params)
        idle = state.idle.after(value, norm)
        has_failed = ~trial.is_accepted | idle.is_over
        verdict = jnp.where(has_failed, Status.STAGNATED.value, RUNNING)
        new_state = _DampingState(trial.damping, scale, first_norm, idle)
        estimate = Estimate(trial.ahead.astype(value.dtype), curvature)
        return params, new_state, StepReport(value, norm, 1 + trial.trials, verdict, estimate)

    def estimates(self, objective: Objective) -> bool:
        return True

    def calls_libraries(self, objective: Objective, params: Params, state: State) -> bool:
        if not state.scale.size:  # the matrix-free form
            return False
        residuals = jax.eval_shape(anew(objective.residuals), params)
        return not small_matrices.are_few(_size(residuals), _size(params) + 1)

    def check(self) -> None:
        check_number(
            "LevenbergMarquardt.damping",
            self.damping,
            "positive and finite",
            lambda mu: 0 < mu < float("inf"),
            hint="1e-3 is usual, 1 for starts far off",
        )


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _is_dense(params: Params, residuals: Any) -> bool:
    unknowns = _size(params)
    return unknowns <= DENSE_PARAMS and unknowns * _size(residuals) <= DENSE_ELEMENTS


def _dense(
    push: Callable[[Params], Any], params: Params, residuals: Any, scale: jax.Array
) -> tuple[Solve, jax.Array, jax.Array]:
    """Solve ``[J; sqrt(mu) D] p ~ [-r; 0]`` by QR, of J once and of its triangle for each mu.

    Returns:
      A function from mu to p and ``|J p|^2``; the new D; and ``sum_j (J'J)_jj x_j^2 / |x|^2``, a
      mean curvature weighted by the squares of the unknowns, so that badly scaled unknowns do not
      distort it.
    """
    flat, unravel = ravel_pytree(params)
    unknowns = flat.size
    columns = jax.vmap(lambda unit: ravel_pytree(push(unravel(unit)))[0])(
        jnp.eye(unknowns, dtype=flat.dtype)
    )
    jacobian = columns.T.astype(flat.dtype)
    squares = jnp.sum(jacobian * jacobian, axis=0)
    scale = jnp.maximum(scale, jnp.sqrt(squares))
    safe = jnp.where(scale > 0, scale, 1)
    jacobian = jacobian / safe[None, :]
    image = ravel_pytree(residuals)[0].astype(flat.dtype)
    both = jnp.concatenate([jacobian, image[:, None]], axis=1)
    if jacobian.shape[0] > unknowns:
        both = small_matrices.triangle_beside(both)

    def solve(damping: jax.Array) -> tuple[Params, jax.Array]:
        root = jnp.sqrt(damping).astype(flat.dtype)
        below = root * jnp.eye(unknowns, unknowns + 1, dtype=flat.dtype)
        triangle = small_matrices.triangle_beside(jnp.concatenate([both, below]))
        move = -small_matrices.upper_solution(triangle)
        pushed = jnp.matmul(both[:, :unknowns], move, precision=dtypes.HIGHEST)
        return unravel(move / safe), jnp.sum(pushed * pushed)

    size = jnp.linalg.norm(flat)
    share = flat / jnp.where(size > 0, size, 1)
    curvature = jnp.where(size > 0, jnp.sum(squares * jnp.square(share)), jnp.max(squares))
    return solve, scale, curvature


def _matrix_free(
    push: Callable[[Params], Any],
    pull: Callable[[Any], Params],
    gradient: Params,
    accuracy: jax.Array,
) -> Solve:
    """A function that solves ``(J'J + mu) p = -g`` by conjugate gradients.

    It stops at a residual of norm ``accuracy``, and returns p and ``|J p|^2``.
    """

    def solve(damping: jax.Array) -> tuple[Params, jax.Array]:
        def product(direction: Params) -> Params:
            return add_scaled(pull(push(direction)), damping, direction)

        downhill = jax.tree.map(jnp.negative, gradient)
        limits = {"most_steps": MAX_PRODUCTS, "accuracy": accuracy}
        move, _ = conjugate_gradient(product, downhill, 0.0, **limits)
        # After any number of steps ``p.(J'J + mu) p = -g.p``, so that no further product is needed.
        image = precision.inner(move, downhill) - damping * precision.squared_norm(move)
        return move, jnp.maximum(image, 0).astype(damping.dtype)

    return solve
