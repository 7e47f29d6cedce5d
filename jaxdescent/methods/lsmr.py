"""LSMR: minimal residuals of the normal equations, by the Golub-Kahan process."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.inputs.numbers import check_number
from jaxdescent.kernels import loops
from jaxdescent.methods.golub_kahan import (
    Basis,
    Scalars,
    bidiagonalise,
    column_norms,
    first_scalars,
    rotated,
    rounding_of_means,
    start_norms,
)
from jaxdescent.methods.intercept import GivenIntercept
from jaxdescent.methods.protocol import (
    Estimate,
    LookingAhead,
    Params,
    State,
    StepReport,
    implied_curvature,
    measure_at_best_intercept,
)
from jaxdescent.numerics import precision
from jaxdescent.numerics.linear_systems import inverse
from jaxdescent.numerics.ritz import caution
from jaxdescent.objectives import Objective
from jaxdescent.objectives.elimination import Means
from jaxdescent.preconditioners import CentredRegression, Factor
from jaxdescent.preconditioners.protocol import check_preconditioner
from jaxdescent.status import RUNNING, Evidence, Status

ULPS, LEAST = 2.0, 1 / 8
"""The backward error, in eps, at which rounding ends the process, and the part of it to which
``N'A'r`` falls: in float32 few suboptimalities are small enough for a claim before."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LSMR(LookingAhead):
    """Solve a regression by bidiagonalising X, with the accuracy of X instead of ``X'X``.

    Let ``A = [D (X - 1 x_bar'); sqrt(l2) I]`` and ``r = [D (y - y_bar); 0] - A w``, where ``D =
    diag(sqrt(s))``, bars are weighted means, and the intercept is ``y_bar - x_bar.w``; and let N be
    a right preconditioner. Iteration k minimises ``|N'A'r|`` over the Krylov space of ``N'A'A N``.
    It falls monotonically, and so does ``|r|``. The recurrences are::

        beta u <- A N v - alpha u        alpha v <- N'A'u - beta v

    followed by two plane rotations. Each output is a problem of its own, with its own scalars and
    its own ``l2``; all share each pass over X. There are two passes in an iteration, one to begin
    with (two from a start that is not zero), and one for ``x_bar``. Centring and penalty are
    applied, but not stored. From zeros, the solution of least norm is found if there are several,
    with a preconditioner the one of least ``|N^-1 w|``. A start given as params is corrected.

    The process ends when the params of each output solve a problem that is as near to the given one
    as asked (a backward error, in terms of the norms of ``A N``)::

        |N'A'r| <= atol |A N| |r|        or        |r| <= btol |b| + atol |A N| |N^-1 w|

    or when ``N'A'r`` may be the rounding of ``x_bar``, which is all that X has of constant columns.
    The status is ``CONVERGED`` if ``atol`` or ``btol`` was given. The defaults are the level of
    rounding, at which the status is ``STAGNATED``, as it is where the estimated condition number of
    ``A N`` exceeds conlim; except if ``minimize``'s tolerance holds, by the suboptimality
    ``|N'A'r|^2 / (2 theta)`` with theta the smallest Ritz value of ``N'A'A N`` (or by the bound
    from ``l2``, if that is lower). A negative ``l2`` or sample weight has no square root and ends
    the process ``DIVERGED``, even if there is a minimum. With ``jd.Sketch()``, for which ``A N``
    has singular values near one, ``atol`` bounds the relative suboptimality of the objective by
    about ``30 atol^2``. If one of them is given, ``tolerance=0`` makes these tests the only ones.

    Progress is computed by recurrences, which are exact but for rounding. If they say that the
    params have converged, or the residual has fallen so far that it may be rounding, one iteration
    computes the residual anew instead of moving, and the process begins again from there (iterative
    refinement).

    The method keeps four parameter-sized vectors besides the params, seven with a preconditioner,
    and one of the size of y; with an intercept one more for ``x_bar``. If columns are so far from
    zero that ``X w - x_bar.w`` would cancel (``jaxdescent.designs.Standardised``), the means are
    subtracted from X before the products, block by block and without a copy of X.

    Args:
      preconditioner: None, or for example ``jd.Jacobi()``, ``jd.Nystrom(rank)``, ``jd.Sketch()``.
      atol: the relative error of X, at least 0. None stands for ``2 eps``, and an eighth
        of it in the test of ``N'A'r``; 0 for no test.
      btol: the relative error of y, at least 0. None stands for ``2 eps``, and 0 for no test.
      conlim: the largest condition number, positive. None stands for ``1 / (10 eps)``.

    Raises:
      TypeError: if the objective is not a ``jd.LinearRegression``, or the preconditioner is not one
        or needs more than the design can provide.
      ValueError: if ``atol`` or ``btol`` is negative, or ``conlim`` is not positive.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> X = jnp.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [3.0, 5.0]])
    >>> result = jd.minimize(jd.LinearRegression(X, 1 + X @ jnp.array([2.0, -3.0])),
    ...                      method=jd.LSMR())
    >>> weights = result.params["weights"]
    >>> bool(result.converged & (abs(weights - jnp.array([2.0, -3.0])) < 1e-4).all())
    True

    Reference: Fong and Saunders (2011), "LSMR: an iterative algorithm for sparse least-squares
    problems".
    """

    preconditioner: Any = None
    atol: Any = None
    btol: Any = None
    conlim: Any = None

    def init(self, objective: Objective, params: Params) -> State:
        regression = _regression(objective)
        weights = params["weights"].reshape(regression.size, -1)
        targets = regression.targets()
        # A start of zeros, the usual one, saves a pass.
        image = lax.cond(
            jnp.any(weights != 0), regression.forward, lambda _: jnp.zeros_like(targets), weights
        )
        rows = targets - image
        penalty = -jnp.sqrt(regression.shift) * weights
        factor = correction = None
        if self.preconditioner is not None:
            factor, correction = self.preconditioner.factorise_and_start(regression, rows, penalty)
        pulled = regression.backward(rows) + jnp.sqrt(regression.shift) * penalty
        basis, beta, alpha = bidiagonalise(factor, rows, penalty, pulled)
        has_start = correction is not None
        given, means = None, regression.means
        if means is not None:
            slope = {"weights": -pulled.reshape(params["weights"].shape)}
            value = 0.5 * jnp.sum(jnp.square(beta))
            given = GivenIntercept.at(params, means, value, slope)
        scalars = first_scalars(basis, beta, alpha, start_norms(targets))
        rounding = rounding_of_means(regression, factor, 4 * ULPS)
        return _State(
            basis=basis,
            last=basis.direction,
            gradient=basis.pulled,
            search=correction if has_start else jnp.zeros_like(weights),
            scalars=scalars,
            meets=self._meets(scalars, rounding, weights, factor),
            is_restart=jnp.full(beta.shape, has_start),
            is_estimate=jnp.array(False),
            factor=factor,
            means=means,
            given=given,
            rounding=rounding,
            is_unbounded=~objective.linear_regression.is_convex,
        )

    def blind_step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State]:
        basis, scalars, is_restart = state.basis, state.scalars, state.is_restart
        regression = _regression(objective, state.means)
        weights = params["weights"].reshape(regression.size, -1)
        is_done: jax.Array = state.ends[0]

        # An output that is restarted first moves and then computes its residual for the next u; the
        # others multiply by their last direction. One product with X serves both.
        moved = weights + jnp.where(is_restart & ~is_done, state.search, 0)
        argument = jnp.where(is_restart, moved, basis.direction)

        def next_rows(image: jax.Array, targets: jax.Array, rows: jax.Array) -> jax.Array:
            return jnp.where(is_restart, targets - image, image - scalars.alpha * rows)

        given = regression.targets(), basis.rows
        rows, pulled = regression.there_and_back(argument, next_rows, given)
        penalty = jnp.sqrt(regression.shift) * argument
        penalty = jnp.where(is_restart, -penalty, penalty - scalars.alpha * basis.penalty)
        pulled = pulled + jnp.sqrt(regression.shift) * penalty
        kept = jax.tree.map(lambda leaf: jnp.where(is_restart, 0, leaf), basis)
        new_basis, beta, alpha = bidiagonalise(state.factor, rows, penalty, pulled, kept)

        def turned() -> tuple[jax.Array, dict[str, Any]]:
            """The weights, and what changes of the state besides the basis."""
            first = first_scalars(new_basis, beta, alpha, scalars.target)
            first = first._replace(norm=jnp.maximum(first.norm, scalars.norm), ritz=scalars.ritz)
            gone_on, of_search, of_move, of_last = rotated(scalars, beta, alpha)
            gradient = new_basis.pulled
            if gradient is not None:
                # A'r = zeta_bar g, where g has a recurrence like the residual in MINRES.
                along = gone_on.c_bar * gradient - gone_on.s_bar * state.gradient
                gradient = jnp.where(is_restart, gradient, along)
                gone_on = gone_on._replace(gradient=gone_on.normal * column_norms(gradient))
            new_scalars = jax.tree.map(
                lambda old, begun, gone_on: jnp.where(
                    is_done, old, jnp.where(is_restart, begun, gone_on)
                ),
                scalars,
                first,
                gone_on,
            )
            search = jnp.where(is_restart, 0, state.last - of_search * state.search)
            last = new_basis.direction - jnp.where(is_restart, 0, of_last) * state.last
            # Where an output is done, its direction goes on and may overflow.
            new_weights = jnp.where(is_restart | is_done, moved, moved + of_move * search)
            meets = self._meets(new_scalars, state.rounding, new_weights, state.factor)
            changes = {
                "last": last,
                "gradient": gradient,
                "scalars": new_scalars,
                "meets": meets,
                "is_estimate": ~jnp.all(is_restart),
            }
            # An estimate that has fallen this far may be rounding: the residual must confirm it.
            eps = jnp.finfo(beta.dtype).eps
            fallen = new_scalars.normal * inverse(new_scalars.first)
            new = state._replace(meets=meets, is_restart=jnp.zeros_like(is_restart))
            has_ended, _ = new.ends
            is_doubtful = (has_ended & (fallen < eps**0.25)) | (fallen < 8 * eps)
            is_doubtful = is_doubtful & ~is_restart & ~is_done & (new_scalars.first > 0)
            search = jnp.where(is_doubtful, 0, search)
            return new_weights, changes | {"search": search, "is_restart": is_doubtful}

        is_one = self.calls_libraries(objective, params, state) and loops.are_few((params, scalars))
        new_weights, changes = loops.one_turn(turned) if is_one else turned()
        given = None if state.given is None else state.given.after_step()
        new = state._replace(basis=new_basis, given=given, **changes)
        return regression.with_intercept(new_weights, params), new

    def after_rounding(self, objective: Objective, params: Params, state: State) -> State:
        # A residual that was computed for the move belongs to the weights before they were rounded.
        return state._replace(is_estimate=jnp.ones_like(state.is_estimate))

    def calls_libraries(self, objective: Objective, params: Params, state: _State) -> bool:
        factor, direction = state.factor, state.basis.direction
        return factor is not None and loops.calls_libraries(factor.apply, direction)

    def progress(self, objective: Objective, params: Params, state: _State) -> StepReport:
        regression = _regression(objective, state.means)
        (is_done, is_singular), scalars = state.ends, state.scalars
        # With the default tolerances the end is rounding; a given tolerance means convergence.
        is_asked = self.atol is not None or self.btol is not None
        is_ended = jnp.all(is_done | is_singular)
        verdict = jnp.where(is_ended, Status.STAGNATED.value, RUNNING)
        verdict = jnp.where(jnp.all(is_done) & is_asked, Status.CONVERGED.value, verdict)
        norm = precision.norm(scalars.gradient)
        height = jnp.sum(scalars.ritz.height(scalars.normal, scalars.normal))
        curvature = jnp.square(jnp.max(scalars.largest))
        if state.factor is not None:
            curvature = implied_curvature(norm, height)
        estimate = Estimate(height, curvature, Evidence.RITZ_VALUES.value, caution(height.dtype))
        if state.means is not None:
            estimate = estimate.with_means(state.means, params["weights"])
        if state.factor is None:
            estimate = estimate._replace(rounding=curvature)
        progress = StepReport(
            0.5 * jnp.sum(jnp.square(scalars.residual)),
            norm,
            1,
            jnp.where(state.is_unbounded, Status.DIVERGED.value, verdict),
            estimate.at_least_curvature(jnp.min(regression.shift), norm),
        )
        return progress if state.given is None else state.given.of(progress)

    def check(self) -> None:
        check_preconditioner(self.preconditioner)
        check_number("LSMR.atol", self.atol, "at least 0", lambda x: x >= 0, may_be_none=True)
        check_number("LSMR.btol", self.btol, "at least 0", lambda x: x >= 0, may_be_none=True)
        check_number("LSMR.conlim", self.conlim, "positive", lambda x: x > 0, may_be_none=True)

    def measured(
        self, objective: Objective, params: Params, state: State, always: Any
    ) -> StepReport:
        return measure_at_best_intercept(objective, params, state.means, always)

    def is_estimate(self, state: State) -> jax.Array:
        return state.is_estimate

    def estimates(self, objective: Objective) -> bool:
        return True

    def _meets(
        self, scalars: Scalars, rounding: jax.Array, weights: jax.Array, factor: Factor | None
    ) -> tuple[jax.Array, jax.Array]:
        """For each output, whether the scalars are those of a solution, and whether their condition
        exceeds conlim.
        """
        dtype = scalars.norm.dtype
        eps = jnp.finfo(dtype).eps
        atol = jnp.asarray(ULPS * eps if self.atol is None else self.atol, dtype)
        btol = jnp.asarray(ULPS * eps if self.btol is None else self.btol, dtype)
        conlim = jnp.asarray(0.1 / eps if self.conlim is None else self.conlim, dtype)
        # |A w| <= |A N| |N^-1 w|, where N^-1 w is known only for N = I.
        size = jnp.maximum(scalars.target - scalars.residual, 0)
        if factor is None:
            size = jnp.maximum(size, scalars.norm * column_norms(weights))
        least = LEAST * atol if self.atol is None else atol
        least = jnp.maximum(least * scalars.norm, rounding)
        is_stationary = scalars.normal <= least * scalars.residual
        is_solved = scalars.residual <= btol * scalars.target + atol * size
        is_asked = (atol > 0) | (btol > 0)
        is_met = (is_stationary & (atol > 0)) | (is_solved & is_asked)
        return is_met, scalars.condition > conlim


