"""Storage of calibrations in the user's cache folder."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import re
import sys
import tempfile
from typing import Any

import jax
import jaxlib.version

from jaxdescent.machine.defaults import DEFAULTS, DTYPES

FORMAT = 4
"""The version of the JSON file's format; files of another version are ignored."""


QUALITY = ("measured_at", "others", "spread")
"""The fields that describe the quality of a calibration."""


def cache_folder() -> pathlib.Path:
    """The folder for data of this user's programs that can be computed again."""
    if os.environ.get("XDG_CACHE_HOME"):
        base = pathlib.Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "win32":
        base = pathlib.Path(os.environ.get("LOCALAPPDATA", pathlib.Path.home() / "AppData/Local"))
    elif sys.platform == "darwin":
        base = pathlib.Path.home() / "Library" / "Caches"
    else:
        base = pathlib.Path.home() / ".cache"
    return base / "jaxdescent"


def path_of(identity: dict[str, Any]) -> pathlib.Path:
    """The calibration's file, whose name identifies the device and the versions of JAX."""
    words = f"{identity['platform']} {identity['kind']} {identity['cores']} cores"
    words = f"{words} jax {jax.__version__} jaxlib {jaxlib.version.__version__}"
    return cache_folder() / f"machine-{re.sub(r'[^A-Za-z0-9.]+', '-', words)}.json"


def stored(identity: dict[str, Any]) -> dict[str, Any] | None:
    """The rates of the device with this identity; None if there is no valid file."""
    return _read(str(path_of(identity)), FORMAT)


def keep(identity: dict[str, Any], rates: dict[str, Any]) -> None:
    """Write the file atomically; it is no error if the folder cannot be written to."""
    _read.cache_clear()
    path = path_of(identity)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump({"format": FORMAT, "rates": rates}, file, indent=2)
    except OSError:
        return
    try:
        os.replace(file.name, path)
    except OSError:
        pathlib.Path(file.name).unlink(missing_ok=True)


@functools.lru_cache(maxsize=8)
def _read(path: str, version: int) -> dict[str, Any] | None:
    """The rates in a file; None if it is missing, of another format, or not readable."""
    try:
        content = json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("format") != version:
        return None
    names = (*DEFAULTS["cpu"], *QUALITY, "is_measured")
    rates = content.get("rates")
    if not isinstance(rates, dict) or not all(_is_valid(name, rates.get(name)) for name in names):
        return None
    return {name: rates[name] for name in names}  # earlier versions kept more


def _is_valid(name: str, value: Any) -> bool:
    """Whether a rate is a positive number, or one for each dtype, and other fields are numbers."""
    numbers = [value]
    if isinstance(DEFAULTS["cpu"].get(name), dict):
        if not isinstance(value, dict) or set(value) != set(DTYPES):
            return False
        numbers = list(value.values())
    least = 1e-15 if name in DEFAULTS["cpu"] and name != "cache_bytes" else 0
    return all(isinstance(x, (int, float)) and least <= x < float("inf") for x in numbers)
