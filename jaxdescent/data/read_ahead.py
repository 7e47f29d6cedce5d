"""Blocks that a thread reads while the caller works on the block before."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

BLOCKS_HELD = 3
"""Blocks that plans have room for: the one that is worked on, the one that is read meanwhile, and
one that is not yet given back."""

PATIENCE = 0.1
"""Seconds after which a waiting thread checks whether its next item is still wanted."""

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
    made: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    taken, is_over, end = threading.Semaphore(0), threading.Event(), object()

    def work() -> None:
        _own.is_wanted = lambda: not is_over.is_set() and threading.main_thread().is_alive()
        items: Any = None
        try:
            items = start()
            for item in items:
                made.put((item, None))
                del item  # it must not outlive the caller's use while the next one is read
                while not taken.acquire(timeout=PATIENCE):
                    stop_if_unwanted()
                stop_if_unwanted()
            made.put((end, None))
        except BaseException as error:
            made.put((end, error))
        finally:
            if isinstance(items, Generator):
                items.close()

    thread = threading.Thread(target=work, name="jaxdescent-read-ahead")
    thread.start()
    try:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is end:
                return
            taken.release()
            yield item
            del item
    finally:
        is_over.set()
        taken.release()
        thread.join()
