"""The protocol of data sources: names and kinds of columns, and blocks of rows in a fixed order."""

from __future__ import annotations

import abc
import bisect
import contextlib
import copy
import dataclasses
import enum
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np

from jaxdescent.data.matrix_columns import MatrixColumns
from jaxdescent.data.read_ahead import stop_if_unwanted
from jaxdescent.rows.errors import DataError, reading

HEAD_BYTES = 1 << 16
"""Bytes of a file's beginning, and of its end, that go into its fingerprint."""


Stamps = dict[pathlib.Path, tuple[int, ...]]


def stamps_of(paths: Iterable[pathlib.Path]) -> Stamps:
    """Size, times of change and inode of each file; a file that is gone has a size of 0 only."""
    found: Stamps = {}
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            found[path] = (0,)
        else:
            times = status.st_mtime_ns, status.st_ctime_ns
            found[path] = status.st_size, *times, status.st_ino
    return found


def changed_since(stamps: Stamps) -> list[str]:
    """The files whose stamps differ from these earlier ones."""
    return [str(path) for path, now in stamps_of(stamps).items() if now != stamps[path]]


class Kind(enum.StrEnum):
    """The kind of a column's values, which decides how the column can be used."""

    NUMBER = "number"  # floating point or decimal: a feature
    WHOLE = "whole number"  # integers and booleans: a feature, or levels where that is asked for
    TEXT = "text"  # text, dictionaries and dates: levels, or hashed
    SPARSE = "sparse numbers"  # many features at once, by their indices
    OTHER = "other"  # lists and the like: to be left out

    @property
    def is_number(self) -> bool:
        """Whether the values are numbers."""
        return self in (Kind.NUMBER, Kind.WHOLE)


@dataclasses.dataclass(frozen=True)
class Block:
    """Some rows, column by column.

    Attributes:
      columns: by name, NumPy arrays of one dimension, or Arrow arrays.
      rows: how many rows there are.
      start: the number of the first row, counted from zero over the whole source.
      file: the name of the file that the rows are from, where there is one.
      start_in_file: the number of the first row in that file.
      origin: (rows,), the number of each row in that file, where rows between them are left out.
    """

    columns: Mapping[str, Any]
    rows: int
    start: int
    file: str = ""
    start_in_file: int = 0
    origin: Any = None

    @property
    def numbers(self) -> Any:
        """The number of each row in its file, or in the source where there is none."""
        first = self.start_in_file if self.file else self.start
        return range(first, first + self.rows) if self.origin is None else self.origin

    def cut(self, first: int, stop: int) -> Block:
        """Consecutive rows of these."""
        if (first, stop) == (0, self.rows):
            return self
        if isinstance(self.columns, MatrixColumns):
            columns = self.columns.cut(slice(first, stop))
        else:
            columns = {name: column[first:stop] for name, column in self.columns.items()}
        origin = None if self.origin is None else self.origin[first:stop]
        start, start_in_file = self.start + first, self.start_in_file + first
        return Block(columns, stop - first, start, self.file, start_in_file, origin)

    def place(self, row: int) -> str:
        """A row's file and number in words, for messages; numbers count from one."""
        place = f"row {self.numbers[row] + 1:,}"
        if self.file:
            place = f"{place} of {self.file}"
        if self.file and self.origin is None and self.start != self.start_in_file:
            return f"row {self.start + row + 1:,} ({place})"
        return place


