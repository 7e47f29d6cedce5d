"""Functions, without and with data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.harness.case import Answer, Factory, Solve
from benchmarks.peers import counting
from benchmarks.peers.arrays import shared
from benchmarks.problems import functions

MAX_ITERATIONS = 20_000


def _function(make: Callable[[Any], Any], *, is_jitted: bool = False) -> Factory:
    def prepare(data: functions.Data) -> Solve:
        import jax
        import jax.numpy as jnp

        import jaxdescent as jd

        start = jnp.asarray(data.start, jnp.float32)
        args = tuple(shared(arg) for arg in data.args)
        method = make(jd)

        def descend(start: Any, tolerance: Any, args: Any) -> Any:
            result = jd.minimize(
                data.function,
                start,
                method,
                args=args,
                tolerance=tolerance,
                max_iterations=MAX_ITERATIONS,
            )
            return result.params, result.iterations, result.evaluations

        chosen = jax.jit(descend) if is_jitted else descend

        def solve(tolerance: float) -> Answer:
            answer = jax.block_until_ready(chosen(start, tolerance, args))
            params, iterations, evaluations = answer
            figures = {"evaluations": float(evaluations)}
            return Answer(params, int(iterations), figures=figures)

        return solve

    return counting.of_function(prepare)


CONTENDERS: dict[str, dict[str, Factory]] = {
    "function": {
        "default": _function(lambda jd: None),
        "default, in a jit of the caller's": _function(lambda jd: None, is_jitted=True),
        "LBFGS(memory=1)": _function(lambda jd: jd.LBFGS(memory=1)),
        "BarzilaiBorwein()": _function(lambda jd: jd.GradientDescent(jd.BarzilaiBorwein())),
    },
    "classification": {
        "DerivativeMethod()": _function(lambda jd: jd.DerivativeMethod()),
        "LBFGS()": _function(lambda jd: jd.LBFGS()),
        "Backtracking()": _function(lambda jd: jd.GradientDescent(jd.Backtracking())),
        "Backtracking(), Nesterov()": _function(
            lambda jd: jd.GradientDescent(jd.Backtracking(), momentum=jd.Nesterov())
        ),
    },
}
CONTENDERS["classification"] |= CONTENDERS["function"]
