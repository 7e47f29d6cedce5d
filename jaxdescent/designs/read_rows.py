"""What designs have in common whose rows are read at each product, by one reader or by several."""

from __future__ import annotations

import abc
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from jaxdescent.designs.operands import residual_of, sum_of_centers, weights_of
from jaxdescent.designs.protocol import Design, RowFunction
from jaxdescent.inputs.functions import hoist
from jaxdescent.kernels.double_length import Double, add, double


class ReadRows(Design):
    """X as parts of as many rows each, every one of which is read block after block.

    A gradient reads each block once: the same block of every part is multiplied by X and by X' one
    after the other. The parts' terms are added up at the end, in double length.
    """

    center: jax.Array | None
    """(features,): what is subtracted from the entries before they are multiplied."""

    @property
    @abc.abstractmethod
    def parts(self) -> int:
        """How many parts there are, each with a reader of its own."""

    @property
    @abc.abstractmethod
    def rows_given(self) -> int:
        """How many rows there are, without those that fill the last parts."""

    @abc.abstractmethod
    def centred(self, center: jax.Array | None) -> Self:
        """The design with another center."""

    @abc.abstractmethod
    def multiplied(
        self,
        operand: jax.Array,
        *,
        is_transposed: bool,
        block: Any = None,
        rows: int | None = None,
        after: jax.Array | None = None,
    ) -> jax.Array:
        """``X @ operand``, or with the transpose, in one pass; or what belongs to a block of it.

        Args:
          operand: what X is multiplied by, of checked shape.
          is_transposed: which product.
          block: the number of a block; None for all rows. The product is then that with this block
            of every part, (parts * rows, ...), one part after another; with the transpose it is
            each part's term, (parts, features, ...) or that of the only part.
          rows: how many rows of each part the block has.
          after: what has to be computed before it is read.
        """

    @abc.abstractmethod
    def uncentred_rows_at(self, index: jax.Array) -> jax.Array:
        """The rows at these places as they are read, (indices, features)."""

    def product(self, weights: jax.Array) -> jax.Array:
        return self.multiplied(weights_of(self, weights), is_transposed=False)

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        return self.multiplied(residual_of(self, residual), is_transposed=True)

    def there_and_back(self, weights: jax.Array, change: RowFunction, rows: Any) -> tuple[Any, Any]:
        of_part = self.shape[0] // self.parts
        changes = tuple(
            _for_rows(change, self.parts * size, weights, rows) if size else None
            for size in (of_part, self.block_length, of_part % self.block_length)
        )
        return _at_once(self, changes, weights, rows)

    def to_dense(self) -> jax.Array:
        return self.product(jnp.eye(self.shape[1], dtype=self.dtype))

    def dense_bytes(self) -> int:
        rows, features = self.shape
        return 2 * rows * features * jnp.dtype(self.dtype).itemsize

    def squared_norm(self, row_weight: jax.Array | None) -> jax.Array | None:
        squares = self.column_squared_norms(row_weight, None)
        return None if squares is None else jnp.sum(squares)

    def sample_index(self, count: int) -> np.ndarray:
        # Those of the first block: others would cost a pass.
        last = min(self.block_length, self.rows_given) - 1
        return np.linspace(0, last, min(count, last + 1), dtype=np.int64).astype(np.int32)

    def rows_at(self, index: jax.Array) -> jax.Array:
        rows = self.uncentred_rows_at(index)
        return rows if self.center is None else rows - self.center[None, :]

    def minus(self, center: jax.Array) -> Self:
        return self.centred(sum_of_centers(self.center, center))


def _for_rows(change: RowFunction, size: int, weights: jax.Array, rows: Any) -> Partial:
    """``change`` for so many rows, with what it closes over as leaves."""
    product = jax.ShapeDtypeStruct((size, *weights.shape[1:]), weights.dtype)
    own = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), rows)
    function = hoist(change, product, own)
    return function if isinstance(function, Partial) else Partial(function)


@jax.custom_jvp
def _at_once(design: ReadRows, changes: Any, weights: jax.Array, rows: Any) -> tuple[Any, Any]:
    """Each block is read once. ``changes`` are for all rows, for a block of every part, and for the
    last one; they are applied to rows of all parts, which lie where these are.
    """
    parts, block = design.parts, design.block_length
    of_part = design.shape[0] // parts
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
    """In two passes: backwards a loop over blocks would ask for the last one first."""

    def in_two(design: ReadRows, changes: Any, weights: jax.Array, rows: Any) -> tuple[Any, Any]:
        kept, residual = changes[0](design.product(weights), rows)
        return kept, design.transposed_product(residual)

    return jax.jvp(in_two, primals, tangents)
