"""What a method is: two pure functions of one signature."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.display import Displayed, structure_name
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective
from jaxdescent.objectives.elimination import Means
from jaxdescent.result import RUNNING, EndedBy, Evidence

Params = Any
State = Any


class Estimate(NamedTuple):
    """How far the value at some params is above the minimum, as a method knows it.

    Attributes:
      suboptimality: the value less the minimum: a bound or an estimate, in the value's units.
      curvature: the largest curvature seen along a unit direction.
      evidence: an :class:`jaxdescent.result.Evidence` code: what the suboptimality rests on.
      caution: how many times larger it may be without the method having seen it, at least 1. A
        descent has CONVERGED only where that would be small too, or the gradient is rounding.
      steepness: the largest curvature in the unknowns that the gradient's norm is of, where that
        is another than ``curvature``: the rounding of params of the size ``|x|`` leaves a gradient
        of ``eps steepness |x|``.
      rounding: the curvature along the rounding of the params, where the suboptimality is that of
        recurrences, which know nothing of it.
    """

    suboptimality: jax.Array
    curvature: jax.Array
    evidence: Any = Evidence.NEWTON_DECREMENT.value
    caution: Any = 1.0
    steepness: Any = 0.0
    rounding: Any = 0.0

    def rests_on(self, evidence: Evidence) -> bool | jax.Array:
        """Whether it rests on this evidence: False or True where that is so whatever the numbers
        are.
        """
        return self.evidence == evidence.value

    def at_most(self, bound: jax.Array, evidence: Evidence, norm: jax.Array) -> Estimate:
        """This, or the bound where that is less; caution need not go beyond the bound.

        ``norm`` is the gradient's.
        """
        left = self.suboptimality
        is_less = bound < left
        ratio = bound / jnp.where(left > 0, left, 1)
        ratio = jnp.where(left > 0, jnp.maximum(ratio, 1), jnp.inf)
        caution = jnp.minimum(jnp.asarray(self.caution, ratio.dtype), ratio)
        curvature = jnp.maximum(self.curvature, implied_curvature(norm, bound))
        return Estimate(
            jnp.where(is_less, bound, left),
            jnp.where(is_less, curvature, self.curvature),
            jnp.where(is_less, jnp.int32(evidence.value), jnp.asarray(self.evidence, jnp.int32)),
            jnp.where(is_less, 1, caution),
            self.steepness,
            self.rounding,
        )

    def at_least_curvature(self, least: jax.Array | None, norm: jax.Array) -> Estimate:
        """This, or ``|g|^2 / (2 least)`` where that is less; None: no such curvature is known."""
        if least is None:
            return self
        least = least.astype(norm.dtype)
        is_positive = least > 0
        bound = 0.5 * norm * (norm / jnp.where(is_positive, least, 1))
        bound = jnp.where(is_positive, bound, jnp.inf).astype(self.suboptimality.dtype)
        return self.at_most(bound, Evidence.BOUND, norm)


class Progress(NamedTuple):
    """What a step learnt about the params it began from; dead code where nobody reads it.

    Attributes:
      value: the objective there.
      gradient_norm: the norm of its gradient there.
      evaluations: how many values or gradients the step computed.
      verdict: the status code with which the method itself gives up there, else ``RUNNING``.
      estimate: how far the value there is above the minimum; None where the method cannot say,
        and the loop judges by what it sees (:mod:`jaxdescent.descent.suboptimality`).
      curvature: the largest along a unit direction that the step saw, zero where it saw none: for
        the loop's own estimate.
      is_provisional: whether the method has another way to go on from here, so that no lack of
        progress counts as stagnation yet.
    """

    value: jax.Array
    gradient_norm: jax.Array
    evaluations: Any = 1
    verdict: Any = RUNNING
    estimate: Estimate | None = None
    curvature: Any = 0.0
    is_provisional: Any = False


class Method(Displayed, abc.ABC):
    """How to get from params to better params.

    A method is a pytree whose leaves are its hyper-parameters. ``init`` makes the state that
    ``step`` needs: a pytree of arrays with fixed shapes and dtypes. Params arrive in the dtype
    that arithmetic runs in (float32 for 16-bit storage).
    """

    @abc.abstractmethod
    def init(self, objective: Objective, params: Params) -> State:
        """The state before the first step."""

    @abc.abstractmethod
    def step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State, Progress]:
        """One step: new params, new state, and the progress at the params it began from."""

    def blind_step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State]:
        """``step`` without its progress, where nobody reads it: the compiler need not drop it."""
        params, state, _ = self.step(objective, params, state)
        return params, state

    def progress(self, objective: Objective, params: Params, state: State) -> Progress:
        """What ``step`` would tell of ``params``, without the step."""
        del state
        return progress_at(*objective.value_and_gradient(params))

    def after_rounding(self, objective: Objective, params: Params, state: State) -> State:
        """The state for ``params`` that were rounded to 16 bits after the step that made it."""
        del objective, params
        return state

    def check(self) -> None:
        """Raise if a hyper-parameter whose value can be seen makes no sense."""
        return

    def hoisted(self) -> Method:
        """The same method, whose functions carry what they close over as leaves."""
        return self

    def estimates(self, objective: Objective) -> bool:
        """Whether its progress on this objective comes with an :class:`Estimate`."""
        del objective
        return False

    def solves_at_once(self, objective: Objective) -> bool:
        """Whether its first step leads to the minimum, up to rounding."""
        del objective
        return False

    def needed_bytes(self, objective: Objective, params: Params) -> int | None:
        """What a step must have at least, so much that ``minimize`` looks whether it is there; None
        for a few vectors.
        """
        del objective, params
        return None

    @property
    def looks_ahead(self) -> bool:
        """Whether ``progress`` costs less than a step.

        A descent then looks after each step, a blind one, and takes none too many.
        """
        return False

    @property
    def is_elementwise(self) -> bool:
        """Whether each element's step depends on its own gradient and on scalars alone."""
        return False

    def is_estimate(self, state: State) -> Any:
        """Whether the progress comes from recurrences, which rounding parts from the truth."""
        del state
        return False

    def measured(self, objective: Objective, params: Params, state: State, always: Any) -> Progress:
        """The value and the gradient's norm at ``params``, in place of what :meth:`is_estimate`.

        ``always`` is that of :func:`measure`.
        """
        del state
        return measure(objective, params, always)

    def disproved(self, state: State) -> tuple[State, jax.Array] | None:
        """The state with which to go on where a measurement does not confirm what
        :meth:`is_estimate` took for the minimum, and whether there is a way to go on; None: never.
        """
        del state
        return None

    def ended_by(self, state: State) -> EndedBy:
        """Which method the state is of, where this one is made of several."""
        del state
        return EndedBy((structure_name(self),))

    @property
    def patience(self) -> int:
        """After how many checks in a row without any progress the descent has stagnated."""
        return 10


