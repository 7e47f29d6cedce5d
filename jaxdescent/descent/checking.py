"""How the params of a descent are measured and checked."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.descent.state import Loop
from jaxdescent.descent.stopping import Rules
from jaxdescent.inputs.functions import anew
from jaxdescent.kernels import loops
from jaxdescent.kernels.branches import of_any
from jaxdescent.kernels.platform import is_on_one_cpu
from jaxdescent.methods import StepReport
from jaxdescent.methods.protocol import measure
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective, Params
from jaxdescent.result import History
from jaxdescent.status import RUNNING
from jaxdescent.tolerance import Check


class Checked(Rules):
    """A descent, and the reports and checks at its params."""

    @property
    def is_by_passes(self) -> bool:
        """Whether several steps, in passes over the params, are taken between two checks."""
        return self.check_every > 1

    @property
    def looks_ahead(self) -> bool:
        """Whether each step is followed by a check of the params that it leads to."""
        return self.method.looks_ahead and self.check_every == 1

    def first_state(self, params: Params, value_dtype: Any) -> tuple[Any, bool]:
        """The method's state at params from which it begins, and whether these are evaluated."""
        if self.looks_ahead and not precision.is_rounded(params):
            state = self.method.unevaluated(self.objective, params, value_dtype)
            if state is not None:
                return state, False
        return self.method.init(self.objective, precision.widen(params)), True

    def measure(self, params: Params) -> StepReport:
        """The value and the gradient's norm at ``params``, by the objective."""
        return measure(self.objective, params, self.max_iterations >= 0)

    def report(self, loop: Loop) -> StepReport:
        """What the method reports at the loop's params."""
        return self.method.progress(self.objective, precision.widen(loop.params), loop.state)

    def narrowed(self, wide: Params, state: Any, loop: Loop) -> tuple[Params, Any]:
        """The params and state of a step from ``loop``, in the dtypes of storage."""
        params = precision.narrow(wide, loop.params, self.rounding, loop.iteration)
        if precision.is_rounded(params):
            state = self.method.after_rounding(self.objective, precision.widen(params), state)
        return params, state

    def measured_at_end(self, loop: Loop) -> Loop:
        """The loop with the value and the gradient's norm that the objective has at its params, if
        it has ended and the method's own come from recurrences.
        """
        is_estimate = self.method.is_estimate(loop.state)
        if is_estimate is False:
            return loop
        # All members of a batch are measured or none, so that X, and a Gram matrix in the method's
        # state, are not copied for each.
        value, norm = lax.cond(
            of_any((loop.status != RUNNING) & is_estimate),
            self.truth,
            lambda loop: (loop.value, loop.norm),
            loop,
        )
        is_due = (loop.status != RUNNING) & is_estimate
        return loop._replace(
            value=jnp.where(is_due, value, loop.value), norm=jnp.where(is_due, norm, loop.norm)
        )

    def truth(self, loop: Loop) -> tuple[jax.Array, jax.Array]:
        """The value and the gradient's norm that the objective has at the loop's params."""
        always = self.max_iterations >= 0
        truth = self.method.measured(self.objective, loop.params, loop.state, always)
        value = jnp.asarray(truth.value, loop.value.dtype)
        return value, jnp.asarray(truth.gradient_norm, loop.norm.dtype)

    def measured_with_size(self, loop: Loop) -> tuple[StepReport, jax.Array]:
        """The report at the loop's params and their norm, leaf by leaf for a sum over leaves."""
        always = self.max_iterations >= 0

        def of_leaf(objective: Objective, leaf: Params) -> tuple[jax.Array, ...]:
            return (precision.squared_norm(leaf),)

        report = self.measure(loop.params)
        (squared,) = self.objective.sum_over_parts(of_leaf, loop.params, always)
        if self.objective.blocks(loop.params) is not None:
            size = jnp.sqrt(squared)
        else:
            size = precision.root(squared, lambda: loop.params)
        report = StepReport(
            jnp.asarray(report.value, loop.value.dtype),
            jnp.asarray(report.gradient_norm, loop.norm.dtype),
            1,
            loop.status,
        )
        return report, size.astype(loop.norm.dtype)

    def norm_ahead(self, loop: Loop, always: jax.Array) -> jax.Array:
        """The gradient's norm after one more step; ``always`` is as for ``sum_over_parts``."""

        def square(objective: Objective, leaf: Params) -> tuple[jax.Array, ...]:
            new, _ = self.method.blind_step(objective, precision.widen(leaf), loop.state)
            return objective.value_and_squared_norm(new)[1:]

        (squared,) = self.objective.sum_over_parts(square, loop.params, always)
        return jnp.sqrt(squared)

    def check(self, loop: Loop, report: StepReport, size: jax.Array | None = None) -> Loop:
        """The loop after a check at its params; ``size`` is their norm, if it is known."""
        if size is None:
            size = self.objective.size(loop.params)
        value = jnp.asarray(report.value, loop.value.dtype)
        norm = jnp.asarray(report.gradient_norm, loop.norm.dtype)
        check = Check(self.objective.unpacked(loop.params), value, norm, loop.iteration)
        judged = functools.partial(
            self.judge,
            loop,
            report._replace(value=value, gradient_norm=norm),
            size.astype(norm.dtype),
            is_stopped=self.tolerance.asks_to_stop(check),
        )
        watch, status = loops.one_turn(judged) if self.calls_libraries(loop) else judged()
        seen = History(value, norm, watch.suboptimality)
        history = jax.tree.map(
            lambda ring, new: ring.at[loop.checks % ring.size].set(new.astype(ring.dtype)),
            loop.history,
            seen if loop.history else (),
        )
        return loop._replace(
            status=status,
            value=value,
            norm=norm,
            watch=watch,
            evaluations=loop.evaluations + jnp.asarray(report.evaluations, jnp.int32),
            history=history,
            checks=loop.checks + 1,
        )

    def calls_libraries(self, loop: Loop) -> bool:
        """Whether the loop calls a library in a program for one CPU: XLA then compiles each other
        operation of the loop, and so each comparison of a check, as a kernel of its own.
        """
        if not is_on_one_cpu():
            return False
        params = precision.widen(loop.params)
        if self.method.calls_libraries(self.objective, params, loop.state):
            return True
        return loops.calls_libraries(anew(self.objective.value), params)
