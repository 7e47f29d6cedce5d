"""The protocol of sources: rows of named columns, read block by block, as often as asked."""

from __future__ import annotations

import abc
import dataclasses
import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdescent.rows.errors import DataError


class Kind(enum.StrEnum):
    """The kind of a column's values, which decides how the column can be used."""

    NUMBER = "number"  # floating point or decimal: a feature
    WHOLE = "whole number"  # integers and booleans: a feature, or levels where that is asked for
    TEXT = "text"  # levels, or hashed
    DATE = "date"  # dates with or without a time: parts of them are features
    SPARSE = "sparse numbers"  # many features at once, by their indices
    OTHER = "other"  # lists and the like: to be left out

    @property
    def is_number(self) -> bool:
        """Whether the values are numbers."""
        return self in (Kind.NUMBER, Kind.WHOLE)


@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive rows of some columns.

    Attributes:
      start: the number of the first row, counted from zero over the whole source.
      rows: how many rows there are.
      columns: by name, a data frame of Polars, or a dictionary of arrays of one dimension and of
        sparse matrices of SciPy in compressed rows.
      matrix: (rows, n), further columns of numbers side by side; None if there are none.
      index: the columns of the matrix, by name.
    """

    start: int
    rows: int
    columns: Any
    matrix: np.ndarray | None = None
    index: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def column(self, name: str) -> Any:
        """A column: a series of Polars, an array, or a sparse matrix."""
        if name in self.index and self.matrix is not None:
            return self.matrix[:, self.index[name]]
        return self.columns[name]

    def numbers(self, names: Sequence[str], dtype: Any) -> np.ndarray:
        """Columns of numbers, (rows, names), in a dtype and any order of storage; without a copy
        where they are stored so. Missing numbers are NaN.
        """
        if self.matrix is not None and all(map(self.index.__contains__, names)):
            chosen: Any = list(map(self.index.__getitem__, names))
            if chosen and chosen == list(range(chosen[0], chosen[0] + len(chosen))):
                chosen = slice(chosen[0], chosen[0] + len(chosen))
            with np.errstate(over="ignore"):  # a value that becomes infinite is refused later
                return self.matrix[:, chosen].astype(dtype, order="K", copy=False)
        if isinstance(self.columns, dict) or self.matrix is not None:
            made = np.empty((len(names), self.rows), dtype).T
            with np.errstate(over="ignore"):
                for j, name in enumerate(names):
                    column = self.column(name)
                    own = column if isinstance(column, np.ndarray) else column.to_numpy()
                    made[:, j] = own
            return made
        import polars as pl

        kind = pl.Float32 if np.dtype(dtype) == np.float32 else pl.Float64
        own = self.columns.select(pl.col(name).cast(kind) for name in names)
        return own.to_numpy(order="fortran") if names else np.empty((self.rows, 0), dtype)

    def cut(self, first: int, stop: int) -> Block:
        """Consecutive rows of these, without a copy."""
        if (first, stop) == (0, self.rows):
            return self
        columns = self.columns
        if isinstance(columns, dict):
            columns = {name: column[first:stop] for name, column in columns.items()}
        elif columns is not None:
            columns = columns.slice(first, stop - first)
        matrix = None if self.matrix is None else self.matrix[first:stop]
        return Block(self.start + first, stop - first, columns, matrix, self.index)

    def followed_by(self, others: Sequence[Block]) -> Block:
        """These rows and those of the next blocks as one."""
        if not others:
            return self
        every = [self, *others]
        rows, columns, matrix = sum(each.rows for each in every), self.columns, self.matrix
        if isinstance(columns, dict):
            columns = {name: _joined([each.columns[name] for each in every]) for name in columns}
        elif columns is not None:
            import polars as pl

            columns = pl.concat([each.columns for each in every])
        if matrix is not None:
            matrix = _joined([each.matrix for each in every])
        return Block(self.start, rows, columns, matrix, self.index)


def _joined(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    from scipy.sparse import vstack

    return vstack(parts, format="csr")


class Source(abc.ABC):
    """Rows of named columns in a fixed order.

    Every source answers what ``kinds`` its columns are, how many ``rows`` it has where that is
    known, its ``blocks`` from a row on, a ``slice`` of its rows, and its ``frame`` where it can be
    one of Polars.
    """

    form: str = ""
    """The form of the data in a word or two, for messages."""

    kinds: Mapping[str, Kind]
    """The columns in their order, with their kinds."""

    rows: int | None = None
    """How many rows there are, where that is known without reading them."""

    files: tuple[Any, ...] = ()
    """The files that are read, if any."""

    @property
    def frame(self) -> Any:
        """The rows as a ``polars.LazyFrame``, for expressions; None where a column is sparse."""
        if Kind.SPARSE in self.kinds.values():
            return None
        from jaxdescent.rows.frames import frame_of

        return frame_of(self)

    @abc.abstractmethod
    def blocks(self, names: Sequence[str], size: int, row: int = 0) -> Iterator[Block]:
        """Blocks of ``size`` rows each, but the last, of these columns from ``row`` on."""

    @abc.abstractmethod
    def slice(self, first: int, rows: int) -> Source:
        """The source of ``rows`` rows from ``first`` on, or as many as there are."""

    def as_text(self, names: Sequence[str]) -> Source:
        """The source with these columns as the text that stands in the files, where they are files
        of text: levels such as 007 keep their zeros. Other sources are as before.
        """
        return self

    def count(self) -> int:
        """How many rows there are; they are read where that is not known."""
        if self.rows is not None:
            return self.rows
        return sum(block.rows for block in self.blocks(list(self.kinds)[:1], 1 << 16))

    def place(self, row: int) -> str:
        """The row of this number in words, for messages, in which rows count from one. It may read
        the data anew, slowly.
        """
        return f"row {row + 1:,}"


def equal_blocks(blocks: Iterable[Block], size: int, skipped: int = 0) -> Iterator[Block]:
    """Blocks of any numbers of rows as blocks of ``size`` rows each but the last, without the first
    ``skipped`` rows.
    """
    parts: list[Block] = []
    have = 0
    for block in blocks:
        first = min(skipped, block.rows)
        skipped -= first
        while first < block.rows:
            taken = min(block.rows - first, size - have)
            parts.append(block.cut(first, first + taken))
            have, first = have + taken, first + taken
            if have == size:
                yield parts[0].followed_by(parts[1:])
                parts, have = [], 0
    if parts:
        yield parts[0].followed_by(parts[1:])


def check_kinds(source: Source, names: Iterable[str], wanted: Iterable[Kind], what: str) -> None:
    """Refuse columns of other kinds than these; ``what`` says which are needed, and what to do."""
    wanted = set(wanted)
    for name in names:
        if source.kinds[name] not in wanted:
            raise DataError(f"{name!r} holds {source.kinds[name]}, and {what}.")
