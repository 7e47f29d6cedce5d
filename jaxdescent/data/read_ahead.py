"""Blocks that a thread reads while the caller works on the block before."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

T = TypeVar("T")

BLOCKS_HELD = 3
"""Blocks in memory: the one that is worked on, the one that waits, and the one being read."""

PATIENCE = 0.1
"""Seconds after which a waiting thread checks whether its block is still wanted."""

_own = threading.local()
"""In a thread that reads ahead: the function that tells whether its next item is wanted."""


class _Unwanted(BaseException):
    """Ends a thread that reads items that nobody wants."""


def stop_if_unwanted() -> None:
    """End a thread that reads ahead where nobody wants its next item, which may be far away if few
    rows meet a condition. Other threads go on.
    """
    if hasattr(_own, "is_wanted") and not _own.is_wanted():
        raise _Unwanted


def read_ahead(start: Callable[[], Iterator[T]]) -> Generator[T]:
    """The items of ``start()`` in their order, made by a thread of their own, one ahead.

    Errors of the thread are raised here. Closing this generator early ends the thread. So does the
    end of the program: an error may hold this generator until the interpreter itself closes it.
    """
    waiting: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(maxsize=1)
    is_over = threading.Event()

    def is_wanted() -> bool:
        return not is_over.is_set() and threading.main_thread().is_alive()

    def put(kind: str, item: T | BaseException | None) -> bool:
        while is_wanted():
            try:
                waiting.put((kind, item), timeout=PATIENCE)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        _own.is_wanted = is_wanted
        items = start()
        try:
            for item in items:
                if not put("item", item):
                    return
                del item  # it must not outlive the caller's use while the next one is read
            put("end", None)
        except BaseException as error:
            put("error", error)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=work, name="jaxdescent-read-ahead")
    thread.start()
    try:
        while True:
            kind, item = waiting.get()
            if kind == "error":
                assert isinstance(item, BaseException)
                raise item
            if kind == "end":
                return
            yield item  # pyright: ignore[reportReturnType]
            del item
    finally:
        is_over.set()
        thread.join()
