"""The early end of one process of several: it leaves a message, and does not wait for the others.

JAX's shutdown waits for minutes for a process that a program holds. And a process that computes
alone, or waits inside a program, learns of the early end of another one only if a thread looks for
that message and interrupts the main thread: :class:`CommonEnd` does so.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn, TypeVar

import jax

from jaxdescent.processes import messages
from jaxdescent.processes.messages import LOOK_SECONDS, OtherProcessFailed, in_words

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""The signals that ask a process to end."""

was_interrupted = threading.Event()
"""Whether a command's handler has raised an interrupt."""

PARTING = 6 * LOOK_SECONDS
"""Seconds for which the first process, which keeps the messages, stays at its early end."""

RESPITE = 1.5
"""Seconds until a process is interrupted after another one: Ctrl-C in a terminal reaches all, and a
process that is ending already is not to be disturbed."""

AGAIN_SECONDS = 3.0
"""Seconds until a process is interrupted again, since the first signal lets a run end its chunk."""

GRACE = 10.0
"""Seconds until a process ends inside a program that waits for a process that has ended."""

FAREWELL = GRACE + RESPITE + 1.0
"""Seconds for which a process that ends early waits for the others to end too. It leaves without
one that gives no sign before JAX ends all processes for that one, which happens after half of
:data:`jaxdescent.processes.joining.HEARTBEAT_SECONDS` at the earliest."""

DONE, INTERRUPTED, FAILED = "is done", "was interrupted", "failed"
FOLLOWED = "ended with another"
CODES = {DONE: 0, INTERRUPTED: 130}
FAILURE = 2

TOGETHER, ALONE = "together", "alone"
"""How processes end: in JAX's shutdown, which waits for all, or each by itself, because one of them
was interrupted while it waited. Who says so first decides (:func:`messages.settled`)."""

COMMON_END = "common end"

Found = TypeVar("Found")


class End(NamedTuple):
    """How a process ended.

    Attributes:
      kind: DONE; INTERRUPTED or FAILED by itself; FOLLOWED after another process.
      said: the error with which it failed, in words.
    """

    kind: str
    said: str = ""

    def of(self, process: int) -> str:
        """The end of this process in words."""
        return f"process {process} {self.kind} {self.said}".strip()


_codes: list[int] = []
"""The exit code of the reason to end without the others, once there is one."""

_common_ends: list[CommonEnd] = []
"""The contexts that are open; they send and receive the messages about ends."""


def is_of_interrupt(error: BaseException | None) -> bool:
    """Whether an error came of a signal: modules in C turn an interrupt into errors of their own,
    which may have lost what they came of.
    """
    return was_interrupted.is_set() or came_of_interrupt(error)


