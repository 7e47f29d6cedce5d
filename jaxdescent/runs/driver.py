"""The driver of a run's chunks, which dispatches them one ahead and tells the hooks of each."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent import processes
from jaxdescent.calls import programs
from jaxdescent.descent.state import Loop
from jaxdescent.processes.signals import Interruption, on_a_thread
from jaxdescent.runs.chunks import NUMBERS, Chunks, Numbers
from jaxdescent.runs.hooks import Checkpoint, Hook
from jaxdescent.runs.hooks.protocol import Facts, Pause, Record, Summary
from jaxdescent.status import RUNNING, Evidence, Status

Params = Any
Save = Callable[[Loop], None]

SECONDS = 0.5
"""The time of a chunk: long beside what hooks and dispatches cost, short beside a user's patience
after Ctrl-C."""

GROWTH = 8
"""A chunk has at most this many times the steps of the one before."""


@dataclasses.dataclass
class Driver:
    """Dispatches chunks, reads the numbers of the one before, and tells the hooks."""

    chunks: Chunks
    hooks: tuple[Hook, ...]
    facts: Facts
    summary: Summary
    began: float
    patience: float
    longest: float = math.inf  # the seconds of the longest chunk so far

    def __post_init__(self) -> None:
        self.iteration = self.facts.iteration
        self.completed = time.perf_counter()

    def drive(
        self, loop: Loop, pace: Pace, interruption: Interruption, save: Save | None
    ) -> tuple[Loop, Status]:
        """Run all chunks; return the loop at its end, and its status if no rule has ended it.

        The check at the limit ends a descent, so ``save`` is called before it: from there a run
        with a larger limit goes on as if it had never been limited.
        """
        most, last_turn = self.facts.max_iterations, self.chunks.last_turn
        until = self.facts.iteration
        is_over = int(loop.status) != RUNNING
        self._refuse_nan_data(int(loop.status), until)
        if save is not None and not is_over:
            most -= last_turn
            if until >= most:
                self._save(save, loop)
                save, most = None, most + last_turn if last_turn else until + 1
        under_way: _UnderWay | None = None
        wish = asked = 0  # status codes: this process's, and all processes'
        number = 0
        while True:
            following = None
            if not is_over and not asked and until < most:
                if under_way is not None and not processes.is_alone():
                    self._wait(under_way)  # the program fails at once if another process dies
                if interruption.is_requested(number):
                    wish = Status.INTERRUPTED.value
                answers = processes.told_by_all([wish, pace.length])
                asked = max(wish for wish, _ in answers)
                if not asked:
                    self._pause(
                        Pause(number, until, loop, functools.partial(self.chunks.copied, loop))
                    )
                    processes.told_by_all("has paused")  # or failed: no chunk may wait for it
                    until = min(until + answers[0][1], most)
                    dispatched = time.perf_counter()
                    loop, numbers = self.chunks.advance(loop, until, is_last=save is None)
                    following = _UnderWay(number, numbers, dispatched)
                    following.completed = time.perf_counter() if following.is_there else None
                    number += 1
            if under_way is not None:
                if save is not None and following is None and not asked and not is_over:
                    done = self._wait(under_way)
                    if int(loop.status) == RUNNING:
                        self._save(save, loop)
                        save = None
                        loop = self._to_the_limit(loop, under_way, time.perf_counter() - done)
                record = self._read(under_way)
                pace.after(record.iterations, record.chunk_seconds)
                is_over = record.status is not None
                self._refuse_nan_data(record.status, record.iteration)
                if self._report(record):
                    wish = wish or Status.STOPPED.value
            elif following is None:
                if save is not None:
                    self._save(save, loop)
                return loop, Status(asked or Status.MAX_ITERATIONS.value)
            # Nothing is told of a chunk that was dispatched after the end: it has no steps.
            under_way = None if is_over else following

    def _to_the_limit(self, loop: Loop, last: _UnderWay, waited: float) -> Loop:
        """The loop after the check at the limit, which is told of as part of the last chunk."""
        last.dispatched += waited
        self.completed += waited
        last.completed = None
        loop, last.numbers = self.chunks.advance(loop, self.facts.max_iterations, is_last=True)
        return loop

    def _save(self, save: Save, loop: Loop) -> None:
        processes.told_by_all("has ended")  # or has failed: the others must not save that
        with timed(self.summary, "seconds_saving"):
            save(loop)

    def _refuse_nan_data(self, status: int | None, iteration: int) -> None:
        """Raise if the value at the start is NaN because data are; other NaN may be intended."""
        if status == Status.NON_FINITE.value and iteration == 0:
            refuse_nan("the data", self.chunks.problem.objective)

    def _pause(self, pause: Pause) -> None:
        for hook in self.hooks:
            name = "seconds_saving" if isinstance(hook, Checkpoint) else "seconds_in_hooks"
            with timed(self.summary, name):
                hook.pause(pause)

    def _report(self, record: Record) -> bool:
        """Whether a hook asks for the end."""
        with timed(self.summary, "seconds_in_hooks"):
            answers = [hook.report(record) for hook in self.hooks]  # every hook sees every record
            return any(answer is True for answer in answers)

    def _wait(self, chunk: _UnderWay) -> float:
        """The time when a chunk was done, as soon as it is; signals are handled meanwhile."""
        if not chunk.is_there:
            others: dict[str, Any] = {}
            if not processes.is_alone():
                others = {"seconds": self.patience + 10 * self.longest}
                others["look"] = processes.follow_early_end
            on_a_thread(lambda: jax.block_until_ready(chunk.numbers), **others)
        chunk.completed = chunk.completed or time.perf_counter()
        return chunk.completed

    def _read(self, chunk: _UnderWay) -> Record:
        """The numbers of a chunk, as soon as it is done."""
        now = self._wait(chunk)
        numbers: dict[str, Any] = {}
        for names, array in zip(NUMBERS, chunk.numbers, strict=True):
            numbers |= zip(names, np.asarray(array).tolist(), strict=True)
        numbers["evidence"] = Evidence(numbers["evidence"])
        numbers["status"] = Status(numbers["status"]) if numbers["status"] != RUNNING else None
        iteration = numbers["iteration"]
        seconds = now - max(chunk.dispatched, self.completed)
        iterations = iteration - self.iteration
        self.longest = seconds if math.isinf(self.longest) else max(self.longest, seconds)
        self.completed, self.iteration = now, iteration
        self.summary.seconds_in_steps += seconds
        self.summary.iterations += iterations
        pace = iterations / seconds if seconds else math.inf
        moved, left = self.facts.bytes_per_iteration, self.facts.max_iterations - iteration
        return Record(
            **numbers,
            chunk=chunk.number,
            iterations=iterations,
            chunk_seconds=seconds,
            seconds=now - self.began,
            iterations_per_second=pace,
            bytes_per_second=None if moved is None else moved * pace,
            seconds_left=left / pace if pace else math.inf,
        )


@dataclasses.dataclass
class _UnderWay:
    """A chunk that has been dispatched.

    ``completed`` is the time when the chunk was done, if that is known: a program of few operations
    is run while it is dispatched.
    """

    number: int
    numbers: Numbers
    dispatched: float
    completed: float | None = None

    @property
    def is_there(self) -> bool:
        """Whether the numbers have been computed."""
        return all(array.is_ready() for array in jax.tree.leaves(self.numbers))


@contextlib.contextmanager
def timed(summary: Summary, name: str) -> Iterator[None]:
    """Add the time of a block to an entry of the summary."""
    began = time.perf_counter()
    try:
        yield
    finally:
        setattr(summary, name, getattr(summary, name) + time.perf_counter() - began)


def refuse_nan(name: str, tree: Any) -> None:
    """Raise if an array holds NaN."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) or not np.size(leaf):
            continue
        if np.isnan(np.asarray(programs.compiled(_largest, (leaf,))(leaf))):
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} holds NaN, which no descent gets rid of: "
                "leave those rows out, or fill in numbers."
            )


def _largest(leaf: jax.Array) -> jax.Array:
    return jnp.max(leaf)  # which is NaN if one element is


class Pace:
    """The length of the next chunk: as ``given``, or chosen by time if that is None, and a multiple
    of the steps between two checks.
    """

    def __init__(self, given: int | None, check_every: int) -> None:
        self._given = given
        self._unit = check_every
        self.length = self._whole(given or 1)

    def after(self, iterations: int, seconds: float) -> None:
        """Adapt the length to a chunk's time."""
        if self._given is not None or iterations < self.length:
            return  # the chunk was shorter than asked for, or dispatched before the last change
        wanted = iterations * SECONDS / max(seconds, 1e-9)
        self.length = self._whole(min(round(wanted), GROWTH * self.length))

    def _whole(self, steps: int) -> int:
        return max(-(-steps // self._unit), 1) * self._unit
