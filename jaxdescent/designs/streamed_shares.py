"""A design whose rows are read by several devices or processes, each of them its own share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxdescent import processes
from jaxdescent.data import DataError, RowStream, cut_source
from jaxdescent.designs.protocol import registered
from jaxdescent.designs.read_rows import READERS, ReadRows
from jaxdescent.designs.row_sharding import RowSharding, local_parts
from jaxdescent.designs.streamed import Streamed


class _Told(NamedTuple):
    """The facts about its rows that each process tells the others; the first four must be equal."""

    rows: int
    features: int
    dtype: str
    names: str
    parts: int
    block: int
    row_bytes: int


@registered(("center",), READERS)
class StreamedShares(ReadRows):
    """A :class:`jaxdescent.Streamed` whose rows are cut over the devices of a mesh.

    Each process opens the data, and reads the rows of its own devices alone: in each product every
    device multiplies its share where it is read, and ``X'r`` is added up over the devices by one
    all-reduce of ``features`` numbers for each output. Vectors of rows (targets, weights,
    predictions) are sharded as the rows are. Results are those of one process up to the rounding of
    sums. A share that cannot be read ends the descent of all processes with an error.

    Args:
      data: as for :class:`jaxdescent.Streamed`: equal data in all processes, or with ``is_own`` the
        rows of each process.
      sharding: a ``jax.sharding.NamedSharding`` of the rows, such as
        ``NamedSharding(mesh, PartitionSpec("samples"))``.
      is_own: whether the data are the rows of this process alone, as many in each of them unless
        ``is_filled``. The rows of all processes follow each other in the order of the mesh's
        devices.
      is_filled: whether rows of zeros may follow the last one, until the devices have as many
        each; their weight is zero in :attr:`row_weight`, which then belongs to the regression.
      options: as for :class:`jaxdescent.Streamed`: columns, exclude, categorical, dtype, ...

    Raises:
      ValueError: if the rows cannot be cut into equal shares for the devices.
      DataError: as for :class:`jaxdescent.Streamed`, or if processes see different numbers of rows
        or features.

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
        parts, devices = local_parts(sharding)
        with processes.among("StreamedShares", devices):
            whole = Streamed(data, **options)
            stream = whole.stream
            names = hashlib.sha256("\0".join(whole.names).encode()).hexdigest()
            facts = _Told(
                stream.rows,
                stream.features,
                str(whole.dtype),
                names,
                len(parts),
                stream.block,
                stream.decoding.row_bytes,
            )
            told = [_Told(*each) for each in processes.told_by_all(facts)]
            # Processes with rows of their own may have different numbers, if rows are filled up.
            compared = slice(1 if is_own and is_filled else 0, 4)
            if any(each[compared] != told[0][compared] for each in told):
                raise DataError(
                    "the processes see other data: rows, features and dtype are "
                    + "; ".join(f"{each.rows:,}, {each.features}, {each.dtype}" for each in told)
                    + ": open the same data in each, or as many rows of each process's own with "
                    "is_own=True."
                )
            rows = sum(each.rows for each in told) if is_own else stream.rows
            total = RowSharding.of(sharding, 0).parts
            here = len(parts) if is_own else total
            share_rows = max(-(-each.rows // (each.parts if is_own else total)) for each in told)
            # All processes run the same programs, which read blocks of one size.
            stream.block = max(each.block for each in told)
            if share_rows * here != stream.rows and not is_filled:
                raise ValueError(
                    f"{stream.rows:,} rows cannot be cut into {here} shares of as many: pass "
                    "is_filled=True, and sample_weight=X.row_weight to the regression."
                )
        self.over, self.row_count = RowSharding.of(sharding, share_rows * total), rows
        mine = range(len(parts)) if is_own else range(parts[0], parts[-1] + 1)
        self.shares = cut_source(stream, share_rows, mine, parts[0])
        self.form, self.decoding, self.center = whole.form, whole.decoding, None
        own = whole.reading
        self._reading = own._replace(
            bytes=self.over.rows * max(each.row_bytes for each in told),
            seconds=own.seconds / here,
            held_bytes=own.held_bytes * len(parts),
            block=self.shares.block,
            sections=(0,),
        )

    def _arguments(self) -> list[str]:
        return [*super()._arguments(), f"{self.over.parts} shares"]

    def column(self, name: str) -> jax.Array:
        """A column of numbers, such as the target: each process reads the rows of its own devices.

        Args:
          name: the name of the column, which need not be a feature.

        Returns:
          The column, (rows,), sharded as the rows are.

        Raises:
          DataError: as for :meth:`jaxdescent.Streamed.column`.
        """
        return self.vector_of(lambda stream: stream.column(name))

    @property
    def row_weight(self) -> jax.Array:
        """The row weights: one for rows of the data, zero for rows that fill the last shares."""
        return self.vector_of(lambda stream: np.ones(stream.rows, self.dtype))

    @property
    def is_whole(self) -> bool:
        return False

    def vector_of(self, read: Callable[[RowStream], np.ndarray]) -> jax.Array:
        """A vector over all rows, to which each process contributes its own rows."""
        shares, over = self.shares, self.over
        assert over.mesh is not None  # a NamedSharding has one
        given: dict[int, np.ndarray] = {}

        def of_share(index: Any) -> np.ndarray:
            number = (index[0].start or 0) // shares.rows
            if number not in given:
                made = np.zeros(shares.rows, self.dtype)
                stream = shares.streams[number - shares.first]
                if stream is not None:
                    made[: stream.rows] = read(stream)
                given[number] = made
            return given[number]

        sharding = NamedSharding(over.mesh, self._rows)
        return jax.make_array_from_callback((over.rows,), sharding, of_share)
