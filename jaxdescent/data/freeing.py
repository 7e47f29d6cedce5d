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

LEAST_BYTES = 1 << 24
"""Bytes that are read before freed memory is returned: the return takes milliseconds, more than a
pass over fewer bytes does."""


class Passing:
    """The bytes that a reader has read since freed memory was last returned to the system."""

    def __init__(self) -> None:
        self.bytes = 0

    def return_some(self) -> None:
        """Return freed memory to the system once enough bytes have been read."""
        if self.bytes >= LEAST_BYTES:
            self.bytes = 0
            return_what_was_freed()


def return_what_was_freed() -> None:
    """Return the memory that is free now to the system, which takes some milliseconds."""
    _of_library("malloc_trim", 0)


def return_what_is_freed() -> None:
    """Return the memory that is free now to the system, and from now on large arrays when they are
    freed, in the whole process.
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
