"""The memory that this process holds, and the most that it has held."""

from __future__ import annotations

import os
import pathlib
import sys

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
    """What the process holds now, from which on the peak counts; None if that is not possible."""
    try:
        # Writing 5 resets VmHWM to the resident memory (Linux, proc_pid_clear_refs).
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return host.told_bytes(STATUS, "VmRSS")
