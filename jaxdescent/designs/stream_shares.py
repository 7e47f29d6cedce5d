"""The parts of a source's rows that a process reads, and how all processes agree on them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxdescent import processes
from jaxdescent.designs.row_reader import RowReader
from jaxdescent.designs.row_sharding import RowSharding, local_parts
from jaxdescent.rows import DataError


class Shares(NamedTuple):
    """The parts of the rows that this process reads, of one size each.

    A block's code is ``share * (blocks + 1) + block``, where the block ``blocks`` stands for all
    rows of the share. Rows after the last one of the source are zeros.
    """

    first: int  # the number of the first share that is here
    # The readers of the shares from that one on; None where a share has no rows.
    readers: tuple[RowReader | None, ...]
    rows: int  # how many rows each share has
    block: int  # how many rows a block has
    features: int  # how many features there are

    @classmethod
    def of(cls, whole: RowReader, rows: int, numbers: range) -> Shares:
        """The shares of these numbers, of ``rows`` rows each, of the rows that a reader has."""
        block, readers = min(whole.block, rows), list[RowReader | None]()
        for number in numbers:
            first = number * rows
            count = min(rows, whole.rows - first)
            here = (whole.source, first)
            readers.append(
                RowReader(whole.source.slice(first, count), whole.decoding, min(block, count), here)
                if count > 0
                else None
            )
        return cls(numbers[0], tuple(readers), rows, block, whole.features)

    @property
    def blocks(self) -> int:
        """How many blocks a share has."""
        return -(-self.rows // self.block)

    @property
    def passes(self) -> int:
        """How many times the rows of this process have been read to the end so far."""
        return max((each.passes for each in self.readers if each is not None), default=0)

    def code(self, share: Any, block: Any = None) -> Any:
        """The code of a block of a share, or of all of its rows."""
        return share * (self.blocks + 1) + (self.blocks if block is None else block)

    def of_code(self, code: int) -> tuple[int, int | None]:
        """The share of a code, and the number of its block; None for all rows of the share."""
        share, block = divmod(code, self.blocks + 1)
        return share, None if block == self.blocks else block

    def asked(self, share: int, compute: Callable[[RowReader], Any], like: Any) -> Any:
        """What ``compute`` finds in the rows of a share, an array like ``like``: zeros if there are
        none, and NaN where reading fails while that is watched.
        """
        reader = self.readers[share - self.first]
        if reader is None:
            return np.zeros(like.shape, like.dtype)
        return reader.attempt(lambda: compute(reader), like)

    def vector(self, over: RowSharding, read: Callable[[RowReader], Any], dtype: Any) -> jax.Array:
        """A vector over the rows of all processes, of which each reads its own."""
        if over.mesh is None:
            return jnp.asarray(read(cast(RowReader, self.readers[0])))
        given: dict[int, np.ndarray] = {}

        def of_share(index: Any) -> np.ndarray:
            number = (index[0].start or 0) // self.rows
            if number not in given:
                made = np.zeros(self.rows, dtype)
                reader = self.readers[number - self.first]
                if reader is not None:
                    made[: reader.rows] = read(reader)
                given[number] = made
            return given[number]

        sharding = NamedSharding(over.mesh, PartitionSpec(over.axes))
        return jax.make_array_from_callback((over.rows,), sharding, of_share)


class _Facts(NamedTuple):
    """The facts about its rows that each process tells the others, and that must be equal."""

    rows: int
    features: int
    dtype: str
    names: str


def _cut(reader: RowReader, sharding: Any, *, is_filled: bool) -> RowSharding:
    """The rows of a reader cut over a sharding, after all processes agree on them."""
    decoding = reader.decoding
    names = hashlib.sha256("\0".join(getattr(decoding, "names", ())).encode()).hexdigest()
    facts = _Facts(reader.rows, reader.features, str(decoding.dtype), names)
    told = [_Facts(*each) for each in processes.told_by_all(facts)]
    if any(each != told[0] for each in told):
        raise DataError(
            "the processes see other data: rows, features and dtype are "
            + "; ".join(f"{each.rows:,}, {each.features}, {each.dtype}" for each in told)
            + ": open the same data in each."
        )
    # All processes run the same programs, which read blocks of one size.
    reader.block = max(processes.told_by_all(reader.block))
    parts = RowSharding.of(sharding, 0).parts
    share = -(-reader.rows // parts)
    if share * parts != reader.rows and not is_filled:
        raise ValueError(
            f"{reader.rows:,} rows cannot be cut into {parts} shares of as many: pass "
            "is_filled=True, and sample_weight=X.row_weight to the regression."
        )
    return RowSharding.of(sharding, share * parts)


def opened(reader: RowReader, sharding: Any, *, is_filled: bool) -> tuple[RowSharding, Shares]:
    """How the rows of a reader are cut over a sharding, and the parts of this process; one part
    without a sharding.
    """
    if sharding is None:
        whole = Shares(0, (reader,), reader.rows, reader.block, reader.features)
        return RowSharding.of(None, reader.rows), whole
    numbers, devices = local_parts(sharding)
    with processes.among("Streamed", devices):
        over = _cut(reader, sharding, is_filled=is_filled)
    here = range(numbers[0], numbers[-1] + 1)
    return over, Shares.of(reader, over.rows_of_part, here)
