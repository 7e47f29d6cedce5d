"""The base class of designs whose rows are read at each product, by one reader or by several."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from jax.tree_util import Partial

from jaxdescent.data import Decoding, Shares
from jaxdescent.designs.protocol import Design, Reading, RowFunction, sum_of_centers
from jaxdescent.designs.row_sharding import RowSharding
from jaxdescent.designs.stream_products import multiplied
from jaxdescent.inputs.functions import hoist
from jaxdescent.kernels.double_length import Double, add, double
from jaxdescent.kernels.host_calls import host_call

ALL = PartitionSpec()
"""The sharding of a replicated array: each device has all of it."""


READERS = "shares", "over", "row_count", "form", "_reading", "decoding"
"""The attributes that are the structure of such a design."""


class ReadRows(Design):
    """X in parts with equally many rows; each part is read one block after another.

    A gradient reads each block once: the same block of every part is multiplied by X and by X' one
    after the other. The parts' terms are added up at the end, in double length.
    """

    shares: Shares  # the readers of the parts that this process has
    over: RowSharding  # how rows are cut into parts of equal size, each with a reader of its own
    row_count: int  # without rows of zeros that fill the last parts
    form: str  # of the source
    decoding: Decoding  # how columns become features
    center: jax.Array | None  # (features,), is subtracted from the entries of X; None for zeros
    _reading: Reading

    @property
    def reading(self) -> Reading:
        return self._reading

    @property
    def shape(self) -> tuple[int, int]:
        return self.over.rows, self.shares.features

    @property
    def dtype(self) -> Any:
        return jnp.dtype(self.decoding.dtype)

    def _arguments(self) -> list[str]:
        return [f"{self.row_count:,} rows", f"{self.shape[1]:,} features", self.form]

    @property
    def names(self) -> tuple[str, ...]:
        """The name of the feature of each weight."""
        decoding = self.decoding
        levels = (f"{name}={i}" for name, k in decoding.levels.items() for i in range(k))
        listed = (f"{name}{i}" for name, k in decoding.listed.items() for i in range(k))
        named = [*decoding.numbers, *levels, *listed]
        hashed = (f"hash bucket {i}" for i in range(decoding.features - len(named)))
        return *named, *hashed

    @property
    def passes(self) -> int:
        """How many times the rows of this process have been read to the end so far."""
        return max((each.passes for each in self.shares.streams if each is not None), default=0)

    def multiplied(
        self,
        operand: jax.Array,
        *,
        is_transposed: bool,
        block: Any = None,
        rows: int | None = None,
        after: jax.Array | None = None,
    ) -> jax.Array:
        """``X @ operand`` or ``X.T @ operand`` in one pass, or the product with a block of X, with
        arguments as of :func:`jaxdescent.designs.stream_products.multiplied`.

        With the number of a block the product is one with this block of every part, (parts * rows,
        ...), one part after another; with the transpose it is each part's term, (parts, features,
        ...). Of a single part ``block`` may be the numbers of some rows, (rows,); the product with
        the transpose is then one term.
        """
        shares = self.shares

        def of_share(number: Any, center: Any, operand: Any, block: Any, after: Any) -> jax.Array:
            here: dict[str, Any] = {"block": shares.code(number, block), "rows": rows}
            here |= {"is_transposed": is_transposed, "after": after}
            made = multiplied(shares, operand, center, **here)
            if not is_transposed or np.ndim(block):
                return made
            return self._sum(made) if block is None else made[None]  # stays on its device

        outside = ALL if is_transposed and block is None else self._rows
        specs = ALL, self._rows if is_transposed else ALL, ALL, self._rows
        return self._on_each(of_share, outside, specs, self.center, operand, block, after)

    def column_squared_norms(
        self, row_weight: jax.Array | None, center: jax.Array | None
    ) -> jax.Array:
        return self._of_columns(np.asarray, row_weight, center)

    def _of_columns(
        self, function: Callable[[np.ndarray], np.ndarray], weight: Any, center: Any
    ) -> jax.Array:
        """A function of the squared norms of the columns of each part, which are float64, summed
        over the parts.
        """
        like = jax.ShapeDtypeStruct(self.shape[1:], self.dtype)
        operands = weight, sum_of_centers(self.center, center)
        return self._asked(
            lambda stream, _, *given: function(stream.column_squares(*given)),
            like,
            (self._rows, ALL),
            *operands,
        )

    def minus(self, center: jax.Array) -> Self:
        new = copy.copy(self)
        new.center = sum_of_centers(self.center, center)
        return new

    def product(self, weights: jax.Array) -> jax.Array:
        return self.multiplied(self._operand(weights), is_transposed=False)

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        return self.multiplied(self._operand(residual, axis=0), is_transposed=True)

    def there_and_back(self, weights: jax.Array, change: RowFunction, rows: Any) -> tuple[Any, Any]:
        parts, of_part, block = _sizes(self)
        changes = tuple(
            _for_rows(change, parts * size, weights, rows) if size else None
            for size in (of_part, block, of_part % block)
        )
        return _at_once(self, changes, weights, rows)

    def to_dense(self) -> jax.Array:
        return self.product(jnp.eye(self.shape[1], dtype=self.dtype))

    def dense_bytes(self) -> int:
        return 2 * super().dense_bytes()

    def rows_at(self, index: jax.Array) -> jax.Array:
        like = jax.ShapeDtypeStruct((index.shape[0], self.shape[1]), self.dtype)
        rows = self._asked(
            lambda stream, first, own: stream.rows_at(own - first), like, (ALL,), index
        )
        return rows if self.center is None else rows - self.center[None, :]

    @property
    def _rows(self) -> PartitionSpec:
        return PartitionSpec(self.over.axes)

    def _sum(self, terms: Any) -> Any:
        over = self.over
        return terms if over.mesh is None else lax.psum(terms, over.axes)

    def _asked(self, compute: Callable[..., Any], like: Any, specs: Any, *operands: Any) -> Any:
        """The sum over parts of ``compute(stream, first, *operands)`` for arrays or None, each
        computed on its host from the part's rows, of which ``first`` is the number of the first;
        members of a batch one by one.
        """
        shares = self.shares

        def on_host(number: Any, *operands: Any) -> Any:
            share = int(number)
            found = shares.asked(
                share, lambda stream: compute(stream, share * shares.rows, *operands), like
            )
            return jax.tree.map(lambda each: np.asarray(each, self.dtype), found)

        def of_share(number: Any, *operands: Any) -> Any:
            return self._sum(host_call(on_host, like, number, *operands, vmap_method="sequential"))

        return self._on_each(of_share, ALL, specs, *operands)

    def _on_each(
        self, function: Callable[..., Any], outside: Any, specs: Any, *operands: Any
    ) -> Any:
        """``function(number, *operands)`` on each device, with the number of its part."""
        over = self.over
        if over.mesh is None:
            return function(np.int32(0), *operands)

        def on_device(*operands: Any) -> Any:
            return function(lax.axis_index(over.axes), *operands)

        return jax.shard_map(
            on_device, mesh=over.mesh, in_specs=specs, out_specs=outside, check_vma=False
        )(*operands)


def _sizes(design: ReadRows) -> tuple[int, int, int]:
    """The number of parts, and the numbers of rows of a part and of a block."""
    over = design.over
    return over.parts, over.rows_of_part, design.shares.block


def _for_rows(change: RowFunction, size: int, weights: jax.Array, rows: Any) -> Partial:
    """``change`` for ``size`` rows, with the arrays that it closes over as leaves."""
    product = jax.ShapeDtypeStruct((size, *weights.shape[1:]), weights.dtype)
    own = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), rows)
    function = hoist(change, product, own)
    return function if isinstance(function, Partial) else Partial(function)


@jax.custom_jvp
def _at_once(design: ReadRows, changes: Any, weights: jax.Array, rows: Any) -> tuple[Any, Any]:
    """``there_and_back`` with one reading of each block. ``changes`` are for all rows, for a block
    of every part, and for the shorter last block; each device applies them to rows of its own part.
    """
    parts, of_part, block = _sizes(design)
    count, rest = divmod(of_part, block)

    def of(index: Any, size: int, change: Any, after: jax.Array) -> tuple[Any, Any]:
        def cut(leaf: jax.Array) -> jax.Array:
            by_part = leaf.reshape(parts, of_part, *leaf.shape[1:])
            here = lax.dynamic_slice_in_dim(by_part, index * block, size, axis=1)
            return here.reshape(parts * size, *leaf.shape[1:])

        here: dict[str, Any] = {"block": index, "rows": size, "after": after}
        product = design.multiplied(weights, is_transposed=False, **here)
        kept, residual = change(product, jax.tree.map(cut, rows))
        kept = jax.tree.map(lambda leaf: leaf.reshape(parts, size, *leaf.shape[1:]), kept)
        terms = design.multiplied(residual, is_transposed=True, **here)
        return kept, terms.reshape(parts, *weights.shape)

    def add_block(total: Double, index: jax.Array) -> tuple[Double, Any]:
        kept, terms = of(index, block, changes[1], total.high)
        return add(total, double(terms)), kept

    like: Any = jax.ShapeDtypeStruct((parts, *weights.shape), weights.dtype)
    like = jax.eval_shape(lambda after: of(0, block, changes[1], after)[1], like)
    total = double(jnp.zeros(like.shape, like.dtype))
    total, kept = lax.scan(add_block, total, jnp.arange(count, dtype=jnp.int32))

    def in_order(leaf: jax.Array) -> jax.Array:
        return jnp.moveaxis(leaf, 0, 1).reshape(parts, -1, *leaf.shape[3:])

    kept = jax.tree.map(in_order, kept)
    if rest:
        last, terms = of(count, rest, changes[2], total.high)
        total = add(total, double(terms))
        kept = jax.tree.map(lambda *pieces: jnp.concatenate(pieces, axis=1), kept, last)
    kept = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), kept)
    return kept, jnp.sum(total.high + total.low, axis=0)


@_at_once.defjvp
def _(primals: Any, tangents: Any) -> Any:
    """Derivatives take two passes: a transposed loop would read the blocks in reverse order."""

    def in_two(design: ReadRows, changes: Any, weights: jax.Array, rows: Any) -> tuple[Any, Any]:
        kept, residual = changes[0](design.product(weights), rows)
        return kept, design.transposed_product(residual)

    return jax.jvp(in_two, primals, tangents)
