"""The hook that shows how far a run is."""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
import time
from typing import Any

from jaxdescent.display import readable_seconds
from jaxdescent.kernels.memory import readable_bytes
from jaxdescent.result import Result
from jaxdescent.runs.hooks.protocol import Facts, Record, Summary, Telling
from jaxdescent.status import Status


class Progress(Telling):
    """A bar in a terminal, by rich if it is installed; elsewhere a line at times.

    Value, suboptimality, iterations a second, the bandwidth that the iterations reach (where the
    cost model knows what they move), and the time that the iterations left take. At the end the
    status, and the goodput: the share of the time that went into steps.

    Args:
      every: the least seconds between two lines, or two changes of the bar.
      label: what the bar is called; None stands for the method and the number of unknowns.
      console: a rich console; None stands for one on standard error.
      is_quiet_at_end: whether nothing stays at the end.
    """

    def __init__(
        self,
        *,
        every: float | None = None,
        label: str | None = None,
        console: Any = None,
        is_quiet_at_end: bool = False,
    ) -> None:
        self.every = every
        self.label = label
        self.console = console
        self.is_quiet_at_end = is_quiet_at_end
        self._bar: Any = None
        self._task: Any = None

    def __repr__(self) -> str:
        return "Progress()"

    def begin(self, facts: Facts) -> None:
        self.is_telling = facts.is_first_process
        self._facts = facts
        self._label = self.label or f"{facts.method}, {facts.unknowns:,} unknowns"
        self._shown = -math.inf
        if not self.is_telling:
            return
        self._bar = self._rich_bar()
        if self._bar is not None:
            self._task = self._bar.add_task(
                self._label, total=facts.max_iterations, completed=facts.iteration, numbers=""
            )
            with self.telling():
                self._bar.start()

    def report(self, record: Record) -> None:
        now = time.perf_counter()
        least = self.every if self.every is not None else (0.1 if self._bar is not None else 10.0)
        if not self.is_telling or (now - self._shown < least and record.status is None):
            return
        self._shown = now
        if self._bar is not None:
            with self.telling():
                numbers = numbers_of(record)
                self._bar.update(self._task, completed=record.iteration, numbers=numbers)
        elif not self.is_quiet_at_end:
            share = f"{record.iteration:,} of {self._facts.max_iterations:,} iterations"
            self._print(f"{self._label}: {share}, {numbers_of(record)}")

    def end(self, result: Result, summary: Summary) -> None:
        self.close()
        if not self.is_telling or self.is_quiet_at_end:
            return
        pace = summary.iterations / summary.seconds_in_steps if summary.seconds_in_steps else 0.0
        self._print(
            f"{self._label}: {Status(int(result.status)).name} after {int(result.iterations):,} "
            f"iterations at {pace:.3g} a second, value {float(result.value):.6g}; "
            f"{readable_seconds(summary.seconds)}, {summary.goodput:.0%} of them in steps "
            f"({readable_seconds(summary.seconds_compiling)} compiling, "
            f"{readable_seconds(summary.seconds_saving)} waiting for checkpoints)"
        )

    def close(self) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:  # a terminal that is gone refuses the last refresh too
            with self.telling() if self.is_telling else contextlib.suppress(OSError):
                bar.stop()

    def _rich_bar(self) -> Any:
        """A bar of rich's; None without rich, or outside a terminal."""
        try:
            rich = importlib.import_module("rich.progress")
            console = self.console or importlib.import_module("rich.console").Console(stderr=True)
        except ImportError:
            return None
        if not console.is_terminal:
            return None
        return rich.Progress(
            rich.TextColumn("{task.description}"),
            rich.BarColumn(),
            rich.TextColumn("{task.completed:,.0f}/{task.total:,.0f}  {task.fields[numbers]}"),
            console=console,
            transient=True,
        )

    def _print(self, line: str) -> None:
        with self.telling():
            if self.console is not None:
                self.console.print(line, highlight=False, soft_wrap=True)
            else:
                print(line, file=sys.stderr, flush=True)


def numbers_of(record: Record) -> str:
    """A record in a few words.

    >>> import dataclasses
    >>> from jaxdescent.status import Evidence
    >>> record = Record(500, 1.25, 3e-4, 2e-6, Evidence.RATE, 9.0, 5.0, 5.0, 501, None, 3, 100,
    ...                 0.5, 2.5, 200.0, 3.2e9, 2.5)
    >>> numbers_of(record)
    'value 1.25, suboptimality 2e-06, 200 iterations/s, 3.2 GB/s, at most 2.5 s left'
    """
    parts = [f"value {record.value:.6g}"]
    if math.isfinite(record.suboptimality):
        parts.append(f"suboptimality {record.suboptimality:.2g}")
    else:
        parts.append(f"|gradient| {record.gradient_norm:.2g}")
    parts.append(f"{record.iterations_per_second:.3g} iterations/s")
    if record.bytes_per_second is not None and math.isfinite(record.bytes_per_second):
        parts.append(f"{readable_bytes(record.bytes_per_second)}/s")
    if record.status is None and math.isfinite(record.seconds_left):
        parts.append(f"at most {readable_seconds(record.seconds_left)} left")
    return ", ".join(parts)
