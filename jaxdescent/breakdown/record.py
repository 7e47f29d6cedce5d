"""The JSON file with every number, and the machine that it was measured on."""

from __future__ import annotations

import json
import os
import pathlib
import platform
from typing import Any

import jax

from jaxdescent import provenance
from jaxdescent.breakdown.report import PartReport, Settings
from jaxdescent.fit.kept_folder import replacing
from jaxdescent.machine import memory
from jaxdescent.runs.hooks.protocol import as_json

PACKAGES = ("jaxdescent", "jax", "jaxlib", "numpy", "optax", "scikit-learn")


def describe_machine() -> dict[str, Any]:
    """The machine and software on which the numbers depend."""
    device = jax.local_devices()[0]
    return {
        **provenance.machine(PACKAGES),
        "memory_bytes": memory.physical_bytes(),
        "available_bytes": memory.available_bytes(device),
        "platform": device.platform,
        "system": f"{platform.system()} {platform.machine()}",
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
        "written": provenance.now(),
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
    with replacing(path) as new:
        new.write_text(json.dumps(as_json(record), indent=2, allow_nan=False) + "\n")
