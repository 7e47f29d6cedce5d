"""The end of a run from outside: by a signal, or by a notice that its machine will be taken.

Python handles signals in the main thread alone, and not while that waits for XLA: so XLA is waited
for on another thread.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from types import FrameType
from typing import Any

import jax

from jaxdescent.processes.ending import SIGNALS, has_waited
from jaxdescent.processes.messages import OtherProcessFailed

LOOK_SECONDS = 0.1
"""Seconds within which a waiting thread can be interrupted."""


class Interruption(contextlib.ExitStack):
    """A context in which the first SIGINT or SIGTERM is noted, and the second raises.

    The handlers that were there before are set again at the end. Python allows handlers in the main
    thread alone: in another one signals act as they do without a run. Where ``jax.distributed``
    watches for preemption, SIGTERM is left to it: its notice reaches all processes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.signal: signal.Signals | None = None
        is_enabled = getattr(jax.config, "jax_enable_preemption_service", False)
        self._is_watched = bool(is_enabled) and jax.distributed.is_initialized()

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            numbers = [
                number
                for number in SIGNALS
                if signal.getsignal(number) not in (signal.SIG_IGN, None)
                and not (number == signal.SIGTERM and self._is_watched)
            ]
            self.enter_context(handled_by(self._note, numbers))
        return self

    def is_requested(self, chunk: int) -> bool:
        """Whether the run is to end before this chunk.

        After a preemption notice all processes get this answer, after a signal only the one that it
        was sent to.
        """
        if self._is_watched:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(chunk):
                return True
        return self.signal is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt(f"a second {signal.Signals(number).name}")
        self.signal = signal.Signals(number)
        print(
            f"\n{self.signal.name}: the steps under way are finished and kept; a second one stops "
            "at once.",
            file=sys.stderr,
            flush=True,
        )


@contextlib.contextmanager
def handled_by(handler: Any, numbers: Sequence[signal.Signals]) -> Iterator[None]:
    """A context in which these signals have another handler; earlier ones are restored after it."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def on_a_thread(
    work: Callable[[], Any],
    seconds: float = math.inf,
    give_up: Callable[[BaseException], None] | None = None,
    look: Callable[[], None] = lambda: None,
) -> Any:
    """The value of ``work``, which may wait for another process for ``seconds`` at the longest. It
    runs on a thread, so that this one can be interrupted: then ``give_up`` is called, and makes it
    end. Meanwhile ``look`` is called again and again; its errors end the wait.

    Raises:
      OtherProcessFailed: if ``work`` takes longer.
    """
    made: Future[Any] = Future()

    def target() -> None:
        try:
            made.set_result(work())
        except BaseException as error:  # raised below, in the waiting thread
            made.set_exception(error)

    thread = threading.Thread(target=target, name="jaxdescent-run", daemon=True)
    thread.start()
    deadline = time.monotonic() + seconds
    try:
        while thread.is_alive() and time.monotonic() < deadline:
            thread.join(LOOK_SECONDS)
            if thread.is_alive():
                look()
    except BaseException as error:
        if give_up is not None:
            give_up(error)
            if not isinstance(error, OtherProcessFailed):  # which the work may wait for
                thread.join()
        raise
    if thread.is_alive():
        raise has_waited(seconds)
    return made.result()