class LookingAhead(Method):
    """A method whose state tells the progress where it stands.

    The state has fields ``value`` and ``norm``, of the gradient there; ``unreported``, the
    evaluations of the step that led there; and ``verdict``, what that step found. It may have
    ``curvature``, the largest that the step saw. Where it knows
    how far the minimum is, :meth:`estimate` reads that from the state.
    """

    def estimate(self, objective: Objective, state: State) -> Estimate | None:
        """How far the value is above the minimum where the state stands; None: it cannot say."""
        del objective, state
        return None

    @abc.abstractmethod
    def blind_step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State]:
        """One step, and the state where it leads."""

    def step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State, Progress]:
        params, new = self.blind_step(objective, params, state)
        evaluations = state.unreported + new.unreported
        estimate = self.estimate(objective, state)
        curvature = getattr(new, "curvature", 0.0)
        progress = Progress(state.value, state.norm, evaluations, new.verdict, estimate, curvature)
        none = jnp.zeros_like(new.unreported)
        return params, new._replace(unreported=none, verdict=none + RUNNING), progress

    def progress(self, objective: Objective, params: Params, state: State) -> Progress:
        del params
        estimate = self.estimate(objective, state)
        curvature = getattr(state, "curvature", 0.0)
        return Progress(
            state.value, state.norm, state.unreported, state.verdict, estimate, curvature
        )

    @property
    def looks_ahead(self) -> bool:
        return True


def progress_at(value: jax.Array, gradient: Params) -> Progress:
    """The progress that a value and a gradient tell."""
    return Progress(value, precision.norm(gradient))


def implied_curvature(norm: jax.Array, left: jax.Array) -> jax.Array:
    """``|g|^2 / (2 left)``: the curvature of a parabola along g that would fall by ``left``."""
    left = left.astype(norm.dtype)
    is_usable = (left > 0) & (left < jnp.inf)
    return jnp.where(is_usable, norm * (0.5 * norm / jnp.where(is_usable, left, 1)), 0)


def measure_at_best_intercept(
    objective: Objective, params: Params, means: Means | None, always: Any
) -> Progress:
    """The same of a regression whose intercept is the best but for rounding, given its means.

    Of features far from zero that rounding, and that of predictions, is all that a gradient in the
    unknowns w and b shows. 16-bit params are measured as they are.
    """
    if means is None or precision.is_rounded(params):
        return measure(objective, params, always)
    elimination = objective.eliminated(means)
    assert elimination is not None  # means are those of an intercept
    return progress_at(*elimination.objective.value_and_gradient({"weights": params["weights"]}))


def measure(objective: Objective, params: Params, always: Any) -> Progress:
    """The value and the gradient's norm at ``params``, part by part where the objective has parts.

    ``always`` is a true value that XLA must not know to be true.
    """

    def of_part(objective: Objective, part: Params) -> tuple[jax.Array, ...]:
        return objective.value_and_squared_norm(precision.widen(part))

    value, squared = objective.sum_over_parts(of_part, params, always)
    if objective.blocks(params) is not None:
        return Progress(value, jnp.sqrt(squared))
    return Progress(
        value, precision.root(squared, lambda: objective.gradient(precision.widen(params)))
    )
