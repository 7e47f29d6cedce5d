"""The interface of hooks, which a run calls between its chunks of steps, and what it tells them: at
its beginning, after each chunk, and at its end; and the hook that needs nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from jaxdescent.descent.state import Loop
from jaxdescent.display import Displayed
from jaxdescent.result import Result
from jaxdescent.status import Evidence, Status


@dataclasses.dataclass(frozen=True)
class Facts:
    """The facts that are known when a run begins.

    Attributes:
      objective, method: as they are displayed.
      unknowns: the number of elements of the params.
      params_bytes: their bytes, as they are stored.
      max_iterations: the most steps.
      iteration: where the run begins: 0, or the iteration of the checkpoint that it resumes.
      bytes_per_iteration: the bytes that an iteration reads and writes by the plan's cost model;
        None where it knows none.
      is_first_process: whether this process writes files and prints, of those that share the run.
    """

    objective: str
    method: str
    unknowns: int
    params_bytes: int
    max_iterations: int
    iteration: int
    bytes_per_iteration: float | None
    is_first_process: bool


@dataclasses.dataclass(frozen=True)
class Record:
    """The numbers of a chunk, read after the next one has been dispatched.

    Attributes:
      iteration: the steps taken by the end of the chunk, those before a resumption included.
      value, gradient_norm, suboptimality: at the last check: at the params of this iteration, or
        (if every step is checked by its own progress) of the one before.
      evidence: what the suboptimality is based on.
      first_value, first_gradient_norm: these numbers at the start.
      scale: what the tolerance compares the gradient's norm with.
      evaluations: the gradients and values computed so far.
      status: why the descent ended; None while it runs.
      chunk: the number of the chunk, from 0 in this process.
      iterations: the steps of this chunk.
      chunk_seconds: the time in which the device worked on them.
      seconds: the time since the run began in this process.
      iterations_per_second: ``iterations / chunk_seconds``.
      bytes_per_second: the bytes moved a second, by the cost model; None where it knows none.
      seconds_left: the time until ``max_iterations`` at this pace; the tolerance may be met before.
    """

    iteration: int
    value: float
    gradient_norm: float
    suboptimality: float
    evidence: Evidence
    first_value: float
    first_gradient_norm: float
    scale: float
    evaluations: int
    status: Status | None
    chunk: int
    iterations: int
    chunk_seconds: float
    seconds: float
    iterations_per_second: float
    bytes_per_second: float | None
    seconds_left: float


@dataclasses.dataclass
class Summary:
    """The time of a run by its uses, in seconds of this process.

    Attributes:
      seconds: the time from the beginning of the run to its end.
      seconds_compiling: the time until its programs were compiled (the start's gradient included).
      seconds_restoring: the time of reading a checkpoint.
      seconds_saving: the time in which the run waited for checkpoints.
      seconds_in_hooks: the time of the hooks' other work, most of it while the device computed.
      seconds_in_steps: the time in which the device worked on steps.
      iterations: the steps taken in this process.
    """

    seconds: float = 0.0
    seconds_compiling: float = 0.0
    seconds_restoring: float = 0.0
    seconds_saving: float = 0.0
    seconds_in_hooks: float = 0.0
    seconds_in_steps: float = 0.0
    iterations: int = 0

    @property
    def goodput(self) -> float:
        """The share of the time that went into steps."""
        return self.seconds_in_steps / self.seconds if self.seconds else 0.0


class Pause(NamedTuple):
    """A moment between two chunks, before the next one is dispatched.

    Attributes:
      chunk: the number of the chunk that comes next.
      iteration: where the last chunk was told to end; the descent may have ended before.
      loop: the state of the descent, as arrays that the device may still be computing. The next
        chunk takes their memory: arrays to be kept must be copied before :meth:`Hook.pause`
        returns.
      copied: makes such a copy on the devices, without waiting for the chunk; it reuses the memory
        of an earlier copy that is passed to it, which is lost then.
    """

    chunk: int
    iteration: int
    loop: Loop
    copied: Callable[..., Loop]


class Hook(Displayed):
    """A hook overrides what it needs; by itself it does nothing.

    ``begin`` is called once; then ``pause`` before each chunk is dispatched, and ``report`` with
    each chunk's numbers while the device works on the next; ``end`` with the result; and ``close``
    always, after an error too. A chunk that was dispatched before the end was known has no steps,
    and no report. An error in a hook ends the run.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> class Count(jd.hooks.Hook):
    ...     def begin(self, facts):
    ...         self.chunks = 0
    ...     def report(self, record):
    ...         self.chunks += 1
    >>> count = Count()
    >>> result = jd.run(lambda x: jnp.sum(jnp.cosh(x)), jnp.array([2.0, -1.0]),
    ...                 jd.GradientDescent(0.01), max_iterations=6, chunk=2, hooks=[count])
    >>> count.chunks
    3
    """

    def begin(self, facts: Facts) -> None:
        """The run begins."""

    def pause(self, pause: Pause) -> None:
        """The next chunk is about to be dispatched; the device waits for nothing yet."""

    def report(self, record: Record) -> bool | None:
        """A chunk's numbers. True asks for the end, with ``STOPPED``, after the chunk that the
        device is working on.
        """

    def end(self, result: Result, summary: Summary) -> None:
        """The run has ended, with this result."""

    def close(self) -> None:
        """The run is over; open files and displays are closed, after an error too."""


class StopWhen(Hook):
    """End the run, with the status STOPPED, after a chunk for whose numbers a function is true.

    The device is a chunk ahead of the numbers, so one more is computed. To stop at the very check
    where something holds give ``Tolerance(predicate=...)``, which is part of the program.

    Args:
      function: from a :class:`jaxdescent.hooks.Record` to a bool.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> stop = jd.hooks.StopWhen(lambda record: record.value < 3.0)
    >>> result = jd.run(lambda x: jnp.sum(jnp.cosh(x)), jnp.array([2.0, -1.0]),
    ...                 jd.GradientDescent(0.1), chunk=3, hooks=[stop])
    >>> result.message.split(":")[0], float(result.value) < 3
    ('STOPPED', True)
    """

    def __init__(self, function: Callable[[Record], bool]) -> None:
        if not callable(function):
            raise TypeError(f"StopWhen needs a function of a record, got {function!r}.")
        self.function = function

    def __repr__(self) -> str:
        return f"StopWhen({self.function!r})"

    def report(self, record: Record) -> bool:
        return bool(self.function(record))


class Telling(Hook):
    """A hook that only tells of the run. Where it cannot write, on a full disk for example, it
    warns and is silent from then on; the run goes on and keeps its result.

    Attributes:
      is_telling: whether this process writes or prints.
    """

    is_telling = False

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Warn of what the file system, or JAX's profiler, refuses in this block."""
        try:
            yield
        except (OSError, jax.errors.JaxRuntimeError) as error:
            self.is_telling = False
            warnings.warn(
                f"{self!r} could not write; the run goes on without it "
                f"({type(error).__name__}: {str(error)[:300]})",
                RuntimeWarning,
                stacklevel=3,
            )


def as_json(value: Any) -> Any:
    """A value as JSON can hold it: numbers that are not finite are null.

    >>> as_json({"a": (1, math.inf), "b": Status.CONVERGED})
    {'a': [1, None], 'b': 'CONVERGED'}
    """
    if isinstance(value, dict):
        return {str(key): as_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(entry) for entry in value]
    if isinstance(value, enum.Enum):
        return str(value)
    number = value.item() if hasattr(value, "item") else value
    return None if isinstance(number, float) and not math.isfinite(number) else number
