"""A fit's features as a source of numbers and codes, for a design whose rows stay in files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdescent.data import Block, Kind, Source, SparseColumn, located
from jaxdescent.data.entries import entries_of
from jaxdescent.data.freeing import Passing
from jaxdescent.data.wrapped import WrappedSource
from jaxdescent.fit.encoding import Encoded
from jaxdescent.fit.job import Job
from jaxdescent.fit.plans import ENTRY_BYTES
from jaxdescent.fit.rows import prepared, shifted_numbers
from jaxdescent.fit.vectors import Vectors

BUCKETS = "the buckets of {}"
"""The name of the column that holds the codes or entries of all hashed columns."""


class EncodedRows(WrappedSource):
    """The rows that count, column by column: numbers less a shift, means where one is missing, and
    the code of each row's level or bucket, or entries where a row has several or other ones.

    All rows of the data's own files are among them, held-out ones too, and none of other data.

    Args:
      job: the job of the fit.
      vectors: the vectors of the first pass, with the shift and the means of numbers.
      at_once: how many rows are read at a time.

    Attributes:
      categorical: how many levels each column of codes has.
      sparse: how many features each column of entries has, in the order of the weights.
      rows_read: how many rows have been read so far.
    """

    def __init__(self, job: Job, vectors: Vectors, at_once: int) -> None:
        self._job, self._vectors, self._at_once = job, vectors, at_once
        self._passing, self.rows_read = Passing(), 0
        encoding, self.categorical, self.sparse = job.encoding, dict[str, int](), dict[str, int]()
        # The places of the columns that share their features, by name.
        self._groups = {name: slice(k, k + 1) for k, name in enumerate(encoding.levels)}
        sizes = [len(levels) for levels in encoding.levels.values()]
        if encoding.hashed:
            is_code = len(encoding.hashed) == 1 and not encoding.sloped
            name = encoding.hashed[0] if is_code else BUCKETS.format(", ".join(encoding.hashed))
            self._groups[name] = slice(len(encoding.levels), None)
            sizes.append(len(encoding.buckets))
        for name, size in zip(self._groups, sizes, strict=True):
            is_code = not encoding.sloped and name in encoding.one_hot
            (self.categorical if is_code else self.sparse)[name] = size
        if encoding.sparse is not None:
            self.sparse[encoding.sparse] = len(encoding.indices)
        super().__init__(job.source)

    def _wrap(self, base: Source) -> None:
        super()._wrap(base)
        self.rows = self._vectors.filled
        numbers = dict.fromkeys(self._job.encoding.numbers, Kind.NUMBER)
        codes = dict.fromkeys(self.categorical, Kind.WHOLE)
        self.kinds = numbers | codes | dict.fromkeys(self.sparse, Kind.SPARSE)

    def row_bytes(self, names: Sequence[str]) -> int:
        kinds, itemsize = self.kinds, self._job.dtype.itemsize
        entries = ENTRY_BYTES * max(len(self._job.encoding.hashed), 1)
        sizes = {Kind.NUMBER: itemsize, Kind.WHOLE: 8, Kind.SPARSE: entries}
        return sum(sizes[kinds[name]] for name in names)

    def reading_bytes(self, names: Sequence[str], rows: int) -> int:
        del names, rows
        return self.base.reading_bytes(self._job.roles.columns, self._at_once)

    def blocks(self, names: Sequence[str], rows: int) -> Iterator[Block | Mapping[str, Any]]:
        del names  # a product needs all features
        job, vectors = self._job, self._vectors
        columns, row_bytes = job.roles.columns, self.base.row_bytes(job.roles.columns)
        for block in located(self.base, columns, min(rows, self._at_once)):
            self._passing.add(block.rows * row_bytes)
            job.memory.check()
            self.rows_read += block.rows
            encoded = prepared(block, job.roles, job.request.missing).encoded
            if encoded.rows:
                shift, fills = vectors.counts.shift, vectors.fills
                numbers = shifted_numbers(encoded, shift, job.dtype, fills)
                named = enumerate(job.encoding.numbers)
                yield {name: numbers[:, j] for j, name in named} | self._others(encoded)

    def _others(self, encoded: Encoded) -> dict[str, Any]:
        """Codes and entries by name."""
        found = dict[str, Any]()
        entries = {each.name: each for each in encoded.entries}
        for name, columns in self._groups.items():
            own = encoded.coded[columns]
            if name in self.categorical:
                found[name] = own[0].codes
            else:
                entries[name] = entries_of(own)
        for name, each in entries.items():
            values = np.ones(each.index.size) if each.values is None else each.values
            found[name] = SparseColumn(each.starts, each.index, values)
        return found
