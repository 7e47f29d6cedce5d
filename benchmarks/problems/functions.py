"""Classical test functions in any dimension."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness import referee


@dataclasses.dataclass(frozen=True)
class Data:
    """A function of a vector and of data, written in JAX, and where to start.

    Attributes:
      function: ``function(x, *args)``.
      start: of x.
      args: the data, float32; a function of x alone has none.
      counted: the same function, which counts its passes over the data; None where it has none.
    """

    function: Callable[..., Any]
    start: np.ndarray
    args: tuple[np.ndarray, ...] = ()
    counted: Callable[..., Any] | None = None


@dataclasses.dataclass(frozen=True)
class Function:
    """Judged by what is left of the way down, in float64."""

    name: str
    function: Callable[[Any], Any]
    start: np.ndarray = dataclasses.field(repr=False)
    minimum: float | None = 0.0

    def write(self, folder: pathlib.Path) -> None:
        minimum = self._minimum() if self.minimum is None else self.minimum
        np.save(folder / "values.npy", [self._value(self.start), minimum])

    def load(self, folder: pathlib.Path) -> Data:
        return Data(self.function, self.start)

    def judge(self, folder: pathlib.Path, params: np.ndarray) -> float:
        if params.shape != self.start.shape:
            return float("inf")
        start, best = np.load(folder / "values.npy")
        return referee.reduction_left(self._value(params), start, best)

    def _value(self, params: np.ndarray) -> float:
        import jax

        with jax.enable_x64(True):
            return float(_jitted(self.function)(np.asarray(params, np.float64)))

    def _minimum(self) -> float:
        """Of a convex function without a closed form: the lowest that SciPy finds in float64."""
        import jax
        import scipy.optimize

        with jax.enable_x64(True):
            both = jax.jit(jax.value_and_grad(self.function))

            def function(x: np.ndarray) -> tuple[float, np.ndarray]:
                value, gradient = both(x)
                return float(value), np.array(gradient)

            options = {"gtol": 1e-10}
            best = scipy.optimize.minimize(
                function, self.start, jac=True, method="BFGS", options=options
            )
        return float(best.fun)


@functools.cache
def _jitted(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    import jax

    return jax.jit(function)
