"""A design whose rows are read by several devices or processes, each of them its own share."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxdescent import agreement
from jaxdescent.data import DataError, Shares, ShareStream, cut_source
from jaxdescent.designs.host_calls import host_call
from jaxdescent.designs.operands import residual_of, weights_of
from jaxdescent.designs.protocol import Design, RowFunction
from jaxdescent.designs.row_sharding import RowSharding
from jaxdescent.designs.stream_products import multiplied
from jaxdescent.designs.streamed import Streamed, for_rows
from jaxdescent.kernels.double_length import Double, add, double

ALL = PartitionSpec()
"""The same on every device."""


@jax.tree_util.register_pytree_node_class
class _Stream:
    """A stream as a node without leaves, by which a program finds what it reads."""

    def __init__(self, stream: ShareStream | None) -> None:
        self.stream = stream

    def tree_flatten(self) -> tuple[Any, Any]:
        return (), self.stream

    @classmethod
    def tree_unflatten(cls, stream: ShareStream | None, leaves: Any) -> _Stream:
        del leaves
        return cls(stream)


class _Told(NamedTuple):
    """What each process tells the others of its rows: the first four are to be the same."""

    rows: int
    features: int
    dtype: str
    names: str
    parts: int
    block: int
    row_bytes: int


@dataclasses.dataclass(frozen=True)
class _Facts:
    """What is known of the whole.

    Attributes:
      over: the mesh, its axes along which rows are cut, and how many shares there are.
      rows: of the source, without those that fill the last shares.
      form: of the source.
      names: of the features.
      dtype: of the products.
      row_bytes: what is read of a row.
      seconds: how long a pass takes to read a share, about.
    """

    over: RowSharding
    rows: int
    form: str
    names: tuple[str, ...]
    dtype: Any
    row_bytes: int
    seconds: float
    held_bytes: int


@jax.tree_util.register_pytree_node_class
class StreamedShares(Design):
    """A :class:`jaxdescent.Streamed` whose rows are cut over the devices of a mesh.

    Each process opens the data, and reads the rows of its own devices alone: in each product every
    device multiplies its share where it is read, and ``X'r`` is added up over the devices by one
    all-reduce of ``features`` numbers for each output. Vectors of rows (targets, weights,
    predictions) are sharded as the rows are. Results are those of one process up to the rounding of
    sums. A share that cannot be read ends the descent of all processes with an error.

    Args:
      data: what :class:`jaxdescent.Streamed` takes, the same in all processes, or with ``is_own``
        what each process has for itself.
      sharding: a ``jax.sharding.NamedSharding`` of the rows, such as
        ``NamedSharding(mesh, PartitionSpec("samples"))``.
      is_own: whether the data are the rows of this process alone, as many in each of them unless
        ``is_filled``. The rows of all processes follow each other in the order of the mesh's
        devices.
      is_filled: whether rows of zeros may follow the last one, until the devices have as many
        each; their weight is zero in :attr:`row_weight`, which then belongs to the regression.
      options: as of :class:`jaxdescent.Streamed`: columns, exclude, categorical, dtype, ...

    Raises:
      ValueError: if the rows cannot be cut into as many for each device.
      DataError: as :class:`jaxdescent.Streamed`, or if processes see other numbers of rows or
        features.

    >>> import jax, numpy as np, jaxdescent as jd
    >>> from jax.sharding import NamedSharding, PartitionSpec
    >>> mesh = jax.make_mesh((1,), ("samples",))
    >>> x = np.arange(12, dtype=np.float32).reshape(6, 2)
    >>> X = jd.StreamedShares({"X": x, "y": x @ np.float32([1.0, -2.0])},
    ...                       NamedSharding(mesh, PartitionSpec("samples")), exclude=["y"])
    >>> X.product(jax.numpy.array([1.0, 0.0])).tolist()
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """

    def __init__(
        self,
        data: Any,
        sharding: Any,
        *,
        is_own: bool = False,
        is_filled: bool = False,
        **options: Any,
    ) -> None:
        parts, devices = _local_parts(sharding)
        with agreement.among("StreamedShares", devices):
            whole = Streamed(data, **options)
            stream = whole.stream
            names = hashlib.sha256("\0".join(whole.names).encode()).hexdigest()
            told = [
                _Told(*each)
                for each in agreement.told_by_all(
                    _Told(
                        stream.rows,
                        stream.features,
                        str(whole.dtype),
                        names,
                        len(parts),
                        stream.block,
                        stream.decoding.row_bytes,
                    )
                )
            ]
            # Rows of each process's own may be of any number where rows of zeros fill the others.
            compared = slice(1 if is_own and is_filled else 0, 4)
            if any(each[compared] != told[0][compared] for each in told):
                raise DataError(
                    "the processes see other data: rows, features and dtype are "
                    + "; ".join(f"{each.rows:,}, {each.features}, {each.dtype}" for each in told)
                    + ": open the same data in each, or as many rows of each process's own with "
                    "is_own=True."
                )
            rows = sum(each.rows for each in told) if is_own else stream.rows
            total = _parts_of(sharding)
            here = len(parts) if is_own else total
            share_rows = max(-(-each.rows // (each.parts if is_own else total)) for each in told)
            # Programs are the same in all processes, and so are the blocks that they ask for.
            stream.block = max(each.block for each in told)
            if share_rows * here != stream.rows and not is_filled:
                raise ValueError(
                    f"{stream.rows:,} rows cannot be cut into {here} shares of as many: pass "
                    "is_filled=True, and sample_weight=X.row_weight to the regression."
                )
            if is_own and not is_filled and share_rows * here != stream.rows:
                raise ValueError(
                    f"{stream.rows:,} rows of a process's own cannot be cut over its {here} "
                    "devices: leave some out."
                )
        over = RowSharding.of(sharding, share_rows * total)
        mine = range(len(parts)) if is_own else range(parts[0], parts[-1] + 1)
        self.shares = cut_source(stream, share_rows, mine, parts[0])
        self.facts = _Facts(
            over,
            rows,
            stream.source.form,
            whole.names,
            whole.dtype,
            max(each.row_bytes for each in told),
            whole.reading_seconds / here,
            stream.held_bytes * len(parts),
        )
        self.center = None

    def tree_flatten(self) -> tuple[Any, Any]:
        """The means that are subtracted as a leaf; the streams are structure."""
        streams = [_Stream(stream) for stream in self.shares.streams]
        return (self.center, streams), (self.shares, self.facts)

    @classmethod
    def tree_unflatten(cls, structure: Any, leaves: Any) -> StreamedShares:
        """From what :meth:`tree_flatten` tells."""
        new = object.__new__(cls)
        new.shares, new.facts = structure
        new.center = leaves[0]
        return new

    def _arguments(self) -> list[str]:
        rows, features = self.facts.rows, self.shares.features
        return [
            f"{rows:,} rows",
            f"{features:,} features",
            self.facts.form,
            f"{self.facts.over.parts} shares",
        ]

    def column(self, name: str) -> jax.Array:
        """A column of numbers, (rows,), sharded as the rows are: each process reads its own."""

        def read(index: int, stream: ShareStream) -> np.ndarray:
            del index
            return stream.column(name)

        return self._of_rows(read)

    @property
    def row_weight(self) -> jax.Array:
        """One for each row of the data, and zero for those that fill the last shares."""
        return self._of_rows(lambda _, stream: np.ones(stream.rows, self.dtype))

    @property
    def names(self) -> tuple[str, ...]:
        """What each weight belongs to."""
        return self.facts.names

    @property
    def passes(self) -> int:
        """How many times the shares of this process have been read from the beginning so far."""
        return max((each.passes for each in self.shares.streams if each is not None), default=0)

    @property
    def shape(self) -> tuple[int, int]:
        return self.facts.over.rows, self.shares.features

    @property
    def dtype(self) -> Any:
        return jnp.dtype(self.facts.dtype)

    @property
    def pass_bytes(self) -> int:
        return self.facts.over.rows * self.facts.row_bytes

    @property
    def reading_seconds(self) -> float:
        return self.facts.seconds

    @property
    def reading_bytes(self) -> int:
        return self.facts.held_bytes

    @property
    def is_whole(self) -> bool:
        return False

    def product(self, weights: jax.Array) -> jax.Array:
        def of_share(share: _Share, weights: jax.Array) -> jax.Array:
            return share.product(weights)

        return self._on_each(of_share, self._rows, (ALL,), weights_of(self, weights))

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        def of_share(share: _Share, residual: jax.Array) -> jax.Array:
            return self._sum(share.transposed_product(residual))

        return self._on_each(of_share, ALL, (self._rows,), residual_of(self, residual))

    def there_and_back(self, weights: jax.Array, change: RowFunction, rows: Any) -> tuple[Any, Any]:
        shares, parts = self.shares, self.facts.over.parts
        changes = tuple(
            for_rows(change, parts * size, weights, rows) if size else None
            for size in (shares.rows, shares.block, shares.rows % shares.block)
        )
        return _at_once(self, changes, weights, rows)

    def block_product(
        self, weights: jax.Array, block: Any, rows: int, after: jax.Array
    ) -> jax.Array:
        """The product with the same block of every share, one share after another."""

        def of_share(share: _Share, weights: jax.Array, block: Any, after: Any) -> jax.Array:
            here: dict[str, Any] = {"block": block, "rows": rows, "after": after}
            return share.multiplied(weights, is_transposed=False, **here)

        specs = ALL, ALL, self._rows
        return self._on_each(of_share, self._rows, specs, weights, block, after)

    def block_terms(
        self, residual: jax.Array, block: Any, rows: int, after: jax.Array
    ) -> jax.Array:
        """Each share's term in the transposed product, (shares, features, ...), which stays on its
        device.
        """

        def of_share(share: _Share, residual: jax.Array, block: Any, after: Any) -> jax.Array:
            here: dict[str, Any] = {"block": block, "rows": rows, "after": after}
            return share.multiplied(residual, is_transposed=True, **here)[None]

        specs = self._rows, ALL, self._rows
        return self._on_each(of_share, self._rows, specs, residual, block, after)

    def to_dense(self) -> jax.Array:
        return self.product(jnp.eye(self.shape[1], dtype=self.dtype))

    def dense_bytes(self) -> int:
        rows, features = self.shape
        return 2 * rows * features * jnp.dtype(self.dtype).itemsize

    def squared_norm(self, row_weight: jax.Array | None) -> jax.Array:
        return jnp.sum(self.column_squared_norms(row_weight, None))

    def column_squared_norms(
        self, row_weight: jax.Array | None, center: jax.Array | None
    ) -> jax.Array:
        if self.center is not None:
            center = self.center if center is None else self.center + center

        def of_share(share: _Share, weight: Any, center: Any) -> jax.Array:
            def compute(index: Any, weight: Any, center: Any) -> np.ndarray:
                return self.shares.column_squares(int(index), weight, center).astype(self.dtype)

            like = jax.ShapeDtypeStruct(self.shape[1:], self.dtype)
            return self._sum(
                host_call(compute, like, share.index, weight, center, vmap_method="sequential")
            )

        return self._on_each(of_share, ALL, (self._rows, ALL), row_weight, center)

    def sample_index(self, count: int) -> np.ndarray:
        # Those of the first block: others would cost a pass.
        last = min(self.shares.block, self.facts.rows) - 1
        return np.linspace(0, last, min(count, last + 1), dtype=np.int64).astype(np.int32)

    @property
    def block_length(self) -> int:
        return self.shares.block

    def rows_at(self, index: jax.Array) -> jax.Array:
        def of_share(share: _Share, index: jax.Array) -> jax.Array:
            def compute(number: Any, index: Any) -> np.ndarray:
                return self.shares.rows_at(int(number), index, self.dtype)

            like = jax.ShapeDtypeStruct((index.shape[0], self.shape[1]), self.dtype)
            return self._sum(host_call(compute, like, share.index, index, vmap_method="sequential"))

        rows = self._on_each(of_share, ALL, (ALL,), index)
        return rows if self.center is None else rows - self.center[None, :]

    def minus(self, center: jax.Array) -> StreamedShares:
        center = center if self.center is None else self.center + center
        return self.tree_unflatten((self.shares, self.facts), (center,))

    @property
    def _rows(self) -> PartitionSpec:
        return PartitionSpec(self.facts.over.axes)

    def _sum(self, terms: jax.Array) -> jax.Array:
        return lax.psum(terms, self.facts.over.axes)

    def _on_each(
        self, function: Callable[..., Any], outside: Any, specs: Any, *operands: Any
    ) -> Any:
        """``function(share, *operands)`` on each device, with its own share."""
        shares, axes = self.shares, self.facts.over.axes

        def on_device(center: Any, *operands: Any) -> Any:
            return function(_Share(shares, center, lax.axis_index(axes)), *operands)

        mapped = jax.shard_map(
            on_device,
            mesh=self.facts.over.mesh,
            in_specs=(ALL, *specs),
            out_specs=outside,
            check_vma=False,
        )
        return mapped(self.center, *operands)

    def _of_rows(self, read: Callable[[int, ShareStream], np.ndarray]) -> jax.Array:
        """A vector of rows, of which each process gives its own."""
        shares, over = self.shares, self.facts.over
        assert over.mesh is not None  # a NamedSharding has one
        given: dict[int, np.ndarray] = {}

        def of_share(index: Any) -> np.ndarray:
            number = (index[0].start or 0) // shares.rows
            if number not in given:
                made = np.zeros(shares.rows, self.dtype)
                stream = shares.streams[number - shares.first]
                if stream is not None:
                    made[: stream.rows] = read(number, stream)
                given[number] = made
            return given[number]

        sharding = NamedSharding(over.mesh, self._rows)
        return jax.make_array_from_callback((over.rows,), sharding, of_share)


@jax.custom_jvp
def _at_once(
    design: StreamedShares, changes: Any, weights: jax.Array, rows: Any
) -> tuple[Any, Any]:
    """Each block is read once. ``changes`` are for all rows, for a block of every share, and for
    the last one; they are applied outside of the shares, to rows that lie where these are.
    """
    shares, parts = design.shares, design.facts.over.parts
    count, rest = divmod(shares.rows, shares.block)

    def of(index: Any, size: int, change: Any, after: jax.Array) -> tuple[Any, Any]:
        def cut(leaf: jax.Array) -> jax.Array:
            by_share = leaf.reshape(parts, shares.rows, *leaf.shape[1:])
            block = lax.dynamic_slice_in_dim(by_share, index * shares.block, size, axis=1)
            return block.reshape(parts * size, *leaf.shape[1:])

        product = design.block_product(weights, index, size, after)
        kept, residual = change(product, jax.tree.map(cut, rows))
        kept = jax.tree.map(lambda leaf: leaf.reshape(parts, size, *leaf.shape[1:]), kept)
        return kept, design.block_terms(residual, index, size, after)

    def add_block(total: Double, index: jax.Array) -> tuple[Double, Any]:
        kept, terms = of(index, shares.block, changes[1], total.high)
        return add(total, double(terms)), kept

    like = jax.ShapeDtypeStruct((parts, shares.features), weights.dtype)
    like = jax.eval_shape(lambda after: of(0, shares.block, changes[1], after)[1], like)
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

    def in_two(
        design: StreamedShares, changes: Any, weights: jax.Array, rows: Any
    ) -> tuple[Any, Any]:
        kept, residual = changes[0](design.product(weights), rows)
        return kept, design.transposed_product(residual)

    return jax.jvp(in_two, primals, tangents)


@jax.tree_util.register_pytree_node_class
class _Share(Streamed):
    """The rows of one device, inside a program that runs on each: which they are is traced."""

    def __init__(self, shares: Shares, center: jax.Array | None, index: jax.Array) -> None:
        object.__setattr__(self, "stream", shares)
        object.__setattr__(self, "center", center)
        object.__setattr__(self, "index", index)

    index: jax.Array

    def tree_flatten(self) -> tuple[Any, Any]:
        return (self.center, self.index), self.stream

    @classmethod
    def tree_unflatten(cls, stream: Any, leaves: Any) -> _Share:
        return cls(stream, *leaves)

    @property
    def dtype(self) -> Any:
        shares: Any = self.stream
        return jnp.dtype(shares.dtype)

    def multiplied(
        self, operand: jax.Array, *, is_transposed: bool, block: Any = None, **of_block: Any
    ) -> jax.Array:
        shares: Any = self.stream
        code = shares.code(self.index, block)
        return multiplied(
            shares, operand, self.center, is_transposed=is_transposed, block=code, **of_block
        )


def _parts_of(sharding: Any) -> int:
    return RowSharding.of(sharding, 0).parts


def _local_parts(sharding: Any) -> tuple[list[int], jax.Array]:
    """The numbers of the shares whose devices are here, and an array on all devices.

    Raises:
      TypeError: if there is no sharding.
      ValueError: if they do not follow each other.
    """
    if sharding is None:
        raise TypeError("sharding must be a NamedSharding of rows; jd.Streamed takes none.")
    total = _parts_of(sharding)
    places = sharding.addressable_devices_indices_map((total,))
    parts = sorted({index[0].start or 0 for index in places.values()})
    if parts != list(range(parts[0], parts[0] + len(parts))):
        raise ValueError(
            f"the devices of a process must follow each other along the rows, got shares {parts}: "
            "make the mesh of jax.devices() in their order."
        )
    rows = NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0]))
    zeros = np.zeros(total, np.float32)
    return parts, jax.make_array_from_callback((total,), rows, lambda at: zeros[at])
