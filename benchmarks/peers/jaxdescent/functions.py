"""Functions, without and with data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.case import Answer, Factory, Solve
from benchmarks.problems import functions

MAX_ITERATIONS = 20_000


def _function(make: Callable[[Any], Any], *, is_jitted: bool = False) -> Factory:
    def prepare(data: functions.Data) -> Solve:
        import jax
        import jax.numpy as jnp

        import jaxdescent as jd

        start = jnp.asarray(data.start, jnp.float32)
        method = make(jd)

        def descend(start: Any, tolerance: Any) -> Any:
            result = jd.minimize(
                data.function,
                start,
                method,
                tolerance=tolerance,
                max_iterations=MAX_ITERATIONS,
            )
            return result.params, result.iterations, result.evaluations

        chosen = jax.jit(descend) if is_jitted else descend

        def solve(tolerance: float) -> Answer:
            params, iterations, evaluations = jax.block_until_ready(chosen(start, tolerance))
            figures = {"evaluations": float(evaluations)}
            return Answer(params, int(iterations), figures=figures)

        return solve

    return prepare


CONTENDERS: dict[str, dict[str, Factory]] = {
    "function": {
        "default": _function(lambda jd: None),
        "default, in a jit of the caller's": _function(lambda jd: None, is_jitted=True),
        "ConjugateGradient()": _function(lambda jd: jd.ConjugateGradient()),
        "BarzilaiBorwein()": _function(lambda jd: jd.GradientDescent(jd.BarzilaiBorwein())),
    },
}
