"""Shares of a source's rows, of one size, of which a process reads its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdescent.data.protocol import Block, Source, located
from jaxdescent.data.row_stream import RowStream
from jaxdescent.data.wrapped import WrappedSource


class Share(WrappedSource):
    """The rows from ``first`` to before ``stop`` of a source.

    Reading begins at the last row up to ``first`` at which the source can begin (arrays and
    ``.npy`` anywhere, Parquet at a row group, counted CSV at a file, others at their first row),
    and ends before ``stop``.
    """

    def __init__(self, base: Source, first: int, stop: int) -> None:
        self.first, self.stop, self.is_whole = first, stop, False
        super().__init__(base)

    def _wrap(self, base: Source) -> None:
        super()._wrap(base)
        self.rows = self.stop - self.first

    def start_before(self, row: int) -> int:
        return max(self.base.start_before(self.first + row) - self.first, 0)

    def blocks(self, names: Sequence[str], rows: int, begin: int = 0) -> Iterator[Block]:
        first = self.first + begin
        if first == self.stop:
            return
        start = self.base.start_before(first)
        # Blocks of such a size that the last one ends at ``stop``, or close after it.
        blocks = -(-(self.stop - start) // rows)
        rows = -(-(self.stop - start) // blocks)
        for block in located(self.base, names, rows, first):
            numbered = dataclasses.replace(block, origin=block.numbers)
            yield numbered.cut(0, min(self.stop - block.start, block.rows))
            if block.start + block.rows >= self.stop:
                return


class Shares(NamedTuple):
    """The shares that this process reads.

    A block's code is ``share * (blocks + 1) + block``, where the block ``blocks`` stands for all
    rows of the share. Rows after the last one of the source are zeros.
    """

    first: int  # the number of the first share that is here
    # The streams of the shares from that one on; None where a share has no rows.
    streams: tuple[RowStream | None, ...]
    rows: int  # how many rows each share has
    block: int  # how many rows a block has
    features: int  # how many features there are

    @property
    def blocks(self) -> int:
        """How many blocks a share has."""
        return -(-self.rows // self.block)

    def code(self, share: Any, block: Any = None) -> Any:
        """The code of a block of a share, or of all of its rows."""
        return share * (self.blocks + 1) + (self.blocks if block is None else block)

    def of_code(self, code: int) -> tuple[int, int | None]:
        """The share of a code, and the number of its block; None for all rows of the share."""
        share, block = divmod(code, self.blocks + 1)
        return share, None if block == self.blocks else block

    def asked(self, share: int, compute: Callable[[RowStream], Any], like: Any) -> Any:
        """What ``compute`` finds in the rows of a share, an array like ``like``: zeros if there are
        none, and NaN where reading fails while that is watched.
        """
        stream = self.streams[share - self.first]
        if stream is None:
            return np.zeros(like.shape, like.dtype)
        return stream.attempt(lambda: compute(stream), like)


def cut_source(like: RowStream, share_rows: int, shares: range, first: int) -> Shares:
    """Shares of a stream's rows, of ``share_rows`` rows each.

    ``shares`` are the numbers of the stream's shares that are made here, and ``first`` is the
    number of the first of them among all shares. Columns, dtype and block are the stream's.
    """
    decoding, block = like.decoding, min(like.block, share_rows)
    streams: list[RowStream | None] = []
    for share in shares:
        begin, stop = share * share_rows, min((share + 1) * share_rows, like.rows)
        if begin >= stop:
            streams.append(None)
            continue
        stream = RowStream(Share(like.source, begin, stop), decoding)
        stream.block = min(block, stream.rows)
        streams.append(stream)
    return Shares(first, tuple(streams), share_rows, block, like.features)
