"""What is measured: one declarative file for each piece of the work.

Sparse, hashed and larger-than-memory rows come with their designs.
"""

from __future__ import annotations

import importlib

from benchmarks.harness.case import Suite

NAMES = (
    "eight_billion",
    "gradient",
    "regressions",
    "overheads",
    "batches",
    "functions",
    "methods",
)


def get(name: str) -> Suite:
    """A suite by its name."""
    return importlib.import_module(f"benchmarks.suites.{name}").SUITE


def every() -> list[Suite]:
    """All of them, in the report's order."""
    return [get(name) for name in NAMES]
