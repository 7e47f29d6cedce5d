"""Blocks that a thread reads while the caller works on the block before."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = 1.0
"""Seconds that the end of a reading waits for its thread."""


def read_ahead(start: Callable[[], Iterator[T]]) -> Generator[T]:
    """The items of ``start()`` in their order, made by a thread of their own, one ahead.

    Errors of the thread are raised here. The thread ends when this generator is closed, with the
    item that it is at: an interrupt does not wait longer than :data:`PATIENCE` for a reader that
    finds no next block.

    >>> list(read_ahead(lambda: iter(range(3))))
    [0, 1, 2]
    """
    made: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    taken, is_over, end = threading.Semaphore(0), threading.Event(), object()

    def is_wanted() -> bool:
        taken.acquire()
        return not is_over.is_set()

    def work() -> None:
        items: Any = None
        try:
            items = start()
            for item in items:
                made.put((item, None))
                del item  # it must not outlive the caller's use while the next one is read
                if not is_wanted():
                    break
            made.put((end, None))
        except BaseException as error:
            made.put((end, error))
        finally:
            if isinstance(items, Generator):
                items.close()

    thread = threading.Thread(target=work, name="jaxdescent-read-ahead", daemon=True)
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
        thread.join(PATIENCE)
