"""Descents on classical and published functions, and what float64 says of where they ended."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize

import jaxdescent as jd
from benchmarks.harness import referee
from benchmarks.problems import classical, published
from benchmarks.problems.classical import Problem

SOLVED = 1e-6
"""What may be left of the way down."""

DTYPES = {"float32": np.float32, "float64": np.float64}
LIMITS = {"adam": 2000}
"""Iterations at most, where they are not 1000."""

SQUARES_ONLY = "LevenbergMarquardt"


@functools.cache
def methods() -> dict[str, Any]:
    """By name. Made once: an optax transformation counts by identity."""
    return {
        "default": None,
        "LBFGS": jd.LBFGS(),
        "LBFGS(1)": jd.LBFGS(memory=1),
        "GradientDescent": jd.GradientDescent(),
        "BarzilaiBorwein": jd.GradientDescent(jd.BarzilaiBorwein()),
        "adam": optax.adam(1e-2),
        SQUARES_ONLY: jd.LevenbergMarquardt(),
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A problem with all that is compiled for it once, in float64."""

    problem: Problem

    @property
    def name(self) -> str:
        return self.problem.name

    @property
    def size(self) -> int:
        return self.problem.start.size

    def value(self, params: Any) -> float:
        """The function at these params, in float64."""
        with jax.enable_x64(True):
            return float(self._value(np.asarray(params, np.float64)))

    def value_and_gradient(self, params: Any) -> tuple[float, np.ndarray]:
        """Both in float64."""
        with jax.enable_x64(True):
            value, gradient = self._value_and_gradient(np.asarray(params, np.float64))
        return float(value), np.asarray(gradient)

    def hessian(self, params: Any) -> np.ndarray:
        """The dense one, in float64."""
        with jax.enable_x64(True):
            return np.asarray(self._hessian(np.asarray(params, np.float64)))

    def hessian_product(self, params: Any, direction: np.ndarray) -> np.ndarray:
        """Of the Hessian and a direction, in float64."""
        with jax.enable_x64(True):
            return np.asarray(self._hessian_product(np.asarray(params, np.float64), direction))

    @functools.cached_property
    def minima(self) -> tuple[float, ...]:
        """Values at the minima that are known; of a convex function without any, SciPy's."""
        minimum = self.problem.minimum
        if minimum is None:
            start, options = self.problem.start, {"gtol": 1e-10, "maxiter": 10_000}
            best = scipy.optimize.minimize(
                self.value_and_gradient, start, jac=True, method="BFGS", options=options
            )
            minimum = float(best.fun)
        return (minimum, *self.problem.local_minima)

    def left(self, value: float, start: float) -> float:
        """The least of what is left of the way down to a minimum, 0 below it."""
        left = [referee.reduction_left(value, start, each) for each in self.minima if each < start]
        return min((max(0.0, each) for each in left), default=0.0)

    @functools.cached_property
    def _value(self) -> Callable[..., Any]:
        return jax.jit(self.problem.function)

    @functools.cached_property
    def _value_and_gradient(self) -> Callable[..., Any]:
        return jax.jit(jax.value_and_grad(self.problem.function))

    @functools.cached_property
    def _hessian(self) -> Callable[..., Any]:
        return jax.jit(jax.hessian(self.problem.function))

    @functools.cached_property
    def _hessian_product(self) -> Callable[..., Any]:
        gradient = jax.grad(self.problem.function)
        return jax.jit(lambda x, d: jax.jvp(gradient, (x,), (d,))[1])


@dataclasses.dataclass(frozen=True)
class Run:
    """A descent, with its values in float64.

    Attributes:
      case, dtype, method: by name.
      factor: of the start, over the standard one.
      status: its name.
      iterations, evaluations: as the result has them.
      start, value: the function at the start and at the params.
      params: where it ended.
      left: of the way down.
    """

    case: str
    dtype: str
    method: str
    factor: float
    status: str
    iterations: int
    evaluations: int
    start: float
    value: float
    params: np.ndarray = dataclasses.field(repr=False)
    left: float

    @property
    def is_solved(self) -> bool:
        return self.left <= SOLVED

    def record(self) -> dict[str, Any]:
        """For a line of JSON, without the params."""
        names = [each.name for each in dataclasses.fields(self) if each.name != "params"]
        fields = {name: getattr(self, name) for name in names}
        numbers = {name: float(f"{fields[name]:.6g}") for name in ("start", "value", "left")}
        return {"kind": "descent", **fields, **numbers, "is_solved": self.is_solved}


def cases(only: str | None, share: tuple[int, int]) -> Iterator[Case]:
    """Those whose names contain a word, of these every k-th, each with a line of progress."""
    first, step = share
    chosen = [
        problem
        for problem in classical.problems() + published.problems()
        if only is None or only.lower() in problem.name.lower()
    ][first - 1 :: step]
    for number, problem in enumerate(chosen, 1):
        print(f"{number} of {len(chosen)}: {problem.name}", file=sys.stderr, flush=True)
        yield Case(problem)


def of_kind(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The records of one kind."""
    return [each for each in records if each["kind"] == kind]


def of_method(records: list[dict[str, Any]], method: str) -> list[dict[str, Any]]:
    """The records of one method."""
    return [each for each in records if each.get("method") == method]


def starts(case: Case, dtype: str, factors: tuple[float, ...]) -> Iterator[tuple[float, Any]]:
    """Multiples of the standard start at which value and gradient are finite in the dtype."""
    for factor in factors:
        if factor != 1 and not np.any(case.problem.start):
            continue
        start = (factor * case.problem.start).astype(DTYPES[dtype])
        with _precision(dtype):
            value, gradient = case._value_and_gradient(start)
            norm = jnp.linalg.norm(gradient)
        if np.isfinite(value) and np.isfinite(norm):
            yield factor, start


def suits(case: Case, method: str) -> bool:
    """Whether the method has what it needs: residuals, for one of them."""
    return method != SQUARES_ONLY or case.problem.residuals is not None


def descend(case: Case, dtype: str, method: str, start: np.ndarray, factor: float = 1) -> Run:
    """Minimise with a fresh state."""
    objective: Any = case.problem.function
    if method == SQUARES_ONLY:
        objective = jd.LeastSquares(case.problem.residuals)
    with _precision(dtype):
        result = jd.minimize(
            objective,
            jnp.asarray(start),
            methods()[method],
            max_iterations=LIMITS.get(method, 1000),
        )
        params = np.asarray(result.params)
    before, after = case.value(start), case.value(params)
    return Run(
        case=case.name,
        dtype=dtype,
        method=method,
        factor=factor,
        status=jd.Status(int(result.status)).name,
        iterations=int(result.iterations),
        evaluations=int(result.evaluations),
        start=before,
        value=after,
        params=params,
        left=case.left(after, before),
    )


def _precision(dtype: str) -> contextlib.AbstractContextManager[Any]:
    return jax.enable_x64(dtype == "float64")
