"""Time and peak memory of one computation, without its compilation."""

from __future__ import annotations

import ctypes
import gc
import pathlib
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

M_MMAP_THRESHOLD = -3
"""glibc's number for the size from which an allocation is a mapping of its own."""


class Measurement(NamedTuple):
    """What one call took.

    Attributes:
      result: what it returned, computed.
      seconds: of wall clock.
      peak_bytes: the most memory in use during the call beyond what was in use before it; None
        where the system does not tell.
    """

    result: Any
    seconds: float
    peak_bytes: int | None


SHORT_SECONDS = 1.0
RELEASE_SECONDS = 0.1


def measure(function: Callable[..., Any], *args: Any) -> Measurement:
    """Call a compiled function and wait for its result.

    A short first call measures the loading of libraries and the start of threads as well: it is
    repeated, and the second call counts.
    """
    measurement = _measure_once(function, *args)
    if measurement.seconds >= SHORT_SECONDS:
        return measurement
    del measurement
    # XLA returns a result's memory a moment after its last reference is gone.
    gc.collect()
    time.sleep(RELEASE_SECONDS)
    return _measure_once(function, *args)


def _measure_once(function: Callable[..., Any], *args: Any) -> Measurement:
    device = jax.devices()[0]
    begin = begin_peak()
    started = time.perf_counter()
    result = jax.block_until_ready(function(*args))
    seconds = time.perf_counter() - started
    peak = None if begin is None else max(_peak_bytes(device) - begin, 0)
    return Measurement(result, seconds, peak)


def resident_bytes() -> int | None:
    """The memory of this process that is resident now; None where the system does not tell."""
    return _status_bytes("VmRSS")


def peak_resident_bytes() -> int:
    """The most that was resident since the process began, or since the mark was last reset."""
    peak = _status_bytes("VmHWM")
    if peak is not None:
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def return_freed_memory() -> None:
    """From now on what is freed goes back to the system at once: resident is what is in use.

    Not while XLA compiles, which allocates and frees so often that it takes twice as long.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc, mallopt(3)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 20)


def begin_peak() -> int | None:
    """What is in use now, with the high-water mark brought down to it; None if that cannot be."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        # An accelerator's mark cannot be reset: exact where each call needs more than the last.
        return (device.memory_stats() or {}).get("bytes_in_use")
    try:
        # 5 resets VmHWM to what is resident (Linux, proc_pid_clear_refs).
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return resident_bytes()


def _peak_bytes(device: Any) -> int:
    if device.platform != "cpu":
        return (device.memory_stats() or {})["peak_bytes_in_use"]
    return peak_resident_bytes()


def _status_bytes(field: str) -> int | None:
    try:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None
