"""Step rules and momentum as optax transformations that are pytrees of their hyper-parameters."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from jaxdescent.display import Displayed
from jaxdescent.kernels.dtypes import compute_dtype
from jaxdescent.methods.line_search import LinePoint
from jaxdescent.methods.protocol import Params, State
from jaxdescent.numerics import precision
from jaxdescent.numerics.linear_systems import scaled
from jaxdescent.objectives import Objective, as_objective
from jaxdescent.status import RUNNING


class Transformation(Displayed, optax.GradientTransformationExtraArgs, metaclass=abc.ABCMeta):
    """An ``optax.GradientTransformationExtraArgs`` that is also a pytree of hyper-parameters.

    The tuple's two items are the methods ``start`` and ``change`` of a second object with the same
    fields: ``optax.chain`` unpacks the tuple, and items bound to the tuple itself would make a
    reference cycle. A subclass is a dataclass registered with JAX, which looks for a registered
    type before it treats an object as a tuple.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        twin: Any = tuple.__new__(cls, (None, None))
        twin.__init__(*args, **kwargs)
        return tuple.__new__(cls, (twin.start, twin.change))

    def __reduce__(self) -> Any:
        # The copying and pickling of tuples would pass the items as hyper-parameters.
        fields = dataclasses.fields(cast(Any, self))
        return type(self), tuple(getattr(self, field.name) for field in fields)

    @abc.abstractmethod
    def start(self, params: Params, objective: Objective | None = None) -> State:
        """The state at ``params``; the objective is given inside ``minimize``."""

    @abc.abstractmethod
    def change(
        self, updates: Params, state: State, params: Params = None, **extra: Any
    ) -> tuple[Params, State]:
        """The updates to add to ``params``, and the new state."""

    def check(self) -> None:
        """Raise if a hyper-parameter that is not traced has an invalid value."""
        return


class Move(NamedTuple):
    """The result of a rule's step."""

    params: Params  # ``x - rate * direction``
    rate: jax.Array  # the learning rate; zero if there is no step
    state: State  # the rule's new state
    evaluations: Any = 1  # how many values or gradients the step computed
    verdict: Any = RUNNING  # a status code if the rule gives up, else ``RUNNING``
    curvature: Any = 0.0  # the largest that the step saw along a unit direction; zero if none


class StepRule(Transformation):
    """A rule that finds the learning rate of each step itself.

    It is used as ``jd.GradientDescent(learning_rate=rule)``, or as a transformation in an optax
    loop, in place of ``optax.sgd``: its updates are ``-rate * direction``, where the direction is
    the gradient or what earlier transformations of a chain have made of it. Give ``update`` the
    function as ``value_fn``, and ``value`` and ``grad`` if they are known:

    ``updates, state = rule.update(grads, state, params, value=value, grad=grads, value_fn=f)``
    """

    needs_function: ClassVar[bool] = True
    has_rate_ahead: ClassVar[bool] = False
    """Whether the state is the rate of the next step, whatever the gradient will be."""

    @abc.abstractmethod
    def move(self, objective: Objective, at: LinePoint, direction: Params, state: State) -> Move:
        """One step from a point, whose value is None in an optax loop that does not provide it. It
        goes along the negative of the direction: the gradient, or what a chain has made of it.
        """

    def after_rounding(self, objective: Objective, params: Params, state: State) -> State:
        """The state for ``params`` that were rounded to 16 bits after the step that made it."""
        return state

    def value_and_gradient(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[jax.Array, Params]:
        """The value and the gradient at ``params``, computed as cheaply as the state allows."""
        return objective.value_and_gradient(params)

    def change(
        self,
        updates: Params,
        state: State,
        params: Params = None,
        *,
        value: Any = None,
        grad: Params = None,
        value_fn: Any = None,
        **extra: Any,
    ) -> tuple[Params, State]:
        name = type(self).__name__
        if params is None:
            raise ValueError(f"{name} needs the params: call update(grads, state, params, ...).")
        if value_fn is None and self.needs_function:
            raise ValueError(
                f"{name} evaluates the function at other params: call update(grads, state, params, "
                "value=value, grad=grads, value_fn=function)."
            )
        objective: Any = as_objective(value_fn) if self.needs_function else None
        gradient = updates if grad is None else grad
        move = self.move(objective, LinePoint(params, value, gradient), updates, state)
        return scaled(-move.rate, updates), move.state


def moved(params: Params, direction: Params, rate: jax.Array) -> Params:
    """``params - rate * direction``."""
    return jax.tree.map(lambda x, d: x - rate.astype(x.dtype) * d, params, direction)


def scalar(params: Params, value: float) -> jax.Array:
    """A scalar in the widest dtype in which arithmetic on ``params`` runs."""
    dtypes = [compute_dtype(leaf.dtype) for leaf in jax.tree.leaves(params)]
    return jnp.full((), value, jnp.result_type(*dtypes))


def first_rate(params: Params, direction: Params) -> jax.Array:
    """The rate for a step of the params' own length, or of length one if that is larger."""
    length = precision.norm(direction)
    size = jnp.maximum(precision.norm(params).astype(length.dtype), 1)
    return size / jnp.where(length > 0, length, 1)
