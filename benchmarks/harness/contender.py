"""One contender at one case: its process, its tolerance, its times."""

from __future__ import annotations

import pathlib
import statistics
import sys
import time
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.harness.case import Case
from benchmarks.harness.process import Process

PREPARE_LIMIT = 300.0
"""Seconds for imports and data, which nothing is measured of."""

CLIMB = 4
"""How many times the limit of one run all tolerances of a ladder may take together."""

STEADY = 30.0
"""Seconds of a run that is long enough to be timed once."""

COMPILE_LIMIT = 60.0
"""Seconds for the first run, beyond what a run may take."""

IDLE = 5.0
"""Seconds after which a system may have taken pages away that nobody read: a run with the loosest
tolerance, before the one that is timed, brings them back."""

Record = dict[str, Any]


class Seat:
    """A process that contenders of one label and environment take in turn."""

    def __init__(self) -> None:
        self.process: Process | None = None
        self.occupant: Contender | None = None
        self.last_used = 0.0

    def close(self) -> None:
        if self.process is not None:
            self.process.close()
        self.process, self.occupant = None, None


class Contender:
    """One contender: its process, its tolerance, its times."""

    def __init__(
        self,
        label: str,
        adapter: str,
        seat: Seat,
        *,
        suite: str,
        scale: float,
        case: Case,
        limit: float,
        folder: pathlib.Path,
    ) -> None:
        self.label, self.adapter, self.seat = label, adapter, seat
        self.case, self.folder, self.limit = case, folder, limit
        self.request = {
            "suite": suite,
            "scale": scale,
            "case": case.name,
            "adapter": adapter,
            "label": label,
            "folder": str(folder),
        }
        self.status, self.reason = "ok", ""
        self.tolerance: float | None = None
        self.verdict: float | None = None
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
        if self.seat.occupant is self and time.monotonic() - self.seat.last_used > IDLE:
            self._run(self.case.ladder[0], None, self.limit, is_timed=False)
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
        seat = self.seat
        if seat.process is None or not seat.process.is_alive:
            environment = peers.environment(self.adapter, self.label)
            seat.process = Process({**environment, **self.case.environment})
            seat.occupant = None
        if seat.occupant is self:
            return {}
        reply = self._ask({"do": "prepare", "contender": self.request}, PREPARE_LIMIT)
        if "failure" not in reply:
            self.threads, seat.occupant = reply["threads"], self
        return reply

    def _ask(self, request: Record, limit: float) -> Record:
        assert self.seat.process is not None
        reply = self.seat.process.ask(request, limit)
        self.seat.last_used = time.monotonic()
        if not self.seat.process.is_alive:
            self.seat.close()
        return reply


def _greatest(values: Any) -> Any:
    present = [value for value in values if value is not None]
    return max(present, default=None)
