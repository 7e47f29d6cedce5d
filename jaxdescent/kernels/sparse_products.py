"""Sums of the numbers at given places: products with a matrix of which most entries are zero.

XLA has no fast product with a sparse matrix: its scatter for CPUs takes ten times as long as
necessary, and a sum over an axis of gathered numbers stores all of them first. Here pieces of rows
with equally many entries lie side by side: their first entries, then their second ones and so on.
Four entries are added up by a chain of additions, which XLA fuses with the gather into one pass
over all pieces, shared by all cores. One long chain would read more runs of memory at a time than a
core can prefetch, and take up to twice as long for an entry. One form serves all platforms, and
sharded arrays.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.kernels import loops
from jaxdescent.kernels.platform import kept_apart, on_cpu

CHAIN, LANES = 4, 16
"""The entries that one chain adds up; and the number that the pieces of a slice are a multiple of:
for other numbers of pieces XLA for CPUs makes a loop that takes up to twice as long."""

SHORT = 12
"""The most entries of a piece that one chain adds up: it takes no longer than several chains whose
sums are stored and read again, and is one kernel to compile and to start instead of two."""

CACHED_BYTES = 1 << 20
"""The bytes that a core's own cache holds: columns of up to so many are gathered side by side."""


class Slice(NamedTuple):
    """Pieces of rows, all padded to equally many entries.

    Attributes:
      places: (width, pieces), int32: the indices of the numbers to add up. Padding repeats an index
        of its own piece, so that a number that is not finite reaches no row but those that read it.
        The last pieces may be padding, which no row reads.
      values: (width, pieces): the factors of these numbers, zero for padding; None for ones.
      kept: (last, pieces), bool: which of the ``last`` last entries of each piece are no padding,
        if there is padding but no values; else None.
    """

    places: jax.Array
    values: jax.Array | None
    kept: jax.Array | None

    @property
    def pieces(self) -> int:
        return self.places.shape[-1]


