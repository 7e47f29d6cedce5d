"""The loop of a descent: step until a stopping rule holds.

It has two forms. If every step is checked, the step's own progress is the check: it belongs to the
params that the step began from, and if it ends the descent the step is discarded. A method that
knows its progress before the step is checked after each step instead. If there are several steps
between checks, they are unrolled so that XLA fuses them into one in-place pass over the params, and
the check reads the params in a branch of its own.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdescent.calls.problem import Problem
from jaxdescent.descent import at_once
from jaxdescent.descent.fused_steps import fuses, stepped
from jaxdescent.descent.looks import Look
from jaxdescent.descent.refutation import Refutable
from jaxdescent.descent.suboptimality import Falling, Size
from jaxdescent.descent.watch import Looks, Loop, Watch
from jaxdescent.kernels import loops
from jaxdescent.kernels.branches import where
from jaxdescent.methods import Method, StepReport
from jaxdescent.numerics import precision
from jaxdescent.objectives import checks
from jaxdescent.result import History, Result
from jaxdescent.status import RUNNING, Evidence, Status

Params = Any

CHECK_EVERY = 16
"""The default number of steps between two checks if steps can be fused."""


ITERATIONS = "descent_iterations"
"""The scope of the loop over iterations, by which it is found in a compiled program."""


def descend(
    params: Params,
    problem: Problem,
    max_iterations: jax.Array,
    *,
    check_every: int,
    history: int,
    starts_at_own: bool,
) -> Result:
    """Solve a problem from ``params`` in one program; see :func:`jaxdescent.minimize`.

    ``starts_at_own`` says that params are the objective's own start, so that the gradient there,
    which is a scale of the tolerance, need not be computed separately.
    """

    def in_steps(params: Params, problem: Problem, max_iterations: jax.Array) -> Result:
        descent = Descent(*problem, max_iterations, check_every)
        loop = descent.begin(params, history=history, starts_at_own=starts_at_own)
        return descent.ended(descent.advance(loop))

    inputs = params, problem, max_iterations
    flags = {"history": history, "check_every": check_every, "starts_at_own": starts_at_own}
    if at_once.is_possible(params, problem, flags):
        return at_once.in_program(in_steps, inputs, flags)
    return in_steps(*inputs)


class Descent(Refutable):
    """A descent; its methods begin, advance (any number of times) and finish it."""

    def begin(self, params: Params, *, history: int, starts_at_own: bool) -> Loop:
        """The loop before its first check, or after it for a method that looks ahead, unless that
        check is the first turn of the loop.
        """
        value_dtype = checks.check_value(self.objective, params)
        if starts_at_own:
            params = self.objective.placed_start(params)
        own_norm = None
        if not starts_at_own:
            own_norm, own = self.objective.start_norm(), self.objective.start()
            if own_norm is None and own is not None:
                own_norm = self.measure(own).gradient_norm
        unevaluated = None
        if self.looks_ahead and not precision.is_rounded(params):
            unevaluated = self.method.unevaluated(self.objective, params, value_dtype)
        state = unevaluated
        if state is None:
            state = self.method.init(self.objective, precision.widen(params))
        norm_dtype = jnp.result_type(*jax.tree.leaves(precision.widen(params)))
        zero, never = jnp.zeros((), jnp.int32), jnp.array(False)
        value, norm = jnp.full((), jnp.nan, value_dtype), jnp.full((), jnp.nan, norm_dtype)
        has_estimates = self.check_every == 1 and self.method.estimates(self.objective)
        falling = None if has_estimates else Falling.start(value_dtype, norm_dtype)
        is_refutable = self.is_refutable(params, is_tried=self.looks)
        watch = Watch(
            own_norm=own_norm,
            first_norm=norm,
            first_value=value,
            lowest_norm=jnp.full((), jnp.inf, norm_dtype),
            checks_without_progress=zero,
            has_grown=never if self.is_by_passes else None,
            is_small_step=None if self.tolerance.step is None else never,
            own_value=self.objective.start_value(),
            size=Size.start(norm_dtype),
            falling=falling,
            scale=norm,
            suboptimality=jnp.full((), jnp.inf, value_dtype),
            evidence=jnp.int32(Evidence.NONE.value),
            floor=jnp.zeros((), value_dtype),
            unsteady_at=zero,
            is_steady=jnp.array(True),
            was_near=never,
            looks=Looks.none(value_dtype) if is_refutable else None,
        )
        loop = Loop(
            params=params,
            state=state,
            iteration=zero,
            evaluations=zero,
            status=zero,
            value=value,
            norm=norm,
            watch=watch,
            history=History(*[jnp.full((history,), jnp.nan, value_dtype)] * 3) if history else (),
            checks=zero,
        )
        if self.looks_ahead and unevaluated is None and not self._checks_start_in(loop):
            return self.check(loop, self.progress(loop))
        return loop

    def advance(self, loop: Loop, until: jax.Array | None = None) -> Loop:
        """The loop after steps until a rule ends the descent, or to before iteration ``until``."""
        step = self.checked_steps
        if not self.is_by_passes:
            step = self.step_and_check if self.looks_ahead else self.checked_step

        def goes_on(loop: Loop) -> jax.Array:
            is_running = loop.status == RUNNING
            if (following := self.method.next_stage(loop.state)) is not None:
                is_running &= ~following[1]
            if until is None:
                return is_running
            is_at_end = loop.iteration >= self.max_iterations  # the last check must still report it
            return is_running & ((loop.iteration < until) | is_at_end)

        if not self.looks or not self.is_doubtful(loop):
            with jax.named_scope(ITERATIONS):
                return lax.while_loop(goes_on, step, loop)

        def to_a_claim(loop: Loop) -> Loop:
            with jax.named_scope(ITERATIONS):
                loop = lax.while_loop(goes_on, step, loop)
            return self.confirmed(loop)

        # A claim at the start has been made before the first turn.
        is_claimed = (loop.iteration == 0) & (loop.status != RUNNING)
        return lax.while_loop(
            lambda both: both[1] | goes_on(both[0]),
            lambda both: (to_a_claim(both[0]), jnp.zeros_like(both[1])),
            (loop, is_claimed),
        )[0]

    def confirmed(self, loop: Loop) -> Loop:
        """The loop after its claim has been examined: ended, or running again if the claim was
        refuted and the descent can continue, or its method can in another way.
        """
        had_converged = loop.status == Status.CONVERGED.value
        loop = self.looked_at(self.measured_at_end(loop))
        return self._going_on(loop, had_converged) if self.may_go_on else loop

    def confirmed_by_host(self, loop: Loop, measured: Loop) -> Loop:
        """:meth:`confirmed` for a loop, ``measured`` already, at whose claim a look finds nothing;
        its arrays are concrete.
        """
        answered = self.answered_by_host(measured, Look.nothing(np.float32, np))
        assert answered is not None  # the claim is refutable
        had_converged = int(loop.status) == Status.CONVERGED.value
        if had_converged and self.may_go_on and int(answered.status) != Status.CONVERGED.value:
            return self._going_on(answered, loop.status == Status.CONVERGED.value)
        return answered

    def _going_on(self, loop: Loop, had_converged: jax.Array) -> Loop:
        """The loop of a method that may go on, after a look: it runs again, in another way if there
        is one, where it ``had_converged`` by the method's own estimate alone.
        """
        further = self.method.disproved(loop.state)
        assert further is not None  # may_go_on is False otherwise
        state, has_another = further
        goes_on = had_converged & (loop.status != Status.CONVERGED.value) & has_another
        status = jnp.where(goes_on, jnp.int32(RUNNING), loop.status)
        return loop._replace(state=where(goes_on, state, loop.state), status=status)

    def is_claimed(self, loop: Loop) -> bool:
        """Whether the end of this loop, whose arrays are concrete, needs to be confirmed: where a
        look may change the status or raise the suboptimality, and at the last iteration if the host
        knows the minimum.
        """
        if self.may_go_on or not self.is_doubtful(loop):
            return self.is_doubtful(loop)
        if int(loop.status) == Status.CONVERGED.value:
            return bool(self.method.overlooks(loop.state))
        if int(loop.status) == Status.MAX_ITERATIONS.value:
            return self.is_small and self.is_seen_by_host(loop.params)
        return int(loop.status) == Status.STAGNATED.value

    def is_doubtful(self, loop: Loop) -> bool:
        """Whether a claim at the end of this loop may not be confirmed."""
        return self.may_go_on or loop.watch.looks is not None

    def ended(self, loop: Loop) -> Result:
        """The result of a loop that :meth:`advance` has ended; its progress is measured here unless
        :meth:`confirmed` has done so.
        """
        is_measured = self.looks and self.is_doubtful(loop)
        return self.result(loop if is_measured else self.measured_at_end(loop))

    def result(self, loop: Loop) -> Result:
        """The entries of a loop that has ended, and has been measured, as a result."""
        return Result(
            params=loop.params,
            value=loop.value,
            gradient_norm=loop.norm,
            suboptimality=loop.watch.suboptimality,
            scale=loop.watch.scale,
            iterations=loop.iteration,
            evaluations=loop.evaluations,
            status=loop.status,
            evidence=loop.watch.evidence,
            state=loop.state,
            history=_in_order(loop.history, loop.checks),
            ended_by=self.method.ended_by(loop.state),
        )

    def checked_step(self, loop: Loop) -> Loop:
        """One step, which is kept only if the check of the params it begins from does not end the
        descent.
        """
        wide, state, progress = self.method.step(
            self.objective, precision.widen(loop.params), loop.state
        )
        checked = self.check(loop, progress)
        goes_on = checked.status == RUNNING
        params, state = self.narrowed(wide, state, loop)
        params, state = where(goes_on, (params, state), (loop.params, loop.state))
        is_small = self.tolerance.is_small_step(params, loop.params)
        return checked._replace(
            params=params,
            state=state,
            iteration=loop.iteration + goes_on.astype(jnp.int32),
            watch=checked.watch._replace(is_small_step=is_small),
        )

    def step_and_check(self, loop: Loop) -> Loop:
        """One step, and the check of the params that it leads to; in the first turn the step may be
        the evaluation of the start, or be left out.
        """
        if self.method.is_start(loop.state) is False and self._checks_start_in(loop):
            loop = lax.cond(loop.checks > 0, self._stepped, lambda loop: loop, loop)
        else:
            loop = self._stepped(loop)
        return self.check(loop, self.progress(loop))

    def _checks_start_in(self, loop: Loop) -> bool:
        """Whether the loop's first turn is the check of the start."""
        # With a library in the loop XLA would copy what the branch returns in each turn.
        is_small = self.checks_in_loop and loops.are_few((loop.params, self.objective))
        return is_small and not self._calls_libraries(loop)

    def _stepped(self, loop: Loop) -> Loop:
        wide, state = self.method.blind_step(
            self.objective, precision.widen(loop.params), loop.state
        )
        params, state = self.narrowed(wide, state, loop)
        is_small, steps = self.tolerance.is_small_step(params, loop.params), 1
        if (is_start := self.method.is_start(loop.state)) is not False:
            is_small = None if is_small is None else is_small & ~is_start
            steps = jnp.where(is_start, 0, 1)
        return loop._replace(
            params=params,
            state=state,
            iteration=loop.iteration + steps,
            watch=loop.watch._replace(is_small_step=is_small),
        )

    def checked_steps(self, loop: Loop) -> Loop:
        """The steps between two checks, then a check; the first time only the check."""
        is_first = loop.checks == 0
        left = jnp.minimum(self.check_every, self.max_iterations - loop.iteration)
        loop = stepped(self, loop, jnp.where(is_first, 0, left))
        # The branch's predicate is always true, which XLA cannot know. Reductions in the same loop
        # body as the update would make XLA keep a copy of the params.
        progress, size = lax.cond(
            loop.iteration >= 0,
            self.measured_with_size,
            lambda loop: (StepReport(loop.value, loop.norm, 1, loop.status), loop.norm),
            loop,
        )
        loop = self.check(loop, progress, size)
        is_by_leaf = self.objective.blocks(loop.params) is not None
        if is_by_leaf and not fuses(self.objective, self.method):
            return loop  # a step ahead would need temporaries of a second leaf
        # The first time, the gradient's norm after one more step is computed too, in a pass that
        # only reads. It distinguishes a learning rate that is so large that the steps before the
        # next check overflow from an objective that is NaN.
        has_grown = lax.cond(
            is_first,
            lambda loop: self.norm_ahead(loop, loop.iteration >= 0) > loop.norm,
            lambda loop: loop.watch.has_grown,
            loop,
        )
        return loop._replace(watch=loop.watch._replace(has_grown=has_grown))

    @property
    def is_by_passes(self) -> bool:
        """Whether several steps, in passes over the params, are taken between two checks."""
        return self.check_every > 1

    @property
    def looks_ahead(self) -> bool:
        """Whether each step is followed by a check of the params that it leads to."""
        return self.method.looks_ahead and self.check_every == 1

    @property
    def may_go_on(self) -> bool:
        """Whether the method may continue if a measurement does not confirm its convergence."""
        return type(self.method).disproved is not Method.disproved


def _in_order(history: Any, checks: jax.Array) -> Any:
    """The recorded checks, oldest first."""
    return jax.tree.map(
        lambda ring: jnp.where(checks > ring.size, jnp.roll(ring, -checks), ring), history
    )
