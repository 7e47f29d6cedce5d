"""The protocol of a method, and the progress that it reports."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.display import Displayed, structure_name
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective, Params
from jaxdescent.objectives.elimination import Means, weights_alone
from jaxdescent.result import EndedBy
from jaxdescent.status import RUNNING, Evidence

State = Any


class Estimate(NamedTuple):
    """A method's estimate of the value at some params minus the minimum.

    Attributes:
      suboptimality: the value minus the minimum: a bound or an estimate, in the value's units.
      curvature: the largest curvature seen along a unit direction.
      evidence: an :class:`jaxdescent.status.Evidence` code, the evidence for the suboptimality.
      caution: the factor by which the suboptimality may be larger than the method has seen, at
        least 1. A descent has CONVERGED only if the product of both is small enough, or the
        gradient is rounding.
      steepness: the largest curvature in the unknowns of the reported gradient, if it differs from
        ``curvature``: the rounding of params of size ``|x|`` leaves a gradient of
        ``eps steepness |x|``.
      rounding: the curvature along the rounding errors of the params, if the suboptimality comes
        from recurrences, which do not see these errors.
      products: for a regression whose intercept follows from means, ``S sum_j (x_bar_j w_j)^2``
        (:meth:`jaxdescent.objectives.elimination.Means.products`).
      forgets: whether the estimate rests on the last few steps alone, or on curvatures that may be
        rounding. Then it never counts as steady, and is reported with the caution of a claim.
    """

    suboptimality: jax.Array
    curvature: jax.Array
    evidence: Any = Evidence.NEWTON_DECREMENT.value
    caution: Any = 1.0
    steepness: Any = 0.0
    rounding: Any = 0.0
    products: Any = 0.0
    forgets: Any = False

    def rests_on(self, evidence: Evidence) -> bool | jax.Array:
        """Whether the estimate is based on this evidence; a Python bool if the code is static."""
        return self.evidence == evidence.value

    def at_most(self, bound: jax.Array, norm: jax.Array) -> Estimate:
        """The estimate, or ``bound`` if that is smaller.

        The caution is limited so that it does not exceed the bound. ``norm`` is the gradient's.
        """
        left = self.suboptimality
        is_less = bound < left
        ratio = bound / jnp.where(left > 0, left, 1)
        ratio = jnp.where(left > 0, jnp.maximum(ratio, 1), jnp.inf)
        caution = jnp.minimum(jnp.asarray(self.caution, ratio.dtype), ratio)
        curvature = jnp.maximum(self.curvature, implied_curvature(norm, bound))
        own = jnp.asarray(self.evidence, jnp.int32)
        return self._replace(
            suboptimality=jnp.where(is_less, bound, left),
            curvature=jnp.where(is_less, curvature, self.curvature),
            evidence=jnp.where(is_less, jnp.int32(Evidence.BOUND.value), own),
            caution=jnp.where(is_less, 1, caution),
        )

    def with_means(self, means: Means, weights: jax.Array) -> Estimate:
        """The estimate for weights with their best intercept, which follows from these means."""
        return self._replace(
            steepness=means.steepness() + self.curvature, products=means.products(weights)
        )

    def at_least_curvature(self, least: jax.Array | None, norm: jax.Array) -> Estimate:
        """The estimate, or ``|g|^2 / (2 least)`` if that is smaller; None: no bound is known."""
        if least is None:
            return self
        least = least.astype(norm.dtype)
        is_positive = least > 0
        bound = 0.5 * norm * (norm / jnp.where(is_positive, least, 1))
        bound = jnp.where(is_positive, bound, jnp.inf).astype(self.suboptimality.dtype)
        return self.at_most(bound, norm)


class StepReport(NamedTuple):
    """The report of a step on the params it began from; unused entries are dead code.

    Attributes:
      value: the objective at these params.
      gradient_norm: the norm of the gradient at these params.
      evaluations: how many values or gradients the step computed.
      verdict: a status code if the method itself ends the descent there, else ``RUNNING``.
      estimate: an estimate of the value minus the minimum; None if the method has none, and the
        loop makes its own (:mod:`jaxdescent.descent.suboptimality`).
      curvature: the largest curvature along a unit direction that the step saw, for the loop's own
        estimate; zero if it saw none.
      is_provisional: whether the method has another way to continue from here, so that a lack of
        progress does not count as stagnation yet.
    """

    value: jax.Array
    gradient_norm: jax.Array
    evaluations: Any = 1
    verdict: Any = RUNNING
    estimate: Estimate | None = None
    curvature: Any = 0.0
    is_provisional: Any = False


class Method(Displayed, abc.ABC):
    """A rule for getting from params to better params.

    A method is a pytree whose leaves are its hyper-parameters. ``init`` makes the state that
    ``step`` needs: a pytree of arrays with fixed shapes and dtypes. Params arrive in the dtype
    in which arithmetic runs (float32 for 16-bit storage). The answers after ``step`` have defaults,
    which fit a method of gradients.
    """

    @abc.abstractmethod
    def init(self, objective: Objective, params: Params) -> State:
        """The state before the first step."""

    @abc.abstractmethod
    def step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State, StepReport]:
        """One step: new params, new state, and the progress at the params it began from."""

    def blind_step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State]:
        """``step`` without its progress, so that the compiler need not remove unused code."""
        params, state, _ = self.step(objective, params, state)
        return params, state

    def progress(self, objective: Objective, params: Params, state: State) -> StepReport:
        """The progress that ``step`` would report at ``params``, without the step."""
        return progress_at(*objective.value_and_gradient(params))

    def estimates(self, objective: Objective) -> bool:
        """Whether the progress on this objective has an :class:`Estimate`."""
        return False

    def seeks_minimum(self, objective: Objective) -> bool:
        """Whether the method descends; one that finds any stationary point is not held to a gap."""
        return True

    @property
    def looks_ahead(self) -> bool:
        """Whether ``progress`` costs less than a step.

        A descent then takes blind steps and checks after each of them, so that it takes none too
        many.
        """
        return False

    @property
    def is_elementwise(self) -> bool:
        """Whether each element's step depends on its own gradient and on scalars alone."""
        return False

    def calls_libraries(self, objective: Objective, params: Params, state: State) -> bool:
        """Whether a step factorises a matrix, or solves with a factor, between many operations on
        few numbers: XLA for CPUs calls a library for it, and compiles each other operation of the
        loop on its own, unless these are put into one kernel.
        """
        return False

    @property
    def patience(self) -> int:
        """The number of checks in a row without any progress that count as stagnation."""
        return 10

    def needed_bytes(self, objective: Objective, params: Params) -> int | None:
        """The bytes that a step needs at least, for ``minimize`` to check that they are available;
        None if it needs only a few vectors.
        """
        return None

    def check(self) -> None:
        """Raise if a hyper-parameter that is not traced has an invalid value."""
        return

    def hoisted(self) -> Method:
        """This method with the arrays that its functions close over as leaves."""
        return self

    # Methods that look ahead, and whose first step may be the evaluation of the start.

    def unevaluated(self, objective: Objective, params: Params, value_dtype: Any) -> State | None:
        """:meth:`init` without an evaluation of the objective, which then stands once in a program;
        None if the method has no such state. The first step from it stays at ``params``.
        """
        return None

    def is_start(self, state: State) -> Any:
        """Whether the next step only evaluates the objective at its params."""
        return False

    # Methods that follow recurrences, which rounding separates from the truth.

    def is_estimate(self, state: State) -> Any:
        """Whether the progress comes from recurrences, which rounding separates from the truth."""
        return False

    def measured(
        self, objective: Objective, params: Params, state: State, always: Any
    ) -> StepReport:
        """The value and the gradient's norm at ``params``, computed from the objective.

        These replace the progress of recurrences (:meth:`is_estimate`). ``always`` is passed to
        :func:`measure`.
        """
        return measure(objective, params, always)

    # Other properties of a method.

    def after_rounding(self, objective: Objective, params: Params, state: State) -> State:
        """The state for ``params`` that were rounded to 16 bits after the step that made it."""
        return state

    def solves_at_once(self, objective: Objective) -> bool:
        """Whether the first step leads to the minimum, up to rounding."""
        return False

    def ended_by(self, state: State) -> EndedBy:
        """The name of the method that was active last, if this one is made of several."""
        return EndedBy((structure_name(self),))


