"""How the entries of a sparse matrix are laid out for products: on the host, once, with NumPy.

Rows are cut into pieces of at most 64 entries, and pieces padded to one of a few lengths, which are
chosen for the matrix. Sums of pieces are entries of a second, far smaller matrix, and so on, so
that a full row among empty ones costs no more than its entries. All offsets are int64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdescent.designs.row_sharding import RowSharding
from jaxdescent.kernels.sparse_products import CHAIN, LANES, Layout, Slice

LONGEST = 64
"""The most entries of a piece: the program has an addition for each chunk of a piece."""

WIDTHS = (*range(1, 29), *range(32, LONGEST + 1, CHAIN))
"""The lengths that pieces may be padded to, mostly by far less than a seventh."""

LEAST_SHARE, LEAST_ENTRIES = 128, 1 << 15
"""Another width pays if it saves one in LEAST_SHARE of all entries in padding, or LEAST_ENTRIES if
that is more: each width is a kernel or two more to compile and to start."""

SMALL_SHARE, FEWEST_ENTRIES = 32, 1 << 12
"""In a small matrix, where LEAST_ENTRIES would be most of the entries, another width pays from one
in SMALL_SHARE of them, but no fewer than FEWEST_ENTRIES, which take as long as starting a kernel.
"""

BLOCK = 1 << 18
"""The number of pieces that are filled in at a time, which bounds the temporary memory."""

UNEVEN = 16.0
"""The ratio of the largest squared length to the median beyond which scaling pays. Below it the
condition number due to the lengths alone is at most 4, and scaling would worsen the conditioning
that a penalty gives to columns of similar length."""


class Entries(NamedTuple):
    """The entries of some rows, sorted by row."""

    start: np.ndarray  # (rows + 1,), int64: the first entry of each row
    column: np.ndarray  # (entries,), int32
    values: Any = None  # of the whole matrix, a NumPy array or traced; None for ones
    order: np.ndarray | None = None  # of each entry's value among them; None for that of entries

    @classmethod
    def of(cls, row: np.ndarray, column: np.ndarray, rows: int, *stored: Any) -> Entries:
        """The entries from the row and the column of each, in the order of rows."""
        length = np.bincount(row, minlength=rows)
        return cls(np.concatenate([[0], np.cumsum(length)]), column.astype(np.int32), *stored)


class Pieces(NamedTuple):
    """The first entry of each piece, and how many it has."""

    begin: np.ndarray
    size: np.ndarray


def layout_of(parts: Sequence[Entries], over: RowSharding) -> Layout:
    """The layout of a matrix, from its entries row by row, in parts with equally many rows. Each
    part has a layout of its own, of equal shapes, padded where a part has fewer pieces of rows.
    """
    levels: list[tuple[Slice, ...]] = []
    rows = parts[0].start.size - 1
    position = np.full((len(parts), rows), -1, np.int64)
    parts, own = list(parts), [np.arange(rows)] * len(parts)
    offset = 0
    while any(place.size for place in own):
        level, sums = _level(parts, over)
        for number, pieces in enumerate(sums):
            count, place = np.diff(pieces.start), own[number]
            is_done, is_long = count == 1, count > 1
            where = pieces.column[pieces.start[:-1][is_done]]
            position[number, place[is_done]] = offset + where
            own[number] = place[is_long]
            parts[number] = _rows_of(pieces, is_long)
        if level:
            levels.append(level)
            offset += sum(piece.pieces for piece in level)
    _check_count("pieces of rows", offset)
    position[position < 0] = offset
    is_in_order = len(levels) == 1 and offset == rows and bool(np.all(np.diff(position) == 1))
    place = None if is_in_order else over.stacked(list(position.astype(np.int32)))
    return Layout(tuple(levels), place)


def _level(parts: list[Entries], over: RowSharding) -> tuple[tuple[Slice, ...], list[Entries]]:
    """The slices of one level, and the positions of the sums of each row's pieces in it."""
    firsts, cuts = zip(*map(_cut, parts), strict=True)
    widths = _widths(np.concatenate([pieces.size for pieces in cuts]))
    kinds = [np.searchsorted(widths, pieces.size) for pieces in cuts]
    locations = [np.empty(pieces.size.size, np.int32) for pieces in cuts]
    level, offset = [], 0
    for index, width in enumerate(widths):
        # Pieces stay in the order of rows, in which their sums are read afterwards.
        mine = [np.flatnonzero(kind == index) for kind in kinds]
        most = max(each.size for each in mine)
        most += -most % LANES
        for location, each in zip(locations, mine, strict=True):
            location[each] = offset + np.arange(each.size)
        chosen = [
            Pieces(*(np.pad(side[each], (0, most - each.size)) for side in pieces))
            for pieces, each in zip(cuts, mine, strict=True)
        ]
        level.append(_slice(width, chosen, parts, over))
        offset += most
    return tuple(level), [Entries(*each) for each in zip(firsts, locations, strict=True)]