def came_of_interrupt(error: BaseException | None) -> bool:
    """Whether an error was raised because of an interrupt, or while one was handled."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def leave_without_others(code: int = CODES[INTERRUPTED], kind: str = INTERRUPTED) -> None:
    """Exit this process at its end without JAX's shutdown, which would wait for the other processes
    of the run. The exit code is that of Ctrl-C or ``code``. Of several calls the first one decides
    the code, and what the others are told: later reasons follow from the first one.
    """
    if jax.process_count() == 1 or _codes:
        return
    _codes.append(code)
    atexit.register(leave_now, code, jax.process_index() == 0)
    if not _common_ends:
        with contextlib.suppress(OtherProcessFailed):
            tell(End(kind))


def leave_now(code: int, is_first: bool) -> NoReturn:
    """Exit this process at once, but for the first one: it keeps the messages, and stays until the
    others have read them.
    """
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None where it is closed
            with contextlib.suppress(OSError, ValueError):  # nobody may read it
                stream.flush()
        time.sleep(PARTING if is_first else 0.0)
    finally:
        os._exit(code)


def has_waited(seconds: float) -> OtherProcessFailed:
    """The error of a process that has waited ``seconds``, and that leaves without the others."""
    leave_without_others(1, FOLLOWED)
    return OtherProcessFailed(
        f"process {jax.process_index()} has waited {seconds:.0f} s for another one, which "
        "hangs, or does in a hook what takes longer: see the other processes, and allow more "
        "by patience=."
    )


def early_end(process: int) -> str | None:
    """The early end of another process in words, for a process that waits for its message."""
    if _common_ends:
        return None  # the context hears of the end itself, and knows with which code to follow
    end = _ends().get(process)
    if end is not None and end.kind != DONE:
        return end.of(process)
    return f"process {process} is gone" if messages.is_gone(process) else None


def tell(end: End, process: int | None = None) -> None:
    """Leave word of the end of this process, whose number JAX says if it is not given."""
    process = jax.process_index() if process is None else process
    messages.leave(f"end/{process}", json.dumps(end))


def raise_early_end() -> None:
    """Raise an error if another process has ended early, for one that waits for it in a program.

    Raises:
      OtherProcessFailed: naming it.
    """
    if _common_ends:
        return  # the context hears of the end itself
    for process, end in _ends().items():
        if end.kind != DONE:
            raise has_ended(end.of(process))


def follow_early_end() -> None:
    """Leave too, with :func:`raise_early_end`, if another process has ended early."""
    try:
        raise_early_end()
    except OtherProcessFailed:
        leave_without_others(1, FOLLOWED)
        raise


def has_ended(said: str) -> OtherProcessFailed:
    """The error of a process that waits for another one, of which this is said."""
    return OtherProcessFailed(
        f"another process has ended, or cannot be reached: see what it said ({said})."
    )


def _ends() -> dict[int, End]:
    found = messages.found("end")
    return {int(process): End(*json.loads(text)) for process, text in found.items()}


class CommonEnd:
    """A context in which all processes of a run make the same calls, and the early end of one ends
    all.

    At the end of the context each process waits for the others. If one of them has ended early, the
    others leave. In a run of one process nothing is done.

    Raises:
      OtherProcessFailed: at the end, if another process failed, and this one did not.
      KeyboardInterrupt: inside, when another process has ended early.

    >>> with CommonEnd() as others:
    ...     others.by_first(lambda: "the first one's report")
    "the first one's report"
    """

    def __init__(self) -> None:
        self.is_first = jax.process_index() == 0
        self._is_over = threading.Event()
        self._own, self._seen = End(DONE), End(DONE)
        self._of = 0  # the number of the process whose end has been seen
        self._complete = 0  # steps that the first process has taken

    def __enter__(self) -> CommonEnd:
        if jax.process_count() > 1:
            _common_ends.append(self)
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def by_first(
        self, work: Callable[[], Found], is_complete: Callable[[Found], bool] = bool
    ) -> Found | None:
        """The value of ``work`` in the first process; None in the others, once it is complete.

        The others are in no program meanwhile, which would take a core or time out. Where the value
        is not complete they wait on: the first process will end early.
        """
        self._complete += 1
        name = f"complete/{self._complete}"
        if not self.is_first:
            while messages.awaited(name) is None:
                pass
            return None
        found = work()
        if self in _common_ends and is_complete(found):
            messages.leave(name, "")
        return found

    def stops(self) -> None:
        """Note that this process was interrupted, and will end without finishing its work."""
        self._own = End(INTERRUPTED if self._seen.kind == DONE else FOLLOWED)
        if not self.is_first and self._own.kind == INTERRUPTED:
            print("Interrupted: the first process keeps what was measured.", file=sys.stderr)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self not in _common_ends:
            return
        try:
            self._is_over.set()
            time.sleep(0)  # a pending interruption is raised here
        except KeyboardInterrupt:
            self.stops()
        is_interrupted = error is not None and is_of_interrupt(error)
        if is_interrupted:
            self.stops()
        elif error is not None:
            self._own = End(FAILED, f"with {type(error).__name__}: {in_words(error)}")
        are_done = False
        try:
            tell(self._own)
            are_done = self._all_are_done()
        except KeyboardInterrupt:  # no process is waited for
            with contextlib.suppress(OtherProcessFailed):
                # Another process may have gone to JAX's common end, where it waits for this one.
                if self._own.kind == DONE:
                    are_done = messages.settled(COMMON_END, ALONE) == TOGETHER
                if not are_done:
                    # An early end is what the others have to hear of: they would go on otherwise.
                    tell(End(FOLLOWED) if self._own.kind == DONE else self._own)
        except OtherProcessFailed:  # no process can be reached
            pass
        is_program = isinstance(error, jax.errors.JaxRuntimeError)
        is_ours = error is not None and not (is_interrupted or is_program)
        is_others = self._seen.kind == FAILED and not is_ours
        if not are_done:
            end = self._seen if is_others or self._own.kind == FOLLOWED else self._own
            leave_without_others(CODES.get(end.kind, FAILURE))
        _common_ends.remove(self)
        if is_others:
            raise OtherProcessFailed(self._seen.of(self._of)) from error

    def _all_are_done(self) -> bool:
        """Whether all processes are done, once all have told their ends; False where one has not
        told its end for too long after the early end of another.
        """
        deadline = None
        while len(ends := _ends()) < jax.process_count():
            if deadline is None and any(end.kind != DONE for end in ends.values()):
                deadline = time.monotonic() + FAREWELL
                if self._own.kind == FAILED:  # JAX may end this one before it raises
                    print(self._own.of(jax.process_index()), file=sys.stderr, flush=True)
            if deadline is not None and time.monotonic() > deadline:
                break
            time.sleep(LOOK_SECONDS)
        self._see(ends)
        are_done = all(end.kind == DONE for end in ends.values())
        return are_done and messages.settled(COMMON_END, TOGETHER) == TOGETHER

    def _watch(self) -> None:
        """Interrupt the main thread when another process has ended early."""
        while self._seen.kind == DONE:
            if self._is_over.wait(LOOK_SECONDS):
                return
            try:
                self._see(_ends())
            except OtherProcessFailed:
                self._seen = End(FAILED, "or cannot be reached")
        said = self._seen.of(self._of)
        if self._is_over.wait(RESPITE):
            return
        if self._own.kind == DONE and self._seen.kind != FAILED:  # failures are raised
            print(f"Interrupted: {said}, and this one ends with it.", file=sys.stderr, flush=True)
        for seconds in (AGAIN_SECONDS, GRACE - AGAIN_SECONDS):
            if self._own.kind == DONE:
                _interrupt()
            if self._is_over.wait(seconds):
                return
        if self._own.kind != DONE:
            return  # the main thread is writing its results
        print(f"Error: {said}, while this one waited for it.", file=sys.stderr, flush=True)
        try:
            tell(End(FOLLOWED))
        finally:
            leave_now(CODES.get(self._seen.kind, FAILURE), self.is_first)

    def _see(self, ends: dict[int, End]) -> None:
        """Note another process that has ended early by itself, preferably one that failed."""
        for kind in (FAILED, INTERRUPTED):
            for process, end in ends.items():
                is_other = process != jax.process_index()
                if is_other and end.kind == kind and self._seen.kind != FAILED:
                    self._of, self._seen = process, end


def _interrupt() -> None:
    """Raise a KeyboardInterrupt in the main thread, or call its handler of a signal.

    A shell's background jobs ignore SIGINT from their start.
    """
    for number in SIGNALS:
        if callable(signal.getsignal(number)):
            # A real signal to the thread itself wakes it from waits that no other thread can end.
            signal.pthread_kill(threading.main_thread().ident or 0, number)
            return