class Layout(NamedTuple):
    """A matrix as pieces of its rows.

    If a matrix is in parts, each on a device of its own, the layouts of all parts are stacked:
    every array has one more axis in front, along which it is sharded.

    Attributes:
      levels: levels of slices. The first level adds up numbers of the vector; each further level
        adds up sums of pieces of the level before, for rows too long for one piece.
      position: (rows,), int32: the position of each row's sum among the sums of all levels, one
        level after another; rows without entries have the position of a zero behind the last sum.
        None if the sums are the rows already.
    """

    levels: tuple[tuple[Slice, ...], ...]
    position: jax.Array | None

    @property
    def is_cut(self) -> bool:
        """Whether the layout is for a matrix in parts."""
        if self.position is not None:
            return self.position.ndim == 2
        return self.levels[0][0].places.ndim == 3

    @property
    def parts(self) -> int:
        """The number of parts of a matrix in parts."""
        return jax.tree.leaves(self)[0].shape[0]

    @property
    def has_values(self) -> bool:
        """Whether entries have values, and are not all ones."""
        return any(piece.values is not None for piece in itertools.chain(*self.levels[:1]))

    @property
    def pass_bytes(self) -> int:
        """The bytes of the layout, all of which a product reads."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self))


@jax.jit  # called eagerly it would be hundreds of small operations
def product(layout: Layout, columns: jax.Array) -> jax.Array:
    """``A @ columns`` for A of (rows, length), whose parts are consecutive rows if it is in parts,
    and columns of (length,) or (length, outputs); in the dtype of the columns.
    """
    if not layout.is_cut:
        return _product(layout, columns)
    # XLA gathers from the rows of a part by two indices for each entry, the part and the place. It
    # would compute these before the loop of a descent, and each product would read twice the bytes.
    rows = jax.vmap(_product, (0, None))(*kept_apart((layout, columns)))
    return rows.reshape(-1, *columns.shape[1:])


@jax.jit
def product_of_all(layout: Layout, rows: jax.Array) -> jax.Array:
    """``A @ rows``, where the parts of an A in parts are consecutive columns: each part is
    multiplied by its own share of ``rows``, and the products are added up.
    """
    if not layout.is_cut:
        return _product(layout, rows)
    layout, rows = kept_apart((layout, rows))
    own = rows.reshape(layout.parts, -1, *rows.shape[1:])
    return jnp.sum(jax.vmap(_product)(layout, own), axis=0)


def _product(layout: Layout, columns: jax.Array) -> jax.Array:
    if columns.ndim == 1:
        return _of_column(layout, columns)
    if columns.shape[1] == 1:
        return _of_column(layout, columns[:, 0])[:, None]

    def one_by_one(columns: jax.Array) -> jax.Array:
        # One column fits the cache, all columns side by side do not.
        rows = columns.T

        def visit(_: None, index: jax.Array) -> tuple[None, jax.Array]:
            return None, _of_column(layout, lax.dynamic_index_in_dim(rows, index, 0, False))

        return loops.scan(rows.shape[0], visit, None, turn_bytes=layout.pass_bytes)[1].T

    def at_once(columns: jax.Array) -> jax.Array:
        return jax.vmap(lambda column: _of_column(layout, column), 1, 1)(columns)

    if columns.size * columns.dtype.itemsize <= CACHED_BYTES:
        return at_once(columns)  # all columns fit the cache together, and entries are read once
    return on_cpu(one_by_one, at_once, columns)


def dense(layout: Layout, shape: tuple[int, int], dtype: Any) -> jax.Array:
    """``A`` as an array of this shape and dtype."""
    rows, features = shape
    if layout.is_cut:
        own = rows // layout.parts, features
        return jax.vmap(lambda part: dense(part, own, dtype))(layout).reshape(shape)
    every = jnp.arange(rows, dtype=jnp.int32)
    return sums_of_rows(layout, every, jnp.ones((rows,), dtype), shape)


def sums_of_rows(
    layout: Layout, target: jax.Array, factor: jax.Array, shape: tuple[int, int]
) -> jax.Array:
    """Sums of the rows of A with equal targets, each row times its factor: (sums, features), in the
    dtype of the factors. Each stored entry is read once, and scattered.
    """
    if layout.is_cut:
        own = target.reshape(layout.parts, -1), factor.reshape(layout.parts, -1)
        each = jax.vmap(functools.partial(sums_of_rows, shape=shape))(layout, *own)
        return jnp.sum(each, axis=0)
    whole = jnp.zeros(shape, factor.dtype)
    if not layout.levels:
        return whole
    row, begin = row_of_piece(layout, target.size), 0
    # Padding belongs to a row behind the last, whose target is out of range and dropped.
    target, factor = jnp.append(target, shape[0]), jnp.append(factor, 0)
    for piece in layout.levels[0]:
        own = row[begin : begin + piece.pieces]
        begin += piece.pieces
        whole = _scattered(whole, piece, at(target, own), at(factor, own))
    return whole


def _scattered(whole: jax.Array, piece: Slice, to: jax.Array, times: jax.Array) -> jax.Array:
    """The sums, plus the entries of each piece times its factor. A scan, because XLA would compile
    a scatter for each entry of a piece.
    """
    kept = piece.kept
    if kept is not None:
        kept = lax.pad(kept, True, [(len(piece.places) - len(kept), 0, 0), (0, 0, 0)])

    def add(whole: jax.Array, entry: tuple[Any, ...]) -> tuple[jax.Array, None]:
        places, values, is_kept = entry
        terms = times if values is None else times * values.astype(times.dtype)
        terms = terms if is_kept is None else jnp.where(is_kept, terms, 0)
        return whole.at[to, places].add(terms, mode="drop"), None

    return lax.scan(add, whole, (piece.places, piece.values, kept))[0]


def row_of_piece(layout: Layout, rows: int) -> jax.Array:
    """The row that each sum of the first level belongs to; ``rows`` for padding."""
    numbers = jnp.arange(rows, dtype=jnp.int32)
    if layout.position is None:
        return numbers
    sizes = [sum(piece.pieces for piece in level) for level in layout.levels]
    every = jnp.full((sum(sizes) + 1,), rows, jnp.int32).at[layout.position].set(numbers)
    row = every[-1:]
    for index in reversed(range(len(sizes))):
        start = sum(sizes[:index])
        below = every[start : start + sizes[index]]
        begin = 0
        for piece in layout.levels[index + 1] if index + 1 < len(sizes) else ():
            own = row[begin : begin + piece.pieces]
            begin += piece.pieces
            own = jnp.broadcast_to(own, piece.places.shape)
            places = jnp.where(own < rows, piece.places, below.size)
            below = below.at[places].set(own, mode="drop")
        row = below
    return row


def _of_column(layout: Layout, column: jax.Array) -> jax.Array:
    sums, source = [], column
    for level in layout.levels:
        # Each sum is kept apart: XLA would fuse the concatenated sums into one kernel on one core.
        source = jnp.concatenate(kept_apart([_sums(piece, source) for piece in level]))
        sums.append(source)
    if layout.position is None:
        return source
    every = jnp.concatenate([*sums, jnp.zeros((1,), column.dtype)])
    return at(every, layout.position)


def _sums(piece: Slice, source: jax.Array) -> jax.Array:
    """The sum of each piece, (pieces,)."""
    width = piece.places.shape[0]
    last = 0 if piece.kept is None else piece.kept.shape[0]
    # If few entries may be padding, these are added one by one, and the others without a mask.
    alike = width - last if last <= SHORT else width
    whole = alike // CHAIN * CHAIN if width > SHORT else 0
    total: Any = None
    if whole:
        chunks = [_terms(piece, source, slice(slot, whole, CHAIN)) for slot in range(CHAIN)]
        partial = kept_apart(functools.reduce(jnp.add, chunks))
        total = functools.reduce(jnp.add, [partial[index] for index in range(whole // CHAIN)])
    for slot in range(whole, width):
        term = _terms(piece, source, slice(slot, slot + 1))[0]
        total = term if total is None else total + term
    return total


def _terms(piece: Slice, source: jax.Array, slots: slice) -> jax.Array:
    """The entries of these slots times their numbers, (slots, pieces)."""
    terms = at(source, piece.places[slots])
    if piece.values is not None:
        terms = terms * piece.values[slots].astype(source.dtype)
    if piece.kept is not None:
        # A mask is stored: XLA would compute one from counts before a loop, and store that.
        width, last = piece.places.shape[0], piece.kept.shape[0]
        rows = range(*slots.indices(width))
        masked = [row - (width - last) for row in rows if row >= width - last]
        if masked:
            kept = piece.kept[masked[0] : masked[-1] + 1 : rows.step]
            kept = lax.pad(kept, True, [(len(rows) - len(masked), 0, 0), (0, 0, 0)])
            terms = jnp.where(kept, terms, 0)
    return terms


def at(source: jax.Array, places: jax.Array) -> jax.Array:
    """``source[places]``, along the first axis; every place must be in it."""
    if source.ndim == 2 and source.shape[1] == 1:
        return at(source[:, 0], places)[:, None]  # gathers numbers, not rows of one number
    return source.at[places].get(mode="promise_in_bounds", wrap_negative_indices=False)
