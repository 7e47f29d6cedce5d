"""A device's rates, measured on arrays just beyond its last-level cache: the best of many runs.

Other work on the machine only makes runs slower. So a run is repeated until the best time has not
improved for a while. The ratio of the median run to the best, and the share of the cores that other
processes used, are kept with the rates; they show whether the machine was busy.
"""

from __future__ import annotations

import pathlib
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.designs.dense import Dense
from jaxdescent.kernels import double_length, loops
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.machine import host
from jaxdescent.machine.defaults import DEFAULTS
from jaxdescent.machine.flops import cholesky_flops, orthogonal_flops

READ_BYTES = 1 << 26
"""The size of the matrix whose reading is timed: beyond the last-level cache of most machines."""

CACHED_BYTES = 1 << 23
"""The size of a matrix that the last-level cache holds, and the cache before it does not."""

THIN_COLUMNS = 300
"""The columns of an X that is multiplied by several columns. It is no power of two, because the
cache lines of such rows would share few sets of the cache."""

ROUND = 1000
"""The rows of a matrix are a multiple of this, so that they can be cut into equal runs."""

PRODUCT_SIZE = 1024

SHORT_SHARE = 4
"""Products and factorisations are timed at PRODUCT_SIZE and at PRODUCT_SIZE / SHORT_SHARE."""

REPEATS, OVERHEAD_REPEATS = 4, 100
"""The number of consecutive runs without improvement after which no more are made."""

BETTER, MOST_SECONDS = 0.97, 1.0
"""A run is an improvement if its time is less than BETTER times the best; runs are repeated for at
most MOST_SECONDS."""


class Runs:
    """Times runs, and records how much the times vary."""

    def __init__(self) -> None:
        self.spread = 1.0
        """The largest ratio, over all functions, of the median run's time to the best."""

    def least_seconds(
        self, function: Callable[..., Any], *inputs: Any, repeats: int = REPEATS
    ) -> float:
        """The best time, once ``repeats`` runs in a row have not improved it, or after a second."""
        jax.block_until_ready(function(*inputs))
        times: list[float] = []
        best, since, began = float("inf"), 0, time.perf_counter()
        while since < repeats and (
            time.perf_counter() - began < MOST_SECONDS or len(times) < REPEATS
        ):
            start = time.perf_counter()
            jax.block_until_ready(function(*inputs))
            seconds = time.perf_counter() - start
            since = 0 if seconds < BETTER * best else since + 1
            best = min(best, seconds)
            times.append(seconds)
        self.spread = max(self.spread, statistics.median(times) / max(best, 1e-9))
        return max(best, 1e-9)


def measure(device: Any) -> dict[str, Any]:
    """Every rate of :class:`jaxdescent.machine.Machine`, measured now on this device."""
    before, runs = host.Load.now(), Runs()
    rates = _rates(device, runs)
    after = host.Load.now()
    others = 0.0 if before is None or after is None else after.others_since(before)
    return {**rates, "measured_at": time.time(), "others": others, "spread": runs.spread}


