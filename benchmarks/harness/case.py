"""What is measured: suites of cases, and what a contender hands back."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol


class Answer(NamedTuple):
    """What a contender returns from one run.

    Attributes:
      params: for the referee, an array.
      iterations: how many it took; None for a direct solver, which no tolerance changes.
      seconds: its own measurement, where wall clock of the run is not the figure asked for.
      figures: other numbers to record.
    """

    params: Any = None
    iterations: int | None = None
    seconds: float | None = None
    figures: Mapping[str, float] = {}


class NotOffered(Exception):
    """Raised by an adapter for what its package does not offer."""


Solve = Callable[[float], Answer]
"""One run, to a tolerance of the contender's own kind."""


@dataclasses.dataclass(frozen=True)
class Counting:
    """A solve that can also be run once with its passes over X counted, which nobody times.

    Attributes:
      solve: the run.
      passes: how often a run to a tolerance reads X; None where nobody can see it.
    """

    solve: Solve
    passes: Callable[[float], float | None]

    def __call__(self, tolerance: float) -> Answer:
        return self.solve(tolerance)


Factory = Callable[[Any], Solve]
"""Prepares a contender (moves data to its arrays, compiles nothing) from a problem's data."""


class Problem(Protocol):
    """Data on the disk, the same for all contenders, and the referee's knowledge of it."""

    def write(self, folder: pathlib.Path) -> None:
        """Draw the data, and find in float64 what the referee must know."""

    def load(self, folder: pathlib.Path) -> Any:
        """What a contender's factory gets."""

    def judge(self, folder: pathlib.Path, params: Any) -> float:
        """The referee's verdict in float64: how far from right an answer is."""


ALL = 1e300
"""A bar that every answer passes."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One piece of work.

    Attributes:
      name: unique within its suite.
      work: the kind of work, by which the peers offer contenders.
      problem: the data and its referee.
      bar: the worst verdict that passes.
      ladder: tolerances, loosest first; a contender is timed with the first whose answer passes.
      x: the number of unknowns, where a figure is of small problems alone.
      only: a contender takes part if one of these words is in its label; empty: all.
      leave_out: labels that cannot do this case at this size, with the reason.
      one_at_a_time: whether a second contender's process would not fit beside the first: then each
        repeat has a fresh process, and contenders warm up and take the time themselves.
      repeats: the suite's unless given, where a single run is long and steady.
      limit: seconds that one run may take, the suite's unless given.
      is_counted: whether passes over X are counted, in one more run of those who can.
      environment: what every contender's process needs in its environment.
      figures: numbers of the problem that the report and the targets read.
    """

    name: str
    work: str
    problem: Problem
    bar: float = ALL
    ladder: tuple[float, ...] = (0.0,)
    x: float | None = None
    only: tuple[str, ...] = ()
    leave_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    one_at_a_time: bool = False
    repeats: int | None = None
    limit: float | None = None
    is_counted: bool = False
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Suite:
    """A numbered piece of the benchmarks.

    Attributes:
      name: as the command line takes it.
      title: as the report prints it.
      cases: of a scale to the cases; 1 is the whole size.
      everyday_scale: what ``make bench`` runs at.
      repeats: interleaved; more where a run is short.
      limit: seconds that one run may take in ``make bench``.
      whole_limit: the same for the whole size.
      fresh: whether a contender's process lives for one case alone. Many small cases share one.
      dtype: that the contenders compute in and store.
      is_everyday: whether ``make bench`` runs it.
      remark: what a reader of the table must know.
    """

    name: str
    title: str
    cases: Callable[[float], list[Case]]
    everyday_scale: float = 1.0
    repeats: int = 5
    limit: float = 20.0
    whole_limit: float = 200.0
    fresh: bool = True
    dtype: str = "float32"
    is_everyday: bool = True
    remark: str = ""


def scaled(size: int, scale: float, least: int = 8) -> int:
    """A size, shrunk."""
    return max(least, int(size * scale))
