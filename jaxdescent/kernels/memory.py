"""The bytes that this process may use on a device, and those that it holds; the error of a problem
that does not fit.
"""

from __future__ import annotations

import os
import pathlib
import sys
from typing import Any

import jax

from jaxdescent.kernels import host

STATUS = "/proc/self/status"

SLACK_BYTES = 1 << 20
"""The uncertainty of the available memory: a problem with fewer bytes is taken to fit."""

SMALL_BYTES = 1 << 26
"""For fewer bytes than this the available memory is not asked for, which would take longer than to
solve the problem."""


class ProblemTooLarge(MemoryError):
    """Raised before anything is allocated, with the bytes needed and available, and a way out.

    >>> import jax, jaxdescent as jd
    >>> X = jax.ShapeDtypeStruct((8_000_000_000, 1_000_000), "float32")
    >>> y = jax.ShapeDtypeStruct((8_000_000_000,), "float32")
    >>> jd.plan(jd.LinearRegression(X, y)).require()  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    jaxdescent.kernels.memory.ProblemTooLarge: ...
    """


def available_bytes(device: Any = None) -> int:
    """How many more bytes can be allocated on ``device`` (by default this process's first).

    On an accelerator its own statistics count, on a CPU :func:`host_bytes`.
    """
    statistics = _statistics(jax.local_devices()[0] if device is None else device)
    if statistics is None:
        return host_bytes()
    return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)


def bytes_of_each(devices: int) -> int:
    """How many more bytes each of this process's devices can have, of so many in all that are used.

    Those of a CPU share the memory of their host.
    """
    here = jax.local_devices()
    sharing = min(devices, len(here)) if here[0].platform == "cpu" else 1
    return available_bytes(here[0]) // sharing


def whole_bytes(device: Any) -> int:
    """The bytes that ``device`` has, in use or not."""
    statistics = _statistics(device)
    return physical_bytes() if statistics is None else statistics["bytes_limit"]


def _statistics(device: Any) -> dict[str, int] | None:
    """What an accelerator says of its memory; None if it says nothing, as CPUs do."""
    statistics = None if device.platform == "cpu" else device.memory_stats()
    return statistics if statistics and "bytes_limit" in statistics else None


def physical_bytes() -> int:
    """The memory of the host, in use or not."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def host_bytes() -> int:
    """How much more memory of the host this process can have, whatever JAX's devices are.

    It is the least of the memory that the system calls available, what each control group above
    this process leaves (version 1 or 2), and the address-space limit of the process. JAX need not
    have started.
    """
    available = host.told_bytes("/proc/meminfo", "MemAvailable")
    of_system = physical_bytes() if available is None else available
    return min(of_system, *_control_group_bytes(), *_address_space_bytes())


def readable_bytes(count: float) -> str:
    """A number of bytes in decimal units.

    >>> readable_bytes(16_060_522_496), readable_bytes(2.56e20)
    ('16.1 GB', '256 EB')
    """
    units = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB"]
    exponent = 0
    while count >= 999.5 and exponent < len(units) - 1:
        count, exponent = count / 1000, exponent + 1
    return f"{count:.3g} {units[exponent]}"


def _control_group_bytes(
    membership: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup"
) -> list[int]:
    """The bytes left below the limit of each control group, from this process's to the root."""
    try:
        lines = pathlib.Path(membership).read_text().splitlines()
    except OSError:
        return []
    remaining: list[int] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, usage = pathlib.Path(root), "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base = pathlib.Path(root) / "memory"
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = base / path.lstrip("/")
        # Inside a container the path may be the host's; so the mounted root is included.
        for folder in {base, group, *(p for p in group.parents if p.is_relative_to(base))}:
            try:
                most = (folder / limit).read_text().strip()
                used = int((folder / usage).read_text())
            except (OSError, ValueError):
                continue
            if most != "max":
                remaining.append(max(int(most) - used + _reclaimable(folder), 0))
    return remaining


def _reclaimable(folder: pathlib.Path) -> int:
    """The bytes of page cache that count as used, but that the kernel frees when needed."""
    try:
        fields = dict(map(str.split, (folder / "memory.stat").read_text().splitlines()))
    except (OSError, ValueError):
        return 0
    return int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))


def _address_space_bytes() -> list[int]:
    if os.name != "posix":
        return []
    import resource  # does not exist on Windows

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return []
    return [max(soft - (host.told_bytes(STATUS, "VmSize") or 0), 0)]


def resident_bytes() -> int:
    """What the process holds now; the most so far where the system does not tell."""
    now = host.told_bytes(STATUS, "VmRSS")
    return peak_resident_bytes() if now is None else now


def peak_resident_bytes() -> int:
    """The most that it has held since it began."""
    peak = host.told_bytes(STATUS, "VmHWM")
    if peak is not None:
        return peak
    if os.name != "posix":
        return 0
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
