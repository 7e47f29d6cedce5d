"""JSON lines, and what can be read off them: medians, ratios."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable
from typing import Any

from benchmarks.harness.case import Suite
from benchmarks.peers import OURS

Record = dict[str, Any]

DEFAULT = pathlib.Path("build/benchmarks.jsonl")
STORED = pathlib.Path(__file__).parent.parent / "results"


def stored_file(*, is_whole: bool) -> pathlib.Path:
    """Where the table in the repository comes from."""
    return STORED / ("bench-full.jsonl" if is_whole else "bench.jsonl")


def read(path: pathlib.Path) -> list[Record]:
    """All records of a file."""
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def write(path: pathlib.Path, records: Iterable[Record]) -> None:
    """Records, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def joined(pieces: list[Record], suite: Suite) -> list[Record]:
    """Runs of one suite, each of some of its cases, as one run of all of them.

    Raises:
      ValueError: if a case is missing, or there twice, or the runs are not of one commit and scale,
        or not of all contenders.
    """
    heads = [record for record in pieces if record["kind"] == "provenance"]
    alike = {(r["commit"], r["scale"], r["is_whole"]) for r in heads}
    partial = [word for word in ("--contender", "--scale") for r in heads if word in r["command"]]
    if len(alike) != 1 or partial:
        raise ValueError(f"{suite.name}: pieces of several commits or scales, or of few contenders")
    there = sorted(cases(pieces, suite))
    asked = sorted(case.name for case in suite.cases(heads[0]["scale"]))
    if there != asked or len(heads) > len(asked):
        raise ValueError(f"{suite.name}: needs each case once: {asked}, got {there}")
    head = heads[0] | {
        "command": heads[0]["command"].split(" --case")[0],
        "is_complete": True,
        "seconds_in_all": sum(record["seconds_in_all"] for record in heads),
    }
    limits = of_kind(pieces, "limits", suite.name)
    return [head, limits, *(record for record in pieces if record["kind"] == "record")]


def merged(old: list[Record], new: list[Record]) -> list[Record]:
    """The old records, but for the suites that were run anew."""
    again = {record["suite"] for record in new}
    return [record for record in old if record["suite"] not in again] + new


def of_kind(records: Iterable[Record], kind: str, suite: str) -> Record:
    """The provenance or the limits of a suite's run."""
    found = [each for each in records if each["kind"] == kind and each["suite"] == suite]
    return found[-1] if found else {}


def cases(records: Iterable[Record], suite: Suite | str) -> dict[str, list[Record]]:
    """A suite's measurements by case, in the order they were made."""
    name = suite if isinstance(suite, str) else suite.name
    found: dict[str, list[Record]] = {}
    for record in records:
        if record["kind"] == "record" and record["suite"] == name:
            found.setdefault(record["case"], []).append(record)
    return found


def is_ours(record: Record) -> bool:
    return record["contender"].startswith(f"{OURS}: ")


def measured(records: Iterable[Record]) -> list[Record]:
    """Those that passed, the fastest first."""
    return sorted((r for r in records if r["seconds"] is not None), key=lambda r: r["seconds"])


def fastest(records: Iterable[Record], *, ours: bool) -> Record | None:
    """The fastest of jaxdescent's contenders, or of its peers'."""
    return next((r for r in measured(records) if is_ours(r) == ours), None)


def named(records: Iterable[Record], *words: str) -> list[Record]:
    """The measured records in whose label one of the words is."""
    return [r for r in measured(records) if any(word in r["contender"] for word in words)]


def ratios(records: list[Record]) -> dict[tuple[str, str, str], float]:
    """By suite, case and peer: how many times longer it takes than jaxdescent's fastest."""
    found = {}
    for suite in {record["suite"]: None for record in records}:
        for case, rows in cases(records, suite).items():
            ours = fastest(rows, ours=True)
            if ours is None:
                continue
            for row in measured(rows):
                if not is_ours(row):
                    found[suite, case, row["contender"]] = row["seconds"] / ours["seconds"]
    return found
