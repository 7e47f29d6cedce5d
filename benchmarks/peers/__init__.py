"""Who takes part: one adapter a package, each a table of contenders by kind of work.

An adapter can be imported without its package: what it offers is known, and reported as missing
where the package is. Contenders are labelled "package: what is called".
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from types import ModuleType

from benchmarks.harness.case import Case, Factory

ADAPTERS = (
    "jaxdescent",
    "handwritten",
    "numpy",
    "scipy",
    "sklearn",
    "optax",
    "optimistix",
    "lineax",
    "jaxopt",
    "torch",
)

OURS = "jaxdescent"


def adapter(name: str) -> ModuleType:
    """The adapter's module: ``NAME``, ``PACKAGE``, ``DISTRIBUTION`` and ``CONTENDERS``."""
    return importlib.import_module(f"benchmarks.peers.{name}")


def is_missing(name: str) -> bool:
    """Whether the package that an adapter is for cannot be imported here."""
    return importlib.util.find_spec(adapter(name).PACKAGE) is None


def version(name: str) -> str | None:
    """The installed version of an adapter's package; None if it is missing."""
    try:
        return importlib.metadata.version(adapter(name).DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return None


def labels(case: Case) -> dict[str, str]:
    """Every contender of a case, by its label, and the adapter it comes from."""
    found = {}
    for name in ADAPTERS:
        module = adapter(name)
        for what in module.CONTENDERS.get(case.work, {}):
            label = f"{module.NAME}: {what}"
            if not case.only or any(word in label for word in case.only):
                found[label] = name
    return found


def factory(name: str, work: str, label: str) -> Factory:
    """What prepares the contender with this label."""
    module = adapter(name)
    return module.CONTENDERS[work][label.removeprefix(f"{module.NAME}: ")]


def environment(name: str, label: str) -> dict[str, str]:
    """What a contender's process needs in its environment, beyond this one's."""
    module = adapter(name)
    if not hasattr(module, "environment"):
        return {}
    return module.environment(label.removeprefix(f"{module.NAME}: "))
