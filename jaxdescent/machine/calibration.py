"""A device's rates, measured on arrays just beyond its last-level cache: the best of many runs.

Other work on the machine only makes runs slower. The share of the cores that other processes used
is kept with the rates; it shows whether the machine was busy.
"""

from __future__ import annotations

import os
import pathlib
import time
import timeit
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.designs.dense import Dense
from jaxdescent.kernels import loops
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.machine.defaults import DEFAULTS, DTYPES, ratios_of

READ_BYTES, COLUMNS = 1 << 26, 512
"""The size of the matrix whose reading is timed, beyond the last-level cache of most machines, and
its columns."""

ROUND = 1000
"""The rows of a matrix are a multiple of this, so that they can be cut into equal runs."""

PRODUCT_SIZE = 1024
"""The sides of the matrices that are multiplied and factorised."""

WIDENED = 0.75
"""Bytes of 16-bit data that a CPU reads a second, over those of float32: it widens them in blocks
that stay in the cache."""

REPEATS, OVERHEAD_REPEATS = 12, 1000
"""The number of runs of a program that takes milliseconds, and of one that takes microseconds."""


def least_seconds(function: Callable[..., Any], *inputs: Any, repeats: int = REPEATS) -> float:
    """The best time of so many runs after a first one, which compiles."""

    def run() -> None:
        jax.block_until_ready(function(*inputs))

    run()
    return max(min(timeit.repeat(run, number=1, repeat=repeats)), 1e-9)


def measure(device: Any) -> dict[str, Any]:
    """Every rate of :class:`jaxdescent.machine.Machine`, measured now on this device."""
    clock, before = time.perf_counter(), _seconds_of_others()
    with jax.default_device(device):
        rates = _rates(device)
    others = max(_seconds_of_others() - before, 0.0)
    if others:
        others /= os.sysconf("SC_NPROCESSORS_ONLN") * (time.perf_counter() - clock)
    return {
        **rates,
        "is_measured": True,
        "measured_at": time.time(),
        "others": min(others, 1.0),
    }


def _rates(device: Any) -> dict[str, Any]:
    read, products = {}, {}
    for dtype in DTYPES:
        if dtype == "bfloat16" and device.platform == "cpu":
            read[dtype], products[dtype] = WIDENED * read["float32"], products["float32"]
            continue
        with jax.enable_x64(dtype == "float64"):
            size_in_bytes = READ_BYTES // 2 if dtype == "bfloat16" else READ_BYTES
            read[dtype] = _read_bandwidth(dtype, size_in_bytes)
            products[dtype] = _product_rate(dtype, device.platform)
    return {
        "read_bandwidth": read,
        "product_rate": products,
        "orthogonal_rate": _orthogonal_rate(device.platform),
        "operation_seconds": _operation_seconds(),
        "cache_bytes": _cache_bytes(device),
    }


def _read_bandwidth(dtype: str, size_in_bytes: int) -> float:
    """Bytes of X read a second by ``X'(X w)``, two passes, repeated on its own result."""
    rows, passes = size_in_bytes // (COLUMNS * jnp.dtype(dtype).itemsize * ROUND) * ROUND, 4
    X = Dense(jnp.full((rows, COLUMNS), 1e-3, dtype), is_on_one_device=True)
    w = jnp.ones((COLUMNS,), "float64" if dtype == "float64" else "float32")

    @jax.jit
    def gradient(X: Dense, w: jax.Array) -> jax.Array:
        return loops.fori_loop(
            passes,
            lambda _, w: X.transposed_product(X.product(w)),
            w,
            turn_bytes=size_in_bytes,
        )

    return 2 * passes * X.array.nbytes / least_seconds(gradient, X, w)


def _product_rate(dtype: str, platform: str) -> float:
    """Operations a second of ``A'A``, for sides beyond which they do not grow."""
    size = PRODUCT_SIZE
    matrix = jnp.ones((size, size), dtype)
    wide = "float64" if dtype == "float64" else "float32"

    @jax.jit
    def product(matrix: jax.Array) -> jax.Array:
        return jnp.matmul(matrix.T, matrix, precision=HIGHEST, preferred_element_type=wide)

    slower = 1 + ratios_of(platform).product_half / size
    return 2.0 * size**3 * slower / least_seconds(product, matrix)


def _orthogonal_rate(platform: str) -> float:
    """Operations a second of the R of Householder's QR, ``2 n^2 (m - n/3)`` in all."""
    size = PRODUCT_SIZE
    matrix = jnp.eye(size, dtype="float32") + 1 / size
    seconds = least_seconds(jax.jit(lambda matrix: jnp.linalg.qr(matrix, mode="r")), matrix)
    return 4 / 3 * size**3 * (1 + ratios_of(platform).orthogonal_half / size) / seconds


def _operation_seconds() -> float:
    """The seconds of a kernel on few numbers: those of a chain beyond those of a call."""
    vector, matrix = jnp.full((64,), 0.5, "float32"), jnp.eye(64, dtype="float32")
    steps = 64

    @jax.jit
    def call(vector: jax.Array) -> jax.Array:
        return vector + 1

    @jax.jit
    def chain(vector: jax.Array, matrix: jax.Array) -> jax.Array:
        for _ in range(steps):  # the product and the division are two kernels
            image = jnp.matmul(matrix, vector, precision=HIGHEST)
            vector = image / (1 + image[0])
        return vector

    called = least_seconds(call, vector, repeats=OVERHEAD_REPEATS)
    long = least_seconds(chain, vector, matrix, repeats=OVERHEAD_REPEATS)
    return max(long - called, 1e-7) / (2 * steps)


def _cache_bytes(device: Any) -> int:
    """The size of the last-level cache as the system reports it, else the platform's default."""
    default = DEFAULTS.get(device.platform, DEFAULTS["gpu"])["cache_bytes"]
    if device.platform != "cpu":
        return default
    files = pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    try:
        texts = [file.read_text().strip() for file in files]
        return max(
            (int(text[:-1]) << {"K": 10, "M": 20}[text[-1]] for text in texts), default=default
        )
    except (OSError, ValueError, KeyError):
        return default


def _seconds_of_others(counts: str = "/proc/stat") -> float:
    """The seconds so far in which a core was busy with another process; zero if nothing tells."""
    try:
        ticks = [int(word) for word in pathlib.Path(counts).read_text().split()[1:9]]
        idle, waiting = ticks[3:5]
    except (OSError, ValueError):
        return 0.0
    busy = (sum(ticks) - idle - waiting) / os.sysconf("SC_CLK_TCK")
    return busy - time.process_time()
