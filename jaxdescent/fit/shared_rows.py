"""A fit that several processes make together: each of them reads its own share of the rows.

Inside the group that :func:`jaxdescent.processes.among_all` opens, each process works on a source
of its own rows. Wherever a fit needs levels, sums, means or figures of all rows, those that the
processes found in theirs are combined in the processes' order: all come to the same model.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdescent import processes
from jaxdescent.data import DataError, Source
from jaxdescent.data.shares import Share
from jaxdescent.designs import Streamed, StreamedShares


def share_of(source: Source, *, is_tested: bool = False) -> tuple[Source, int]:
    """The rows of a source that this process reads, which follow each other, and how many are
    before them. Without a group these are all rows. Where the number of rows that count is unknown,
    each process first counts the rows of a part. Of rows that are held out (``is_tested``) a
    process may have none.
    """
    if processes.is_alone():
        return source, 0
    index, count = jax.process_index(), jax.process_count()
    can_share = is_tested or source.can_share(count)
    if can_share:
        source = source.counted(index, count, processes.told_bytes_by_all)
    rows = source.rows
    if rows is not None and rows < count and not is_tested:
        raise DataError(f"{count} processes cannot share {rows:,} rows: start fewer of them.")
    if not can_share or rows is None:
        raise DataError(
            f"--distributed lets {count} processes begin at rows of their own, and {source.form} "
            "as it is here is read from its first row on: write .npy, CSV, or Parquet with at "
            "least as many groups of rows as there are processes, or fit in one process."
        )
    if are_full(rows, count):
        size = -(-rows // count)
        first, stop = size * index, min(size * (index + 1), rows)
    else:
        first, stop = rows * index // count, rows * (index + 1) // count
    return Share(source, first, stop), first


def are_full(rows: int, count: int) -> bool:
    """Whether ``count`` processes have equally many rows, but for the last, which has at least one.
    Vectors over the rows then have one order in any number of processes, without gaps.
    """
    return (count - 1) * -(-rows // count) < rows


def streamed(source: Source, numbers: tuple[str, ...], **options: Any) -> Streamed | StreamedShares:
    """A design of the rows of all processes, each of which multiplies its own; rows of zeros fill
    the shorter shares.
    """
    if processes.is_alone():
        return Streamed(source, numbers, **options)
    first = {device.process_index: device for device in reversed(jax.devices())}
    # One device of each process is enough: rows are multiplied on the host.
    devices = np.array([first[index] for index in sorted(first)])
    mesh = Mesh(devices, ("samples",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("samples"))
    return StreamedShares(source, rows, is_own=True, is_filled=True, columns=numbers, **options)


def placed(design: Any, own: np.ndarray) -> jax.Array:
    """A vector over the rows of a design, (rows,), of which each process gives its own part."""
    return jnp.asarray(own) if processes.is_alone() else design.vector_of(lambda stream: own)


def filled(design: Any, dropped: int) -> tuple[int, int] | None:
    """How many rows there are, without and with those that fill the shares of several processes,
    where vectors over them have one order in any number of processes.
    """
    if processes.is_alone() or dropped or not are_full(design.row_count, design.over.parts):
        return None
    return design.row_count, design.shape[0]
