"""Half the squared norm of a residual, linear or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr

from jaxdescent.inputs.functions import as_pytree, hinting, hoist
from jaxdescent.inputs.trees import check_floats
from jaxdescent.numerics import precision
from jaxdescent.objectives.protocol import Objective, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LeastSquares(Objective):
    """``1/2 |r(params, *args)|^2``, summed over all leaves and elements of the residual r.

    The gradient is ``J'r`` with the Jacobian J of r. ``minimize`` takes ``jd.LevenbergMarquardt``
    for it unless told otherwise.

    Args:
      residual: a differentiable function from params (and args) to an array or pytree of arrays,
        of any shapes.
      args: extra arguments of ``residual``, bound by ``minimize(..., args=...)``.

    Raises:
      TypeError: by ``minimize``, if ``residual`` is not a function, or its value no floating-point
        array.

    >>> import jax.numpy as jnp
    >>> rosenbrock = LeastSquares(lambda p: jnp.array([10 * (p[1] - p[0] ** 2), 1 - p[0]]))
    >>> rosenbrock.value(jnp.array([0.0, 0.0]))
    Array(0.5, dtype=float32)

    Reference: Nocedal and Wright (2006), "Numerical optimization", chapter 10.
    """

    residual: Callable[..., Any]
    args: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "residual", as_pytree(self.residual))

    def value(self, params: Params) -> jax.Array:
        return 0.5 * precision.squared_norm(self.residuals(params))

    def residuals(self, params: Params) -> Any:
        with hinting("LeastSquares.residual"):
            residuals = self.residual(params, *self.args)
        if not jax.tree.leaves(residuals):
            raise TypeError(
                "residual(params) must be an array or a pytree of arrays, got "
                f"{residuals!r}: return what it computes."
            )
        for path, leaf in jax.tree.leaves_with_path(residuals):
            check_floats(f"residual(params){keystr(path)}", jnp.result_type(leaf))
        return residuals

    def lower_bound(self) -> jax.Array:
        return jnp.zeros(())

    def checked(self) -> LeastSquares:
        if not callable(self.residual):
            raise TypeError(
                "LeastSquares.residual must be a function of params (and args) to an array, got "
                f"{self.residual!r}."
            )
        return self

    def bound(self, args: tuple[Any, ...]) -> LeastSquares:
        return LeastSquares(self.residual, args)

    def hoisted(self, params: Params, *, always: bool = False) -> LeastSquares:
        options = {"always": always, "in_double": not always}
        return LeastSquares(hoist(self.residual, params, *self.args, **options), self.args)
