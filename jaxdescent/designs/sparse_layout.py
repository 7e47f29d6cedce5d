"""How the entries of a sparse matrix are laid out for products: on the host, once, with NumPy.

Rows are cut into pieces of at most 32 entries, and pieces padded to one of a few lengths, which are
chosen for the matrix. Sums of pieces are entries of a second, far smaller matrix, and so on, so
that a full row among empty ones costs no more than its entries. All offsets are int64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdescent.kernels.sparse_products import LANES, Layout, Slice

LONGEST = 32
"""Entries of a piece: all of them are one chain of additions in the program."""

WIDTHS = (*range(1, 17), 18, 20, 22, 24, 26, 28, 30, 32)
"""What pieces may be padded to, each at most a seventh more than the one before from 7 on."""

LEAST_SHARE, LEAST_ENTRIES = 128, 4096
"""A width of its own is worth so many entries of padding, or this share of all: each is a kernel
more to compile and to start."""

BLOCK = 1 << 14
"""Tiles that are filled in at a time, which bounds what this takes besides the result."""


class Entries(NamedTuple):
    """Row by row: where the entries of each begin, and the column of each entry."""

    start: np.ndarray  # (rows + 1,), int64
    column: np.ndarray  # (entries,)

    @classmethod
    def of(cls, row: np.ndarray, column: np.ndarray, rows: int) -> Entries:
        """From the row and the column of each entry, in the order of rows."""
        length = np.bincount(row, minlength=rows)
        return cls(np.concatenate([[0], np.cumsum(length)]), column)


def layout_of(entries: Entries, values: Any, order: np.ndarray | None = None) -> Layout:
    """The layout of a matrix.

    Args:
      entries: of the matrix, row by row.
      values: (entries,), NumPy's or traced; None for ones.
      order: where the value of each entry stands in ``values``; None: in the order of entries.
    """
    levels: list[tuple[Slice, ...]] = []
    rows = entries.start.size - 1
    position = np.full(rows, -1, np.int64)
    own = np.arange(rows)
    offset = 0
    while own.size:
        level, pieces = _level(entries, values, order)
        count = np.diff(pieces.start)
        is_done = count == 1
        position[own[is_done]] = offset + pieces.column[pieces.start[:-1][is_done]]
        if level:
            levels.append(level)
            offset += sum(piece.places.shape[0] * LANES for piece in level)
        is_long = count > 1
        own, values, order = own[is_long], None, None
        entries = _rows_of(pieces, is_long)
    position[position < 0] = offset
    _check_count("pieces of rows", offset)
    is_in_order = len(levels) == 1 and offset == rows and bool(np.all(np.diff(position) == 1))
    place = None if is_in_order else jnp.asarray(position.astype(np.int32))
    return Layout(tuple(levels), place)


def _level(
    entries: Entries, values: Any, order: np.ndarray | None
) -> tuple[tuple[Slice, ...], Entries]:
    """The slices of one level, and where the sums of each row's pieces stand in it."""
    length = np.diff(entries.start)
    count = -(-length // LONGEST)
    first = np.concatenate([[0], np.cumsum(count)])
    pieces = int(first[-1])
    row = np.repeat(np.arange(length.size), count)
    number = np.arange(pieces) - first[row]
    # Equal parts: rows of any length then have pieces of few lengths.
    begin = entries.start[row] + number * length[row] // count[row]
    size = entries.start[row] + (number + 1) * length[row] // count[row] - begin
    widths = _widths(size)
    kind = np.searchsorted(widths, size)
    location = np.empty(pieces, np.int64)
    level, offset = [], 0
    for index, width in enumerate(widths):
        mine = np.flatnonzero(kind == index)  # in the order of rows, as they are read afterwards
        location[mine] = offset + np.arange(mine.size)
        level.append(_slice(width, begin[mine], size[mine], entries.column, values, order))
        offset += -(-mine.size // LANES) * LANES
    return tuple(level), Entries(first, location)


def _slice(
    width: int,
    begin: np.ndarray,
    size: np.ndarray,
    column: np.ndarray,
    values: Any,
    order: np.ndarray | None,
) -> Slice:
    """The pieces that begin at these entries, padded to a width.

    Padding repeats a piece's last entry, times zero; what a tile lacks are pieces of size zero.
    """
    lacking = -begin.size % LANES
    begin, size = (np.pad(each, (0, lacking)).reshape(-1, LANES) for each in (begin, size))
    shape = begin.shape[0], width, LANES
    slot = np.arange(width)[None, :, None]
    is_traced = isinstance(values, Tracer)
    places = np.empty(shape, np.int32)
    kept = None if values is None else np.empty(shape, np.int32 if is_traced else values.dtype)
    for start in range(0, shape[0], BLOCK):
        block = slice(start, start + BLOCK)
        length = size[block][:, None, :]
        entry = begin[block][:, None, :] + np.minimum(slot, np.maximum(length - 1, 0))
        places[block] = column[entry]
        if kept is not None:
            at = entry if order is None else order[entry]
            padding = values.size if is_traced else np.zeros((), values.dtype)
            kept[block] = np.where(slot < length, at if is_traced else values[at], padding)
    if isinstance(values, Tracer):
        _check_count("entries with traced values", values.size)
        behind = jnp.zeros((1,), values.dtype)
        kept = jnp.concatenate([values, behind])[jnp.asarray(kept)]
    is_padded = values is None and bool(np.any(size.reshape(-1)[: size.size - lacking] < width))
    return Slice(
        jnp.asarray(places),
        None if kept is None else jnp.asarray(kept),
        jnp.asarray(size.astype(np.int32)) if is_padded else None,
    )


def _widths(size: np.ndarray) -> np.ndarray:
    """The widths that pad pieces of these sizes by least, none of which is there for few of them.

    From the narrowest on: the least cost of all pieces up to each width, and what stands before it.
    """
    pieces = np.bincount(size, minlength=LONGEST + 1)
    below = np.concatenate([[0], np.cumsum(pieces)])  # of fewer entries than that
    extra = max(int(size.sum()) // LEAST_SHARE, LEAST_ENTRIES)
    costs, before = {0: 0}, dict[int, int]()
    for width in WIDTHS:
        options = {
            last: cost + int(below[width + 1] - below[last + 1]) * width + extra
            for last, cost in costs.items()
        }
        before[width] = min(options, key=lambda last: options[last])
        costs[width] = options[before[width]]
    last = next((width for width in WIDTHS if width >= size.max(initial=0)), LONGEST)
    chosen = []
    while last:
        chosen.append(last)
        last = before[last]
    return np.asarray(chosen[::-1], np.int64)


def _rows_of(entries: Entries, is_kept: np.ndarray) -> Entries:
    """Some of the rows, in their order."""
    begin, length = entries.start[:-1][is_kept], np.diff(entries.start)[is_kept]
    start = np.concatenate([[0], np.cumsum(length)])
    index = np.arange(start[-1]) + np.repeat(begin - start[:-1], length)
    return Entries(start, entries.column[index])


def _check_count(what: str, count: int) -> None:
    if count >= 2**31:
        raise ValueError(
            f"{what} must be fewer than 2**31, got {count:,}: build one jd.Sparse of each part of "
            "the rows, and add up their values."
        )
