"""What a call costs beside its work."""

from __future__ import annotations

import gc
import time
from typing import Any

from benchmarks.harness.case import Answer, Factory, Solve
from benchmarks.problems import costs


def _three_parameters(
    iterations: int,
    *,
    is_compiled_anew: bool = False,
    is_jitted: bool = False,
    returns_all: bool = True,
) -> Solve:
    """``returns_all`` says that the caller's ``jit`` returns all of the result, and not only what
    the hand-written loop returns.
    """
    import jax
    import jax.numpy as jnp

    import jaxdescent as jd

    weights, target = jnp.asarray(costs.WEIGHTS, "float32"), jnp.asarray(costs.TARGET, "float32")
    start, rate = jnp.zeros(3), jnp.float32(costs.RATE)

    def function(x: Any, weights: Any, target: Any) -> Any:
        return jnp.sum(weights * (x - target) ** 2)

    def descend(function: Any, start: Any, rate: Any, weights: Any, target: Any) -> Any:
        result = jd.minimize(
            function,
            start,
            jd.GradientDescent(rate),
            args=(weights, target),
            tolerance=0,
            max_iterations=iterations,
        )
        if returns_all:
            return result
        return result.params, result.value, result.gradient_norm, result.iterations

    chosen = jax.jit(descend, static_argnums=0) if is_jitted else descend

    def solve(_: float) -> Answer:
        objective = costs.renewed(function) if is_compiled_anew else function
        result = jax.block_until_ready(chosen(objective, start, rate, weights, target))
        return Answer(result[0], iterations)

    return solve


def _leak(count: int) -> Solve:
    from benchmarks.harness import resident

    once = _three_parameters(10)

    def solve(_: float) -> Answer:
        for _i in range(min(count, 1000)):  # what is allocated once is not a leak
            once(0.0)
        gc.collect()
        before = resident.now()
        started = time.perf_counter()
        for _i in range(count):
            once(0.0)
        seconds = time.perf_counter() - started
        gc.collect()
        grown = resident.now() - before
        return Answer(0.0, count, seconds / count, {"calls": count, "bytes_a_call": grown / count})

    return solve


def _import(_: int) -> Solve:
    from benchmarks.peers.handwritten import import_seconds

    return lambda _: Answer(0.0, seconds=import_seconds("import jaxdescent"))


CONTENDERS: dict[str, dict[str, Factory]] = {
    "import": {"import jaxdescent": _import},
    "three parameters": {
        "minimize": _three_parameters,
        "jit of minimize": lambda count: _three_parameters(count, is_jitted=True),
        "jit of minimize, four of its results": lambda count: _three_parameters(
            count, is_jitted=True, returns_all=False
        ),
    },
    "compile": {
        "minimize": lambda count: _three_parameters(count, is_compiled_anew=True),
        "jit of minimize": lambda count: _three_parameters(
            count, is_compiled_anew=True, is_jitted=True
        ),
    },
    "leak": {"minimize, eager calls": _leak},
}
