"""The entries of a sparse matrix row by row, so that some of its rows can be multiplied alone.

The layout of :mod:`jaxdescent.kernels.sparse_products` serves products with all rows: entries of
rows that follow each other in a batch lie far apart in it. Here they are copied into pieces of some
entries, with the pieces of a row one after another. A product with some rows gathers their pieces,
and the transposed product scatters them: the work is proportional to their entries, besides a
vector of zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.kernels.sparse_products import Layout, Slice, row_of_piece

LONGEST = 8
"""The most entries of a piece: half a cache line, because each row is padded to whole pieces."""

ALIKE = 1.5
"""Each row is one piece if this stores at most so many times the entries of the layout."""

CHUNKS, LEAST_CHUNK = 4, 1024
"""The number of pieces of some rows is known only when the program runs: they are multiplied in
about CHUNKS chunks of at least LEAST_CHUNK pieces."""


class RowPieces(NamedTuple):
    """Rows as pieces of their entries.

    Attributes:
      columns: (pieces, width), int32: the column of each entry; the number of features for padding.
      values: (pieces, width): the value of each entry, zero for padding; None for ones.
      begin: (rows,), int32: the first piece of each row.
      length: (rows,), int32: the number of pieces of each row; None if each row has one.
    """

    columns: jax.Array
    values: jax.Array | None
    begin: jax.Array
    length: jax.Array | None

    def taken(self, index: jax.Array) -> RowPieces:
        """Some of the rows; no entry is copied."""
        begin = jnp.take(self.begin, index, mode="clip")
        length = None if self.length is None else jnp.take(self.length, index, mode="clip")
        return self._replace(begin=begin, length=length)


def pieces_of_rows(layout: Layout, shape: tuple[int, int], entries: int) -> RowPieces:
    """The pieces of all rows: one pass over the layout, and a copy of its entries.

    Args:
      layout: the layout of the matrix, which may be in parts of the rows on several devices.
      shape: the shape of the matrix, (rows, features).
      entries: the number of entries without padding.
    """
    rows, features = shape
    if not layout.is_cut:
        return _pieces_of_rows(layout, shape, entries)
    parts = jax.tree.leaves(layout)[0].shape[0]
    own = rows // parts, features
    each = jax.vmap(lambda part: _pieces_of_rows(part, own, entries // parts))(layout)
    before = jnp.arange(parts, dtype=jnp.int32)[:, None] * each.columns.shape[1]
    return RowPieces(
        each.columns.reshape(-1, each.columns.shape[2]),
        None if each.values is None else each.values.reshape(-1, each.values.shape[2]),
        (each.begin + before).reshape(-1),
        None if each.length is None else each.length.reshape(-1),
    )


def _pieces_of_rows(layout: Layout, shape: tuple[int, int], entries: int) -> RowPieces:
    rows, features = shape
    slices = layout.levels[0] if layout.levels else ()
    slots = sum(piece.places.size for piece in slices)
    widest = max((piece.places.shape[0] for piece in slices), default=1)
    is_single = len(layout.levels) <= 1 and rows * widest <= ALIKE * slots
    usual = max(entries // rows, 1)
    width = widest if is_single else min(1 << (usual.bit_length() - 1), LONGEST)
    row, ends = row_of_piece(layout, rows), 0
    filled, spans = jnp.zeros((rows + 1,), jnp.int32), []
    for piece in slices:
        own = row[ends : ends + piece.pieces]
        ends += piece.pieces
        blocks = -(-piece.places.shape[0] // width)
        # A long row has several pieces here, which follow each other.
        lane = jnp.arange(piece.pieces, dtype=jnp.int32)
        is_new = jnp.concatenate([jnp.ones((1,), bool), own[1:] != own[:-1]])
        rank = lane - lax.cummax(jnp.where(is_new, lane, 0))
        spans.append((piece, own, filled[own] + rank * blocks, blocks))
        filled = filled.at[own].add(blocks)
    length = filled[:rows]
    begin = jnp.cumsum(length, dtype=jnp.int32) - length
    total = max(sum(piece.pieces * blocks for piece, *_, blocks in spans), 1)
    if is_single:
        begin, total = jnp.arange(rows, dtype=jnp.int32), rows
    columns = jnp.full((total, width), features, jnp.int32)
    stored = [piece.values for piece in slices if piece.values is not None]
    values = jnp.zeros((total, width), stored[0].dtype) if stored else None
    for piece, own, before, blocks in spans:
        place = begin.at[own].get(mode="fill", fill_value=total) + before
        place = jnp.where(own < rows, place, total)[:, None]
        place = place + jnp.arange(blocks, dtype=jnp.int32)[None, :]
        there = columns.at[place]
        columns = there.set(_side_by_side(_columns(piece, features), width, features), mode="drop")
        if values is not None:
            values = values.at[place].set(_side_by_side(piece.values, width, 0), mode="drop")
    return RowPieces(columns, values, begin, None if is_single else length)


def _columns(piece: Slice, features: int) -> jax.Array:
    """The columns of the slice's entries, and ``features`` for padding that is masked."""
    if piece.kept is None:
        return piece.places
    others = piece.places.shape[0] - piece.kept.shape[0]
    kept = jnp.concatenate([jnp.ones((others, piece.pieces), bool), piece.kept])
    return jnp.where(kept, piece.places, features)


