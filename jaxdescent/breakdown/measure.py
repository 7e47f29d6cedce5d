"""The time and peak memory of a computation, and the figures that are kept of its result."""

from __future__ import annotations

import gc
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

import jaxdescent as jd
from jaxdescent.kernels import host, memory


class Measurement(NamedTuple):
    """One call."""

    result: Any  # fully computed
    seconds: float  # the wall clock time
    # The most memory in use beyond that before it; None if the system does not report it.
    peak_bytes: int | None


SHORT_SECONDS = 1.0
RELEASE_SECONDS = 0.1


def measure(function: Callable[..., Any], *args: Any) -> Measurement:
    """Call a compiled function and wait for its result.

    A short first call includes loading libraries and starting threads: it is repeated, and the
    second call counts.
    """
    measurement = measure_once(function, *args)
    if measurement.seconds >= SHORT_SECONDS:
        return measurement
    del measurement
    # XLA returns a result's memory a moment after its last reference is gone.
    gc.collect()
    time.sleep(RELEASE_SECONDS)
    return measure_once(function, *args)


def measure_once(function: Callable[..., Any], *args: Any) -> Measurement:
    """Call a function, which may have to be compiled, and wait for its result."""
    begin = begin_peak()
    started = time.perf_counter()
    result = jax.block_until_ready(function(*args))
    seconds = time.perf_counter() - started
    return Measurement(result, seconds, peak_beyond(begin))


def begin_peak() -> int | None:
    """The memory in use, from which on the peak counts; None if that is not possible.

    On an accelerator it is that of its own statistics, whose peak cannot be reset: it is exact if
    each computation needs more than the last.
    """
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_in_use")
    try:
        # Writing 5 resets VmHWM to the resident memory (Linux, proc_pid_clear_refs).
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return host.told_bytes(memory.STATUS, "VmRSS")


def peak_beyond(begin: int | None) -> int | None:
    """The most memory in use beyond what :func:`begin_peak` returned."""
    if begin is None:
        return None
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return max(memory.peak_resident_bytes() - begin, 0)
    return max((device.memory_stats() or {})["peak_bytes_in_use"] - begin, 0)


def ended(result: jd.Result) -> dict[str, Any]:
    """The figures of a descent's end, by name."""
    return {"status": result.message.split(":")[0], "iterations": int(result.iterations)}


def certified(certificate: jd.Certificate) -> dict[str, Any]:
    """A certificate's statement, and the numbers that it rests on."""
    return {
        "certificate": str(certificate),
        "certificate_kind": certificate.kind,
        "gradient_norm": certificate.gradient_norm,
        "smallest_eigenvalue": certificate.smallest_eigenvalue,
        "largest_eigenvalue": certificate.largest_eigenvalue,
    }
