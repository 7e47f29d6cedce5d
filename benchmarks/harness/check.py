"""The guard: ratios of this run beside the stored ones. Times are not compared."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.harness import records
from benchmarks.harness.records import Record
from benchmarks.report import targets

TOLERATED = 0.15


class Worsened(NamedTuple):
    """A ratio that got worse; of both, larger is better."""

    what: str
    stored: float | None
    current: float | None

    def __str__(self) -> str:
        current = "gone" if self.current is None else f"{self.current:.3g}"
        return f"worse: {self.what}: {self.stored:.3g} before, {current} now"


def worsened(stored: list[Record], current: list[Record]) -> list[Worsened]:
    """What is worse by more than TOLERATED, in the suites that both ran at the same scale.

    A contender that passed before and does not now is named too: jaxdescent's, since a peer that
    has gone is no loss of ours.
    """
    common = {
        record["suite"]
        for record in current
        if record["kind"] == "provenance"
        and records.of_kind(stored, "provenance", record["suite"]).get("scale") == record["scale"]
    }
    before = [record for record in stored if record["suite"] in common]
    now = [record for record in current if record["suite"] in common]
    found = []
    old, new = _ratios(before), _ratios(now)
    for what, ratio in old.items():
        if what in new and new[what] < ratio * (1 - TOLERATED):
            found.append(Worsened(what, ratio, new[what]))
    passed = {(r["suite"], r["case"], r["contender"]) for r in now if r.get("seconds") is not None}
    for record in before:
        key = record["suite"], record.get("case"), record.get("contender")
        is_ours = record["kind"] == "record" and records.is_ours(record)
        if is_ours and record["seconds"] is not None and key not in passed:
            found.append(Worsened(f"{key[0]}, {key[1]}: {key[2]} passes", 1.0, None))
    return found


def _ratios(measured: list[Record]) -> dict[str, float]:
    """Peers' times over ours, and the targets' figures, turned so that larger is better."""
    found = {
        f"{suite}, {case}: times faster than {peer}": ratio
        for (suite, case, peer), ratio in records.ratios(measured).items()
    }
    for target, figure in targets.evaluated(measured):
        if figure is not None and figure > 0:
            name = f"{target.suite}, target: {target.sentence}"
            found[name] = figure if target.is_at_least else 1 / figure
    return found
