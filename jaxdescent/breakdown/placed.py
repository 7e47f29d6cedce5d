"""The placement of part 3's arrays: in a distributed run over the devices of all processes."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdescent import processes
from jaxdescent.kernels import host, memory

Shape = tuple[int, ...]

AXIS = "params"


def over_all(shape: Shape, axis: int | None = None) -> NamedSharding | None:
    """The sharding of an array over all devices, along its longest axis or ``axis``, if they can
    share it evenly, and whole on each device if not. None in a run of one process.
    """
    if jax.process_count() == 1:
        return None
    mesh = jax.make_mesh((devices(),), (AXIS,), axis_types=(AxisType.Auto,))
    along = _along(shape, axis, mesh.size)
    spec = [] if along is None else [*[None] * along, AXIS]
    return NamedSharding(mesh, PartitionSpec(*spec))


def devices() -> int:
    """How many devices arrays lie over."""
    return 1 if jax.process_count() == 1 else host.attached_devices()


def room(shapes: Iterable[Shape], axis: int | None = None) -> float:
    """The bytes that the devices have for arrays of these shapes; an array that they cannot share
    takes its bytes on each of them.
    """
    available, count = bytes_of_all(), devices()
    are_shared = all(_along(shape, axis, count) is not None for shape in shapes)
    return available if are_shared else available / count


def bytes_of_all() -> float:
    """The bytes that can be allocated over all devices of a run of several processes.

    Each device is taken for the smallest of the processes' first ones. Those of a CPU share the
    memory of their host, as the processes of one host do. Of a single process it is the memory of
    its first device.
    """
    device = jax.local_devices()[0]
    with processes.among_all("memory"):
        told = processes.told_by_all([memory.available_bytes(device), platform.node()])
    least = float(min(available for available, _ in told))
    if len(told) == 1:
        return least
    hosts = len({node for _, node in told})
    return least * (hosts if device.platform == "cpu" else host.attached_devices())


def in_words(numbers: dict[str, Any]) -> str:
    """How many processes share arrays, and this one's bytes, in words; empty for one process."""
    processes, nbytes = numbers["processes"], numbers["params_bytes_of_this_process"]
    if processes == 1:
        return ""
    return f" over {processes} processes, {memory.readable_bytes(nbytes)} in this one"


def numbers(arrays: Iterable[jax.Array]) -> dict[str, Any]:
    """The bytes of the parts that this process has of arrays, and how many processes share them."""
    shards = [shard for leaf in arrays for shard in leaf.addressable_shards]
    return {
        "params_bytes_of_this_process": sum(shard.data.nbytes for shard in shards),
        "processes": jax.process_count(),
    }


def _along(shape: Shape, axis: int | None, count: int) -> int | None:
    """The axis along which ``count`` devices share an array; None if they cannot."""
    if not shape:
        return None
    if axis is None or len(shape) == 1:
        axis = max(range(len(shape)), key=lambda axis: shape[axis])
    return None if shape[axis] % count else axis
