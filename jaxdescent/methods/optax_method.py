"""Any optax transformation as a method."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdescent.display import Displayed, argument, name_of
from jaxdescent.inputs.functions import as_pytree
from jaxdescent.methods.protocol import Method, Params, State, StepReport, progress_at
from jaxdescent.methods.step_rules import Momentum
from jaxdescent.methods.step_rules.transformation import StepRule, Transformation
from jaxdescent.objectives import Objective


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class OptaxMethod(Method):
    """An ``optax.GradientTransformation``, given the value, the gradient and the value function.

    The transformation is part of the program and is compared by identity: make it once and pass the
    same object again, or each call compiles anew. ``optax.inject_hyperparams`` makes its
    hyper-parameters part of the state.
    """

    transformation: optax.GradientTransformation

    def __post_init__(self) -> None:
        kind = type(self.transformation)
        if kind in (optax.GradientTransformation, optax.GradientTransformationExtraArgs):
            held = kind(*map(as_pytree, self.transformation))
            object.__setattr__(self, "transformation", held)

    def _arguments(self) -> list[str]:
        if isinstance(self.transformation, Displayed):
            return [argument(self.transformation)]
        # Only the names of the functions inside a transformation tell its name, such as ``adam``.
        return [name_of(self.transformation.update).split(".")[0]]

    def init(self, objective: Objective, params: Params) -> State:
        # Some of optax's states are weakly typed; a loop needs the dtypes that update returns.
        return jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), self.transformation.init(params)
        )

    def step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State, StepReport]:
        value, gradient = objective.value_and_gradient(params)
        update = optax.with_extra_args_support(self.transformation).update
        updates, state = update(
            gradient, state, params, value=value, grad=gradient, value_fn=objective.value
        )
        return optax.apply_updates(params, updates), state, progress_at(value, gradient)

    @property
    def patience(self) -> int:
        # A transformation may hold its updates back for many steps (MultiSteps, a warm-up).
        return 1000


def as_method(method: Any) -> Method:
    """A method unchanged, or an optax transformation wrapped as a method.

    Raises:
      TypeError: if it is neither, such as a number, a class, or a schedule.
    """
    if isinstance(method, Method):
        return method
    is_own = isinstance(method, Transformation)
    if isinstance(method, optax.GradientTransformation) and not is_own:
        return OptaxMethod(method)
    hint = ""
    if isinstance(method, (int, float)):
        hint = f" For a constant learning rate write jd.GradientDescent({method})."
    elif isinstance(method, StepRule):
        hint = f" It is a rule for the learning rate: write jd.GradientDescent(jd.{method!r})."
    elif isinstance(method, Momentum):
        hint = f" It goes with a learning rate: write jd.GradientDescent(momentum=jd.{method!r})."
    elif isinstance(method, str):
        hint = " Pass the method itself, not its name: for example jd.LBFGS() or optax.adam(1e-3)."
    elif isinstance(method, optax.MultiSteps):
        hint = " Pass what its gradient_transformation() returns."
    elif isinstance(method, type) or callable(method):
        hint = (
            " Call it first: pass jd.GradientDescent(1e-2) or optax.adam(1e-3), not the class or "
            "function; a schedule goes into jd.GradientDescent(schedule)."
        )
    raise TypeError(
        "method must be a jaxdescent method, an optax.GradientTransformation or None, got "
        f"{method!r}.{hint}"
    )
