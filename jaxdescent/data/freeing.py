"""Memory that was freed, returned to the system.

The GNU C library keeps what is freed in heaps of their own for the threads that asked for it. A
program that calls the host calls it on many threads: what passes through them would come to hold
some megabytes more in every pass. Other libraries have no such functions.
"""

from __future__ import annotations

import ctypes
import os
import sys

M_MMAP_THRESHOLD, RETURNED_BYTES = -3, 1 << 20
"""The option's name in malloc.h, and the size from which on memory is returned."""

LEAST_BYTES = 1 << 24
"""What passes before any of it is returned: the system takes milliseconds, more than a pass over
less does."""


class Passing:
    """The bytes that have passed through a reader since what was freed of them was returned."""

    def __init__(self) -> None:
        self.bytes = 0

    def return_some(self) -> None:
        """Return what was freed, unless it can only be little."""
        if self.bytes >= LEAST_BYTES:
            self.bytes = 0
            return_what_was_freed()


def return_what_was_freed() -> None:
    """Return what was freed until now: that takes some milliseconds."""
    _of_library("malloc_trim", 0)


def return_what_is_freed() -> None:
    """Return what was freed, and from now on arrays of some size as they are freed, in all of the
    process.
    """
    _of_library("mallopt", M_MMAP_THRESHOLD, RETURNED_BYTES)
    return_what_was_freed()


def allocate_arrow_by_system() -> None:
    """Let Arrow, whether it is loaded yet or not, take memory from the C library: its own allocator
    keeps what was freed, tens of megabytes more or less as threads happen to run.
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
