"""Part 2's measurements, made in a process of their own.

A fresh process has no memory left over from earlier sizes, and the command continues if the system
ends the process for lack of memory. Each row is printed as one line of JSON as soon as it is known.
"""

from __future__ import annotations

import concurrent.futures
import functools
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

import jaxdescent as jd
from jaxdescent.breakdown.measure import ended, measure
from jaxdescent.data.freeing import return_what_is_freed
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.machine.resident import resident_bytes

ROWS_PER_FEATURE = 2
"""Rows grow with the features, so that neither the primal nor the dual form is small; at 2 the
condition number of X'X is near (1 + sqrt(1/2))**2 / (1 - sqrt(1/2))**2 = 34."""

TOLERANCE = 1e-5
"""The tolerance for the gradient's norm, relative to that at zero weights."""

INTERCEPT = 3.0

METHODS = {"descent": jd.GradientDescent(), "derivative": jd.DerivativeMethod()}

BLOCK_ROWS = 64
"""The rows that are drawn at a time, so that drawing needs no second copy of X."""


def main() -> None:
    """Measure what the JSON object in the first argument asks for, for the process whose number is
    the second one.
    """
    threading.Thread(target=_end_with, args=(int(sys.argv[2]),), daemon=True).start()
    for row in answer(json.loads(sys.argv[1])):
        print(json.dumps(row), flush=True)


def _end_with(parent: int) -> None:
    """End this process soon after its parent, which may be killed: its rows are not read then."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def answer(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows for a request, which has a problem's name and the arguments of its function."""
    problem = {"coupled": coupled, "separable": separable}[request["problem"]]
    return problem(**{name: value for name, value in request.items() if name != "problem"})


def coupled(unknowns: int, methods: list[str], seed: int) -> Iterator[dict[str, Any]]:
    """The rows of a regression with ``unknowns`` features, one for each method.

    ``y = X w + b`` has no noise, so that w and b are the optimum, up to rounding.
    """
    started = time.perf_counter()
    X, weights, y = jax.block_until_ready(_regression(unknowns, jax.random.key(seed)))
    objective = jd.LinearRegression(X, y)
    generation_seconds = time.perf_counter() - started
    programs = _compiled([(objective, None, METHODS[name]) for name in methods])
    for name, program in zip(methods, programs, strict=True):
        row = _run(program, objective, None, METHODS[name])
        found = row.pop("params")
        error = jnp.linalg.norm(found["weights"] - weights) / jnp.linalg.norm(weights)
        yield {
            "method": name,
            "unknowns": unknowns,
            "rows": X.shape[0],
            "data_bytes": X.nbytes + y.nbytes,
            "error": float(error),
            "generation_seconds": generation_seconds,
            **row,
        }


def separable(sizes: list[int], seed: int) -> Iterator[dict[str, Any]]:
    """The rows of ``sum(2 (x - 3)**2)`` by the derivative method, one for each size."""
    objective = jd.SumOfSquares(scale=2.0, center=3.0)
    for unknowns in sizes:
        start = jax.block_until_ready(_start(unknowns, jax.random.key(seed)))
        method = jd.DerivativeMethod()
        (program,) = _compiled([(objective, start, method)])
        row = _run(program, objective, start, method)
        found = row.pop("params")
        yield {
            "method": "derivative",
            "unknowns": unknowns,
            "data_bytes": start.nbytes,
            "error": float(jnp.max(jnp.abs(found - 3.0))),
            **row,
        }


class _Compiled(NamedTuple):
    program: Any
    seconds: float


def _compiled(calls: list[tuple[Any, Any, Any]]) -> list[_Compiled]:
    """The programs of calls with an objective, a start and a method.

    XLA compiles one on one core: all are compiled at once, before any is measured.
    """

    def descend(objective: Any, start: Any, method: Any) -> jd.Result:
        return jd.minimize(objective, start, method, tolerance=TOLERANCE, max_iterations=1000)

    def compile_one(lowered: Any) -> _Compiled:
        began = time.perf_counter()
        return _Compiled(lowered.compile(), time.perf_counter() - began)

    lowered = [jax.jit(descend).lower(*call) for call in calls]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(compile_one, lowered))


def _run(compiled: _Compiled, objective: Any, start: Any, method: Any) -> dict[str, Any]:
    # After compilation, which allocates and frees so often that it would take twice as long.
    return_what_is_freed()
    baseline = resident_bytes()
    result, seconds, peak_bytes = measure(compiled.program, objective, start, method)
    return {
        "params": result.params,
        **ended(result),
        "compile_seconds": compiled.seconds,
        "seconds": seconds,
        "peak_bytes": peak_bytes,
        "baseline_bytes": baseline,
    }


@functools.partial(jax.jit, static_argnums=0)
def _regression(unknowns: int, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    X_key, weights_key = jax.random.split(key)
    X = _fill(X_key, (ROWS_PER_FEATURE * unknowns, unknowns), BLOCK_ROWS)
    weights = jax.random.normal(weights_key, (unknowns,))
    return X, weights, jnp.matmul(X, weights, precision=HIGHEST) + INTERCEPT


@functools.partial(jax.jit, static_argnums=0)
def _start(unknowns: int, key: jax.Array) -> jax.Array:
    return _fill(key, (unknowns,), unknowns // 16 + 1)


def _fill(key: jax.Array, shape: tuple[int, ...], block: int) -> jax.Array:
    """Standard normal numbers, drawn in place block by block along the first axis."""
    rows = shape[0]
    block = min(block, rows)

    def draw(index: jax.Array, X: jax.Array) -> jax.Array:
        first = jnp.minimum(index * block, rows - block)
        part = jax.random.normal(jax.random.fold_in(key, index), (block, *shape[1:]))
        return lax.dynamic_update_slice(X, part, (first, *[0] * (len(shape) - 1)))

    return lax.fori_loop(0, -(-rows // block), draw, jnp.zeros(shape))
