"""A long descent in segments: progress between them, and Ctrl-C at the end of one."""

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
    """What one call to ``minimize`` did and took."""

    iterations: int
    seconds: float


class Outcome(NamedTuple):
    """Where the descent stands after its segments.

    Attributes:
      result: the last segment's.
      segments: all of them, the first with the compilation in it.
      first_norm: the gradient's norm at the start of the first segment that returned.
      is_complete: False if Ctrl-C ended it.
    """

    result: jd.Result
    segments: list[Segment]
    first_norm: float
    is_complete: bool

    @property
    def iterations(self) -> int:
        """Steps in all segments."""
        return sum(segment.iterations for segment in self.segments)

    @property
    def seconds(self) -> float:
        """Wall clock of all segments, compilation included."""
        return sum(segment.seconds for segment in self.segments)

    @property
    def seconds_per_iteration(self) -> float:
        """In the fastest segment, its share of the checks included."""
        return min(segment.seconds / max(segment.iterations, 1) for segment in self.segments)

    @property
    def seconds_compiling(self) -> float | None:
        """What the first segment took beyond the fastest; None if there was no other."""
        if len(self.segments) < 2:
            return None
        first = self.segments[0]
        return first.seconds - first.iterations * self.seconds_per_iteration

    @property
    def numbers(self) -> dict[str, float | int | None]:
        """What the record keeps of a descent, whatever was descended on."""
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
    """The function's result, computed to the end even if Ctrl-C comes, and whether none came.

    XLA cannot be stopped within a program; a thread leaves this one free to say so.
    """
    outcome: list[Any] = []
    is_done = threading.Event()

    def target() -> None:
        try:
            outcome.append(function())
        except BaseException as error:  # raised again below, in the thread that waits
            outcome.append(error)
        finally:
            is_done.set()

    thread = threading.Thread(target=target)
    thread.start()
    is_undisturbed = True
    # Not thread.join: interrupted, it takes the thread for dead.
    while not is_done.is_set():
        try:
            is_done.wait(0.1)
        except KeyboardInterrupt:
            is_undisturbed = False
            console.print("Ctrl-C: the iterations under way are finished and kept.")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0], is_undisturbed
