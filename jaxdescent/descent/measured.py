"""How the params of a descent are measured, and judged by the stopping rules."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.descent.nearness import ROUNDED, is_near_by
from jaxdescent.descent.stopping import Stopping
from jaxdescent.descent.suboptimality import NOISE_ULPS
from jaxdescent.descent.watch import Loop
from jaxdescent.inputs.functions import anew
from jaxdescent.kernels import branches, loops
from jaxdescent.kernels.platform import is_on_one_cpu
from jaxdescent.methods import StepReport
from jaxdescent.methods.protocol import measure
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective, Params
from jaxdescent.result import History
from jaxdescent.status import RUNNING, Status
from jaxdescent.tolerance import Check


class Measured(Stopping):
    """A descent, and the progress and checks at its params."""

    def measure(self, params: Params) -> StepReport:
        return measure(self.objective, params, self.max_iterations >= 0)

    def progress(self, loop: Loop) -> StepReport:
        return self.method.progress(self.objective, precision.widen(loop.params), loop.state)

    def narrowed(self, wide: Params, state: Any, loop: Loop) -> tuple[Params, Any]:
        """The params and state of a step from ``loop``, in the dtypes of storage."""
        params = precision.narrow(wide, loop.params, self.rounding, loop.iteration)
        if precision.is_rounded(params):
            state = self.method.after_rounding(self.objective, precision.widen(params), state)
        return params, state

    def measured_at_end(self, loop: Loop) -> Loop:
        """The loop with its estimated progress measured, if it has ended."""
        is_estimate = self.method.is_estimate(loop.state)
        if is_estimate is False:
            return loop
        is_over = loop.status != RUNNING

        # All members of a batch are measured or none, so that X, and a Gram matrix in the method's
        # state, are not copied for each. A function that a branch closes over would outlive the
        # program.
        parts = self.objective.hoisted(loop.params), *self[1:5], loop
        numbers, structure = jax.tree.flatten(parts)
        kind: Any = type(self)
        static = self[5:]

        def changed(numbers: tuple[jax.Array, ...], *, is_needed: bool) -> dict[str, Any]:
            *problem, loop = structure.unflatten(numbers)
            loop = kind(*problem, *static).measured(loop) if is_needed else loop
            return {name: getattr(loop, name) for name in ("value", "norm", "watch", "status")}

        changes = lax.cond(
            branches.of_any(is_over & is_estimate),
            functools.partial(changed, is_needed=True),
            functools.partial(changed, is_needed=False),
            numbers,
        )
        return loop._replace(**changes)

    def measured(self, loop: Loop) -> Loop:
        """The loop with its value and gradient norm measured, and its claim tested by these.

        A descent that has converged by the estimates, but not by the measurement, has stagnated,
        because the recurrences lead no further.
        """

        def changes() -> dict[str, Any]:
            truth = self.method.measured(
                self.objective, loop.params, loop.state, self.max_iterations >= 0
            )
            value = jnp.asarray(truth.value, loop.value.dtype)
            norm = jnp.asarray(truth.gradient_norm, loop.norm.dtype)
            noise = NOISE_ULPS * jnp.finfo(value.dtype).eps * jnp.abs(value)
            rise = value - loop.value
            rise = jnp.where(rise > noise, rise, 0)
            watch = loop.watch._replace(suboptimality=loop.watch.suboptimality + rise)
            norms, bound = self._norms(loop.params, norm), self.tolerance
            has_failed = watch.was_near & ~is_near_by(watch, value, bound, norms)
            was_below = bound.is_below_bound(loop.norm)
            if was_below is not False:
                is_above = ~bound.is_below_bound(norm)
                has_failed = (has_failed | ~watch.was_near) & was_below & is_above
            has_failed &= loop.status == Status.CONVERGED.value
            status = jnp.where(has_failed, jnp.int32(Status.STAGNATED.value), loop.status)
            return {"value": value, "norm": norm, "watch": watch, "status": status}

        inputs = loop.params, self.objective
        return loop._replace(**loops.one_turn_if_few(changes, inputs))

    def measured_with_size(self, loop: Loop) -> tuple[StepReport, jax.Array]:
        """The progress at the loop's params and their norm, leaf by leaf for a sum over leaves."""
        always = self.max_iterations >= 0

        def of_leaf(objective: Objective, leaf: Params) -> tuple[jax.Array, ...]:
            return (precision.squared_norm(leaf),)

        progress = self.measure(loop.params)
        (squared,) = self.objective.sum_over_parts(of_leaf, loop.params, always)
        if self.objective.blocks(loop.params) is not None:
            size = jnp.sqrt(squared)
        else:
            size = precision.root(squared, lambda: loop.params)
        progress = StepReport(
            jnp.asarray(progress.value, loop.value.dtype),
            jnp.asarray(progress.gradient_norm, loop.norm.dtype),
            1,
            loop.status,
        )
        return progress, size.astype(loop.norm.dtype)

    def norm_ahead(self, loop: Loop, always: jax.Array) -> jax.Array:
        """The gradient's norm after one more step; ``always`` is as for ``sum_over_parts``."""

        def square(objective: Objective, leaf: Params) -> tuple[jax.Array, ...]:
            new, _ = self.method.blind_step(objective, precision.widen(leaf), loop.state)
            return objective.value_and_squared_norm(new)[1:]

        (squared,) = self.objective.sum_over_parts(square, loop.params, always)
        return jnp.sqrt(squared)

    def check(self, loop: Loop, progress: StepReport, size: jax.Array | None = None) -> Loop:
        """The loop after a check at its params; ``size`` is their norm, if it is known."""
        if size is None:
            size = self.objective.size(loop.params)
        value = jnp.asarray(progress.value, loop.value.dtype)
        norm = jnp.asarray(progress.gradient_norm, loop.norm.dtype)
        share = ROUNDED * precision.epsilon(loop.params)
        rounding = self.objective.rounding_beside_size(precision.widen(loop.params), share)
        if not isinstance(rounding, float):
            rounding = rounding.astype(value.dtype)
        check = Check(self.objective.unpacked(loop.params), value, norm, loop.iteration)
        judged = functools.partial(
            self.judge,
            loop,
            progress._replace(value=value, gradient_norm=norm),
            size.astype(norm.dtype),
            rounding=rounding,
            norms=self._norms(loop.params, norm),
            is_stopped=self.tolerance.asks_to_stop(check),
        )
        watch, status = loops.one_turn(judged) if self._calls_libraries(loop) else judged()
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
            evaluations=loop.evaluations + jnp.asarray(progress.evaluations, jnp.int32),
            history=history,
            checks=loop.checks + 1,
        )

    def _calls_libraries(self, loop: Loop) -> bool:
        """Whether the loop calls a library in a program for one CPU: XLA then compiles each other
        operation of the loop, and so each comparison of a check, as a kernel of its own.
        """
        if not is_on_one_cpu():
            return False
        params = precision.widen(loop.params)
        if self.method.calls_libraries(self.objective, params, loop.state):
            return True
        return loops.calls_libraries(anew(self.objective.value), params)

    def _norms(self, params: Params, norm: jax.Array) -> Any:
        """The norms that the gradient's tolerance is compared with: of the gradient, or by leaf."""
        if not self.tolerance.is_by_leaf:
            return norm
        gradient = self.objective.gradient(precision.widen(params))
        return jax.tree.map(lambda leaf: precision.norm(leaf).astype(norm.dtype), gradient)
