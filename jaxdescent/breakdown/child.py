"""Part 2's measurements in a child process, whose finished rows are kept if it ends early.

A fresh process has no memory left over from earlier sizes, and the command continues if the system
ends the process for lack of memory. Each row is printed as one line of JSON as soon as it is known.
"""

from __future__ import annotations

import concurrent.futures
import functools
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxdescent as jd
from jaxdescent.breakdown.measure import ended, measure
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.kernels.memory import resident_bytes
from jaxdescent.numerics import randomness

PROGRAM = "from jaxdescent.breakdown.child import main; main()"

ROWS_PER_FEATURE = 2
"""Rows grow with the features, so that neither the primal nor the dual form is small; at 2 the
condition number of X'X is near (1 + sqrt(1/2))**2 / (1 - sqrt(1/2))**2 = 34."""

TOLERANCE = 1e-5
"""The tolerance for the gradient's norm, relative to that at zero weights."""

INTERCEPT = 3.0

METHODS = {"descent": jd.GradientDescent(), "derivative": jd.DerivativeMethod()}


class Answer(NamedTuple):
    """The answer of a child."""

    rows: list[dict[str, Any]]  # the rows of :func:`answer` that it finished
    failure: str | None = None  # what went wrong, in words
    is_interrupted: bool = False  # whether Ctrl-C ended it


def ask(request: dict[str, Any]) -> Answer:
    """Measure what ``request`` asks for."""
    if jax.local_devices()[0].platform == "tpu":  # not verified: a TPU belongs to one process
        return Answer(list(answer(request)))
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(request), str(os.getpid())],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
        start_new_session=True,  # so that Ctrl-C in a terminal reaches only this process
    )
    try:
        output, errors = child.communicate()
    except KeyboardInterrupt:
        child.kill()
        output, _ = child.communicate()
        return Answer(_rows(output), is_interrupted=True)
    except BaseException:
        child.kill()
        child.wait()
        raise
    return Answer(_rows(output), _failure(child.returncode, errors))


def _environment() -> dict[str, str]:
    package = pathlib.Path(jd.__file__).parent.parent
    paths = [str(package), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        # An accelerator's memory is shared with the parent process.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_TRACEBACK_FILTERING": "off",  # the last line of an error is then the error itself
    }


def _rows(output: str) -> list[dict[str, Any]]:
    """The complete lines; the last one may have been cut off."""
    return [json.loads(line) for line in output.splitlines(keepends=True) if line.endswith("\n")]


def _failure(code: int, errors: str) -> str | None:
    if code == 0:
        return None
    if code == -9:
        return "the system ended it, most likely for want of memory"
    lines = [line for line in errors.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"it ended with code {code}"


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
    X, weights, y = jax.block_until_ready(_regression(unknowns, seed))
    objective = jd.LinearRegression(X, y)
    generation_seconds = time.perf_counter() - started
    measured = _measured([(objective, None, METHODS[name]) for name in methods])
    for name, (found, row) in zip(methods, measured, strict=True):
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
        start = jax.block_until_ready(_normal((unknowns,), seed, 0))
        for found, row in _measured([(objective, start, METHODS["derivative"])]):
            yield {
                "method": "derivative",
                "unknowns": unknowns,
                "data_bytes": start.nbytes,
                "error": float(jnp.max(jnp.abs(found - 3.0))),
                **row,
            }


def _measured(calls: list[tuple[Any, Any, Any]]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The params and the figures of calls with an objective, a start and a method.

    XLA compiles a program on one core: all are compiled at once, before any is measured.
    """

    def descend(objective: Any, start: Any, method: Any) -> jd.Result:
        return jd.minimize(objective, start, method, tolerance=TOLERANCE, max_iterations=1000)

    def compiled(lowered: Any) -> tuple[Any, float]:
        began = time.perf_counter()
        return lowered.compile(), time.perf_counter() - began

    lowered = [jax.jit(descend).lower(*call) for call in calls]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        programs = list(pool.map(compiled, lowered))
    for call, (program, compile_seconds) in zip(calls, programs, strict=True):
        baseline = resident_bytes()
        result, seconds, peak_bytes = measure(program, *call)
        yield (
            result.params,
            {
                **ended(result),
                "compile_seconds": compile_seconds,
                "seconds": seconds,
                "peak_bytes": peak_bytes,
                "baseline_bytes": baseline,
            },
        )


@functools.partial(jax.jit, static_argnums=0)
def _regression(unknowns: int, seed: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    X = _normal((ROWS_PER_FEATURE * unknowns, unknowns), seed, 0)
    weights = _normal((unknowns,), seed, 1)
    return X, weights, jnp.matmul(X, weights, precision=HIGHEST) + INTERCEPT


@functools.partial(jax.jit, static_argnums=0)
def _normal(shape: tuple[int, ...], seed: int, stream: int) -> jax.Array:
    """Standard normal numbers, drawn in their own memory."""
    return randomness.normal(shape, randomness.fold(seed, stream), jnp.float32)