class Source(abc.ABC):
    """Rows of named columns, read block by block as often as asked.

    A loader of one's own is a subclass with ``kinds`` and ``blocks``:

    >>> import numpy as np
    >>> class Loader(Source):
    ...     kinds = {"a": Kind.NUMBER, "y": Kind.NUMBER}
    ...     def blocks(self, names, rows):
    ...         for seed in range(3):
    ...             rng = np.random.default_rng(seed)
    ...             yield {"a": rng.normal(size=100), "y": rng.normal(size=100)}
    >>> sum(block.rows for block in located(Loader(), ["a", "y"], rows=64))
    300
    """

    kinds: Mapping[str, Kind]
    """The columns in their order, with their kinds."""

    rows: int | None = None
    """How many rows there are, where that is known without reading them."""

    form: str = ""
    """The form of the data, in a word or two; by default the name of the class."""

    files: Sequence[pathlib.Path] = ()
    """The files that the source is read from, if any."""

    can_restart: bool = True
    """Whether the source can be read more than once."""

    is_whole: bool = True
    """Whether these are all rows of the data, and no share of them."""

    entries: int = 0
    """How many entries a sparse column has in all rows."""

    looks: int = 0
    """How many times the whole source was read before a fit to learn what it holds."""

    description: str = ""
    """The selection of rows in words, with a space before it; empty for all rows."""

    opened: Stamps | None = None
    """The stamps of the files before the first look into them, where that is known."""

    _starts: Sequence[int] = (0,)
    """The numbers of the rows at which reading can begin, in their order."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.form in ("", cls.__mro__[1].__name__):  # no form of its own, nor of another class
            cls.form = cls.__name__

    @abc.abstractmethod
    def blocks(self, names: Sequence[str], rows: int) -> Iterator[Block | Mapping[str, Any]]:
        """Blocks of these columns from the first row on, at most ``rows`` rows at a time.

        The order of the rows is the same each time. A block may be a dictionary of arrays, and may
        be larger: it is cut then, but holds its memory. A source that can begin at further rows
        takes one of them, as :meth:`start_before` returns it, as a third argument.
        """

    def offering(self, names: Sequence[str], text: Sequence[str] = ()) -> Source:
        """The source with further columns where it has them without listing them: numbers of a
        sparse source that are zero in all of its rows, or too many to be listed; and with other
        columns as the ``text`` in the file, where the file is text: whole numbers that are levels
        keep their leading zeros then.
        """
        return self

    def start_before(self, row: int) -> int:
        """The last row, up to and including this one, at which reading can begin."""
        return self._starts[bisect.bisect_right(self._starts, row) - 1]

    def _with(self, **changes: Any) -> Self:
        """A copy with other values of some attributes."""
        new = copy.copy(self)
        vars(new).update(changes)
        return new

    def can_share(self, parts: int) -> bool:
        """Whether each of this many parts, of equally many rows to one, can be read without reading
        all parts before it.
        """
        rows = self.rows
        if rows is None:
            return False
        firsts = [rows * part // parts for part in range(1, parts)]
        return all(self.start_before(first) for first in firsts if first)

    def counted(self, part: int, parts: int, tell: Callable[[bytes], list[bytes]]) -> Source:
        """The source with its rows counted, and places at which reading can begin, where a look at
        the data tells them: each of several processes looks at its own part. ``tell`` returns the
        bytes of every process, in the order of the parts.
        """
        return self

    def skipping(self, condition: Any) -> Source:
        """The source without the parts that are known, before they are read, to have no row that
        meets a condition (:func:`jaxdescent.data.filters.condition_of`).
        """
        return self

    def check_restart(self, why: str) -> None:
        """Refuse a source that can be read only once, for a reason in words."""
        if not self.can_restart:
            raise DataError(f"{why}, and this reader gives its rows only once: pass a table.")

    def row_bytes(self, names: Sequence[str]) -> int:
        """The most bytes that a row of these columns takes in a block."""
        return sum(64 if self.kinds[name] is Kind.TEXT else 8 for name in names)

    def text_bytes(self, name: str) -> int:
        """The most bytes that the different texts of a column take; 0 if nothing is known."""
        return self.file_bytes

    def reading_bytes(self, names: Sequence[str], rows: int) -> int:
        """The bytes that reading holds at its peak beyond the blocks themselves."""
        return 0

    def fingerprint(self) -> str:
        """A digest of the columns, and of the sizes and both ends of the files."""
        digest = hashlib.sha256()
        for name, kind in self.kinds.items():
            digest.update(f"{name}\0{kind}\0".encode())
        for path in self.files:
            with reading(path), path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(f"{path.name}\0{size}\0".encode())
                digest.update(file.read(HEAD_BYTES))
                file.seek(max(size - HEAD_BYTES, 0))
                digest.update(file.read(HEAD_BYTES))
        return f"sha256:{digest.hexdigest()}"

    @property
    def file_bytes(self) -> int:
        """The size of all files."""
        return sum(size for size, *_ in stamps_of(self.files).values())


@contextlib.contextmanager
def unchanged(sources: Iterable[Source], advice: str) -> Iterator[None]:
    """A context in which files must stay as they were when they were opened.

    Raises:
      DataError: for a file that changed, also in place of an error that may come from the change.
    """
    before = [each.opened or stamps_of(each.files) for each in sources]

    def check() -> None:
        changed = [path for stamps in before for path in changed_since(stamps)]
        if changed:
            raise DataError(f"{changed[0]} was changed while it was read: {advice}.")

    try:
        yield
    except Exception:  # of any type: pyarrow raises a KeyError where a column is gone
        check()
        raise
    check()


def located(
    source: Source, names: Sequence[str], rows: int, row: int = 0, *, number: int = 0
) -> Iterator[Block]:
    """A source's blocks of one row and more, cut to ``rows`` rows at most, from ``row`` on: rows
    before it are passed over, or read and dropped where reading cannot begin there. Rows are
    counted from ``number``.
    """
    at = source.start_before(row)
    read: Callable[..., Iterator[Block | Mapping[str, Any]]] = source.blocks
    for given in read(names, rows, at) if at else read(names, rows):
        stop_if_unwanted()
        block = given if isinstance(given, Block) else _of_mapping(given, names, source.kinds)
        block = dataclasses.replace(block, start=number + at)
        for first in range(0, block.rows, rows):
            stop = min(first + rows, block.rows)
            if at + stop > row:
                yield block.cut(max(first, row - at), stop)
        at += block.rows


def blocks_of(
    batches: Iterable[Any], names: Sequence[str], file: str = "", start: int = 0
) -> Iterator[Block]:
    """Arrow's batches as blocks of these columns, which follow each other from a row of a file."""
    for batch in batches:
        columns = {name: batch.column(name) for name in names}
        yield Block(columns, batch.num_rows, 0, file, start)
        start += batch.num_rows


def _of_mapping(given: Mapping[str, Any], names: Sequence[str], kinds: Mapping[str, Kind]) -> Block:
    missing = [name for name in names if name not in given]
    if missing:
        raise DataError(f"a block has no column {missing[0]!r}: it has {list(given)}.")
    columns = {name: _column(name, given[name], kinds[name]) for name in names}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"the columns of a block must be of one length, got {lengths}.")
    return Block(columns, next(iter(lengths.values()), 0), 0)


def _column(name: str, given: Any, kind: Kind) -> Any:
    """A loader's column: Arrow arrays and sparse numbers as they are, others as NumPy arrays."""
    if kind is Kind.SPARSE or hasattr(given, "null_count"):
        return given
    array = np.asarray(given)
    if array.ndim != 1:
        raise DataError(f"a block's column {name!r} must have one dimension, got {array.shape}.")
    if kind.is_number and array.dtype.kind not in "biuf":
        raise DataError(
            f"a block's column {name!r} must hold real numbers, as the source says of it, got "
            f"dtype {array.dtype}."
        )
    return array
