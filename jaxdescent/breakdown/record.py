"""The JSON file with every number, and the machine that it was measured on."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import platform
from typing import Any

import jax

from jaxdescent.breakdown.report import PartReport, Settings
from jaxdescent.machine import attached, host, memory

PACKAGES = ("jaxdescent", "jax", "jaxlib", "numpy", "optax", "scikit-learn")


def describe_machine() -> dict[str, Any]:
    """The machine and software on which the numbers depend."""
    device = jax.local_devices()[0]
    return {
        "processor": host.processor(),
        "cores": host.usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "available_bytes": memory.available_bytes(device),
        "device": device.device_kind,
        "devices": attached.count(),
        "processes": jax.process_count(),
        "platform": device.platform,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def write_record(
    path: pathlib.Path,
    settings: Settings,
    machine: dict[str, Any],
    reports: list[PartReport],
    seconds: float,
) -> None:
    """Write one JSON object; numbers that JSON cannot represent (NaN, infinity) become null."""
    record = {
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "settings": {
            "budget_seconds": settings.budget,
            "extent": settings.extent.name,
            "everything": settings.everything,
            "max_params": settings.max_params,
            "dtype": settings.dtype,
            "seed": settings.seed,
        },
        "machine": machine,
        "parts": {
            str(report.number): {
                "title": report.title,
                "is_complete": report.is_complete,
                "seconds_of_part": report.seconds,
                **report.numbers,
            }
            for report in reports
        },
        "verdict": [sentence for report in reports for sentence in report.verdict],
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(_plain(record), indent=2, allow_nan=False) + "\n")
    partial.replace(path)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, float) and not math.isfinite(number):
        return None
    return number


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
