"""Arrays and bytes of any size that all processes exchange, by ``multihost_utils`` of JAX.

All processes run its programs, and each sends its own part. The coordination service
(:mod:`jaxdescent.processes.messages`) would pass everything through the first process.
"""

from __future__ import annotations

import functools

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxdescent.processes.deciding import is_alone, told_by_all
from jaxdescent.processes.ending import (
    FOLLOWED,
    follow_early_end,
    has_ended,
    leave_without_others,
)
from jaxdescent.processes.messages import OtherProcessFailed
from jaxdescent.processes.signals import on_a_thread

CHUNK_BYTES = 1 << 22
"""Bytes that a process sends at a time; smaller parts are filled up to a power of two, since each
size is a program to compile."""


def told_bytes_by_all(content: bytes) -> list[bytes]:
    """The bytes of all processes, of any length, in their order."""
    if is_alone():
        return [content]
    lengths = told_by_all(len(content))
    parts = [bytearray() for _ in lengths]
    for first in range(0, max(lengths), CHUNK_BYTES):
        rows = _gathered(content[first : first + CHUNK_BYTES], max(lengths) - first)
        for part, row in zip(parts, rows, strict=True):
            part.extend(row.tobytes())
    return [bytes(part[:length]) for part, length in zip(parts, lengths, strict=True)]


def added(array: np.ndarray) -> np.ndarray:
    """The sum of the arrays of all processes, which are of one shape and dtype.

    The sum is in the order of the processes, so that all get the same bits, whatever the dtype.

    Raises:
      OtherProcessFailed: if shapes or dtypes differ.
    """
    if is_alone():
        return array
    gathered = told_by_all([list(array.shape), str(array.dtype)])
    if any(each != gathered[0] for each in gathered):
        raise OtherProcessFailed(f"arrays that are added up must be of one shape, got {gathered}.")
    flat = np.ascontiguousarray(array).reshape(-1)
    total, step = np.empty_like(flat), CHUNK_BYTES // flat.itemsize
    # Arrays may be of float64 even where JAX has no 64-bit numbers: bytes are gathered.
    for first in range(0, flat.size, step):
        own = flat[first : first + step]
        terms = _gathered(own.tobytes(), own.nbytes)[:, : own.nbytes].view(flat.dtype)
        total[first : first + step] = functools.reduce(np.add, terms)
    return total.reshape(array.shape)


def _gathered(own: bytes, longest: int) -> np.ndarray:
    """A row of bytes of each process, of which the longest has this many."""
    size = min(1 << max(longest - 1, 0).bit_length(), CHUNK_BYTES)
    row = np.frombuffer(own.ljust(size, b"\0"), np.uint8)
    try:
        # On a thread, so that Ctrl-C works here, and is heard of where it ends another process.
        return on_a_thread(lambda: multihost_utils.process_allgather(row), look=follow_early_end)
    except jax.errors.JaxRuntimeError as error:
        leave_without_others(1, FOLLOWED)
        raise has_ended(str(error).splitlines()[0]) from error
