"""A device's rates, measured on arrays just beyond its last cache: medians of a few runs."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdescent import loops
from jaxdescent.machine.defaults import DEFAULTS
from jaxdescent.machine.flops import cholesky_flops, orthogonal_flops
from jaxdescent.precision import HIGHEST

READ_BYTES = 1 << 26
"""Of the matrix whose reading is timed: beyond the last-level cache of most machines."""

CACHED_BYTES = 1 << 20

PRODUCT_SIZE = 1024

REPEATS = 3


def measure(device: Any) -> dict[str, Any]:
    """Every rate of :class:`jaxdescent.machine.Machine`, on this device, now."""
    with jax.default_device(device):
        read = {"float32": _read_bandwidth("float32", READ_BYTES)}
        products = {"float32": _product_rate("float32")}
        with jax.enable_x64(True):
            read["float64"] = _read_bandwidth("float64", READ_BYTES)
            products["float64"] = _product_rate("float64")
        # On a CPU 16-bit numbers are widened first, in blocks that stay in the cache, and
        # multiplied in float32: fewer bytes a second, of half as many.
        is_cpu = device.platform == "cpu"
        read["bfloat16"] = (
            0.75 * read["float32"] if is_cpu else _read_bandwidth("bfloat16", READ_BYTES // 2)
        )
        products["bfloat16"] = products["float32"] if is_cpu else _product_rate("bfloat16")
        dispatch, operation = _overheads()
        return {
            "read_bandwidth": read,
            "cached_bandwidth": _read_bandwidth("float32", CACHED_BYTES, passes=40),
            "cache_bytes": _cache_bytes(device),
            "update_bandwidth": _update_bandwidth(),
            "product_rate": products,
            "cholesky_rate": _cholesky_rate(),
            "orthogonal_rate": _orthogonal_rate(),
            "dispatch_seconds": dispatch,
            "operation_seconds": operation,
            "is_measured": True,
        }


def _median_seconds(function: Callable[..., Any], *inputs: Any) -> float:
    jax.block_until_ready(function(*inputs))
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(function(*inputs))
        times.append(time.perf_counter() - began)
    return max(float(np.median(times)), 1e-9)


def _read_bandwidth(dtype: str, size_in_bytes: int, passes: int = 8) -> float:
    """Of ``X'(X w)``, two passes over X, repeated on its own result."""
    columns, run = 512, 128
    rows = size_in_bytes // (columns * jnp.dtype(dtype).itemsize)
    X = jnp.full((rows, columns), 1e-3, dtype)
    wide = "float64" if dtype == "float64" else "float32"
    w = jnp.ones((columns,), wide)

    def contract(a: jax.Array, b: jax.Array, numbers: Any) -> jax.Array:
        return lax.dot_general(a, b, numbers, precision=HIGHEST, preferred_element_type=b.dtype)

    @jax.jit
    def gradient(X: jax.Array, w: jax.Array) -> jax.Array:
        def body(_: jax.Array, w: jax.Array) -> jax.Array:
            image = contract(X, w, (((1,), (0,)), ((), ()))).reshape(-1, run)
            # In runs of rows, as a dense X is transposed on a CPU: else one core does the work.
            runs = X.reshape(-1, run, columns)
            return jnp.sum(contract(runs, image, (((1,), (1,)), ((0,), (0,)))), axis=0)

        return loops.fori_loop(passes, body, w, turn_bytes=size_in_bytes)

    return 2 * passes * X.nbytes / _median_seconds(gradient, X, w)


def _update_bandwidth() -> float:
    x = jnp.ones((READ_BYTES // 4,), "float32")
    # Many passes: a call begins with a copy of x, into pages that the system has to find first.
    steps = 32

    @jax.jit
    def update(x: jax.Array, rate: jax.Array) -> jax.Array:
        return loops.fori_loop(steps, lambda _, x: x - rate * x, x, turn_bytes=x.nbytes)

    return 2 * steps * x.nbytes / _median_seconds(update, x, jnp.float32(1e-3))


def _product_rate(dtype: str) -> float:
    size = PRODUCT_SIZE
    matrix = jnp.ones((size, size), dtype)
    wide = "float64" if dtype == "float64" else "float32"

    @jax.jit
    def product(matrix: jax.Array) -> jax.Array:
        return jnp.matmul(matrix.T, matrix, precision=HIGHEST, preferred_element_type=wide)

    return 2 * size**3 / _median_seconds(product, matrix)


def _cholesky_rate() -> float:
    size = PRODUCT_SIZE
    matrix = jnp.eye(size, dtype="float32") * 2 + 1 / size

    @jax.jit
    def inverse(matrix: jax.Array) -> jax.Array:
        lower = jnp.linalg.cholesky(matrix)
        identity = jnp.eye(size, dtype=matrix.dtype)
        return jax.scipy.linalg.solve_triangular(lower, identity, lower=True)

    return cholesky_flops(size) / _median_seconds(inverse, matrix)


def _orthogonal_rate() -> float:
    rows, columns = PRODUCT_SIZE, PRODUCT_SIZE // 4
    matrix = jnp.eye(rows, columns, dtype="float32") + 1 / rows
    triangle = jax.jit(lambda matrix: jnp.linalg.qr(matrix, mode="r"))
    return orthogonal_flops(rows, columns) / _median_seconds(triangle, matrix)


def _overheads() -> tuple[float, float]:
    """A call of a program that does next to nothing, and one operation in a loop of many."""
    vector = jnp.full((64,), 0.5, "float32")
    matrix = jnp.eye(64, dtype="float32")
    steps = 1000

    @jax.jit
    def nothing(vector: jax.Array) -> jax.Array:
        return vector + 1

    @jax.jit
    def loop(vector: jax.Array, matrix: jax.Array) -> jax.Array:
        # A branch, a product and what follows it: kernels of their own, as in a method's step.
        def body(_: jax.Array, vector: jax.Array) -> jax.Array:
            image = jnp.matmul(matrix, vector, precision=HIGHEST)
            return lax.cond(image[0] > 0, lambda: image / (1 + image[0]), lambda: vector)

        return lax.fori_loop(0, steps, body, vector)

    call = _median_seconds(nothing, vector)
    return call, max(_median_seconds(loop, vector, matrix) - call, 1e-6) / (4 * steps)


def _cache_bytes(device: Any) -> int:
    """The last-level cache, as the system tells, else the platform's default."""
    if device.platform == "cpu":
        sizes = []
        for file in pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
            try:
                text = file.read_text().strip()
                sizes.append(int(text[:-1]) << {"K": 10, "M": 20}[text[-1]])
            except (OSError, ValueError, KeyError):
                continue
        if sizes:
            return max(sizes)
    return DEFAULTS.get(device.platform, DEFAULTS["gpu"])["cache_bytes"]
