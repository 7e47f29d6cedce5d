"""Step rules and momentum as optax transformations that are pytrees of their hyper-parameters."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator
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
    """An ``optax.GradientTransformationExtraArgs`` whose two items are its own methods.

    A subclass is a dataclass registered with JAX, which looks for a registered type before it
    treats an object as a tuple. The tuple itself holds nothing: bound methods in it would make a
    reference cycle.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return tuple.__new__(cls, (None, None))

    def __iter__(self) -> Iterator[Any]:
        return iter((self.init, self.update))

    def __getitem__(self, index: Any) -> Any:
        return (self.init, self.update)[index]

    def __reduce__(self) -> Any:
        # The copying and pickling of tuples would pass the items as hyper-parameters.
        fields = dataclasses.fields(cast(Any, self))
        return type(self), tuple(getattr(self, field.name) for field in fields)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    @abc.abstractmethod
    def init(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, params: Params, objective: Objective | None = None
    ) -> State:
        """The state at ``params``; ``minimize`` passes the objective."""

    @abc.abstractmethod
    def update(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, updates: Params, state: State, params: Params = None, **extra: Any
    ) -> tuple[Params, State]:
        """The updates to add to ``params``, and the new state."""

    def check(self) -> None:
        """Raise if a hyper-parameter that is not traced has an invalid value."""
        return


class Momentum(Transformation):
    """A transformation for ``jd.GradientDescent(learning_rate, momentum=...)``."""

    @abc.abstractmethod
    def has_restarted(self, state: State) -> jax.Array:
        """Whether the last step dropped the momentum, or there was no step yet."""


class Info(NamedTuple):
    """What a rule's last step reports."""

    evaluations: Any = 1  # how many values or gradients it computed
    verdict: Any = RUNNING  # a status code if the rule found no step, else ``RUNNING``
    curvature: Any = 0.0  # the largest that it saw along a unit direction; zero if none

    @classmethod
    def none(cls, like: jax.Array) -> Info:
        """Before the first step."""
        return cls(jnp.zeros((), jnp.int32), jnp.full((), RUNNING, jnp.int32), jnp.zeros_like(like))


class StepRule(Transformation):
    """A rule that finds the learning rate of each step itself.

    It is used as ``jd.GradientDescent(learning_rate=rule)``, or as a transformation in an optax
    loop, in place of ``optax.sgd``: its updates are ``-rate * direction``, where the direction is
    the gradient or what earlier transformations of a chain have made of it. Give ``update`` the
    function as ``value_fn``, and ``value`` and ``grad`` if they are known:

    ``updates, state = rule.update(grads, state, params, value=value, grad=grads, value_fn=f)``

    The field ``info`` of the state reports the step.
    """

    has_rate_ahead: ClassVar[bool] = False
    """Whether the state is the rate of the next step, whatever the gradient will be."""

    @abc.abstractmethod
    def rate(
        self, objective: Objective, at: LinePoint, direction: Params, state: State
    ) -> tuple[jax.Array, State]:
        """The rate of a step from a point along the negative of the direction, and the new state.
        The value at the point is None in an optax loop that does not provide it.
        """

    def update(
        self,
        updates: Params,
        state: State,
        params: Params = None,
        *,
        value: Any = None,
        grad: Params = None,
        value_fn: Any = None,
        objective: Objective | None = None,
        **extra: Any,
    ) -> tuple[Params, State]:
        name = type(self).__name__
        if params is None:
            raise ValueError(f"{name} needs the params: call update(grads, state, params, ...).")
        if objective is None and value_fn is None:
            raise ValueError(
                f"{name} evaluates the function at other params: call update(grads, state, params, "
                "value=value, grad=grads, value_fn=function)."
            )
        function = as_objective(value_fn) if objective is None else objective
        at = LinePoint(params, value, updates if grad is None else grad)
        rate, state = self.rate(function, at, updates, state)
        return scaled(-rate, updates), state

    def under_momentum(self, has_restarted: Any) -> StepRule | None:
        """The rule for steps that momentum extends; None if its rates fit plain steps alone."""
        return None

    def value_and_gradient(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[jax.Array, Params]:
        """The value and the gradient at ``params``, computed as cheaply as the state allows."""
        return objective.value_and_gradient(params)

    def after_rounding(self, objective: Objective, params: Params, state: State) -> State:
        """The state for ``params`` that were rounded to 16 bits after the step that made it."""
        return state


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