class LookingAhead(Method):
    """A method whose progress at the current params costs less than a step."""

    @abc.abstractmethod
    def blind_step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State]:
        """One step: new params, and the state there."""

    def step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State, StepReport]:
        return (
            *self.blind_step(objective, params, state),
            self.progress(objective, params, state),
        )

    @property
    def looks_ahead(self) -> bool:
        return True


def progress_at(value: jax.Array, gradient: Params) -> StepReport:
    """The progress for a value and a gradient."""
    return StepReport(value, precision.norm(gradient))


def implied_curvature(norm: jax.Array, left: jax.Array) -> jax.Array:
    """``|g|^2 / (2 left)``, the curvature of a parabola along g that falls by ``left``."""
    left = left.astype(norm.dtype)
    is_usable = (left > 0) & (left < jnp.inf)
    return jnp.where(is_usable, norm * (0.5 * norm / jnp.where(is_usable, left, 1)), 0)


def measure_at_best_intercept(
    objective: Objective, params: Params, means: Means | None, always: Any
) -> StepReport:
    """The measurement of a regression whose intercept is the best but for rounding.

    The value and gradient are computed for the weights alone, with the given means. In the unknowns
    w and b, for features far from zero, the gradient would show little but the rounding of the
    intercept and of the predictions. 16-bit params are measured by :func:`measure`.
    """
    if means is None or precision.is_rounded(params):
        return measure(objective, params, always)
    alone, weights = weights_alone(objective, params, means)
    return progress_at(*alone.value_and_gradient(weights))


def measure(objective: Objective, params: Params, always: Any) -> StepReport:
    """The value and the gradient's norm at ``params``, leaf by leaf for a sum over leaves.

    ``always`` is a true value that XLA cannot know to be true
    (:meth:`jaxdescent.objectives.Objective.sum_over_parts`).
    """

    def of_leaf(objective: Objective, leaf: Params) -> tuple[jax.Array, ...]:
        return objective.value_and_squared_norm(precision.widen(leaf))

    value, squared = objective.sum_over_parts(of_leaf, params, always)
    if objective.blocks(params) is not None:
        return StepReport(value, jnp.sqrt(squared))
    return StepReport(
        value, precision.root(squared, lambda: objective.gradient(precision.widen(params)))
    )
