"""The protocol of a design matrix: the products and other answers that a regression asks for."""

from __future__ import annotations

import abc
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxdescent.designs.row_sharding import RowSharding
from jaxdescent.display import Displayed
from jaxdescent.kernels.platform import has_one_cpu

Kind = TypeVar("Kind")

RowFunction = Callable[[jax.Array, Any], tuple[Any, jax.Array]]
"""A function of predictions and a pytree of row data, which returns a pytree to keep and the
residual that is multiplied by the transpose."""


class Reading(NamedTuple):
    """The cost of a pass over X, and how its rows are best read.

    Attributes:
      dtype: the dtype of the numbers that a product reads.
      bytes: the bytes that a product reads, if X is not a stored array; 0 if not known.
      seconds: about how long a pass takes to read rows that are not in memory; 0 if all are.
      held_bytes: the memory in bytes that such reading takes at its peak.
      block: the number of consecutive rows that are best read together, the first of which are
        cheap to read by themselves; None for all rows.
      sections: the numbers of the blocks with which reading can begin: sections of blocks from one
        of these to the next may be read in another order.
    """

    dtype: Any
    bytes: int = 0
    seconds: float = 0.0
    held_bytes: int = 0
    block: int | None = None
    sections: tuple[int, ...] = (0,)


class Design(Displayed, abc.ABC):
    """A matrix X of shape (rows, features), known by its products.

    ``weights`` has shape (features,) or (features, outputs); ``residual`` has shape (rows,) or
    (rows, outputs).
    """

    # The answers that every design gives.

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """(rows, features)."""

    @property
    @abc.abstractmethod
    def dtype(self) -> Any:
        """The dtype of the weights that are multiplied by this X (float32 for a 16-bit X)."""

    @abc.abstractmethod
    def product(self, weights: jax.Array) -> jax.Array:
        """``X @ weights``: one pass over X."""

    @abc.abstractmethod
    def transposed_product(self, residual: jax.Array) -> jax.Array:
        """``X.T @ residual``: one pass over X."""

    @abc.abstractmethod
    def to_dense(self) -> jax.Array:
        """X as an array of shape (rows, features)."""

    # The answers that most designs give besides.

    def dense_bytes(self) -> int:
        """The bytes that :meth:`to_dense` allocates at its peak, beyond what exists already; by
        default those of its result.
        """
        rows, features = self.shape
        return rows * features * jnp.dtype(self.dtype).itemsize

    def there_and_back(self, weights: jax.Array, change: RowFunction, rows: Any) -> tuple[Any, Any]:
        """``kept`` and ``X.T @ residual``, where ``kept, residual = change(X @ weights, rows)``.

        ``change`` must treat each row independently, and ``rows`` is a pytree of arrays with an
        entry for each row, so that a design may go over X in blocks and read each of them once.
        """
        kept, residual = change(self.product(weights), rows)
        return kept, self.transposed_product(residual)

    def column_squared_norms(
        self, row_weight: jax.Array | None, center: jax.Array | None
    ) -> jax.Array | None:
        """``sum_i s_i (X_ij - center_j)^2``, (features,), if one pass over X can compute it, else
        None.
        """
        return None

    def rows_at(self, index: jax.Array) -> jax.Array | None:
        """The rows at these indices, (indices, features); None if they cannot be read."""
        return None

    def minus(self, center: jax.Array) -> Design | None:
        """``X - 1 center'``, subtracted before anything is multiplied and without a copy of X.

        The result need only have products. None if the entries of X cannot be read; a design that
        gives an answer gives its rows, too (:meth:`rows_at`).
        """
        return None

    @property
    def entries(self) -> int:
        """The number of entries of X that a product multiplies by; by default all entries."""
        rows, features = self.shape
        return rows * features

    @property
    def reading(self) -> Reading:
        """The cost of a pass over X, and how its rows are best read."""
        return Reading(self.dtype)

    # Properties of X that are known without reading its entries.

    @property
    def is_stored(self) -> bool:
        """Whether all entries of X, zeros included, are in memory and are read by a product."""
        return False

    @property
    def is_whole(self) -> bool:
        """Whether X is known not to be sharded; by default, whether no array on a CPU can be."""
        return has_one_cpu()

    @property
    def is_uneven(self) -> bool:
        """Whether the columns are known to differ so much in length that iterative methods should
        scale them.
        """
        return False

    @property
    def level_of_row(self) -> jax.Array | None:
        """The level of each row, (rows,), -1 for none, if X is the one-hot columns of a categorical
        variable; None for other designs.
        """
        return None

    @property
    def side_by_side(self) -> tuple[Design, ...]:
        """The designs whose columns stand side by side in this one, in their order."""
        return (self,)

    # Rows and columns: for batches, sketches, and matrices that are made of blocks.

    def taken(self, index: jax.Array) -> Design | jax.Array | None:
        """The matrix of the rows at these indices, for batches; None if rows cannot be taken."""
        return self.rows_at(index)

    def by_rows(self) -> Design:
        """This matrix in a form from which batches of rows are :meth:`taken` quickly: a copy of its
        entries, or by default the design itself.
        """
        return self

    def row_block(self, start: Any, size: int) -> jax.Array | None:
        """``X[start : start + size]`` in the dtype of the weights; None if it cannot be read."""
        return None

    def column_lengths(
        self, row_weight: jax.Array | None, center: jax.Array | None
    ) -> jax.Array | None:
        """The roots of :meth:`column_squared_norms`, also of columns whose squares would overflow
        or underflow, if the design can avoid that.
        """
        squares = self.column_squared_norms(row_weight, center)
        return None if squares is None else jnp.sqrt(squares)

    # Sums over rows, in one pass.

    def sums_of_rows(self, target: jax.Array, factor: jax.Array, sums: int) -> jax.Array | None:
        """Rows times a factor each, added up where their ``target``, from 0 to ``sums - 1``, is the
        same: (sums, features); None if one pass over X cannot compute it.
        """
        return None

    def normal_sums(
        self, row_weight: jax.Array | None, targets: jax.Array, l2: Any = None, *, intercept: bool
    ) -> Any:
        """The sums over rows in the normal equations, for targets of (rows, outputs), if one pass
        over X can compute them with more digits than the dtype has; else None.

        Returns:
          A ``NormalSums`` of :mod:`jaxdescent.designs.normal_sums`; if a penalty ``l2`` is given,
          the minimum of the penalised sum of squares by such sums, a ``NormalSolution``.
        """
        return None

    # Weights in the form in which callers have them.

    def packed(self, weights: Any) -> Any:
        """Weights as an array, (features,) or (features, outputs), from the form in which callers
        have them; an array stays.
        """
        return weights

    def unpacked(self, weights: jax.Array) -> Any:
        """Weights in the form in which callers have them."""
        return weights

    # Preparation of operands and of a design for a program, and the shapes of larger ones.

    def _operand(self, columns: Any, *, axis: int = 1) -> jax.Array:
        """The operand of X, (features,) or (features, outputs), or along axis 0 that of X';
        integers become floating-point numbers.

        Raises:
          ValueError: if the operand has another shape: products that gather numbers by index would
            read wrong ones.
        """
        columns, (rows, features) = jnp.asarray(columns), self.shape
        length, side = self.shape[axis], ("rows", "features")[axis]
        if columns.ndim not in (1, 2) or columns.shape[0] != length:
            raise ValueError(
                f"X of {rows:,} rows and {features:,} features must be multiplied by ({length},) "
                f"or ({length}, outputs), as many as {side}, got {columns.shape}."
            )
        is_float = jnp.issubdtype(columns.dtype, jnp.inexact)
        return columns if is_float else columns.astype(self.dtype)

    def checked(self) -> Design:
        """This design after its checks, which may raise."""
        return self

    def hoisted(self, *, always: bool = False) -> Design:
        """This design with the arrays that its functions close over as leaves; see
        :meth:`jaxdescent.objectives.Objective.hoisted`.
        """
        return self

    def repeated(self, over: RowSharding) -> Design:
        """The shapes of a design over several devices, each of which has rows like this design's.

        The rows of other devices are not laid out: these rows are assumed to have as many entries
        as this design's rows, in rows and columns of the same lengths.

        Raises:
          TypeError: if this kind of design cannot be repeated.
        """
        raise TypeError(f"{type(self).__name__} has no shapes by one device's rows, for {over}.")


