"""The derivative method: differentiate, set to zero, solve, verify."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.methods.protocol import (
    Estimate,
    LookingAhead,
    Params,
    State,
    StepReport,
    progress_at,
)
from jaxdescent.numerics import precision
from jaxdescent.numerics.linear_systems import add_scaled
from jaxdescent.objectives import Objective
from jaxdescent.objectives.stationary import DenseSolver, dense_hessian
from jaxdescent.status import RUNNING, Evidence, Status

MAX_HALVINGS = 30


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DerivativeMethod(LookingAhead):
    """Solve ``gradient(x) = 0``.

    The solve depends on what the objective knows about itself:

    ============================  ====================================  =====================
    structure                     solve                                 memory
    ============================  ====================================  =====================
    separable (diagonal Hessian)  one division for each unknown         n
    regression, rows >= features  Cholesky of X'X                       features^2
    an l2 for each output         spectral factorisation of X'X         features^2
    ill-conditioned or small      QR of X, refined in double length     rows * features
    the same, rank-deficient      SVD of R from QR, refined             rows * features
    regression, features > rows   Cholesky of XX' (dual form)           rows^2
    the same, rank-deficient      QR of X' and SVD                      rows * features
    quadratic                     spectral factorisation of H           n^2
    any other function            Newton on the gradient                n^2
    ============================  ====================================  =====================

    The rows below a regression's first are its special cases. A regression is *small* up to
    ``rows * features^2 = 16384`` (not in a ``vmap``), and *ill-conditioned* from a condition number
    of ``1 / (8 sqrt(eps))`` on, with the columns scaled: 360 in float32, 8e6 in float64. The
    solution in these cases is the exact solution for the given numbers, rounded, if the condition
    number is below ``1 / (32 eps)`` (2.6e5 in float32, 1.4e14 in float64; less beyond 64 features);
    beyond it the rank counts as deficient, and the solution is the one of minimum norm; in units of
    the columns' lengths, where these differ by more than ``1 / sqrt(32 eps)`` (500 in float32) and
    there is one penalty for all outputs, none for a wide X. With the residual ``r = y - X w - b``
    and the weights in double length,

        ``w <- w + (X'SX + l2 I)^-1 (X'S r - l2 w)``

    is repeated until nothing changes. A step takes two passes over X, about as slow as 50 plain
    ones; there are three to six steps. Beyond 2^20 entries of X, times outputs, r is computed in
    the working precision and the solution is as accurate as QR's. In a ``vmap`` the ill-conditioned
    members are solved one after another.

    On one CPU nothing is compiled for a stored X of up to 32 MiB as float32 (8 of float64; 4 if it
    is wide), with up to 2^30 products in its Gram matrix and factors, 64 outputs, and half as many
    targets and weights as entries: NumPy solves in float64, and refines float64 data as above; the
    Gram matrix is computed by several cores. A sparse or categorical X in memory counts as large as
    the array that it is written out to. A well-conditioned X takes longer than by the compiled
    solve, which takes seconds to compile, and an ill-conditioned one less.

    On accelerators, and if rows lie on several devices, the R of an ill-conditioned X comes from
    Gram matrices (shifted Cholesky QR) instead of QR: it is as accurate, and no row leaves its
    device.

    A well-conditioned solution is corrected once, by two more passes over X, unless the condition
    number is below about 12, where the first solve is as good as the second.

    A quadratic needs one step; further steps refine it, and one that does not lower the value ends
    the descent ``STAGNATED``. For other functions Newton's direction ``-H^+ g`` is halved until the
    gradient's norm decreases. This finds a stationary point near the start, which may be a saddle:
    ``jd.certify`` tells which kind it is. CONVERGED and the suboptimality are about that point
    then, not about a minimum. A quadratic with negative curvature has no minimum and ends
    ``DIVERGED``.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> X = jnp.array([[0.0], [1.0], [2.0]])
    >>> result = jd.minimize(jd.LinearRegression(X, jnp.array([1.0, 3.0, 5.0])),
    ...                      method=jd.DerivativeMethod())
    >>> print(result.params["weights"].round(4), result.params["intercept"].round(4))
    [2.] 1.0

    References: Golub and Wilkinson (1966), "Note on the iterative refinement of least squares
    solution"; Björck (1967), "Iterative refinement of linear least squares solutions I"; Dekker
    (1971), "A floating-point technique for extending the available precision"; Ogita, Rump and
    Oishi (2005), "Accurate sum and dot product".
    """

    def init(self, objective: Objective, params: Params) -> State:
        solver = objective.stationary_solver(params)
        at = None
        if not objective.is_separable:
            image = objective.image_of_start(params)
            at = _At(*objective.value_and_gradient_at(params, image))
        if solver is None:
            solver = DenseSolver.from_hessian(dense_hessian(objective, params))
        return _State(solver, at, jnp.array(False), jnp.array(False), jnp.array(False))

    def blind_step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State]:
        gradient = objective.gradient(params) if state.at is None else state.at.gradient
        solver, is_unbounded = state.solver, state.is_unbounded
        if objective.is_quadratic or objective.is_separable:
            new, is_negative = solver.solve(objective, params, gradient)
            if objective.is_quadratic:
                # A solution with negative curvature is a saddle, and no better than the start.
                new = jax.tree.map(lambda new, old: jnp.where(is_negative, old, new), new, params)
                is_unbounded = is_negative
        else:
            new = _damped_newton(objective, solver, params, gradient)
            solver = DenseSolver.from_hessian(dense_hessian(objective, new))
        is_solution = jnp.logical_not(is_unbounded)
        at, is_rounded = _at(objective, new), state.is_rounded
        if at is not None and objective.is_quadratic:
            assert state.at is not None
            is_rounded = state.is_solution & ~(at.value < state.at.value)
        return new, _State(solver, at, is_unbounded, is_solution, is_rounded)

    def progress(self, objective: Objective, params: Params, state: State) -> StepReport:
        if state.at is None:
            progress = super().progress(objective, params, state)
        else:
            gradient = state.at.gradient
            left, curvature = state.solver.height(objective, params, gradient, state.is_solution)
            # For functions that are not quadratic the height is that of the local quadratic model.
            code = Evidence.FACTORISATION if objective.is_quadratic else Evidence.NEWTON_DECREMENT
            estimate = Estimate(left, curvature, code.value)
            progress = progress_at(*state.at)._replace(estimate=estimate)
        verdict = jnp.where(state.is_rounded, Status.STAGNATED.value, RUNNING)
        verdict = jnp.where(state.is_unbounded, Status.DIVERGED.value, verdict)
        return progress._replace(verdict=verdict)

    def estimates(self, objective: Objective) -> bool:
        return not objective.is_separable

    def seeks_minimum(self, objective: Objective) -> bool:
        return objective.is_quadratic or objective.is_separable

    def solves_at_once(self, objective: Objective) -> bool:
        return objective.is_quadratic

    def needed_bytes(self, objective: Objective, params: Params) -> int:
        return objective.stationary_solver_bytes(params)

    def after_rounding(self, objective: Objective, params: Params, state: State) -> State:
        return state._replace(at=_at(objective, params), is_solution=jnp.array(False))

    @property
    def patience(self) -> int:
        return 2


class _At(NamedTuple):
    value: jax.Array
    gradient: Params


class _State(NamedTuple):
    solver: Any  # the objective's StationarySolver, or else a DenseSolver
    at: _At | None  # at the params; None for a separable objective, to save memory
    is_unbounded: jax.Array
    is_solution: jax.Array  # whether the params are the result of the solver
    is_rounded: jax.Array  # whether a second solve of a quadratic did not lower the value


def _at(objective: Objective, params: Params) -> _At | None:
    return None if objective.is_separable else _At(*objective.value_and_gradient(params))


def _damped_newton(
    objective: Objective, solver: DenseSolver, params: Params, gradient: Params
) -> Params:
    norm = precision.norm(gradient)
    direction, _ = solver.newton_step(gradient)

    def is_flatter(fraction: jax.Array) -> jax.Array:
        return precision.norm(objective.gradient(add_scaled(params, fraction, direction))) < norm

    fraction = halved(jnp.ones((), norm.dtype), is_flatter)
    return add_scaled(params, fraction, direction)


def halved(
    length: jax.Array, accepts: Callable[[jax.Array], jax.Array], most: int = MAX_HALVINGS
) -> jax.Array:
    """The length, halved until it is accepted, at most so many times."""
    length, _ = lax.while_loop(
        lambda carry: ~accepts(carry[0]) & (carry[1] < most),
        lambda carry: (carry[0] / 2, carry[1] + 1),
        (length, jnp.zeros((), jnp.int32)),
    )
    return length
