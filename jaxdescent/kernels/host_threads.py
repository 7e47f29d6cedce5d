"""The threads of NumPy on the host.

Those of its own linear algebra, OpenBLAS, wait for one another after every product. Where other
programs use the cores, a solve that takes 16 ms on one thread takes half a second on two, and next
to nothing is gained on free cores, because its products are small. So each product is computed by
one thread, and sums of many products by several threads that do not wait.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

NAMES = "scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads"
"""The names of the functions that set and get the number of threads: of NumPy's wheels, and of
OpenBLAS itself."""

_lock = threading.Lock()
_inside: list[int] = []  # the number of threads before the first of the blocks that run now


def usable_cores() -> int:
    """The number of cores that this process may use; it may be bound to a few of the host's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def summed(part: Callable[[int], np.ndarray], count: int) -> np.ndarray:
    """``part(0) + part(1) + ... + part(count - 1)``, computed by several threads, the calling one
    among them.
    """
    others: list[Future[np.ndarray]] = []
    # No thread begins where Python ends, or where there are as many as there may be.
    with contextlib.suppress(RuntimeError):
        for index in range(1, count):
            context = contextvars.copy_context()  # how NumPy treats errors of floating point
            others.append(_pool().submit(context.run, part, index))
    total = part(0)
    for other in others:
        total = total + other.result()
    for index in range(1 + len(others), count):
        total = total + part(index)
    return total


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(usable_cores(), "jaxdescent")


@contextlib.contextmanager
def on_one_thread() -> Iterator[None]:
    """A block, or a function, in which OpenBLAS uses one thread, in the whole process.

    Other libraries of linear algebra, and an OpenBLAS that is found under another name, stay as
    they are. What sets the number of threads while such a block runs sees one thread before.
    """
    found = _functions()
    if found is None:
        yield
        return
    set_threads, get_threads = found
    with _lock:
        _inside.append(_inside[0] if _inside else get_threads())
        set_threads(1)
    try:
        yield
    finally:
        with _lock:
            before = _inside.pop()
            if not _inside:
                set_threads(before)


def _begin_in_child() -> None:
    """Leave the blocks of threads that a forked process does not have, and the threads."""
    _pool.cache_clear()
    if _inside and (found := _functions()) is not None:
        found[0](_inside[0])
    _inside.clear()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_begin_in_child
    )


@functools.cache
def _functions() -> tuple[Callable[[int], Any], Callable[[], int]] | None:
    extension = util.find_spec("numpy._core._multiarray_umath")
    if extension is None or extension.origin is None:
        return None
    try:
        library = ctypes.CDLL(extension.origin)  # loaded already, with what it is linked to
    except OSError:
        return None
    for name in NAMES:
        if hasattr(library, name.format("set")) and hasattr(library, name.format("get")):
            return getattr(library, name.format("set")), getattr(library, name.format("get"))
    return None
