"""Performance profiles (Dolan and More, 2002)."""

from __future__ import annotations

import numpy as np

from benchmarks.harness import records
from benchmarks.harness.records import Record

FARTHEST = 100.0
"""Times the fastest, where a profile ends."""


def profiles(cases: dict[str, list[Record]]) -> dict[str, np.ndarray]:
    """By contender: for each problem its time over the fastest contender's; infinite if it failed.

    Problems that nobody solved are left out; contenders that are missing too.
    """
    labels = {
        row["contender"]: None
        for rows in cases.values()
        for row in rows
        if row["status"] != "missing"
    }
    columns: dict[str, list[float]] = {label: [] for label in labels}
    for rows in cases.values():
        times = {row["contender"]: row["seconds"] for row in records.measured(rows)}
        if not times:
            continue
        best = min(times.values())
        for label, column in columns.items():
            column.append(times[label] / best if label in times else np.inf)
    return {label: np.sort(column) for label, column in columns.items()}


def areas(cases: dict[str, list[Record]]) -> dict[str, float]:
    """The area under each profile over log(ratio) from 1 to FARTHEST, as a share of all of it."""
    span = np.log(FARTHEST)
    return {
        label: float(np.mean(1 - np.minimum(np.log(ratios), span) / span)) if len(ratios) else 0.0
        for label, ratios in profiles(cases).items()
    }
