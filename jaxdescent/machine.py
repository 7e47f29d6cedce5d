"""How fast a device reads, multiplies, factorises and answers: measured once, or a stated default.

A calibration takes about a second and is kept as JSON in the user's cache folder, under a name made
of the device's kind, the versions of jax and jaxlib, and the number of cores. Planning in front of
a person measures it (:meth:`Machine.measured`); whatever may be traced only looks whether there is
one (:meth:`Machine.of`).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent import memory
from jaxdescent.precision import HIGHEST

DTYPES = ("float32", "float64", "bfloat16")

READ_BYTES = 1 << 26
"""Of the matrix whose reading is timed: beyond the last-level cache of most machines."""

CACHED_BYTES = 1 << 20

PRODUCT_SIZE = 1024

REPEATS = 3

FORMAT = 2
"""Of the JSON file: another number makes old files unread."""

Rates = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Machine:
    """What one device can do, in bytes, operations and seconds.

    A rate by dtype has the keys ``float32``, ``float64`` and ``bfloat16``: the dtype that X is
    stored in. 16-bit numbers are multiplied as they are and added up in float32.

    Args:
      platform: ``cpu``, ``gpu`` or ``tpu``.
      kind: the device's name.
      cores: how many processors this process may use.
      memory_bytes: what can be allocated now.
      read_bandwidth: by dtype, bytes of X read a second by ``X'(X w)``, from memory.
      cached_bandwidth: the same from the last-level cache, in float32.
      cache_bytes: up to so many bytes count as cached.
      update_bandwidth: bytes read and written a second by ``x - rate * x`` in place, float32.
      product_rate: by dtype, operations a second of a matrix product at full precision.
      cholesky_rate: operations a second of Cholesky and triangular inversion, float32.
      orthogonal_rate: operations a second of QR, float32.
      dispatch_seconds: a call of a compiled program.
      operation_seconds: one small operation within a compiled loop.
      is_measured: whether the rates are this machine's own.

    >>> machine = Machine.default("cpu", cores=2, memory_bytes=10**9)
    >>> machine.is_measured, machine.product_rate["float64"] < machine.product_rate["float32"]
    (False, True)
    """

    platform: str
    kind: str
    cores: int
    memory_bytes: int
    read_bandwidth: Rates
    cached_bandwidth: float
    cache_bytes: int
    update_bandwidth: float
    product_rate: Rates
    cholesky_rate: float
    orthogonal_rate: float
    dispatch_seconds: float
    operation_seconds: float
    is_measured: bool

    @classmethod
    def default(
        cls, platform: str, *, kind: str = "unknown", cores: int = 1, memory_bytes: int = 0
    ) -> Machine:
        """Numbers of an ordinary machine of this platform: the right order, no more."""
        rates = dict(_DEFAULTS.get(platform, _DEFAULTS["gpu"]))
        if platform == "cpu":
            # Products use every core; a few cores already use all of the memory's bandwidth.
            rates = {
                name: _scaled(value, cores if name in _GROWS_WITH_CORES else min(cores, 4))
                if name in _PER_CORE
                else value
                for name, value in rates.items()
            }
        return cls(platform, kind, cores, memory_bytes, is_measured=False, **rates)

    @classmethod
    def of(cls, device: Any = None) -> Machine:
        """The device's calibration if there is one, else the default; runs and writes nothing."""
        device = _device(device)
        identity = _identity(device)
        found = _stored(str(_path(identity)), FORMAT)
        if found is None:
            return cls.default(**identity, memory_bytes=memory.available_bytes(device))
        return cls(**identity, memory_bytes=memory.available_bytes(device), **found)

    @classmethod
    def measured(cls, device: Any = None, *, recalibrate: bool = False) -> Machine:
        """The device's calibration, measured now (in about a second) if there is none.

        Args:
          device: a JAX device; None for JAX's first.
          recalibrate: measure even if there is a calibration, and replace it.
        """
        device = _device(device)
        identity = _identity(device)
        machine = cls.of(device)
        if machine.is_measured and not recalibrate:
            return machine
        rates = _measure(device)
        _store(_path(identity), rates)
        return cls(**identity, memory_bytes=memory.available_bytes(device), **rates)

    def bandwidth(self, dtype: Any, size_in_bytes: float) -> float:
        """Bytes a second of repeated passes over data of this size and dtype."""
        from_memory = self.read_bandwidth[_name(dtype)]
        if size_in_bytes > self.cache_bytes:
            return from_memory
        return from_memory * self.cached_bandwidth / self.read_bandwidth["float32"]

    def product(self, dtype: Any) -> float:
        """Operations a second of a matrix product in this dtype."""
        return self.product_rate[_name(dtype)]

    def factorisation(self, dtype: Any, *, orthogonal: bool = False) -> float:
        """Operations a second of a Cholesky (or QR) factorisation in this dtype."""
        rate = self.orthogonal_rate if orthogonal else self.cholesky_rate
        return rate * self.product_rate[_name(dtype)] / self.product_rate["float32"]

    def to_json(self) -> str:
        """All of it, as a JSON object."""
        return json.dumps(dataclasses.asdict(self), indent=2)


_DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {  # of one core
        "read_bandwidth": {"float32": 1.5e10, "float64": 1.5e10, "bfloat16": 1.1e10},
        "cached_bandwidth": 2.5e10,
        "cache_bytes": 16 << 20,
        "update_bandwidth": 1.2e10,
        "product_rate": {"float32": 6e10, "float64": 3e10, "bfloat16": 6e10},
        "cholesky_rate": 2e10,
        "orthogonal_rate": 1e10,
        "dispatch_seconds": 1e-4,
        "operation_seconds": 1e-6,
    },
    "gpu": {
        "read_bandwidth": {"float32": 1.5e12, "float64": 1.5e12, "bfloat16": 1.5e12},
        "cached_bandwidth": 3e12,
        "cache_bytes": 40 << 20,
        "update_bandwidth": 1.5e12,
        "product_rate": {"float32": 2e13, "float64": 1e13, "bfloat16": 3e14},
        "cholesky_rate": 5e12,
        "orthogonal_rate": 5e11,
        "dispatch_seconds": 1e-4,
        "operation_seconds": 5e-6,
    },
    "tpu": {
        "read_bandwidth": {"float32": 8e11, "float64": 1e11, "bfloat16": 8e11},
        "cached_bandwidth": 8e11,
        "cache_bytes": 0,
        "update_bandwidth": 8e11,
        "product_rate": {"float32": 3e13, "float64": 1e12, "bfloat16": 2e14},
        "cholesky_rate": 1e12,
        "orthogonal_rate": 1e11,
        "dispatch_seconds": 1e-4,
        "operation_seconds": 2e-6,
    },
}
_GROWS_WITH_CORES = {"product_rate", "cholesky_rate", "cached_bandwidth"}
_PER_CORE = {*_GROWS_WITH_CORES, "read_bandwidth", "update_bandwidth"}


def cache_folder() -> pathlib.Path:
    """Where this user's programs keep what they can make again."""
    if os.environ.get("XDG_CACHE_HOME"):
        base = pathlib.Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "win32":
        base = pathlib.Path(os.environ.get("LOCALAPPDATA", pathlib.Path.home() / "AppData/Local"))
    elif sys.platform == "darwin":
        base = pathlib.Path.home() / "Library" / "Caches"
    else:
        base = pathlib.Path.home() / ".cache"
    return base / "jaxdescent"


def _scaled(value: Any, factor: float) -> Any:
    if isinstance(value, dict):
        return {name: factor * rate for name, rate in value.items()}
    return factor * value


def _name(dtype: Any) -> str:
    dtype = jnp.dtype(dtype)
    if dtype.itemsize < 4:
        return "bfloat16"
    return "float64" if dtype.itemsize == 8 else "float32"


def _device(device: Any) -> Any:
    """A device, JAX's first for None, or the first of a platform named by a string."""
    if isinstance(device, str):
        return jax.devices(device)[0]
    return jax.devices()[0] if device is None else device


def _identity(device: Any) -> dict[str, Any]:
    kind = _processor() if device.platform == "cpu" else device.device_kind
    return {"platform": device.platform, "kind": kind, "cores": _cores()}


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or "cpu"


@functools.cache
def _jaxlib_version() -> str:
    return importlib.metadata.version("jaxlib")


def _path(identity: dict[str, Any]) -> pathlib.Path:
    words = f"{identity['platform']} {identity['kind']} {identity['cores']} cores"
    words = f"{words} jax {jax.__version__} jaxlib {importlib.metadata.version('jaxlib')}"
    return cache_folder() / f"machine-{re.sub(r'[^A-Za-z0-9.]+', '-', words)}.json"


@functools.lru_cache(maxsize=8)
def _stored(path: str, version: int) -> dict[str, Any] | None:
    """The rates in a file; None if it is not there, not ours, or not readable."""
    try:
        content = json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("format") != version:
        return None
    rates = content.get("rates")
    return rates if _are_rates(rates) else None


def _are_rates(rates: Any) -> bool:
    """Whether there is a positive number for each: a damaged file is as good as none."""
    template = _DEFAULTS["cpu"]
    if not isinstance(rates, dict) or set(rates) != {*template, "is_measured"}:
        return False
    for name, value in template.items():
        found = rates[name]
        if isinstance(value, dict):
            if not isinstance(found, dict) or set(found) != set(DTYPES):
                return False
            numbers = list(found.values())
        else:
            numbers = [found]
        least = 0 if name == "cache_bytes" else 1e-12
        if not all(isinstance(x, (int, float)) and least <= x < float("inf") for x in numbers):
            return False
    return True


def _store(path: pathlib.Path, rates: dict[str, Any]) -> None:
    """Write the file in one move; a folder that cannot be written to is no error."""
    _stored.cache_clear()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump({"format": FORMAT, "rates": rates}, file, indent=2)
    except OSError:
        return
    try:
        os.replace(file.name, path)
    except OSError:
        pathlib.Path(file.name).unlink(missing_ok=True)


def _measure(device: Any) -> dict[str, Any]:
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
    return max(statistics.median(times), 1e-9)


def _read_bandwidth(dtype: str, size_in_bytes: int, passes: int = 1) -> float:
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

        return lax.fori_loop(0, passes, body, w)

    return 2 * passes * X.nbytes / _median_seconds(gradient, X, w)


def _update_bandwidth() -> float:
    x = jnp.ones((READ_BYTES // 8,), "float32")
    steps = 4

    @jax.jit
    def update(x: jax.Array, rate: jax.Array) -> jax.Array:
        return lax.fori_loop(0, steps, lambda _, x: x - rate * x, x)

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


def cholesky_flops(size: float) -> float:
    """``n^3/3`` for the factor and ``n^3`` for its inverse by substitution."""
    return 4 / 3 * size**3


def orthogonal_flops(rows: float, columns: float) -> float:
    """Householder's triangle: ``2 n^2 (m - n/3)``."""
    return 2 * columns**2 * (rows - columns / 3)


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
    return _DEFAULTS.get(device.platform, _DEFAULTS["gpu"])["cache_bytes"]