def _rates(device: Any, runs: Runs) -> dict[str, Any]:
    with jax.default_device(device):
        read = {"float32": _read_bandwidth(runs, "float32", READ_BYTES)}
        product, product_half = _rate_and_half(partial(_product_seconds, runs), _product_flops)
        products = {"float32": product}
        with jax.enable_x64(True):
            read["float64"] = _read_bandwidth(runs, "float64", READ_BYTES)
            # A short side costs the same in both dtypes: one size is enough.
            size = PRODUCT_SIZE
            products["float64"] = _product_flops(size) / _product_seconds(runs, size, "float64")
            products["float64"] *= 1 + product_half / size
        # On a CPU 16-bit numbers are widened in blocks that stay in the cache, and multiplied in
        # float32. This reads fewer bytes a second than float32, of half as many bytes.
        is_cpu = device.platform == "cpu"
        read["bfloat16"] = (
            0.75 * read["float32"] if is_cpu else _read_bandwidth(runs, "bfloat16", READ_BYTES // 2)
        )
        products["bfloat16"] = products["float32"]
        if not is_cpu:
            products["bfloat16"] = _product_flops(size) / _product_seconds(runs, size, "bfloat16")
        cholesky, cholesky_half = _rate_and_half(partial(_cholesky_seconds, runs), cholesky_flops)
        orthogonal, orthogonal_half = _rate_and_half(
            partial(_orthogonal_seconds, runs), lambda m: orthogonal_flops(_rows_for(m), m)
        )
        cached = _read_bandwidth(runs, "float32", CACHED_BYTES, passes=50)
        return {
            "read_bandwidth": read,
            "cached_bandwidth": cached,
            "thin_bandwidth": _read_bandwidth(
                runs, "float32", CACHED_BYTES, columns=THIN_COLUMNS, weights=8
            ),
            "cache_bytes": _cache_bytes(device),
            "row_seconds": _row_seconds(runs, cached),
            "update_bandwidth": _update_bandwidth(runs),
            "fresh_bandwidth": _fresh_bandwidth(runs),
            "product_rate": products,
            "product_half": product_half,
            "cholesky_rate": cholesky,
            "cholesky_half": cholesky_half,
            "orthogonal_rate": orthogonal,
            "orthogonal_half": orthogonal_half,
            "double_rate": _double_rate(runs),
            **_overheads(runs),
            "is_measured": True,
        }


def _read_bandwidth(
    runs: Runs,
    dtype: str,
    size_in_bytes: int,
    *,
    passes: int = 4,
    columns: int = 512,
    weights: int = 1,
) -> float:
    """Bytes of X read a second by ``X'(X w)``, two passes, repeated on its own result."""
    rows = size_in_bytes // (columns * jnp.dtype(dtype).itemsize * ROUND) * ROUND
    X = Dense(jnp.full((rows, columns), 1e-3, dtype), is_on_one_device=True)
    wide = "float64" if dtype == "float64" else "float32"
    w = jnp.ones((columns, weights) if weights > 1 else (columns,), wide)

    @jax.jit
    def gradient(X: Dense, w: jax.Array) -> jax.Array:
        return loops.fori_loop(
            passes,
            lambda _, w: X.transposed_product(X.product(w)),
            w,
            turn_bytes=size_in_bytes,
        )

    return 2 * passes * X.array.nbytes / runs.least_seconds(gradient, X, w)


def _row_seconds(runs: Runs, cached_bandwidth: float) -> float:
    """The seconds that a row takes beyond reading its bytes, measured with short rows."""
    columns = 12
    bandwidth = _read_bandwidth(runs, "float32", CACHED_BYTES // 2, passes=40, columns=columns)
    return max(4 * columns * (1 / bandwidth - 1 / cached_bandwidth), 1e-12)


def _update_bandwidth(runs: Runs) -> float:
    x = jnp.ones((READ_BYTES // 4,), "float32")
    # Many passes: each call first copies x into memory pages that the system has yet to map.
    steps = 16

    @jax.jit
    def update(x: jax.Array, rate: jax.Array) -> jax.Array:
        return loops.fori_loop(steps, lambda _, x: x - rate * x, x, turn_bytes=x.nbytes)

    return 2 * steps * x.nbytes / runs.least_seconds(update, x, jnp.float32(1e-3))


def _fresh_bandwidth(runs: Runs) -> float:
    x = jnp.ones((READ_BYTES // 4,), "float32")
    return x.nbytes / runs.least_seconds(jax.jit(lambda x: x + 1), x)


def _rate_and_half(
    seconds: Callable[[int], float], flops: Callable[[int], float]
) -> tuple[float, float]:
    """R and h of a rate that grows with the size m as ``R m / (m + h)``, from two sizes."""
    large, small = PRODUCT_SIZE, PRODUCT_SIZE // SHORT_SHARE
    at_large, at_small = (seconds(size) / flops(size) for size in (large, small))
    # seconds / flops = 1 / R + (h / R) / m
    slope = max((at_small - at_large) / (1 / small - 1 / large), 0.0)
    inverse = max(at_large - slope / large, at_large / 4)
    return 1 / inverse, (at_large / inverse - 1) * large


def _rows_for(size: int) -> int:
    """The number of rows for which a matrix of ``size`` columns takes about the same work."""
    return PRODUCT_SIZE**2 // size


def _product_flops(size: int) -> float:
    return 2.0 * _rows_for(size) * size**2


def _product_seconds(runs: Runs, size: int, dtype: str = "float32") -> float:
    """The seconds of ``A'A``."""
    matrix = jnp.ones((_rows_for(size), size), dtype)
    wide = "float64" if dtype == "float64" else "float32"

    @jax.jit
    def product(matrix: jax.Array) -> jax.Array:
        return jnp.matmul(matrix.T, matrix, precision=HIGHEST, preferred_element_type=wide)

    return runs.least_seconds(product, matrix)


def _cholesky_seconds(runs: Runs, size: int) -> float:
    matrix = jnp.eye(size, dtype="float32") * 2 + 1 / size

    @jax.jit
    def inverse(matrix: jax.Array) -> jax.Array:
        lower = jnp.linalg.cholesky(matrix)
        identity = jnp.eye(size, dtype=matrix.dtype)
        return jax.scipy.linalg.solve_triangular(lower, identity, lower=True)

    return runs.least_seconds(inverse, matrix)


def _orthogonal_seconds(runs: Runs, size: int) -> float:
    matrix = jnp.eye(_rows_for(size), size, dtype="float32") + 1 / size
    return runs.least_seconds(jax.jit(lambda matrix: jnp.linalg.qr(matrix, mode="r")), matrix)


def _double_rate(runs: Runs) -> float:
    """Entries of X a second in double-length products with X and X'."""
    size, turns = 256, 2
    matrix = jnp.full((size, size), 1e-3, "float32")

    @jax.jit
    def there_and_back(matrix: jax.Array, vector: jax.Array) -> jax.Array:
        def body(_: jax.Array, vector: jax.Array) -> jax.Array:
            image = double_length.product(matrix, double_length.double(vector))
            return double_length.transposed_product(matrix, image).high

        return loops.fori_loop(turns, body, vector, turn_bytes=matrix.nbytes)

    vector = jnp.ones((size, 1), "float32")
    return 2 * turns * matrix.size / runs.least_seconds(there_and_back, matrix, vector)


def _overheads(runs: Runs) -> dict[str, float]:
    """The seconds that a call, a small operation, and starting all cores take."""
    vector, matrix = jnp.full((64,), 0.5, "float32"), jnp.eye(64, dtype="float32")
    tall = jnp.ones((64, 64), "float32")
    steps, results = 64, 12

    @jax.jit
    def call(vector: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(vector + index for index in range(results))

    @jax.jit
    def chain(vector: jax.Array, matrix: jax.Array) -> tuple[jax.Array, ...]:
        for _ in range(steps):  # the product and the division are two kernels
            image = jnp.matmul(matrix, vector, precision=HIGHEST)
            vector = image / (1 + image[0])
        return tuple(vector + index for index in range(results))

    @jax.jit
    def on_all_cores(tall: jax.Array, rows: jax.Array) -> tuple[jax.Array, ...]:
        vector = jnp.matmul(tall.T, rows, precision=HIGHEST)
        return tuple(vector + index for index in range(results))

    dispatch = runs.least_seconds(call, vector, repeats=OVERHEAD_REPEATS)
    long = runs.least_seconds(chain, vector, matrix, repeats=OVERHEAD_REPEATS)
    shared = runs.least_seconds(on_all_cores, tall, tall[:, 0], repeats=OVERHEAD_REPEATS)
    return {
        "dispatch_seconds": dispatch,
        "operation_seconds": max(long - dispatch, 1e-7) / (2 * steps),
        "handover_seconds": max(shared - dispatch, 1e-7),
    }


def _cache_bytes(device: Any) -> int:
    """The size of the last-level cache as the system reports it, else the platform's default."""
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
