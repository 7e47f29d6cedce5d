"""The memory of this process. Peers' processes import neither JAX nor jaxdescent for it.

:mod:`jaxdescent.kernels.memory` does the same for devices of JAX.
"""

from __future__ import annotations

import pathlib
import resource
import sys


def begin_peak() -> int | None:
    """What is resident now, with the high-water mark brought down to it; None if it cannot be."""
    try:
        # 5 resets VmHWM to what is resident (Linux, proc_pid_clear_refs).
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status_bytes("VmRSS")


def now() -> int:
    """What is resident; 0 where the system does not tell."""
    return _status_bytes("VmRSS") or 0


def peak() -> int:
    """The most that was resident since the mark was last reset, or since the process began."""
    marked = _status_bytes("VmHWM")
    if marked is not None:
        return marked
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status_bytes(field: str) -> int | None:
    try:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None
