"""The machine and the versions that measured numbers depend on, for the files that keep them."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from collections.abc import Iterable
from typing import Any

import jax

from jaxdescent.kernels import host


def machine(packages: Iterable[str]) -> dict[str, Any]:
    """The machine, its devices, and the versions of Python and of these packages."""
    return {
        "processor": host.processor(),
        "cores": host.usable_cores(),
        "device": jax.local_devices()[0].device_kind,
        "devices": host.attached_devices(),
        "processes": jax.process_count(),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in packages},
    }


def version(package: str) -> str | None:
    """The version of a package; None where it is not installed.

    >>> version("no-such-package") is None
    True
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def now() -> str:
    """The date and the time, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