def columns_of(parts: Sequence[Design], columns: jax.Array) -> list[jax.Array]:
    """An array (features, ...) for designs side by side, cut into an array for each design."""
    ends = itertools.accumulate(part.shape[1] for part in parts)
    return jnp.split(columns, list(ends)[:-1])


def sum_of_centers(center: jax.Array | None, other: jax.Array | None) -> jax.Array | None:
    """The center of both subtractions, if one center is subtracted and then another one."""
    if center is None or other is None:
        return other if center is None else center
    return center + other


def registered(
    leaves: tuple[str, ...], structure: tuple[str, ...], called: tuple[str, ...] = ()
) -> Callable[[type[Kind]], type[Kind]]:
    """Registers a class with JAX whose constructor takes other arguments than its attributes.

    Args:
      leaves: the names of the attributes that are arrays, or pytrees of arrays.
      structure: the names of all others, which are part of a program.
      called: the names of the leaves in messages and checkpoints; by default they have numbers.
    """
    named = [jax.tree_util.GetAttrKey(name) for name in called]
    keys = named or [jax.tree_util.FlattenedIndexKey(number) for number in range(len(leaves))]
    names, ends = (*leaves, *structure), len(leaves)
    every = operator.attrgetter(*names)  # a tuple of two or more

    def flatten(design: Kind) -> tuple[Any, Any]:
        attributes = every(design)
        return attributes[:ends], attributes[ends:]

    def flatten_with_keys(design: Kind) -> tuple[Any, Any]:
        children, kept = flatten(design)  # keys, for messages, would take twice as long
        return tuple(zip(keys, children, strict=True)), kept

    def register(kind: type[Kind]) -> type[Kind]:
        def unflatten(kept: Any, children: Any) -> Kind:
            new = object.__new__(kind)
            for name, value in zip(names, (*children, *kept), strict=True):
                object.__setattr__(new, name, value)
            return new

        jax.tree_util.register_pytree_with_keys(kind, flatten_with_keys, unflatten, flatten)
        return kind

    return register
