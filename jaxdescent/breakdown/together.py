"""Several processes make one breakdown: the first one does what is of one machine, and an early end
of one is the end of all.

While the first process runs parts 1, 2, 4 and 5 the others are in no program, which would take a
core or give up after some time: they look for its note (:class:`jaxdescent.cluster.Notes`) twice a
second. A thread of each process looks for notes of others that have ended early, by an error or by
Ctrl-C, and interrupts what this one does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple

import jax

from jaxdescent import agreement
from jaxdescent.breakdown.report import PartReport
from jaxdescent.cluster import Notes
from jaxdescent.runs.interruption import SIGNALS

LOOK_SECONDS = 0.5

PARTING = 6 * LOOK_SECONDS
"""Seconds for which the first process, which keeps the notes, stays after the last of them."""

RESPITE = 1.5
"""Seconds until a process is interrupted after another one: Ctrl-C in a terminal comes to all, and
who is ending already is not to be disturbed."""

AGAIN_SECONDS = 3.0
"""After so long a process is interrupted for the second time: a run takes the first for a wish."""

GRACE = 10.0
"""Seconds until a process ends in the middle of a program that waits for one that has ended."""

FAREWELL = GRACE + RESPITE + 1.0
"""Seconds for which a process that ends early waits for the others to end too. One that gives no
sign is left behind before JAX ends all for it, which it does after half of
:data:`jaxdescent.cluster.HEARTBEAT_SECONDS` at the earliest."""

DONE, INTERRUPTED, FAILED = "is done", "was interrupted", "failed"
FOLLOWED = "ended with another"
CODES = {DONE: 0, INTERRUPTED: agreement.INTERRUPTED}
FAILURE = 2


class End(NamedTuple):
    """How a process ended.

    Attributes:
      kind: DONE; INTERRUPTED or FAILED of itself; FOLLOWED after another one.
      said: with what it failed.
    """

    kind: str
    said: str = ""

    def of(self, process: int) -> str:
        """In words."""
        return f"process {process} {self.kind} {self.said}".strip()


class Together:
    """A context of the processes of a run, all of which make the same calls in it.

    At its end each waits for the others. If one of them has ended early, they do without JAX's
    common end, which waits for minutes for a process that a program holds. In a run of one process
    nothing is done.

    Raises:
      OtherProcessFailed: at the end, if another process failed, and this one did not.
      KeyboardInterrupt: inside, when another process has ended early.

    >>> with Together() as others:
    ...     others.by_first(lambda: PartReport(1, "Two small functions")).title
    'Two small functions'
    """

    def __init__(self) -> None:
        self.is_first = jax.process_index() == 0
        self._count, self._index = jax.process_count(), jax.process_index()
        self._notes = Notes("jaxdescent/breakdown") if self._count > 1 else None
        self._is_over = threading.Event()
        self._own, self._seen = End(DONE), End(DONE)
        self._of = 0  # the process whose end has been seen
        self._complete = 0  # parts that the first process has run

    def __enter__(self) -> Together:
        if self._notes:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def by_first(self, work: Callable[[], PartReport]) -> PartReport | None:
        """The report of the first process's ``work``; None in the others, once it is complete.

        Where it is not they wait on: the first process will end early.
        """
        if not self.is_first:
            number = self._complete = self._complete + 1
            while f"{number}" not in self._found("complete"):
                time.sleep(LOOK_SECONDS)
            return None
        report = work()
        if self._notes and report.is_complete:
            self._complete += 1
            self._notes.leave(f"complete/{self._complete}", report.title)
        return report

    def stops(self) -> None:
        """This process has been interrupted, and will end without what is left to do."""
        self._own = End(INTERRUPTED if self._seen.kind == DONE else FOLLOWED)
        if not self.is_first and self._own.kind == INTERRUPTED:
            print("Interrupted: the first process keeps what was measured.", file=sys.stderr)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._notes:
            return
        try:
            self._is_over.set()
            time.sleep(0)  # an interruption that is on its way arrives here
        except KeyboardInterrupt:
            self.stops()
        if isinstance(error, KeyboardInterrupt):
            self.stops()
        elif error is not None:
            self._own = End(FAILED, f"with {type(error).__name__}: {_in_a_line(error)}")
        try:
            self._tell(self._own)
            are_done = self._all_are_done()
        except KeyboardInterrupt:  # nobody is waited for
            are_done = False
            with contextlib.suppress(agreement.OtherProcessFailed):
                self._tell(End(FOLLOWED))
        except agreement.OtherProcessFailed:  # nobody can be reached
            are_done = False
        is_ours = error is not None and not isinstance(
            error, KeyboardInterrupt | jax.errors.JaxRuntimeError
        )
        is_others = self._seen.kind == FAILED and not is_ours
        if not are_done:
            end = self._seen if is_others or self._own.kind == FOLLOWED else self._own
            agreement.leave_without_others(CODES.get(end.kind, FAILURE))
        if is_others:
            raise agreement.OtherProcessFailed(self._seen.of(self._of)) from error

    def _all_are_done(self) -> bool:
        """Whether no process has ended early, once all have told; where one has not for too long
        after one that has ended early, it is not.
        """
        deadline = None
        while len(ends := self._ends()) < self._count:
            if deadline is None and any(end.kind != DONE for end in ends.values()):
                deadline = time.monotonic() + FAREWELL
                if self._own.kind == FAILED:  # the loss of another may end this one before it can
                    print(self._own.of(self._index), file=sys.stderr, flush=True)
            if deadline is not None and time.monotonic() > deadline:
                break
            time.sleep(LOOK_SECONDS)
        self._see(ends)
        are_done = all(end.kind == DONE for end in ends.values())
        if not are_done and self.is_first:
            time.sleep(PARTING)
        return are_done

    def _watch(self) -> None:
        """Interrupt the main thread when another process has ended early."""
        while self._seen.kind == DONE:
            if self._is_over.wait(LOOK_SECONDS):
                return
            try:
                self._see(self._ends())
            except agreement.OtherProcessFailed:
                self._seen = End(FAILED, "or cannot be reached")
        said = self._seen.of(self._of)
        if self._is_over.wait(RESPITE):
            return
        if self._own.kind == DONE and self._seen.kind != FAILED:  # which the main thread raises
            print(f"Interrupted: {said}, and this one ends with it.", file=sys.stderr, flush=True)
        for seconds in (AGAIN_SECONDS, GRACE - AGAIN_SECONDS):
            if self._own.kind == DONE:
                _interrupt()
            if self._is_over.wait(seconds):
                return
        if self._own.kind != DONE:
            return  # it writes
        print(f"Error: {said}, while this one waited for it.", file=sys.stderr, flush=True)
        try:
            self._tell(End(FOLLOWED))
            time.sleep(PARTING if self.is_first else 0.0)
        finally:
            os._exit(CODES.get(self._seen.kind, FAILURE))

    def _see(self, ends: dict[int, End]) -> None:
        """Note who of the others has ended early of itself: who failed, rather than another."""
        for kind in (FAILED, INTERRUPTED):
            for process, end in ends.items():
                if process != self._index and end.kind == kind and self._seen.kind != FAILED:
                    self._of, self._seen = process, end

    def _tell(self, end: End) -> None:
        assert self._notes is not None  # of one process nothing is told
        try:
            self._notes.leave(f"end/{self._index}", json.dumps(end))
        except jax.errors.JaxRuntimeError as error:
            raise agreement.OtherProcessFailed(_in_a_line(error)) from error

    def _ends(self) -> dict[int, End]:
        return {int(name): End(*json.loads(text)) for name, text in self._found("end").items()}

    def _found(self, folder: str) -> dict[str, str]:
        assert self._notes is not None
        try:
            found = self._notes.found(folder)
        except jax.errors.JaxRuntimeError as error:
            raise agreement.OtherProcessFailed(
                f"process 0 has ended, or cannot be reached ({_in_a_line(error)})."
            ) from error
        return found


def _interrupt() -> None:
    """Raise a KeyboardInterrupt in the main thread, or what it makes of a signal.

    A shell's background jobs are born deaf to SIGINT.
    """
    for number in SIGNALS:
        if callable(signal.getsignal(number)):
            # A real one, to the thread itself: it may wait for what no other thread can wake.
            signal.pthread_kill(threading.main_thread().ident or 0, number)
            return


def _in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:1000]
