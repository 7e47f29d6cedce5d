"""Sums of the numbers at given places: products with a matrix of which most entries are zero.

XLA has no such product that is fast: a scatter for CPUs takes ten times as long as it could, and of
a sum over an axis of gathered numbers it writes all of them first. Here the sum over a piece of a
row is a chain of additions, which XLA fuses with what it gathers into one pass that all cores
share. Pieces of about the same length lie side by side in tiles of 16, so that all of a tile's
numbers are one run of memory. One form serves all platforms, and sharded arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.kernels import loops
from jaxdescent.kernels.platform import kept_apart, on_cpu

LANES = 16
"""Pieces in a tile: their places and their values are each a cache line a slot."""


class Slice(NamedTuple):
    """Pieces of rows, all padded to as many entries: their slots.

    Attributes:
      places: (tiles, slots, 16), int32: of the numbers to add up. Those of padding are the piece's
        own, so that a number that is not finite reaches no row but those that read it.
      values: (tiles, slots, 16): what each is multiplied by, zero for padding; None for ones.
      counts: (tiles, 16), int32: how many slots of a piece count, where there are no values and
        some of them are padding; else None.
    """

    places: jax.Array
    values: jax.Array | None
    counts: jax.Array | None


class Layout(NamedTuple):
    """A matrix as pieces of its rows.

    Attributes:
      levels: of slices. The first adds up numbers of the vector; each of the others the sums of
        pieces of the level before, of rows too long for one piece.
      position: (rows,), int32: where the sum of each row stands among those of all levels, one
        level after another, and a zero behind the last for rows without entries. None where the
        sums are the rows already.
    """

    levels: tuple[tuple[Slice, ...], ...]
    position: jax.Array | None

    def with_values(self, change: Callable[[jax.Array], jax.Array]) -> Layout:
        """The same with other values, made of its own, which may be none."""

        def changed(piece: Slice) -> Slice:
            return piece if piece.values is None else piece._replace(values=change(piece.values))

        levels = tuple(tuple(map(changed, level)) for level in self.levels)
        return self._replace(levels=levels)

    @property
    def pass_bytes(self) -> int:
        """What a product reads of it."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self))


@jax.jit  # called eagerly it would be hundreds of small operations
def product(layout: Layout, columns: jax.Array) -> jax.Array:
    """``A @ columns``, in the dtype of the columns.

    Args:
      layout: of A, (rows, length).
      columns: (length,) or (length, outputs).
    """
    if columns.ndim == 1:
        return _of_column(layout, columns)
    if columns.shape[1] == 1:
        return _of_column(layout, columns[:, 0])[:, None]

    def one_by_one(columns: jax.Array) -> jax.Array:
        # A column stays in the cache, which all of them side by side do not.
        rows = columns.T

        def visit(_: None, index: jax.Array) -> tuple[None, jax.Array]:
            return None, _of_column(layout, lax.dynamic_index_in_dim(rows, index, 0, False))

        return loops.scan(rows.shape[0], visit, None, turn_bytes=layout.pass_bytes)[1].T

    def at_once(columns: jax.Array) -> jax.Array:
        return jax.vmap(lambda column: _of_column(layout, column), 1, 1)(columns)

    return on_cpu(one_by_one, at_once, columns)


def dense(layout: Layout, shape: tuple[int, int], dtype: Any) -> jax.Array:
    """``A`` as an array of this shape and dtype."""
    rows, _ = shape
    first = layout.levels[0] if layout.levels else ()
    whole = jnp.zeros(shape, dtype)
    row, begin = _row_of_piece(layout, rows), 0
    for piece in first:
        tiles, slots, lanes = piece.places.shape
        own = row[begin : begin + tiles * lanes].reshape(tiles, 1, lanes)
        begin += tiles * lanes
        value = jnp.ones((tiles, slots, lanes), dtype)
        if piece.values is not None:
            value = piece.values.astype(dtype)
        elif piece.counts is not None:
            slot = jnp.arange(slots, dtype=jnp.int32)[None, :, None]
            value = (slot < piece.counts[:, None, :]).astype(dtype)
        own = jnp.broadcast_to(own, value.shape)
        whole = whole.at[own, piece.places].add(value, mode="drop")
    return whole


def _row_of_piece(layout: Layout, rows: int) -> jax.Array:
    """To which row each sum of the first level belongs; to none, ``rows``, that of padding."""
    numbers = jnp.arange(rows, dtype=jnp.int32)
    if layout.position is None:
        return numbers
    sizes = [sum(piece.places[:, 0].size for piece in level) for level in layout.levels]
    every = jnp.full((sum(sizes) + 1,), rows, jnp.int32).at[layout.position].set(numbers)
    above = jnp.zeros((0,), jnp.int32)
    for index in reversed(range(len(sizes))):
        begin = sum(sizes[:index])
        own = every[begin : begin + sizes[index]]
        if index + 1 < len(sizes):
            start = 0
            for piece in layout.levels[index + 1]:
                row = above[start : start + piece.places[:, 0].size]
                start += row.size
                # Padding of a tile reads somebody else's sums, for no row.
                row = jnp.broadcast_to(row.reshape(-1, 1, LANES), piece.places.shape)
                own = own.at[jnp.where(row < rows, piece.places, own.size)].set(row, mode="drop")
        above = own
    return above


def _of_column(layout: Layout, column: jax.Array) -> jax.Array:
    sums, source = [], column
    for level in layout.levels:
        # XLA would compute the sums anew for each row that reads them.
        source = kept_apart(jnp.concatenate([_sums(piece, source) for piece in level]))
        sums.append(source)
    if layout.position is None:
        return source
    every = jnp.concatenate([*sums, jnp.zeros((1,), column.dtype)])
    return at(every, layout.position)


def _sums(piece: Slice, source: jax.Array) -> jax.Array:
    """The sum of each piece, (16 tiles,)."""
    tiles, slots, lanes = piece.places.shape
    total: Any = None
    for slot in range(slots):
        term = at(source, piece.places[:, slot])
        if piece.values is not None:
            term = term * piece.values[:, slot].astype(source.dtype)
        if piece.counts is not None:
            term = jnp.where(slot < piece.counts, term, 0)
        total = term if total is None else total + term
    return total.reshape(tiles * lanes)


def at(source: jax.Array, places: jax.Array) -> jax.Array:
    """``source[places]``, along the first axis; every place must be in it."""
    if source.ndim == 2 and source.shape[1] == 1:
        return at(source[:, 0], places)[:, None]  # of numbers, not of rows
    return source.at[places].get(mode="promise_in_bounds", wrap_negative_indices=False)
