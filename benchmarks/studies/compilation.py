"""How long the first call of a small problem takes, and which part of it is whose.

    python -m benchmarks.studies.compilation [--repeats 5]

Each call is of a new shape, so that it compiles. Seconds are of processor time, of all threads:
compilation shares its work among the cores. Programs are compiled as everybody's are.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdescent as jd

ROWS = 60
PARTS = {
    "tracing": "/jax/core/compile/jaxpr_trace_duration",
    "lowering": "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "XLA": "/jax/core/compile/backend_compile_duration",
}


def regression(size: int) -> jd.LinearRegression:
    rng = np.random.default_rng(size)
    X = rng.normal(size=(ROWS, size)).astype(np.float32)
    return jd.LinearRegression(X, X[:, 0] + rng.normal(size=ROWS).astype(np.float32))


def bowl(x: jax.Array) -> jax.Array:
    return jnp.sum((x - 1) ** 4) + jnp.sum(x**2)


def on_regression(method: Any) -> Callable[[int], Any]:
    return lambda size: jd.minimize(regression(size), method=method)


def on_function(method: Any) -> Callable[[int], Any]:
    return lambda size: jd.minimize(bowl, jnp.zeros(size), method)


CASES = {
    "regression, default": on_regression(None),
    "regression, LSMR()": on_regression(jd.LSMR()),
    "regression, ConjugateGradient()": on_regression(jd.ConjugateGradient()),
    "regression, GradientDescent(0.1)": on_regression(jd.GradientDescent(0.1)),
    "function, default": on_function(None),
    "function, GradientDescent(0.01)": on_function(jd.GradientDescent(0.01)),
    "function, optax.adam": on_function(optax.adam(0.01)),
}


def measured(call: Callable[[int], Any], sizes: range) -> tuple[float, dict[str, float]]:
    """The median of the seconds of first calls, and the mean of each part's wall-clock seconds."""
    spent: dict[str, float] = dict.fromkeys(PARTS.values(), 0.0)

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event in spent:
            spent[event] += duration_secs

    whole = []
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for size in sizes:
            began = time.process_time()
            jax.block_until_ready(call(size).params)
            whole.append(time.process_time() - began)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    parts = {part: spent[name] / len(sizes) for part, name in PARTS.items()}
    return statistics.median(whole), parts


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    for call in CASES.values():
        call(3)  # what every first call of a process compiles
    print(f"| first call | seconds | {' | '.join(PARTS)} |\n|---|---|{'---|' * len(PARTS)}")
    for name, call in CASES.items():
        seconds, parts = measured(call, range(4, 4 + repeats))
        shown = " | ".join(f"{part:.2f}" for part in parts.values())
        print(f"| {name} | {seconds:.2f} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
