"""The frame of part 3: a large problem is set up, descends in segments, is verified and told.

A segment is a chunk of a run with a given number of iterations.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar

from rich.console import Console

import jaxdescent as jd
from jaxdescent.breakdown import placed, report
from jaxdescent.breakdown.settings import Settings
from jaxdescent.rows import DataError


class LargeProblem(abc.ABC):
    """A problem of part 3, set up when it is made, and told by its numbers in the record."""

    name: ClassVar[str]  # its name in the record
    folder: ClassVar[str]  # the name of the folder with its checkpoints
    iterations: ClassVar[int]  # the most steps
    segment: ClassVar[int]  # the steps between two looks at the gradient
    # The fraction of its scale at which the gradient's norm ends the descent.
    tolerance: ClassVar[float] = 0.0
    method: ClassVar[Any]
    # These four are templates of :func:`said`, filled in with the numbers and ``over_processes``.
    sentences: ClassVar[tuple[str, ...]]
    figures: ClassVar[dict[str, str]]  # by their names in the table
    verdict: ClassVar[str]
    remarks: tuple[str, ...] = ()
    objective: Any  # what descends by the method
    params: Any  # the descent takes their memory
    label: str  # a few words that are shown while it runs
    numbers: dict[str, Any]  # what is known before the descent, for the record
    # The series in the plot, the unknowns there, and the bytes of memory.
    point: tuple[str, int, float]

    @abc.abstractmethod
    def verified(self, descent: SegmentedDescent) -> dict[str, Any]:
        """The numbers for the record that the descent's end gives."""


class SegmentedDescent(jd.hooks.Hook):
    """The course of a descent, which is noted as a hook of its run: the records of its segments."""

    result: jd.Result
    summary: jd.hooks.Summary

    def __init__(self, first: Callable[[], None]) -> None:
        self._first = first  # is called before the first step
        self.segments: list[jd.hooks.Record] = []
        self.resumed_at = 0  # the iteration

    def begin(self, facts: jd.hooks.Facts) -> None:
        self._first()
        self.resumed_at = facts.iteration

    def report(self, record: jd.hooks.Record) -> None:
        self.segments.append(record)

    def end(self, result: jd.Result, summary: jd.hooks.Summary) -> None:
        self.result, self.summary = result, summary

    @property
    def is_complete(self) -> bool:
        """False if Ctrl-C ended the descent."""
        return int(self.result.status) != jd.Status.INTERRUPTED

    @property
    def numbers(self) -> dict[str, float | int | None]:
        """The numbers that the record keeps of any descent; a finished run that was resumed has no
        seconds per iteration.
        """
        segments, norm = self.segments, float(self.result.gradient_norm)
        first_norm = segments[0].first_gradient_norm if segments else float(self.result.scale)
        walked = [segment for segment in segments if segment.iterations]
        paces = [segment.chunk_seconds / segment.iterations for segment in walked]
        compiling = self.summary.seconds_compiling
        return {
            "iterations": int(self.result.iterations),
            "seconds_descending": compiling + sum(segment.chunk_seconds for segment in segments),
            "seconds_per_iteration": min(paces, default=None),
            "seconds_compiling": compiling,
            "goodput": self.summary.goodput,
            "resumed_at": self.resumed_at,
            "gradient_norm": norm,
            "gradient_norm_at_start": first_norm,
            "relative_gradient_norm": norm / first_norm,
        }


def run(problem: LargeProblem, settings: Settings, console: Console) -> report.PartReport:
    """Descend in place, verify where the descent has come to, and tell it.

    Ctrl-C ends the descent after the segment under way. The checkpoints that the settings ask for
    are in the problem's folder.

    Raises:
      DataError: if the checkpoints cannot be resumed, or exist without ``resume``.
      KeyboardInterrupt: at a second Ctrl-C.
    """
    waiting = report.busy(console, f"{problem.label}: compiling")

    def begin() -> None:
        waiting.stop()  # a terminal shows it or the bar
        report.show_line(console, f"{problem.label}: at most {problem.iterations:,} iterations")

    descent = SegmentedDescent(begin)
    folder = settings.checkpoint and settings.checkpoint / problem.folder
    bar = jd.hooks.Progress(console=console, label=problem.label, is_quiet_at_end=True)
    try:
        with waiting:
            jd.run(
                problem.objective,
                problem.params,
                problem.method,
                max_iterations=problem.iterations,
                tolerance=jd.Tolerance(gradient=problem.tolerance),
                chunk=problem.segment,
                check_every=problem.segment,
                donate=True,
                hooks=[descent, bar],
                checkpoint=folder,
                resume=settings.resume,
            )
    except ValueError as error:
        if folder is None:
            raise
        raise DataError(f"{error}".replace("pass resume=True", "say --resume")) from error
    numbers = problem.numbers | descent.numbers | problem.verified(descent)
    known = numbers | {"over_processes": placed.in_words(numbers)}
    seconds = descent.numbers["seconds_descending"]
    return report.PartReport.of(
        known,
        shown=(
            *problem.sentences,
            report.figures_of(problem.figures, known),
            *problem.remarks,
        ),
        verdict=(problem.verdict,),
        numbers={problem.name: numbers},
        points=(report.PlottedPoint(*problem.point, seconds, True),),
        is_complete=descent.is_complete,
    )
