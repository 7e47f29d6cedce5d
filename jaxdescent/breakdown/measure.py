"""Measurement of the time and peak memory of one computation, without its compilation."""

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
"""glibc's parameter for the size from which an allocation gets a memory mapping of its own."""


class Measurement(NamedTuple):
    """The measurements of one call.

    Attributes:
      result: the value that the call returned, fully computed.
      seconds: the wall clock time.
      peak_bytes: the most memory in use during the call beyond that before it; None if the system
        does not report it.
    """

    result: Any
    seconds: float
    peak_bytes: int | None


SHORT_SECONDS = 1.0
RELEASE_SECONDS = 0.1


def measure(function: Callable[..., Any], *args: Any) -> Measurement:
    """Call a compiled function and wait for its result.

    A short first call includes loading libraries and starting threads: it is repeated, and the
    second call counts.
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
    """The resident memory of this process; None if the system does not report it."""
    return _status_bytes("VmRSS")


def peak_resident_bytes() -> int:
    """The most memory that was resident since the process began, or since the last reset."""
    peak = _status_bytes("VmHWM")
    if peak is not None:
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def return_freed_memory() -> None:
    """Make freed memory return to the system at once, so that resident memory is memory in use.

    Call it after compilation, which allocates and frees so often that it would take twice as long.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc, mallopt(3)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 20)


def begin_peak() -> int | None:
    """The memory in use, to which the high-water mark is reset; None if that is not possible."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        # An accelerator's mark cannot be reset: it is exact if each call needs more than the last.
        return (device.memory_stats() or {}).get("bytes_in_use")
    try:
        # Writing 5 resets VmHWM to the resident memory (Linux, proc_pid_clear_refs).
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
