"""Arrays and bytes of any size that the processes of a group exchange, by JAX programs.

All processes run these programs, and each sends its own part. The coordination service
(:mod:`jaxdescent.processes.messages`) would pass everything through the first process.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdescent.processes.deciding import is_alone, members, told_by_all
from jaxdescent.processes.ending import (
    FOLLOWED,
    follow_early_end,
    has_ended,
    leave_without_others,
)
from jaxdescent.processes.messages import OtherProcessFailed
from jaxdescent.processes.signals import on_a_thread

CHUNK_BYTES = 1 << 22
"""Bytes that a process sends at a time."""

EVERYWHERE, IN_PARTS = PartitionSpec(), PartitionSpec(None, "processes")
"""The placement of an array of bytes with a row from each process: the whole array in each process,
or a part of every row in each."""


def told_bytes_by_all(content: bytes) -> list[bytes]:
    """The bytes of all processes of the group, of any length, in their order."""
    if is_alone():
        return [content]
    lengths = told_by_all(len(content))
    longest = max(lengths)
    parts = [bytearray() for _ in lengths]
    for first in range(0, longest, CHUNK_BYTES):
        # Sizes are rounded up to a few, since each is a program to compile.
        size = min(1 << (longest - first - 1).bit_length(), CHUNK_BYTES)
        own = content[first : first + size].ljust(size, b"\0")
        for part, row in zip(parts, _moved(np.frombuffer(own, np.uint8), EVERYWHERE), strict=True):
            part.extend(row.tobytes())
    return [bytes(part[:length]) for part, length in zip(parts, lengths, strict=True)]


def added(array: np.ndarray) -> np.ndarray:
    """The sum of the arrays of all processes of the group, which are of one shape and dtype.

    Each process adds up one part of all arrays, in the order of the processes, and sends the sum to
    the others: all get the same bits, whatever the dtype, and a process sends and holds little more
    than twice the array, however many processes there are.

    Raises:
      OtherProcessFailed: if shapes or dtypes differ.
    """
    if is_alone():
        return array
    told = told_by_all([list(array.shape), str(array.dtype)])
    if any(each != told[0] for each in told):
        raise OtherProcessFailed(f"arrays that are added up must be of one shape, got {told}.")
    count, flat = len(told), np.ascontiguousarray(array).reshape(-1)
    total = np.empty_like(flat)
    # Arrays may be of float64 even where JAX has no 64-bit numbers: only bytes are sent.
    step = max(CHUNK_BYTES // flat.itemsize // count, 1) * count
    for first in range(0, flat.size, step):
        own = flat[first : first + step]
        padded = np.pad(own, (0, -own.size % count))
        terms = _moved(padded.view(np.uint8), IN_PARTS).view(flat.dtype)
        mine = functools.reduce(np.add, terms)
        sums = _moved(mine.view(np.uint8), EVERYWHERE).view(flat.dtype)
        total[first : first + own.size] = sums.reshape(-1)[: own.size]
    return total.reshape(array.shape)


def _moved(own: np.ndarray, there: PartitionSpec) -> np.ndarray:
    """This process's part of the rows of all processes, placed as ``there`` says."""
    rows, move = _moving(members(), there)
    shape = (len(members()), own.size)
    try:
        array = jax.make_array_from_process_local_data(rows, own[None, :], shape)
        # On a thread, so that Ctrl-C works here, and is heard of where it ends another process.
        return on_a_thread(
            lambda: np.asarray(move(array).addressable_data(0)), look=follow_early_end
        )
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        leave_without_others(1, FOLLOWED)
        raise has_ended(str(error).splitlines()[0]) from error


@functools.cache
def _moving(processes: tuple[int, ...], there: PartitionSpec) -> tuple[NamedSharding, Any]:
    """The sharding with a row on each process's first device, and the program that moves rows."""
    first = {device.process_index: device for device in reversed(jax.devices())}
    mesh = Mesh(np.array([first[process] for process in processes]), ("processes",))
    moved = jax.jit(lambda rows: rows, out_shardings=NamedSharding(mesh, there))
    return NamedSharding(mesh, PartitionSpec("processes")), moved
