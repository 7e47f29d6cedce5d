"""How a candidate for the end of a descent is verified: the gap at its params decides.

A point is accepted where the gap's upper end is within what the tolerance allows, and rejected
where its lower end is above it: then the descent goes on from the lowest point that the gap has
met, and nominates no candidate for a quarter of its iterations so far. A gap may take as many
evaluations as the descent has taken, less those of earlier gaps. Where neither end decides, the
descent goes on too, because the gap's process ends in a refined point; after a few gaps in a row,
of growing budgets, that lead to no lower value it has STAGNATED. For a function whose gap cannot be
known within its budget the nominator's estimate stands, and its evidence says that it is one.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdescent.descent.checking import Checked
from jaxdescent.descent.state import Loop
from jaxdescent.gap import Gap, Query, krylov, krylov_gap
from jaxdescent.kernels.branches import of_any, where
from jaxdescent.numerics import precision
from jaxdescent.status import RUNNING, Evidence, Status
from jaxdescent.tolerance import default_tolerance

MOST_TRACED = 1 << 20
"""The most unknowns of a function whose gap is part of a descent's program: the vectors of
conjugate gradients add to the memory of the whole program."""

PAUSE_SHARE, LEAST_PAUSE = 4, 2
"""After a rejection no candidate is nominated for this part of the iterations so far, and for at
least so many."""

MOST_FRUITLESS, BUDGET_GROWTH = 3, 4
"""The gaps in a row without a lower value after which a descent has stagnated, and the factor by
which each of them raises the budget of the next."""


class Verified(Checked):
    """A descent whose candidates are verified."""

    @property
    def gap_in_program(self) -> bool:
        """Whether candidates are verified inside the program of the descent."""
        return self.has_gap and self.verifies

    def query(self, loop: Loop, xp: Any = jnp) -> Query:
        """What the descent asks about the params of a measured loop."""
        watch, dtype = loop.watch, loop.value.dtype
        share = xp.asarray(self.tolerance.suboptimality, dtype)
        worth = watch.own_value
        if worth is None and (regression := self.objective.linear_regression) is not None:
            worth = regression.start_value()
        return Query(
            value=loop.value,
            share=xp.where(share > 0, share, xp.asarray(default_tolerance(loop.params), dtype)),
            worth=worth,
            size=xp.maximum(watch.size.now, watch.size.before),
            eps=precision.epsilon(loop.params),
            budget=loop.evaluations * BUDGET_GROWTH**watch.fruitless - watch.proofs,
            flattest=watch.flattest,
        )

    def verified(self, loop: Loop, most: int | None = None) -> Loop:
        """The loop with its end measured, and verified if it is a candidate, inside a program; a
        function of more than ``most`` unknowns keeps the nominator's estimate.
        """
        loop = self.measured_at_end(loop)
        is_candidate = loop.status < 0
        is_function = self.objective.linear_regression is None
        size = sum(leaf.size for leaf in jax.tree.leaves(loop.params))
        is_too_large = is_function and most is not None and size > most
        if is_too_large or not krylov.is_possible(self.objective, loop.params):
            return where(is_candidate, self.unanswered(loop), loop)

        def answered(loop: Loop) -> Loop:
            answer = krylov_gap(self.objective, loop.params, self.query(loop))
            return where(loop.status < 0, self.ruled(loop, answer), loop)

        return lax.cond(of_any(is_candidate), answered, lambda loop: loop, loop)

    def unanswered(self, loop: Loop, xp: Any = jnp) -> Loop:
        """The loop with the nominator's estimate in place of a gap that nothing can compute."""
        watch = loop.watch
        is_said = (loop.status == -Status.CONVERGED) | (watch.evidence <= Evidence.BOUND.value)
        left = xp.where(is_said, watch.suboptimality, xp.inf).astype(loop.value.dtype)
        code = xp.where(is_said, watch.evidence, Evidence.NONE.value).astype(np.int32)
        watch = watch._replace(suboptimality=left, evidence=code)
        return loop._replace(status=xp.abs(loop.status), watch=watch)

    def ended(self, loop: Loop, answer: Gap, xp: Any = jnp) -> tuple[Loop, Any]:
        """The loop of a candidate with the answer's numbers, where nothing goes on, and whether the
        candidate is accepted.
        """
        tolerance, watch, nominated = self.tolerance, loop.watch, -loop.status
        dtype = loop.value.dtype
        upper, lower, allowed = (
            xp.asarray(number, dtype) for number in (answer.upper, answer.lower, answer.allowed)
        )
        is_accepted = (upper <= allowed) | tolerance.off.suboptimality
        is_accepted &= tolerance.is_level(loop.norm, watch.scale, is_accepted, xp)
        # A lower bound on the value, or the least curvature, may say more than the gap.
        is_bounded = (watch.evidence > 0) & (watch.evidence <= Evidence.BOUND.value)
        is_bounded &= watch.suboptimality < upper
        left = xp.where(is_bounded, watch.suboptimality, upper)
        code = xp.where(is_bounded, watch.evidence, xp.asarray(answer.evidence, np.int32))
        is_candidate = self._is_candidate(loop)
        is_last = loop.iteration >= self.max_iterations
        rejected = xp.where(
            is_last & (nominated == Status.CONVERGED),
            int(Status.MAX_ITERATIONS),
            int(Status.STAGNATED),
        )
        status = xp.where(is_candidate, rejected, nominated)
        status = xp.where(is_candidate & is_accepted, int(Status.CONVERGED), status)
        if self.objective.linear_regression is None:
            # Neither end decides: the nominator's estimate stands, if it is within the tolerance.
            is_unknown = ~is_accepted & ~(lower > allowed) & answer.is_curved
            stands = (nominated == Status.CONVERGED) & is_unknown
            stands &= watch.suboptimality <= allowed
            status = xp.where(stands, int(Status.CONVERGED), status)
            left = xp.where(stands, xp.maximum(watch.suboptimality, lower), left)
            code = xp.where(stands, watch.evidence, code)
            is_accepted = is_accepted | stands
        taken = xp.asarray(answer.evaluations, np.int32)
        watch = watch._replace(
            suboptimality=left.astype(dtype),
            evidence=code.astype(np.int32),
            proofs=watch.proofs + taken,
            flattest=xp.asarray(answer.flattest, watch.flattest.dtype),
        )
        evaluations = loop.evaluations + taken
        ended = loop._replace(status=status.astype(np.int32), evaluations=evaluations, watch=watch)
        return ended, is_accepted

    def _is_candidate(self, loop: Loop) -> Any:
        """Whether the descent may go on if the gap does not accept its end."""
        return (loop.status == -Status.CONVERGED) | (loop.status == -Status.STAGNATED)

    def may_go_on(self, loop: Loop, is_accepted: Any) -> Any:
        """Whether a candidate that is not accepted may lead to further iterations."""
        return self._is_candidate(loop) & ~is_accepted & (loop.iteration < self.max_iterations)

    def ruled(self, loop: Loop, answer: Gap) -> Loop:
        """The measured loop of a candidate after the answer: ended, or running again."""
        ended, is_accepted = self.ended(loop, answer)
        watch, iteration = ended.watch, loop.iteration
        lower = jnp.asarray(answer.lower, loop.value.dtype)
        is_rejected = lower > jnp.asarray(answer.allowed, loop.value.dtype)
        point = self.measure(answer.params)
        fallen = loop.value - jnp.asarray(point.value, loop.value.dtype)
        noise = 2 * float(jnp.finfo(fallen.dtype).eps) * jnp.abs(loop.value)
        gains = fallen > jnp.where(is_rejected, 0, noise)
        if self.method.solves_at_once(self.objective):
            # Such a method ends where it has ended before, whatever point it begins at.
            gains = jnp.zeros_like(gains)
        fruitless = jnp.where(gains, 0, watch.fruitless + 1)
        goes_on = self.may_go_on(loop, is_accepted)
        goes_on &= (fruitless < MOST_FRUITLESS) & jnp.isfinite(lower)
        pause = jnp.maximum(iteration // PAUSE_SHARE, LEAST_PAUSE)
        watch = watch._replace(
            next=jnp.where(goes_on, iteration + pause, watch.next).astype(jnp.int32),
            fruitless=fruitless,
            checks_without_progress=jnp.where(gains, 0, watch.checks_without_progress),
            lowest_norm=jnp.where(gains, jnp.inf, watch.lowest_norm),
        )
        status = jnp.where(goes_on, RUNNING, ended.status).astype(jnp.int32)
        ended = ended._replace(status=status, watch=watch, evaluations=ended.evaluations + 1)
        return self._restarted(ended, answer.params, goes_on & (fallen > 0))

    def _restarted(self, loop: Loop, params: Any, moves: Any) -> Loop:
        """The loop with the method's state begun again at these params where it ``moves``."""
        params = where(moves, params, loop.params)

        def begun(loop: Loop, params: Any) -> Any:
            if self.method.solves_at_once(self.objective):
                wide = precision.widen(params)
                return self.method.after_rounding(self.objective, wide, loop.state)
            return self.first_state(params, loop.value.dtype)[0]

        state = lax.cond(of_any(moves), begun, lambda loop, _: loop.state, loop, params)
        return loop._replace(params=params, state=where(moves, state, loop.state))
