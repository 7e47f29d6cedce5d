"""Subtract the gradient times a learning rate, and repeat."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdescent.callables import as_pytree
from jaxdescent.methods.protocol import Method, Params, Progress, State, progress_at
from jaxdescent.methods.step_sizes import Backtracking, StepSize
from jaxdescent.objectives import Objective


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GradientDescent(Method):
    """``x <- x - learning_rate * gradient(x)``.

    Args:
      learning_rate: a number (units: params squared over value), an optax schedule from the
        iteration's index to one, or a rule: ``jd.Backtracking()`` (the default),
        ``jd.ExactLineSearch()``.

    With a number or a schedule it keeps no parameter-sized vector besides the params, each step
    works element by element, and ``2 / learning_rate`` is the curvature beyond which it diverges.

    Raises:
      ValueError: if a learning rate whose value can be seen is not a positive, finite scalar.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> result = jd.minimize(lambda x: 2 * x**2, 100.0, jd.GradientDescent(1e-2))
    >>> bool(abs(result.params) < 1e-2)
    True

    Reference: Cauchy (1847), "Méthode générale pour la résolution des systèmes d'équations
    simultanées".
    """

    learning_rate: Any = dataclasses.field(default_factory=Backtracking)

    def __post_init__(self) -> None:
        if not isinstance(self.learning_rate, StepSize):
            object.__setattr__(self, "learning_rate", as_pytree(self.learning_rate))

    def init(self, objective: Objective, params: Params) -> State:
        if isinstance(self.learning_rate, StepSize):
            return self.learning_rate.init(objective, params)
        return jnp.zeros((), jnp.int32) if callable(self.learning_rate) else ()

    def step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State, Progress]:
        rate = self.learning_rate
        if isinstance(rate, StepSize):
            return rate.step(objective, params, state)
        if callable(rate):
            rate, state = rate(state), state + 1
        value, gradient = objective.value_and_gradient(params)
        new = objective.gradient_step(params, gradient, rate)
        return new, state, progress_at(value, gradient)

    def check(self) -> None:
        rate = self.learning_rate
        if isinstance(rate, jax.tree_util.Partial) and isinstance(rate.func, type):
            raise TypeError(
                f"learning_rate must be an object, got the class {rate.func.__name__}: write "
                f"{rate.func.__name__}()."
            )
        if isinstance(rate, StepSize) or callable(rate):
            return
        numbers = (int, float, np.ndarray, np.generic, jax.Array)
        if np.ndim(rate) != 0 or not isinstance(rate, numbers):
            raise TypeError(
                "learning_rate must be a number, an optax schedule, or a rule such as "
                f"jd.Backtracking(), got {rate!r}."
            )
        if not isinstance(rate, Tracer) and not 0 < float(rate) < float("inf"):
            raise ValueError(f"learning_rate must be positive and finite, got {float(rate)}.")

    @property
    def is_elementwise(self) -> bool:
        return not isinstance(self.learning_rate, StepSize)
