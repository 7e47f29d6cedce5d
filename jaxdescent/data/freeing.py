"""Memory that was freed, returned to the system.

The GNU C library keeps freed memory in separate heaps for the threads that allocated it. A program
that calls the host calls it on many threads: the process would hold some megabytes more after
every pass. Other C libraries have no such functions.
"""

from __future__ import annotations

import ctypes
import os
import sys

M_MMAP_THRESHOLD, RETURNED_BYTES = -3, 1 << 20
"""The option's name in malloc.h, and the size from which on memory is returned."""

LEAST_BYTES, RETURNING = 1 << 24, 64
"""Bytes, and blocks, that are read before freed memory is returned: the return takes milliseconds,
more than a pass over fewer bytes does."""


class Passing:
    """The blocks and bytes that a reader has read since freed memory was last returned."""

    def __init__(self) -> None:
        self._blocks = self._bytes = 0

    def add(self, bytes_read: int, *, is_last: bool = False) -> None:
        """Count a block, and return freed memory to the system once enough has been read."""
        self._blocks, self._bytes = self._blocks + 1, self._bytes + bytes_read
        if self._bytes >= LEAST_BYTES and (is_last or self._blocks >= RETURNING):
            self._blocks = self._bytes = 0
            return_what_was_freed()


def return_what_was_freed() -> None:
    """Return the memory that is free now to the system, which takes some milliseconds."""
    _of_library("malloc_trim", 0)


def return_what_is_freed() -> None:
    """Return the memory that is free now to the system, and from now on large arrays when they are
    freed, in the whole process. Arrays that the C library places where smaller or earlier ones
    were freed wait for :class:`Passing`.
    """
    _of_library("mallopt", M_MMAP_THRESHOLD, RETURNED_BYTES)
    return_what_was_freed()


def allocate_arrow_by_system() -> None:
    """Let Arrow, whether it is loaded yet or not, take memory from the C library: its own allocator
    keeps freed memory, tens of megabytes more or less as threads happen to run.
    """
    if "ARROW_DEFAULT_MEMORY_POOL" in os.environ:
        return  # the user's own choice
    if "pyarrow" in sys.modules:
        import pyarrow

        pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    else:
        os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"


def _of_library(name: str, *arguments: int) -> None:
    if os.name != "posix":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, name):
        getattr(library, name)(*arguments)
