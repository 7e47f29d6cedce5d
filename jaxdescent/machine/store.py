"""Storage of calibrations in the user's cache folder."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import pathlib
import re
import sys
from typing import Any

import jax
import jaxlib.version

from jaxdescent.machine.defaults import DEFAULTS

FORMAT = 4
"""The version of the JSON file's format; files of another version are ignored."""


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
    written = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(json.dumps({"format": FORMAT, "rates": rates}, indent=2))
        written.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            written.unlink()


@functools.lru_cache(maxsize=8)
def _read(path: str, version: int) -> dict[str, Any] | None:
    """The rates in a file; None if it is missing, of another format, or not readable."""
    try:
        content = json.loads(pathlib.Path(path).read_text())
        rates = content["rates"]
        names = *DEFAULTS["cpu"], "measured_at", "others", "is_measured"
        rates = {name: rates[name] for name in names}  # earlier versions kept more
        is_valid = content["format"] == version and all(map(_is_valid, rates, rates.values()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return rates if is_valid else None


def _is_valid(name: str, value: Any) -> bool:
    """Whether a rate is a positive number, or one for each dtype, and other fields are numbers."""
    default = DEFAULTS["cpu"].get(name)
    if isinstance(default, dict):
        return value.keys() == default.keys() and all(
            0 < each < math.inf for each in value.values()
        )
    least = 1e-15 if default and name != "cache_bytes" else 0
    return least <= value < math.inf
