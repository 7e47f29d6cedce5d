"""How a run is ended from outside: by a signal, or by a notice that its machine will be taken."""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

from jaxdescent import agreement

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """A context in which the first SIGINT or SIGTERM is noted, and the second raises.

    The handlers that were there before are set again at the end. Python allows handlers in the main
    thread alone: in another one signals act as they do without a run. Where ``jax.distributed``
    watches for preemption, SIGTERM is left to it: its notice reaches all processes.

    Args:
      say: is called with a sentence when the first signal arrives.
    """

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self.signal: signal.Signals | None = None
        self._say = say or _to_stderr
        self._before: dict[signal.Signals, Any] = {}
        self._is_watched = _watches_for_preemption()

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                is_ignored = signal.getsignal(number) in (signal.SIG_IGN, None)
                if is_ignored or (number == signal.SIGTERM and self._is_watched):
                    continue
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def is_requested(self, chunk: int) -> bool:
        """Whether the run is to end before this chunk.

        A preemption notice gives all processes the same answer, a signal only the one it was sent
        to.
        """
        if self._is_watched and multihost_utils.reached_preemption_sync_point(chunk):
            return True
        return self.signal is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal is not None:
            raise KeyboardInterrupt(f"a second {signal.Signals(number).name}")
        self.signal = signal.Signals(number)
        self._say(
            f"{self.signal.name}: the steps under way are finished and kept; a second one stops "
            "at once."
        )


def wait_for(arrays: Any, seconds: float = math.inf) -> None:
    """Return when the arrays are there; the wait is on a thread, so that signals are handled.

    Raises:
      OtherProcessFailed: if they take longer.
      KeyboardInterrupt: at once, if a handler raises it.
    """
    if not is_there(arrays):
        agreement.wait_for(lambda: jax.block_until_ready(arrays), seconds)


def is_there(arrays: Any) -> bool:
    """Whether the arrays have been computed."""
    return all(leaf.is_ready() for leaf in jax.tree.leaves(arrays))


def _watches_for_preemption() -> bool:
    is_enabled = getattr(jax.config, "jax_enable_preemption_service", False)
    return bool(is_enabled) and jax.distributed.is_initialized()


def _to_stderr(sentence: str) -> None:
    print(f"\n{sentence}", file=sys.stderr, flush=True)
