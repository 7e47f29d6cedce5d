"""What the host's system tells: its processor, the cores for this process, memory, and the load."""

from __future__ import annotations

import functools
import os
import pathlib
import platform
import time
from typing import NamedTuple

from jaxdescent.kernels import host_threads

usable_cores = host_threads.usable_cores


@functools.cache
def processor() -> str:
    """The name of the processor's model, as far as the system reports it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or "cpu"


def told_bytes(path: str, field: str) -> int | None:
    """The bytes that a file of ``/proc`` tells of a field in kB; None if there is no such line."""
    try:
        lines = pathlib.Path(path).read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


class Load(NamedTuple):
    """Seconds so far: of the wall clock, of busy time on all cores, and of this process."""

    clock: float
    busy: float
    own: float
    cores: int

    @classmethod
    def now(cls) -> Load | None:
        """The current counts of the system; None if it provides none."""
        try:
            lines = pathlib.Path("/proc/stat").read_text().splitlines()
            ticks = [int(word) for word in lines[0].split()[1:9]]
        except (OSError, ValueError, IndexError):
            return None
        idle, waiting = ticks[3:5]
        busy = (sum(ticks) - idle - waiting) / os.sysconf("SC_CLK_TCK")
        own = time.process_time()
        cores = sum(line[:3] == "cpu" and line[3:4].isdigit() for line in lines)
        return cls(time.perf_counter(), busy, own, max(cores, 1))

    def others_since(self, before: Load) -> float:
        """The share of all cores, 0 to 1, that other processes have used since ``before``."""
        clock = self.clock - before.clock
        if clock <= 0:
            return 0.0
        others = (self.busy - before.busy) - (self.own - before.own)
        return min(max(others / (clock * self.cores), 0.0), 1.0)