def _cut(entries: Entries) -> tuple[np.ndarray, Pieces]:
    """The number of each row's first piece, and the pieces."""
    length = np.diff(entries.start)
    count = -(-length // LONGEST)
    first = np.concatenate([[0], np.cumsum(count)])
    pieces = int(first[-1])
    _check_count("pieces of rows", pieces + len(WIDTHS) * LANES)
    row = np.repeat(np.arange(length.size), count)
    number = np.arange(pieces) - first[row]
    # A row is cut into equal parts, so that rows of all lengths have pieces of few lengths.
    begin = entries.start[row] + number * length[row] // count[row]
    size = entries.start[row] + (number + 1) * length[row] // count[row] - begin
    return first, Pieces(begin, size)


def _slice(width: int, chosen: list[Pieces], parts: list[Entries], over: RowSharding) -> Slice:
    """The pieces padded to a width by repeating their last entry, times zero."""
    places = over.stacked(
        [
            _filled(width, pieces, part.column, part.column[:0], None)
            for pieces, part in zip(chosen, parts, strict=True)
        ]
    )
    if parts[0].values is not None:
        return Slice(places, _values(width, chosen, parts, over), None)
    # Pieces without entries only fill up the slice: their sums are never read.
    sizes = np.concatenate([pieces.size[pieces.size > 0] for pieces in chosen])
    last = width - int(sizes.min(initial=width))
    if not last:
        return Slice(places, None, None)
    slots = np.arange(width - last, width)[:, None]
    return Slice(places, None, over.stacked([slots < pieces.size for pieces in chosen]))


def _values(width: int, chosen: list[Pieces], parts: list[Entries], over: RowSharding) -> jax.Array:
    """The values of the pieces; traced values are gathered, with a zero appended for padding."""
    values = parts[0].values
    pairs = [(pieces, part.order) for pieces, part in zip(chosen, parts, strict=True)]
    if not isinstance(values, Tracer):
        padding = np.zeros(1, values.dtype)
        return over.stacked([_filled(width, each, values, padding, order) for each, order in pairs])
    _check_count("entries with traced values", values.size)
    numbers, padding = np.arange(values.size, dtype=np.int32), np.full(1, values.size, np.int32)
    places = [_filled(width, each, numbers, padding, order) for each, order in pairs]
    return jnp.concatenate([values, jnp.zeros((1,), values.dtype)])[over.stacked(places)]


def _filled(
    width: int, pieces: Pieces, source: np.ndarray, padding: np.ndarray, order: np.ndarray | None
) -> np.ndarray:
    """``source`` at each entry of the pieces, (width, pieces); padded by the number of the piece's
    last entry, or by the number in ``padding`` if it is not empty.
    """
    filled = np.zeros((width, pieces.size.size), source.dtype)
    if not source.size or (order is not None and not order.size):
        return filled if not padding.size else np.full_like(filled, padding[0])  # all is padding
    for start in range(0, pieces.size.size, BLOCK):
        block = slice(start, start + BLOCK)
        begin, size = pieces.begin[block], pieces.size[block]
        for slot in range(width):
            entry = begin + np.minimum(slot, np.maximum(size - 1, 0))
            numbers = source[entry if order is None else order[entry]]
            filled[slot, block] = (
                np.where(slot < size, numbers, padding[0]) if padding.size else numbers
            )
    return filled


def _widths(size: np.ndarray) -> np.ndarray:
    """The widths of least cost for pieces of these sizes: the padding, plus a price for each width.

    Dynamic programming from the narrowest on: the least cost of all pieces up to each width, and
    the width before it.
    """
    pieces = np.bincount(size, minlength=LONGEST + 1)
    below = np.concatenate([[0], np.cumsum(pieces)])  # the number of pieces with fewer entries
    entries = int(size.sum())
    least = min(max(entries // SMALL_SHARE, FEWEST_ENTRIES), LEAST_ENTRIES)
    extra = max(entries // LEAST_SHARE, least)
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
    """The entries of the rows that are kept, in their order."""
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


def are_uneven(squared_lengths: np.ndarray) -> bool:
    """Whether the lengths of the columns that are not zero differ by more than ``UNEVEN``.

    >>> are_uneven(np.array([1.0, 2.0, 0.0, 3.0])), are_uneven(np.array([1.0, 2.0, 99.0]))
    (False, True)
    """
    lengths = squared_lengths[squared_lengths > 0]
    return bool(lengths.size) and bool(np.max(lengths) > UNEVEN * np.median(lengths))
