"""Methods that keep their progress, and see only the weights of a regression with an intercept."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.methods.protocol import LookingAhead, Params, State, StepReport
from jaxdescent.objectives import Objective
from jaxdescent.objectives.elimination import Means, eliminated, weights_alone
from jaxdescent.status import RUNNING, Status


class GivenIntercept(NamedTuple):
    """The value and the gradient's norm at given params, whose intercept may not be the best one.

    Only the params before the first step are given: a step finds the best intercept.
    """

    value: jax.Array  # the value at the given params
    norm: jax.Array  # the gradient's norm there
    is_other: jax.Array  # whether the intercept of the current params is not the best one

    @classmethod
    def at(cls, params: Params, means: Means, value: jax.Array, gradient: Params) -> GivenIntercept:
        """The state before the first step, from value and gradient for the weights alone."""
        given = means.at_given_intercept(params, value, gradient["weights"])
        return cls(*given, jnp.any(means.excess(params) != 0))

    def of(self, progress: StepReport) -> StepReport:
        """The progress with the given intercept, from that of the weights alone."""
        estimate = progress.estimate
        if estimate is not None:
            more = jnp.where(self.is_other, self.value - progress.value, 0)
            left = estimate.suboptimality
            estimate = estimate._replace(suboptimality=left + more.astype(left.dtype))
        return progress._replace(
            estimate=estimate,
            value=jnp.where(self.is_other, self.value, progress.value),
            gradient_norm=jnp.where(self.is_other, self.norm, progress.gradient_norm),
        )

    def after_step(self) -> GivenIntercept:
        return self._replace(is_other=jnp.zeros_like(self.is_other))


class Kept(NamedTuple):
    """The state of a method that keeps its progress."""

    own: Any  # the state of the steps, on the weights alone
    unreported: jax.Array  # the evaluations of the last step
    verdict: jax.Array  # on the last step
    means: Means | None  # the means of a regression whose intercept is eliminated
    given: GivenIntercept | None  # for means
    is_evaluated: jax.Array | None = None  # whether the steps know the start; None: always


class KeepingProgress(LookingAhead):
    """A method whose state contains the progress at the current params.

    A subclass defines the steps. They have a state of their own, with the fields ``value`` and
    ``gradient``, and see only the weights of a regression with an intercept.
    """

    @abc.abstractmethod
    def begun(self, objective: Objective, params: Params) -> Any:
        """The steps' own state before the first step."""

    def unbegun(self, objective: Objective, params: Params, value_dtype: Any) -> Any:
        """:meth:`begun` without an evaluation, which the first step makes; None if it cannot be, as
        for quadratic objectives, the only ones whose intercept is eliminated.
        """
        return None

    @abc.abstractmethod
    def moved(
        self, objective: Objective, params: Params, own: Any, is_start: Any = False
    ) -> tuple[Params, Any, Any, Any]:
        """One step: new params, new state, the number of evaluations, and a status code; where it
        ``is_start``, from a state of :meth:`unbegun`, the params are only evaluated.
        """

    @abc.abstractmethod
    def evaluated(self, objective: Objective, params: Params, own: Any) -> Any:
        """The steps' own state at other params."""

    @abc.abstractmethod
    def report(self, own: Any) -> StepReport:
        """The progress at the current params, without evaluations and verdict."""

    def steps(self, objective: Objective) -> KeepingProgress:
        """The method whose steps are taken on this objective."""
        return self

    def init(self, objective: Objective, params: Params) -> State:
        inner, weights, means = eliminated(objective, params)
        own = self.steps(objective).begun(inner, weights)
        given = None
        if means is not None:
            given = GivenIntercept.at(params, means, own.value, own.gradient)
        one, running = jnp.ones((), jnp.int32), jnp.full((), RUNNING, jnp.int32)
        return Kept(own, one, running, means, given)

    def unevaluated(self, objective: Objective, params: Params, value_dtype: Any) -> Kept | None:
        own = self.steps(objective).unbegun(objective, params, value_dtype)
        if own is None:
            return None
        none = jnp.zeros((), jnp.int32)
        return Kept(own, none, none + RUNNING, None, None, jnp.array(False))

    def is_start(self, state: State) -> Any:
        return False if state.is_evaluated is None else ~state.is_evaluated

    def blind_step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State]:
        means = state.means
        inner, weights = weights_alone(objective, params, means)
        params, own, evaluations, verdict = self.steps(objective).moved(
            inner, weights, state.own, self.is_start(state)
        )
        curves_down = objective.curves_down()
        if curves_down is not None:
            verdict = jnp.where(curves_down, Status.DIVERGED.value, verdict)
        state = state._replace(
            own=own,
            unreported=jnp.asarray(evaluations, jnp.int32),
            verdict=jnp.asarray(verdict, jnp.int32),
            is_evaluated=None if state.is_evaluated is None else jnp.array(True),
        )
        if means is None:
            return params, state
        return means.with_intercept(**params), state._replace(given=state.given.after_step())

    def step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State, StepReport]:
        new_params, new = self.blind_step(objective, params, state)
        progress = self.progress(objective, params, state)._replace(
            evaluations=state.unreported + new.unreported,
            verdict=new.verdict,
            curvature=self.steps(objective).report(new.own).curvature,
        )
        none = jnp.zeros_like(new.unreported)
        return new_params, new._replace(unreported=none, verdict=none + RUNNING), progress

    def progress(self, objective: Objective, params: Params, state: State) -> StepReport:
        progress = self.steps(objective).report(state.own)
        progress = progress._replace(evaluations=state.unreported, verdict=state.verdict)
        if state.means is None:
            return progress
        if (estimate := progress.estimate) is not None:
            inner, weights = weights_alone(objective, params, state.means)
            estimate = estimate.with_means(state.means, **weights)
            estimate = estimate.at_least_curvature(inner.least_curvature(), progress.gradient_norm)
        return state.given.of(progress._replace(estimate=estimate))

    def after_rounding(self, objective: Objective, params: Params, state: State) -> State:
        inner, weights = weights_alone(objective, params, state.means)
        return state._replace(own=self.steps(objective).evaluated(inner, weights, state.own))