class _State(NamedTuple):
    basis: Basis
    last: jax.Array  # h
    gradient: jax.Array | None  # the direction of A'r; None without a preconditioner
    search: jax.Array  # h_bar; for an output that is restarted, its move before the restart
    scalars: Scalars
    meets: tuple[jax.Array, jax.Array]  # what LSMR._meets says of the scalars
    is_restart: jax.Array
    is_estimate: jax.Array  # whether the scalars come from the recurrences
    factor: Factor | None
    means: Means | None
    given: GivenIntercept | None  # for means
    rounding: jax.Array  # |N'A'u| of a unit vector u that may be rounding
    is_unbounded: jax.Array  # whether a penalty or a weight is negative

    @property
    def ends(self) -> tuple[jax.Array, jax.Array]:
        """For each output, whether it has converged, and whether its condition exceeds conlim."""
        is_current = ~self.is_restart
        if self.given is not None:
            is_current &= ~self.given.is_other
        return self.meets[0] & is_current, self.meets[1] & is_current


def _regression(objective: Objective, means: Means | None = None) -> CentredRegression:
    if objective.linear_regression is None:
        raise TypeError(
            f"LSMR needs a jd.LinearRegression, got {type(objective).__name__}: take "
            "jd.ConjugateGradient() for another quadratic objective."
        )
    return CentredRegression.from_objective(objective.linear_regression, means)
