"""Seconds an iteration against the number of unknowns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness.case import Answer, Factory, Solve

LONG = 1 << 29
"""Unknowns times iterations of a run that lasts a second or two."""

MOST = 2048
"""Iterations, however few the unknowns."""

MOST_COUPLED = 200
"""The same of a regression."""


def _growth(
    make: Callable[[Any], Any],
    *,
    is_sum_of_squares: bool = False,
    few: int = 4,
    least: int = 16,
    long: int = LONG,
) -> Factory:
    """Seconds an iteration: the difference of two lengths, free of the checks at both ends.

    The shorter is of ``few`` iterations, the longer of ``long / size`` more, at least ``least``.
    The shorter runs once untimed before: what another size left of the memory is not its own.
    """

    def prepare(size: int) -> Solve:
        import jax
        import jax.numpy as jnp

        import jaxdescent as jd
        from benchmarks.problems.classical import rosenbrock

        lengths = (few, few + max(least, min(MOST, long // size)) // few * few)
        objective = jd.SumOfSquares() if is_sum_of_squares else rosenbrock

        def timed(iterations: int) -> tuple[float, int]:
            start = jax.block_until_ready(jnp.tile(jnp.array([-1.2, 1.0]), size // 2))
            started = time.perf_counter()
            result = jd.minimize(
                objective,
                start,
                make(jd),
                tolerance=0,
                max_iterations=iterations,
                donate=True,
            )
            jax.block_until_ready(result)
            return time.perf_counter() - started, int(result.iterations)

        def solve(_: float) -> Answer:
            timed(lengths[0])
            short, few = timed(lengths[0])
            long, many = timed(lengths[1])
            if many <= few or long <= short:  # it ended early
                return Answer(0.0, many, long / max(many, 1))
            return Answer(0.0, many, (long - short) / (many - few))

        return solve

    return prepare


def _growth_of_regression(make: Callable[[Any], Any]) -> Factory:
    """A regression with as many rows as features: the derivative method's cost is coupled."""

    def prepare(size: int) -> Solve:
        import jax
        import jax.numpy as jnp

        import jaxdescent as jd

        rng = np.random.default_rng(0)
        X = jnp.asarray(rng.standard_normal((2 * size, size), np.float32))
        y = jnp.asarray(rng.standard_normal(2 * size, np.float32))
        objective = jd.LinearRegression(X, y, intercept=False)

        def solve(_: float) -> Answer:
            started = time.perf_counter()
            result = jax.block_until_ready(
                jd.minimize(objective, None, make(jd), tolerance=1e-5, max_iterations=MOST_COUPLED)
            )
            seconds = time.perf_counter() - started
            iterations = int(result.iterations)
            return Answer(0.0, iterations, seconds / max(iterations, 1))

        return solve

    return prepare


CONTENDERS: dict[str, dict[str, Factory]] = {
    "growth": {
        "GradientDescent(number), separable": _growth(
            # Sixteen steps are one pass.
            lambda jd: jd.GradientDescent(1e-2),
            is_sum_of_squares=True,
            few=16,
            least=128,
            long=16 * LONG,
        ),
        "DerivativeMethod(), separable": _growth(
            lambda jd: jd.DerivativeMethod(), is_sum_of_squares=True
        ),
        "GradientDescent(number)": _growth(lambda jd: jd.GradientDescent(1e-4)),
        "Backtracking()": _growth(lambda jd: jd.GradientDescent(jd.Backtracking())),
        "BarzilaiBorwein()": _growth(lambda jd: jd.GradientDescent(jd.BarzilaiBorwein())),
        "LBFGS(memory=1)": _growth(lambda jd: jd.LBFGS(memory=1)),
        "LBFGS()": _growth(lambda jd: jd.LBFGS(), long=LONG // 4),
    },
    "growth of regressions": {
        "DerivativeMethod()": _growth_of_regression(lambda jd: jd.DerivativeMethod()),
        "LSMR()": _growth_of_regression(lambda jd: jd.LSMR()),
        "ConjugateGradient()": _growth_of_regression(lambda jd: jd.ConjugateGradient()),
        "ExactLineSearch()": _growth_of_regression(
            lambda jd: jd.GradientDescent(jd.ExactLineSearch())
        ),
    },
}
