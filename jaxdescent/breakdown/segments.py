"""A long descent in segments, with progress between them, and Ctrl-C at the end of one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from rich.console import Console

import jaxdescent as jd
from jaxdescent.breakdown.report import progress_bar


class Segment(NamedTuple):
    """The iterations and seconds of one call to ``minimize``."""

    iterations: int
    seconds: float


class Outcome(NamedTuple):
    """The state of the descent after its segments.

    Attributes:
      result: the last segment's result.
      segments: all segments; the first one includes compilation.
      first_norm: the gradient's norm at the start of the first segment.
      is_complete: False if Ctrl-C ended the descent.
    """

    result: jd.Result
    segments: list[Segment]
    first_norm: float
    is_complete: bool

    @property
    def iterations(self) -> int:
        """The number of steps in all segments."""
        return sum(segment.iterations for segment in self.segments)

    @property
    def seconds(self) -> float:
        """The wall clock time of all segments, including compilation."""
        return sum(segment.seconds for segment in self.segments)

    @property
    def seconds_per_iteration(self) -> float:
        """The seconds per iteration in the fastest segment, including checks."""
        return min(segment.seconds / max(segment.iterations, 1) for segment in self.segments)

    @property
    def seconds_compiling(self) -> float | None:
        """The time of the first segment beyond the fastest's rate; None if there is only one."""
        if len(self.segments) < 2:
            return None
        first = self.segments[0]
        return first.seconds - first.iterations * self.seconds_per_iteration

    @property
    def numbers(self) -> dict[str, float | int | None]:
        """The numbers that the record keeps of any descent."""
        norm = float(self.result.gradient_norm)
        return {
            "iterations": self.iterations,
            "seconds_descending": self.seconds,
            "seconds_per_iteration": self.seconds_per_iteration,
            "seconds_compiling": self.seconds_compiling,
            "gradient_norm": norm,
            "gradient_norm_at_start": self.first_norm,
            "relative_gradient_norm": norm / self.first_norm,
        }


def descend(
    objective: Any,
    params: Any,
    method: Any,
    console: Console,
    label: str,
    *,
    iterations: int,
    segment: int,
    check_every: int,
    tolerance: float = 0.0,
) -> Outcome:
    """At most ``iterations`` steps, in place, until the gradient has shrunk by ``tolerance``.

    Raises:
      KeyboardInterrupt: if Ctrl-C comes before the first segment has ended.
    """
    segments: list[Segment] = []
    first_norm, is_complete = float("nan"), True
    with progress_bar(console) as progress:
        task = progress.add_task(label, total=iterations)
        while True:
            left = iterations - sum(done.iterations for done in segments)

            def run(params: Any = params, count: int = min(segment, left)) -> jd.Result:
                result = jd.minimize(
                    objective,
                    params,
                    method,
                    max_iterations=count,
                    tolerance=0,
                    check_every=check_every,
                    donate=True,
                )
                return jax.block_until_ready(result)

            started = time.perf_counter()
            result, is_complete = _finish(run, console)
            params = result.params
            if not segments:
                first_norm = float(result.scale)
            segments.append(Segment(int(result.iterations), time.perf_counter() - started))
            progress.advance(task, segments[-1].iterations)
            if not is_complete or float(result.gradient_norm) <= tolerance * first_norm:
                break
            is_spent = sum(done.iterations for done in segments) >= iterations
            if is_spent or int(result.status) != jd.Status.MAX_ITERATIONS:
                break
    return Outcome(result, segments, first_norm, is_complete)


def _finish(function: Callable[[], Any], console: Console) -> tuple[Any, bool]:
    """The function's result, computed to the end even after Ctrl-C, and whether there was none.

    XLA cannot be interrupted within a program; the function runs in a thread, so that this one can
    report Ctrl-C at once.
    """
    outcome: list[Any] = []
    is_done = threading.Event()

    def target() -> None:
        try:
            outcome.append(function())
        except BaseException as error:  # raised again below, in the waiting thread
            outcome.append(error)
        finally:
            is_done.set()

    thread = threading.Thread(target=target)
    thread.start()
    is_undisturbed = True
    # thread.join is not used: if it is interrupted, it considers the thread finished.
    while not is_done.is_set():
        try:
            is_done.wait(0.1)
        except KeyboardInterrupt:
            is_undisturbed = False
            console.print("Ctrl-C: the iterations under way are finished and kept.")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0], is_undisturbed
