"""Runs suites: one process a contender, repeats interleaved, every answer judged."""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.case import Case, Suite
from benchmarks.process import Process

PREPARE_LIMIT = 300.0
"""Seconds for imports and data, which nothing is measured of."""

CLIMB = 4
"""How many times the limit of one run all tolerances of a ladder may take together."""

STEADY = 30.0
"""Seconds of a run that is long enough to be timed once."""

COMPILE_LIMIT = 60.0
"""Seconds for the first run, beyond what a run may take."""

Record = dict[str, Any]

_Shared = dict[tuple[Any, ...], "_Contender"]
"""By label and environment: contenders whose process goes on to the next case."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a suite is run.

    Attributes:
      scale: 1 is the whole size.
      repeats: interleaved, each with every contender once.
      limit: seconds that one run may take.
      only: run cases in whose name this is.
      contenders: who takes part: those with one of these words in their label; empty: all.
    """

    scale: float
    repeats: int
    limit: float
    only: str = ""
    contenders: tuple[str, ...] = ()


def run_suite(suite: Suite, settings: Settings) -> Iterator[Record]:
    """A record for each contender of each case, as soon as the case is done."""
    shared: _Shared = {}
    try:
        for case in suite.cases(settings.scale):
            if settings.only in case.name:
                yield from _run_case(suite, case, settings, shared)
    finally:
        for contender in shared.values():
            contender.close()


def _run_case(suite: Suite, case: Case, settings: Settings, shared: _Shared) -> Iterator[Record]:
    head = {
        "kind": "record",
        "suite": suite.name,
        "case": case.name,
        "x": case.x,
        "scale": settings.scale,
        "case_figures": dict(case.figures),
    }
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name:
        folder = pathlib.Path(name)
        case.problem.write(folder)
        contenders: list[_Contender] = []
        for label, adapter in peers.labels(case).items():
            if settings.contenders and not any(word in label for word in settings.contenders):
                continue
            if peers.is_missing(adapter):
                yield _not_run(head, label, "missing", f"{adapter} is not installed")
            elif label in case.leave_out:
                yield _not_run(head, label, "left out", case.leave_out[label])
            else:
                key = label, tuple(case.environment.items())
                contenders.append(shared.get(key) or _Contender(label, adapter))
                if not suite.fresh:
                    shared[key] = contenders[-1]
        for contender in contenders:
            print(f"   {case.name}: {contender.label}", file=sys.stderr, flush=True)
            contender.begin(suite, case, settings, folder)
            contender.climb()
            if case.one_at_a_time:
                contender.close()
        for _ in range(case.repeats or settings.repeats):
            for contender in contenders:
                contender.repeat()
                if case.one_at_a_time:
                    contender.close()
        for contender in contenders:
            if case.is_counted:
                contender.count()
            yield {**head, **contender.record()}
            if suite.fresh:
                contender.close()


def _not_run(head: Record, label: str, status: str, reason: str) -> Record:
    return {**head, "contender": label, "status": status, "reason": reason, "seconds": None}


