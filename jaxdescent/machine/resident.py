"""The memory that this process holds, and the most that it has held."""

from __future__ import annotations

import os
import pathlib
import sys

STATUS = pathlib.Path("/proc/self/status")
RESET = pathlib.Path("/proc/self/clear_refs")


def resident_bytes() -> int:
    """What the process holds now; the most so far where the system does not tell."""
    now = _status_bytes("VmRSS")
    return peak_resident_bytes() if now is None else now


def peak_resident_bytes() -> int:
    """The most that it has held since it began, or since :func:`begin_peak`."""
    peak = _status_bytes("VmHWM")
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
        RESET.write_text("5")
    except OSError:
        return None
    return _status_bytes("VmRSS")


def _status_bytes(field: str) -> int | None:
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None
