"""A long descent in segments: a run whose chunks have a given number of iterations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from rich.console import Console

import jaxdescent as jd
from jaxdescent.breakdown.report import Settings, busy, show_line
from jaxdescent.data import DataError


class Segment(NamedTuple):
    """The iterations and seconds of one chunk, compilation apart."""

    iterations: int
    seconds: float


class SegmentedDescent(jd.hooks.Hook):
    """A descent, which notes its segments as a hook of its run.

    Attributes:
      result: the run's result.
      segments: all segments.
      first_norm: the gradient's norm at the start.
      resumed_at: the iteration at which the run resumed; 0 if it began at the start.
      seconds_compiling: until the programs were compiled.
      goodput: the share of the time that went into iterations.
    """

    result: jd.Result
    seconds_compiling: float
    goodput: float

    def __init__(self, first: Callable[[], None]) -> None:
        self._first = first  # is called before the first step
        self.segments: list[Segment] = []
        self.first_norm = math.nan
        self.resumed_at = 0

    def begin(self, facts: jd.hooks.Facts) -> None:
        self._first()
        self.resumed_at = facts.iteration

    def report(self, record: jd.hooks.Record) -> None:
        self.first_norm = record.first_gradient_norm
        self.segments.append(Segment(record.iterations, record.chunk_seconds))

    def end(self, result: jd.Result, summary: jd.hooks.Summary) -> None:
        self.result = result
        self.seconds_compiling, self.goodput = summary.seconds_compiling, summary.goodput
        if not self.segments:
            self.first_norm = float(result.scale)

    @property
    def is_complete(self) -> bool:
        """False if Ctrl-C ended the descent."""
        return int(self.result.status) != jd.Status.INTERRUPTED

    @property
    def iterations(self) -> int:
        """The number of steps, those before a resumption included."""
        return int(self.result.iterations)

    @property
    def seconds(self) -> float:
        """The wall clock time of all segments, including compilation."""
        return self.seconds_compiling + sum(segment.seconds for segment in self.segments)

    @property
    def seconds_per_iteration(self) -> float | None:
        """The seconds per iteration in the fastest segment, including checks; None if a finished
        run was resumed.
        """
        each = [segment.seconds / max(segment.iterations, 1) for segment in self.segments]
        return min(each, default=None)

    @property
    def numbers(self) -> dict[str, float | int | None]:
        """The numbers that the record keeps of any descent."""
        norm = float(self.result.gradient_norm)
        return {
            "iterations": self.iterations,
            "seconds_descending": self.seconds,
            "seconds_per_iteration": self.seconds_per_iteration,
            "seconds_compiling": self.seconds_compiling,
            "goodput": self.goodput,
            "resumed_at": self.resumed_at,
            "gradient_norm": norm,
            "gradient_norm_at_start": self.first_norm,
            "relative_gradient_norm": norm / self.first_norm,
        }


def descend(
    objective: Any,
    params: Any,
    method: Any,
    settings: Settings,
    console: Console,
    *,
    problem: str,
    label: str,
    iterations: int,
    segment: int,
    tolerance: float = 0.0,
) -> SegmentedDescent:
    """At most ``iterations`` steps, in place, until the gradient is the fraction ``tolerance`` of
    its scale, which is looked at after each segment.

    Ctrl-C ends the descent after the segment under way. The checkpoints that the settings ask for
    are in a folder of the problem's name.

    Raises:
      DataError: if the checkpoints cannot be resumed, or exist without ``resume``.
      KeyboardInterrupt: at a second Ctrl-C.
    """
    waiting = busy(console, f"{label}: compiling")

    def begin() -> None:
        waiting.stop()  # a terminal shows it or the bar
        show_line(console, f"{label}: at most {iterations:,} iterations")

    descent = SegmentedDescent(begin)
    folder = settings.checkpoint and settings.checkpoint / problem
    bar = jd.hooks.Progress(console=console, label=label, is_quiet_at_end=True)
    try:
        with waiting:
            jd.run(
                objective,
                params,
                method,
                max_iterations=iterations,
                tolerance=jd.Tolerance(gradient=tolerance),
                chunk=segment,
                check_every=segment,
                donate=True,
                hooks=[descent, bar],
                checkpoint=folder,
                resume=settings.resume,
            )
    except ValueError as error:
        if folder is None:
            raise
        raise DataError(f"{error}".replace("pass resume=True", "say --resume")) from error
    return descent
