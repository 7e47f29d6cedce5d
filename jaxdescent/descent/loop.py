"""The loop of a descent: step until a stopping rule holds, and verify what it ends with.

It has two forms. If every step is checked, the step's own report is the check: it belongs to the
params that the step began from, and if it ends the descent the step is discarded. A method that
knows its report before the step is checked after each step instead. If there are several steps
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
from jaxdescent.descent import on_host
from jaxdescent.descent.fused_steps import fuses, stepped
from jaxdescent.descent.rate import Rate
from jaxdescent.descent.state import Loop, Size, Watch
from jaxdescent.descent.verification import MOST_TRACED, Verified
from jaxdescent.kernels import loops
from jaxdescent.kernels.branches import where
from jaxdescent.methods import StepReport
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
        return descent.result(descent.advance(loop))

    inputs = params, problem, max_iterations
    flags = {"history": history, "check_every": check_every, "starts_at_own": starts_at_own}
    if on_host.is_possible(params, problem, flags):
        return on_host.in_program(in_steps, inputs, flags)
    return in_steps(*inputs)


class Descent(Verified):
    """A descent; its methods begin, advance (any number of times) and end it."""

    def begin(self, params: Params, *, history: int, starts_at_own: bool) -> Loop:
        """The loop before its first check, or after it for a method that is checked after its
        steps, unless that check is in the first iteration of the loop.
        """
        value_dtype = checks.check_value(self.objective, params)
        if starts_at_own:
            params = self.objective.placed_start(params)
        own_norm = None
        if not starts_at_own:
            own_norm, own = self.objective.start_norm(), self.objective.start()
            if own_norm is None and own is not None:
                own_norm = self.measure(own).gradient_norm
        state, is_evaluated = self.first_state(params, value_dtype)
        norm_dtype = jnp.result_type(*jax.tree.leaves(precision.widen(params)))
        zero, never = jnp.zeros((), jnp.int32), jnp.array(False)
        value, norm = jnp.full((), jnp.nan, value_dtype), jnp.full((), jnp.nan, norm_dtype)
        has_estimates = self.check_every == 1 and self.method.estimates(self.objective)
        infinite = jnp.full((), jnp.inf, norm_dtype)
        watch = Watch(
            own_norm=own_norm,
            first_norm=norm,
            first_value=value,
            lowest_norm=infinite,
            checks_without_progress=zero,
            has_grown=never if self.is_by_passes else None,
            own_value=self.objective.start_value(),
            size=Size.start(norm_dtype),
            rate=None if has_estimates else Rate.start(value_dtype, norm_dtype),
            scale=norm,
            suboptimality=jnp.full((), jnp.inf, value_dtype),
            evidence=jnp.int32(Evidence.NONE.value),
            next=zero,
            proofs=zero,
            fruitless=zero,
            flattest=infinite,
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
        if self.looks_ahead and is_evaluated and not self._checks_start_in(loop):
            return self.check(loop, self.report(loop))
        return loop

    def advance(self, loop: Loop, until: jax.Array | None = None) -> Loop:
        """The loop after steps until a rule ends the descent, or to before iteration ``until``.

        It ends with a candidate where the program has no gap.
        """
        step = self.checked_steps
        if not self.is_by_passes:
            step = self.step_and_check if self.looks_ahead else self.checked_step

        def goes_on(loop: Loop) -> jax.Array:
            is_running = loop.status == RUNNING
            if until is None:
                return is_running
            is_at_end = loop.iteration >= self.max_iterations  # the last check must still report it
            return is_running & ((loop.iteration < until) | is_at_end)

        if not self.gap_in_program:
            with jax.named_scope(ITERATIONS):
                return self.measured_at_end(lax.while_loop(goes_on, step, loop))

        def to_verified(loop: Loop) -> Loop:
            with jax.named_scope(ITERATIONS):
                candidate = lax.while_loop(goes_on, step, loop)
            return self.verified(candidate, MOST_TRACED)

        return lax.while_loop(lambda loop: goes_on(loop) | (loop.status < 0), to_verified, loop)

    def result(self, loop: Loop, xp: Any = jnp) -> Result:
        """The entries of a loop that has ended, and been verified, as a result."""
        watch, status = loop.watch, loop.status
        is_lost = (status == Status.DIVERGED) | (status == Status.NON_FINITE) | (status == RUNNING)
        is_lost &= watch.evidence > Evidence.BOUND.value
        return Result(
            params=loop.params,
            value=loop.value,
            gradient_norm=loop.norm,
            suboptimality=xp.where(is_lost, xp.inf, watch.suboptimality).astype(loop.value.dtype),
            scale=watch.scale,
            iterations=loop.iteration,
            evaluations=loop.evaluations,
            status=status,
            evidence=xp.where(is_lost, Evidence.NONE.value, watch.evidence).astype(np.int32),
            state=loop.state,
            history=_in_order(loop.history, loop.checks),
            ended_by=self.method.ended_by(loop.state),
        )

    def checked_step(self, loop: Loop) -> Loop:
        """One step, which is kept only if the check of the params it begins from does not end the
        descent.
        """
        wide, state, report = self.method.step(
            self.objective, precision.widen(loop.params), loop.state
        )
        checked = self.check(loop, report)
        goes_on = checked.status == RUNNING
        params, state = self.narrowed(wide, state, loop)
        params, state = where(goes_on, (params, state), (loop.params, loop.state))
        return checked._replace(
            params=params, state=state, iteration=loop.iteration + goes_on.astype(jnp.int32)
        )

    def step_and_check(self, loop: Loop) -> Loop:
        """One step, and the check of the params that it leads to; in the first iteration the step
        may be the evaluation of the start, or be left out.
        """
        if self.method.is_start(loop.state) is False and self._checks_start_in(loop):
            loop = lax.cond(loop.checks > 0, self._stepped, lambda loop: loop, loop)
        else:
            loop = self._stepped(loop)
        return self.check(loop, self.report(loop))

    def _checks_start_in(self, loop: Loop) -> bool:
        """Whether the loop's first iteration is the check of the start."""
        # With a library in the loop XLA would copy what the branch returns in each iteration.
        is_small = self.checks_in_loop and loops.are_few((loop.params, self.objective))
        return is_small and not self.calls_libraries(loop)

    def _stepped(self, loop: Loop) -> Loop:
        wide, state = self.method.blind_step(
            self.objective, precision.widen(loop.params), loop.state
        )
        params, state = self.narrowed(wide, state, loop)
        steps: Any = 1
        if (is_start := self.method.is_start(loop.state)) is not False:
            steps = jnp.where(is_start, 0, 1)
        return loop._replace(params=params, state=state, iteration=loop.iteration + steps)

    def checked_steps(self, loop: Loop) -> Loop:
        """The steps between two checks, then a check; the first time only the check."""
        is_first = loop.checks == 0
        left = jnp.minimum(self.check_every, self.max_iterations - loop.iteration)
        loop = stepped(self, loop, jnp.where(is_first, 0, left))
        # The branch's predicate is always true, which XLA cannot know. Reductions in the same loop
        # body as the update would make XLA keep a copy of the params.
        report, size = lax.cond(
            loop.iteration >= 0,
            self.measured_with_size,
            lambda loop: (StepReport(loop.value, loop.norm, 1, loop.status), loop.norm),
            loop,
        )
        loop = self.check(loop, report, size)
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


def _in_order(history: Any, checks: jax.Array) -> Any:
    """The recorded checks, oldest first."""
    return jax.tree.map(
        lambda ring: jnp.where(checks > ring.size, jnp.roll(ring, -checks), ring), history
    )
