"""What the host tells: its processor, the cores for this process, memory, and JAX's devices."""

from __future__ import annotations

import functools
import pathlib
import platform

import jax

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


def attached_devices() -> int:
    """How many devices JAX has, those of all processes of a run."""
    return jax.device_count()
