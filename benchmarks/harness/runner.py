"""Runs suites: one process a contender, repeats interleaved, every answer judged."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
import tempfile
from collections.abc import Iterator

from benchmarks import peers
from benchmarks.harness.case import Case, Suite
from benchmarks.harness.contender import Contender, Record, Seat


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
    """A record for each contender of each case, as soon as what is interleaved is done."""
    cases = [case for case in suite.cases(settings.scale) if settings.only in case.name]
    run = _Run(suite, settings)
    try:
        for case in cases:
            yield from run.one_case(case)
    finally:
        run.close()


class _Run:
    """A suite, and the processes that work for it."""

    def __init__(self, suite: Suite, settings: Settings) -> None:
        self.suite, self.settings = suite, settings
        self.seats: dict[tuple[object, ...], Seat] = {}

    def close(self) -> None:
        for seat in self.seats.values():
            seat.close()

    def one_case(self, case: Case) -> Iterator[Record]:
        """All contenders by turns."""
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as name:
            present, absent = self._contenders(case, pathlib.Path(name))
            yield from absent
            for contender in present:
                self._climb(contender)
                if case.one_at_a_time:
                    contender.seat.close()
            for _ in range(case.repeats or self.settings.repeats):
                for contender in present:
                    contender.repeat()
                    if case.one_at_a_time:
                        contender.seat.close()
            for contender in present:
                if case.is_counted:
                    contender.count()
                yield self._record(case, contender.record())
                if self.suite.fresh:
                    contender.seat.close()

    def _contenders(self, case: Case, folder: pathlib.Path) -> tuple[list[Contender], list[Record]]:
        """Those who take part, and the records of those who do not."""
        case.problem.write(folder)
        present: list[Contender] = []
        absent: list[Record] = []

        def refuse(label: str, status: str, reason: str) -> None:
            fields = {"contender": label, "status": status, "reason": reason, "seconds": None}
            absent.append(self._record(case, fields))

        words = self.settings.contenders
        for label, adapter in peers.labels(case).items():
            if words and not any(word in label for word in words):
                continue
            if peers.is_missing(adapter):
                refuse(label, "missing", f"{adapter} is not installed")
            elif label in case.leave_out:
                refuse(label, "left out", case.leave_out[label])
            else:
                key = label, tuple(case.environment.items())
                contender = Contender(
                    label,
                    adapter,
                    self.seats.setdefault(key, Seat()),
                    suite=self.suite.name,
                    scale=self.settings.scale,
                    case=case,
                    limit=case.limit or self.settings.limit,
                    folder=folder,
                )
                present.append(contender)
        return present, absent

    def _climb(self, contender: Contender) -> None:
        print(f"   {contender.case.name}: {contender.label}", file=sys.stderr, flush=True)
        contender.climb()

    def _record(self, case: Case, fields: Record) -> Record:
        head = {
            "kind": "record",
            "suite": self.suite.name,
            "case": case.name,
            "x": case.x,
            "scale": self.settings.scale,
            "case_figures": dict(case.figures),
        }
        return head | fields
