"""Rows of a sparse or categorical matrix, such as a batch: their entries alone are multiplied.

The layout of :mod:`jaxdescent.kernels.sparse_products` serves products with all rows: entries of
rows that follow each other in a batch lie far apart in it. Here they are copied into pieces of some
entries, with the pieces of a row one after another. A product with some rows gathers their pieces,
and the transposed product scatters them: the work is proportional to their entries, besides a
vector of zeros.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.designs.protocol import Design
from jaxdescent.kernels.sparse_products import Layout, Slice, row_of_piece

LONGEST = 8
"""The most entries of a piece: half a cache line, because each row is padded to whole pieces."""

ALIKE = 1.5
"""Each row is one piece if this stores at most so many times the entries of the layout."""

CHUNKS, LEAST_CHUNK = 4, 1024
"""The number of pieces of some rows is known only when the program runs: they are multiplied in
about CHUNKS chunks of at least LEAST_CHUNK pieces."""


class RowPieces(NamedTuple):
    """Rows as pieces of their entries."""

    columns: jax.Array  # (pieces, width), int32: of each entry; the number of features for padding
    values: jax.Array | None  # (pieces, width): of each entry, zero for padding; None for ones
    begin: jax.Array  # (rows,), int32: the first piece of each row
    length: jax.Array | None  # (rows,), int32: the pieces of each row; None if each has one


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SparseRows(Design):
    """Some or all rows of a matrix that stores only its entries.

    Rows are taken from it without copying an entry. Products with all rows are slower than those of
    the design that it was made from.
    """

    pieces: RowPieces
    features: int = dataclasses.field(metadata={"static": True})
    usual: int = dataclasses.field(metadata={"static": True})  # about how many pieces a row has
    mean_entries: int = dataclasses.field(metadata={"static": True})  # and how many entries
    weights_dtype: Any = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, pieces: RowPieces, features: int, entries: int, dtype: Any) -> SparseRows:
        """All rows of a matrix, which have ``entries`` entries in all."""
        rows = pieces.begin.size
        usual = -(-pieces.columns.shape[0] // rows)
        return cls(pieces, features, usual, max(entries // rows, 1), jnp.dtype(dtype))

    @property
    def shape(self) -> tuple[int, int]:
        return self.pieces.begin.size, self.features

    @property
    def dtype(self) -> Any:
        return self.weights_dtype

    @property
    def entries(self) -> int:
        return self.shape[0] * self.mean_entries

    def product(self, weights: jax.Array) -> jax.Array:
        return _one_by_one(self._product, self._operand(weights))

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        return _one_by_one(self._transposed, self._operand(residual, axis=0))

    def taken(self, index: jax.Array) -> SparseRows:
        own = self.pieces
        begin = jnp.take(own.begin, index, mode="clip")
        length = None if own.length is None else jnp.take(own.length, index, mode="clip")
        return dataclasses.replace(self, pieces=own._replace(begin=begin, length=length))

    def rows_at(self, index: jax.Array) -> jax.Array:
        return self.taken(index).to_dense()

    def to_dense(self) -> jax.Array:
        def add(total: jax.Array, row: jax.Array, number: jax.Array) -> jax.Array:
            columns = self._columns(number)
            terms = self._times_values(jnp.ones(columns.shape, self.dtype), number)
            return total.at[row[:, None], columns].add(terms, mode="drop")

        return self._over_chunks(add, jnp.zeros(self.shape, self.dtype))

    def _product(self, weights: jax.Array) -> jax.Array:
        def sums(number: jax.Array) -> jax.Array:
            terms = weights.at[self._columns(number)].get(mode="fill", fill_value=0)
            return jnp.sum(self._times_values(terms, number), axis=1)

        if self.pieces.length is None:
            return sums(self.pieces.begin)

        def add(total: jax.Array, row: jax.Array, number: jax.Array) -> jax.Array:
            return total.at[row].add(sums(number), mode="drop", indices_are_sorted=True)

        return self._over_chunks(add, jnp.zeros(self.shape[:1], weights.dtype))

    def _transposed(self, residual: jax.Array) -> jax.Array:
        def add(total: jax.Array, row: jax.Array, number: jax.Array) -> jax.Array:
            columns = self._columns(number)
            own = residual.at[row].get(mode="fill", fill_value=0)
            terms = jnp.broadcast_to(own[:, None], columns.shape)
            return total.at[columns].add(self._times_values(terms, number), mode="drop")

        return self._over_chunks(add, jnp.zeros((self.features,), residual.dtype))

    def _columns(self, number: jax.Array) -> jax.Array:
        return self.pieces.columns.at[number].get(mode="clip")

    def _times_values(self, terms: jax.Array, number: jax.Array) -> jax.Array:
        values = self.pieces.values
        if values is None:
            return terms
        return terms * values.at[number].get(mode="clip").astype(terms.dtype)

    def _over_chunks(
        self, add: Callable[[jax.Array, jax.Array, jax.Array], jax.Array], total: jax.Array
    ) -> jax.Array:
        """``add(total, row of each piece, number of each piece)`` for one chunk of pieces after
        another; pieces behind the last one get a row that is out of range.
        """
        begin, length, rows = self.pieces.begin, self.pieces.length, self.shape[0]
        if length is None:
            return add(total, jnp.arange(rows, dtype=jnp.int32), begin)
        ends = jnp.cumsum(length, dtype=jnp.int32)
        # A piece's number is its position among the pieces of these rows, plus its row's offset.
        offset = begin - (ends - length)
        size = max(rows * self.usual // CHUNKS, min(rows * self.usual, LEAST_CHUNK))

        def visit(chunk: jax.Array, total: jax.Array) -> jax.Array:
            place = chunk * size + jnp.arange(size, dtype=jnp.int32)
            row = jnp.searchsorted(ends, place, side="right").astype(jnp.int32)
            return add(total, row, jnp.take(offset, row, mode="clip") + place)

        return lax.fori_loop(0, -(-ends[-1] // size), visit, total)


def _one_by_one(of_column: Callable[[jax.Array], jax.Array], columns: jax.Array) -> jax.Array:
    """``of_column`` of one column after another, so that each stays in the cache."""
    return of_column(columns) if columns.ndim == 1 else lax.map(of_column, columns.T).T


def pieces_of_rows(layout: Layout, shape: tuple[int, int], entries: int) -> RowPieces:
    """The pieces of all rows of a matrix with so many entries: one pass over its layout, which may
    be in parts of the rows on several devices, and a copy of its entries.
    """
    rows, features = shape
    if not layout.is_cut:
        return _pieces_of_rows(layout, shape, entries)
    parts = layout.parts
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
