"""The memory that this process and its first device hold, and the most that they have held."""

from __future__ import annotations

import os
import pathlib
import sys

import jax

from jaxdescent.machine import host

STATUS = "/proc/self/status"


def resident_bytes() -> int:
    """What the process holds now; the most so far where the system does not tell."""
    now = host.told_bytes(STATUS, "VmRSS")
    return peak_resident_bytes() if now is None else now


def peak_resident_bytes() -> int:
    """The most that it has held since it began, or since :func:`begin_peak`."""
    peak = host.told_bytes(STATUS, "VmHWM")
    if peak is not None:
        return peak
    if os.name != "posix":
        return 0
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


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
    return host.told_bytes(STATUS, "VmRSS")


def peak_beyond(begin: int | None) -> int | None:
    """The most memory in use beyond what :func:`begin_peak` returned."""
    if begin is None:
        return None
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return max(peak_resident_bytes() - begin, 0)
    return max((device.memory_stats() or {})["peak_bytes_in_use"] - begin, 0)
