"""Measurement of the time and peak memory of one computation, without its compilation."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxdescent.machine import resident


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
    device = jax.local_devices()[0]
    begin = begin_peak()
    started = time.perf_counter()
    result = jax.block_until_ready(function(*args))
    seconds = time.perf_counter() - started
    peak = None if begin is None else max(_peak_bytes(device) - begin, 0)
    return Measurement(result, seconds, peak)


def begin_peak() -> int | None:
    """The memory in use, to which the high-water mark is reset; None if that is not possible."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        # An accelerator's mark cannot be reset: it is exact if each call needs more than the last.
        return (device.memory_stats() or {}).get("bytes_in_use")
    return resident.begin_peak()


def _peak_bytes(device: Any) -> int:
    if device.platform != "cpu":
        return (device.memory_stats() or {})["peak_bytes_in_use"]
    return resident.peak_resident_bytes()
