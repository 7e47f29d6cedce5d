"""A fit's features as a source of numbers and codes, for a design whose rows stay in files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdescent.data import Block, Kind, Source, SparseColumn, located
from jaxdescent.data.decoding import matrix_of
from jaxdescent.data.entries import entries_of
from jaxdescent.data.freeing import Passing
from jaxdescent.data.wrapped import WrappedSource
from jaxdescent.fit.encoding import Encoded
from jaxdescent.fit.job import Job
from jaxdescent.fit.prepared import Preparing, less, shifted_numbers
from jaxdescent.fit.vectors import Vectors

BUCKETS = "the buckets of {}"
"""The name of the column that holds the codes or entries of all hashed columns."""

ENTRY_BYTES = 16
"""Bytes of an entry: an index and a value."""


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
        self._preparing, self._passing = Preparing.of(job), Passing()
        self.rows_read = 0
        encoding = job.encoding
        levels = enumerate(encoding.levels.items())
        # Columns that share their features, by name, and how many features these are.
        self._groups = {name: (slice(k, k + 1), len(each)) for k, (name, each) in levels}
        if encoding.hashed:
            is_code = len(encoding.hashed) == 1 and not encoding.sloped
            name = encoding.hashed[0] if is_code else BUCKETS.format(", ".join(encoding.hashed))
            self._groups[name] = slice(len(encoding.levels), None), len(encoding.buckets)
        self.categorical: dict[str, int] = {}
        self.sparse: dict[str, int] = {}
        for name, (_, size) in self._groups.items():
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
        kinds, itemsize = self.kinds, self._vectors.dtype.itemsize
        entries = ENTRY_BYTES * max(len(self._job.encoding.hashed), 1)
        sizes = {Kind.NUMBER: itemsize, Kind.WHOLE: 8, Kind.SPARSE: entries}
        return sum(sizes[kinds[name]] for name in names)

    def reading_bytes(self, names: Sequence[str], rows: int) -> int:
        del names, rows
        return self.base.reading_bytes(self._job.roles.columns, self._at_once)

    def blocks(self, names: Sequence[str], rows: int) -> Iterator[Block | Mapping[str, Any]]:
        del names  # a product needs all features
        encoding, columns, vectors = self._job.encoding, self._job.roles.columns, self._vectors
        row_bytes = self.base.row_bytes(columns)
        is_plain = not (encoding.one_hot or encoding.interactions) and encoding.sparse is None
        is_plain &= self._job.request.missing == "error"
        for block in located(self.base, columns, min(rows, self._at_once)):
            self._passing.add(block.rows * row_bytes)
            self._job.memory.check()
            self.rows_read += block.rows
            whole, others = None, dict[str, Any]()
            if is_plain:
                whole = matrix_of([block.columns[name] for name in encoding.numbers])
            if whole is not None:  # the pass before this one has checked all values
                numbers = less(whole, vectors.shift, vectors.dtype)
            else:
                encoded = self._preparing(block).encoded
                if encoded.keep is not None and not encoded.keep.size:
                    continue
                numbers = shifted_numbers(
                    encoded, encoded.kept, vectors.shift, vectors.dtype, vectors.fills
                )
                others = self._others(encoded)
            yield {name: numbers[:, j] for j, name in enumerate(encoding.numbers)} | others

    def _others(self, encoded: Encoded) -> dict[str, Any]:
        """Codes and entries by name."""
        found = dict[str, Any]()
        entries = {each.name: each[encoded.kept] for each in encoded.entries}
        for name, (columns, _) in self._groups.items():
            own = [column[encoded.kept] for column in encoded.coded[columns]]
            if name in self.categorical:
                found[name] = own[0].codes
            else:
                entries[name] = entries_of(own)
        for name, each in entries.items():
            values = np.ones(each.index.size) if each.values is None else each.values
            found[name] = SparseColumn(each.starts, each.index, values)
        return found
