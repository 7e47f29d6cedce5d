"""What a method is: two pure functions of one signature."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent import precision
from jaxdescent.objectives import Objective
from jaxdescent.result import RUNNING

Params = Any
State = Any


class Progress(NamedTuple):
    """What a step learnt about the params it began from; dead code where nobody reads it.

    Attributes:
      value: the objective there.
      gradient_norm: the norm of its gradient there.
      evaluations: how many values or gradients the step computed.
      verdict: the status code with which the method itself gives up there, else ``RUNNING``.
    """

    value: jax.Array
    gradient_norm: jax.Array
    evaluations: Any = 1
    verdict: Any = RUNNING


class Method(abc.ABC):
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

    @property
    def patience(self) -> int:
        """After how many checks in a row without any progress the descent has stagnated."""
        return 10


class LookingAhead(Method):
    """A method whose state tells the progress where it stands.

    The state has fields ``value`` and ``norm``, of the gradient there; ``unreported``, the
    evaluations of the step that led there; and ``verdict``, what that step found.
    """

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
        progress = Progress(state.value, state.norm, evaluations, new.verdict)
        none = jnp.zeros_like(new.unreported)
        return params, new._replace(unreported=none, verdict=none + RUNNING), progress

    def progress(self, objective: Objective, params: Params, state: State) -> Progress:
        del objective, params
        return Progress(state.value, state.norm, state.unreported, state.verdict)

    @property
    def looks_ahead(self) -> bool:
        return True


def progress_at(value: jax.Array, gradient: Params) -> Progress:
    """The progress that a value and a gradient tell."""
    return Progress(value, precision.norm(gradient))


def image_of_start(objective: Objective, params: Params) -> Any:
    """The image of the start; of zeros, the usual start, without a pass over X."""
    is_zero = jnp.all(jnp.stack([jnp.all(leaf == 0) for leaf in jax.tree.leaves(params)]))
    shapes = jax.eval_shape(objective.image, params)

    def zeros(_: Params) -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    return lax.cond(is_zero, zeros, objective.image, params)


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