class _Contender:
    """One contender: its process, its tolerance, its times."""

    def __init__(self, label: str, adapter: str) -> None:
        self.label, self.adapter = label, adapter
        self.process: Process | None = None

    def begin(self, suite: Suite, case: Case, settings: Settings, folder: pathlib.Path) -> None:
        self.case, self.folder, self.limit = case, folder, case.limit or settings.limit
        self.request = {
            "suite": suite.name,
            "scale": settings.scale,
            "case": case.name,
            "adapter": self.adapter,
            "label": self.label,
            "folder": str(folder),
        }
        self.status, self.reason = "ok", ""
        self.tolerance: float | None = None
        self.verdict: float | None = None
        self.is_ready = False
        self.passes: float | None = None
        self.first: Record = {}
        self.replies: list[Record] = []
        self.threads: Any = None

    def climb(self) -> None:
        """Find the loosest tolerance whose answer passes the referee."""
        answer = self.folder / "answer.npy"
        begun: float | None = None
        is_late = False
        for tolerance in self.case.ladder:
            limit = self.limit + (COMPILE_LIMIT if begun is None else 0)
            reply = self._run(tolerance, str(answer), limit, is_timed=False)
            if reply is None:
                return
            self.first = self.first or reply
            begun = begun or time.perf_counter()
            before, is_direct = self.verdict, reply["iterations"] is None
            verdict = self.case.problem.judge(self.folder, np.load(answer, allow_pickle=False))
            if self.verdict is None or verdict < self.verdict:
                self.verdict = verdict
            if verdict <= self.case.bar:
                self.tolerance, self.verdict = tolerance, verdict
                return
            if is_direct and verdict == before:
                break  # no tolerance changes what a direct solver does
            is_late = time.perf_counter() - begun > CLIMB * self.limit
            if is_late:
                break
        self.status, self.reason = "not reached", f"its best verdict is {self.verdict:.1e}"
        if is_late:
            self.reason += f" after {CLIMB * self.limit:.0f} s"

    def repeat(self) -> None:
        if self.status != "ok" or any(reply["seconds"] > STEADY for reply in self.replies):
            return
        assert self.tolerance is not None
        reply = self._run(self.tolerance, None, self.limit, is_timed=True)
        if reply is not None:
            self.replies.append(reply)

    def count(self) -> None:
        """Its passes over X, with the tolerance it was timed with, in a run that compiles anew."""
        if self.status != "ok":
            return
        reply = self._prepare()
        if "failure" not in reply:
            request = {"do": "count", "tolerance": self.tolerance}
            reply = self._ask(request, CLIMB * self.limit + COMPILE_LIMIT)
        if "failure" in reply:
            print(f"   {self.label}: not counted: {reply['failure']}", file=sys.stderr, flush=True)
        self.passes = reply.get("passes")

    def record(self) -> Record:
        times = [reply["seconds"] for reply in self.replies]
        record = {
            "contender": self.label,
            "status": self.status,
            "reason": self.reason,
            "tolerance": self.tolerance,
            # JSON knows no infinity.
            "verdict": self.verdict if np.isfinite(self.verdict or 0) else None,
            "bar": self.case.bar,
            "seconds": None,
            "times": times,
            "threads": self.threads,
        }
        if self.status != "ok" or not times:
            return record
        last = self.replies[-1]
        median = statistics.median(times)
        return record | {
            "seconds": median,
            "fastest": min(times),
            "slowest": max(times),
            "compile_seconds": max(0.0, self.first["wall_seconds"] - last["wall_seconds"]),
            "iterations": last["iterations"],
            "passes": self.passes,
            "peak_bytes": max(reply["peak_bytes"] for reply in self.replies),
            "working_bytes": _greatest(reply["working_bytes"] for reply in self.replies),
            "figures": {
                name: statistics.median(reply["figures"][name] for reply in self.replies)
                for name in last["figures"]
            },
        }

    def close(self) -> None:
        if self.process is not None:
            self.process.close()
        self.process, self.is_ready = None, False

    def _run(
        self, tolerance: float, answer: str | None, limit: float, *, is_timed: bool
    ) -> Record | None:
        request = {"do": "run", "tolerance": tolerance, "answer": answer, "is_timed": is_timed}
        reply = self._prepare()
        if "failure" not in reply:
            reply = self._ask(request, limit)
        if "failure" in reply:
            self.status = "left out" if reply.get("is_left_out") else "failed"
            self.reason = reply["failure"]
            return None
        return reply

    def _prepare(self) -> Record:
        if self.process is None or not self.process.is_alive:
            environment = peers.environment(self.adapter, self.label)
            self.process = Process({**environment, **self.case.environment})
            self.is_ready = False
        if self.is_ready:
            return {}
        reply = self._ask({"do": "prepare", "contender": self.request}, PREPARE_LIMIT)
        if "failure" not in reply:
            self.threads, self.is_ready = reply["threads"], True
        return reply

    def _ask(self, request: Record, limit: float) -> Record:
        assert self.process is not None
        reply = self.process.ask(request, limit)
        if not self.process.is_alive:
            self.close()
        return reply


def _greatest(values: Any) -> Any:
    present = [value for value in values if value is not None]
    return max(present, default=None)