def _side_by_side(slots: Any, width: int, padding: Any) -> jax.Array:
    """(slots, pieces) as (pieces, blocks, width)."""
    blocks = -(-slots.shape[0] // width)
    more = blocks * width - slots.shape[0]
    padded = lax.pad(slots, jnp.asarray(padding, slots.dtype), [(0, more, 0), (0, 0, 0)])
    return padded.T.reshape(slots.shape[1], blocks, width)


def product(pieces: RowPieces, weights: jax.Array, usual: int) -> jax.Array:
    """These rows times ``weights``: (rows,) or (rows, outputs).

    Args:
      pieces: the pieces of the rows.
      weights: (features,) or (features, outputs).
      usual: about how many pieces a row has.
    """

    def of_column(weights: jax.Array) -> jax.Array:
        def sums(number: jax.Array) -> jax.Array:
            columns = pieces.columns.at[number].get(mode="clip")
            terms = weights.at[columns].get(mode="fill", fill_value=0)
            return jnp.sum(_times_values(terms, pieces, number), axis=1)

        if pieces.length is None:
            return sums(pieces.begin)

        def add(total: jax.Array, row: jax.Array, number: jax.Array) -> jax.Array:
            return total.at[row].add(sums(number), mode="drop", indices_are_sorted=True)

        return _over_chunks(pieces, add, jnp.zeros(pieces.begin.shape, weights.dtype), usual)

    return _one_by_one(of_column, weights)


def transposed_product(
    pieces: RowPieces, residual: jax.Array, features: int, usual: int
) -> jax.Array:
    """The transpose of these rows times ``residual``: (features,) or (features, outputs)."""

    def of_column(residual: jax.Array) -> jax.Array:
        def add(total: jax.Array, row: jax.Array, number: jax.Array) -> jax.Array:
            columns = pieces.columns.at[number].get(mode="clip")
            own = residual.at[row].get(mode="fill", fill_value=0)
            terms = jnp.broadcast_to(own[:, None], columns.shape)
            return total.at[columns].add(_times_values(terms, pieces, number), mode="drop")

        return _over_chunks(pieces, add, jnp.zeros((features,), residual.dtype), usual)

    return _one_by_one(of_column, residual)


def dense(pieces: RowPieces, features: int, dtype: Any, usual: int) -> jax.Array:
    """These rows as an array, (rows, features)."""

    def add(total: jax.Array, row: jax.Array, number: jax.Array) -> jax.Array:
        columns = pieces.columns.at[number].get(mode="clip")
        ones = _times_values(jnp.ones(columns.shape, dtype), pieces, number)
        return total.at[row[:, None], columns].add(ones, mode="drop")

    return _over_chunks(pieces, add, jnp.zeros((pieces.begin.size, features), dtype), usual)


def _one_by_one(of_column: Callable[[jax.Array], jax.Array], columns: jax.Array) -> jax.Array:
    """``of_column`` of one column after another, so that each stays in the cache."""
    return of_column(columns) if columns.ndim == 1 else lax.map(of_column, columns.T).T


def _times_values(terms: jax.Array, pieces: RowPieces, number: jax.Array) -> jax.Array:
    if pieces.values is None:
        return terms
    return terms * pieces.values.at[number].get(mode="clip").astype(terms.dtype)


def _over_chunks(
    pieces: RowPieces,
    add: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    total: jax.Array,
    usual: int,
) -> jax.Array:
    """``add(total, row of each piece, number of each piece)`` for one chunk of pieces after
    another; pieces behind the last one get a row that is out of range.
    """
    rows = pieces.begin.size
    if pieces.length is None:
        return add(total, jnp.arange(rows, dtype=jnp.int32), pieces.begin)
    ends = jnp.cumsum(pieces.length, dtype=jnp.int32)
    # A piece's number is its position among the pieces of these rows, plus its row's offset.
    offset = pieces.begin - (ends - pieces.length)
    size = max(rows * usual // CHUNKS, min(rows * usual, LEAST_CHUNK))

    def visit(chunk: jax.Array, total: jax.Array) -> jax.Array:
        place = chunk * size + jnp.arange(size, dtype=jnp.int32)
        row = jnp.searchsorted(ends, place, side="right").astype(jnp.int32)
        return add(total, row, jnp.take(offset, row, mode="clip") + place)

    return lax.fori_loop(0, -(-ends[-1] // size), visit, total)
