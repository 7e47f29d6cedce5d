"""How columns of a source become features: numbers, levels by code, sparse columns, hashed text."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from jaxdescent.designs.row_chunk import Chunk
from jaxdescent.inputs.numbers import check_count
from jaxdescent.rows.errors import DataError, check_columns, listed
from jaxdescent.rows.hashing import MOST_BITS, buckets_of, places_of_numbers
from jaxdescent.rows.source import Block, Kind, Source

RATES = {"arrays": 8e9, ".npy": 3e9, "Parquet": 1e9, "CSV": 5e7}
"""About how many bytes of numbers are read and decoded in a second, by form, where the files are in
the system's cache. They are not measured: a plan would depend on who else reads."""

OTHER_RATE = 5e8
"""About how many bytes are read in a second from tables and loaders of any kind."""

HASHED_RATE = 4e7
"""About how many words or values are hashed in a second."""

NONE = -1
"""The code of a row that has none of the levels."""

LOOK_ROWS = 1024
"""The number of first rows from which the entries of a row are estimated."""

ADVICE = "leave out such rows, or fill them, before they are streamed"


class Decoder(Protocol):
    """What makes features of the blocks of a source."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the features."""
        ...

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        ...

    @property
    def features(self) -> int:
        """How many features a row has."""
        ...

    @property
    def row_bytes(self) -> int:
        """About how many bytes a row takes."""
        ...

    @property
    def entries(self) -> int:
        """About how many features of a row are not zero."""
        ...

    def chunk(self, block: Block, source: Source, first: int) -> Chunk:
        """The rows of a block of a source, the first row of which has the number ``first`` in what
        ``source.place`` counts.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Decoding:
    """Columns as features in this order: numbers, levels of one column after another, those of
    sparse columns likewise, then the hashed ones.
    """

    numbers: tuple[str, ...]  # columns that are features themselves
    levels: Mapping[str, int]  # for each categorical column of codes, how many levels it has
    dtype: np.dtype[Any]  # the dtype of the numbers
    # For each sparse column, how many features it has: its indices are their numbers.
    listed: Mapping[str, int] = dataclasses.field(default_factory=dict)
    # Columns of which each value is hashed to one of ``2**bits`` features.
    hashed: tuple[str, ...] = ()
    words: tuple[str, ...] = ()  # columns of text of which each word is hashed to one of these
    bits: int = 0  # ``hashed`` and ``words`` share ``2**bits`` features
    row_entries: int = 0  # about how many entries of listed and hashed features a row has

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return [*self.numbers, *self.levels, *self.sparse]

    @property
    def sparse(self) -> list[str]:
        """The columns of which a row has any number of entries."""
        return [*self.listed, *self.hashed, *self.words]

    @property
    def features(self) -> int:
        """How many features there are."""
        hashed = 1 << self.bits if self.hashed or self.words else 0
        return len(self.numbers) + sum((*self.levels.values(), *self.listed.values())) + hashed

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each feature."""
        levels = (f"{name}={i}" for name, k in self.levels.items() for i in range(k))
        sparse = (f"{name}{i}" for name, k in self.listed.items() for i in range(k))
        named = [*self.numbers, *levels, *sparse]
        return *named, *(f"hash bucket {i}" for i in range(self.features - len(named)))

    @property
    def row_bytes(self) -> int:
        """About how many bytes a row takes: numbers, and an index and a value of each entry."""
        size = self.dtype.itemsize
        return len(self.numbers) * size + (len(self.levels) + self.row_entries) * (4 + size)

    @property
    def entries(self) -> int:
        """About how many features of a row are not zero."""
        return len(self.numbers) + len(self.levels) + self.row_entries

    def with_all_columns(self, kinds: Mapping[str, Kind], exclude: Iterable[str]) -> Decoding:
        """This decoding with all other columns but those of ``exclude`` as numbers."""
        unknown = [name for name in exclude if name not in kinds]
        if unknown:
            raise DataError(f"exclude names {unknown[0]!r}, which is no column of the data.")
        others = {*exclude, *self.columns}
        return dataclasses.replace(self, numbers=tuple(n for n in kinds if n not in others))

    def with_entries_of(self, source: Source) -> Decoding:
        """This decoding with as many entries of a row as the first rows have."""
        if not self.sparse:
            return self
        head = next(source.slice(0, LOOK_ROWS).blocks(self.columns, LOOK_ROWS), None)
        if head is None:
            raise DataError("the data have no rows.")
        entries = sum(S.nnz for S in self.chunk(head, source, 0).sparse)
        entries -= bool(self.levels) * head.rows * len(self.levels)
        return dataclasses.replace(self, row_entries=max(-(-entries // head.rows), 0))

    def check_options(self) -> None:
        """Refuse numbers of levels, features or bits that cannot be, and other dtypes."""
        if self.dtype.name not in ("float32", "float64"):
            raise TypeError(f"Streamed.dtype must be float32 or float64, got {self.dtype}.")
        for option, counts in (("categorical", self.levels), ("sparse", self.listed)):
            for name, count in counts.items():
                check_count(f"Streamed.{option}[{name!r}]", count)
        check_count("Streamed.bits", self.bits)
        if self.bits > MOST_BITS:
            raise ValueError(
                f"Streamed.bits must be {MOST_BITS} at most, got {self.bits}: vectors have a "
                "number for each feature. jd.Hashed holds rows of up to 2**64 columns in memory."
            )

    def check(self, kinds: Mapping[str, Kind]) -> None:
        """Raise a :class:`DataError` for columns that are not there, or cannot be decoded so."""
        counts = collections.Counter(self.columns)
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            raise DataError(f"{twice[0]!r} is named twice among the features.")
        if not counts:
            raise DataError("no column is left as a feature.")
        check_columns(self.columns, kinds)
        for names, wanted, what in (
            (self.listed, {Kind.SPARSE}, "columns of sparse= must hold sparse numbers"),
            (
                self.hashed,
                {Kind.WHOLE, Kind.TEXT, Kind.SPARSE},
                "columns of hashed= must hold text, whole numbers or sparse numbers",
            ),
            (self.words, {Kind.TEXT}, "columns of words= must hold text"),
            (
                self.numbers,
                {Kind.NUMBER, Kind.WHOLE},
                "features must be numbers: leave it out, or replace it by codes from 0 on and say "
                "categorical={name: levels}",
            ),
            (
                self.levels,
                {Kind.WHOLE},
                "the codes of a categorical column must be whole numbers: "
                "np.unique(values, return_inverse=True) gives levels and codes",
            ),
        ):
            wrong = [name for name in names if kinds[name] not in wanted]
            if wrong:
                verb = "hold" if len(wrong) > 1 else "holds"
                raise DataError(f"{listed(map(repr, wrong))} {verb} {kinds[wrong[0]]}, and {what}.")

    def chunk(self, block: Block, source: Source, first: int) -> Chunk:
        def place(row: int) -> str:
            return source.place(first + row)

        def refuse() -> None:
            for name in self.numbers:
                check_finite(block, name, place)
            for name in self.sparse:
                if hasattr(block.columns[name], "tocsr"):
                    X = block.columns[name].astype(self.dtype)
                    at = int(np.argmin(np.append(np.isfinite(X.data), False)))
                    if at < X.nnz:
                        what = "NaN" if np.isnan(X.data[at]) else "infinite"
                        row = int(np.searchsorted(X.indptr, at, "right")) - 1
                        raise DataError(
                            f"{name!r} has an entry that is {what} in {place(row)}: correct the "
                            "data."
                        )

        with np.errstate(over="ignore"):
            numbers = block.numbers(self.numbers, self.dtype)
        for j, name in enumerate(self.numbers):
            if source.kinds[name] is Kind.WHOLE:
                refuse_rounded(block, name, numbers[:, j], place)
        sparse = list(self._sparse(block, place))
        return Chunk(block.start, numbers, sparse, self.features, refuse)

    def _sparse(self, block: Block, place: Any) -> Iterator[Any]:
        """Sparse matrices of the features behind the numbers: the levels, and of each column."""
        if not self.levels and not self.sparse:
            return  # dense rows need no SciPy
        from scipy.sparse import csr_array

        width, rows, first = self.features - len(self.numbers), block.rows, 0

        def matrix(starts: np.ndarray, index: np.ndarray, values: Any = None) -> Any:
            kind = np.int32 if max(index.size, width) < 2**31 else np.int64
            values = np.ones(index.size, self.dtype) if values is None else values
            with np.errstate(over="ignore"):  # values that become infinite are refused later
                own = values.astype(self.dtype, copy=False)
            return csr_array((own, index.astype(kind), starts.astype(kind)), (rows, width))

        if self.levels:
            index = np.empty((rows, len(self.levels)), np.int64)
            for own, (name, size) in zip(index.T, self.levels.items(), strict=True):
                codes = _codes(block, name, size, place)
                own[:] = np.where(codes < 0, NONE, codes + first)
                first += size
            there = index >= 0
            yield matrix(np.concatenate([[0], np.cumsum(there.sum(axis=1))]), index[there])
        for name, size in self.listed.items():
            X = block.columns[name]
            if X.nnz and X.indices.max() >= size:
                at = int(np.argmax(X.indices >= size))
                row = int(np.searchsorted(X.indptr, at, "right")) - 1
                raise DataError(
                    f"{name!r} has the index {X.indices[at]} in {place(row)}: those of {size:,} "
                    f"features are from 0 to {size - 1:,}."
                )
            yield matrix(X.indptr, X.indices.astype(np.int64) + first, X.data)
            first += size
        for name in (*self.hashed, *self.words):
            starts, index, values = self._hashed(block, name, place)
            yield matrix(starts, index.astype(np.int64) + first, values)

    def _hashed(self, block: Block, name: str, place: Any) -> tuple[Any, Any, Any]:
        """Where the entries of each row begin, their hashed features, and their values."""
        column, values = block.column(name), None
        if hasattr(column, "tocsr"):
            starts, index, values = column.indptr, column.indices, column.data
            return starts, places_of_numbers(index, column=name, bits=self.bits), values
        if isinstance(column, np.ndarray):
            numbers = column
        else:
            refuse_missing(column.is_null().to_numpy(), name, place)
            if column.dtype.is_integer() or str(column.dtype) == "Boolean":
                numbers = column.to_numpy()
            else:
                is_text = name in self.words
                starts, index = buckets_of(column, name, self.bits, are_words=is_text)
                return starts, index, None
        starts = np.arange(block.rows + 1)
        return starts, places_of_numbers(numbers, column=name, bits=self.bits), None


def _codes(block: Block, name: str, size: int, place: Any) -> np.ndarray:
    """The codes of a categorical column, -1 where a row has no level."""
    column = block.column(name)
    if not isinstance(column, np.ndarray):
        refuse_missing(column.is_null().to_numpy(), name, place)
        column = column.to_numpy()
    is_code = (column >= NONE) & (column < size)  # NaN is none
    if column.dtype.kind == "f":  # whole numbers of text may be followed by others
        is_code &= column == np.floor(column)
    if not is_code.all():
        row = int(np.argmin(is_code))
        raise DataError(
            f"{name!r} is {column[row]} in {place(row)}: codes of {size:,} levels are from 0 to "
            f"{size - 1:,}, or -1 for none of them."
        )
    return column.astype(np.int64)


def refuse_missing(missing: np.ndarray, name: str, place: Any) -> None:
    """Raise if a value of a column is missing, with its row and what to do."""
    if missing.any():
        raise DataError(f"{name!r} has no value in {place(int(np.argmax(missing)))}: {ADVICE}.")


def check_finite(block: Block, name: str, place: Any) -> None:
    """Raise if one of a block's numbers is missing, NaN or infinite."""
    column = block.column(name)
    if not isinstance(column, np.ndarray):
        refuse_missing(column.is_null().to_numpy(), name, place)
    values = block.numbers([name], np.float64)[:, 0]
    wrong = ~np.isfinite(values)
    if not wrong.any():
        with np.errstate(over="ignore"):
            wrong = ~np.isfinite(values.astype(np.float32))  # beyond the dtype of the products
    if wrong.any():
        row = int(np.argmax(wrong))
        what = "NaN" if np.isnan(values[row]) else "infinite"
        raise DataError(f"{name!r} is {what} in {place(row)}: correct the data.")


def refuse_rounded(block: Block, name: str, made: np.ndarray, place: Any) -> None:
    """Refuse the first whole number that the dtype rounds: ids and times would become alike."""
    most = 2 ** (np.finfo(made.dtype).nmant + 1) - 1
    if not made.size or not (np.max(made) > most or np.min(made) < -most):
        return
    column = block.column(name)
    values = column if isinstance(column, np.ndarray) else column.fill_null(0).to_numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        back = made.astype(values.dtype)
        # The largest whole numbers of 64 bits are beyond those that floats can be cast to.
        wrong = (back != values) | (np.abs(made) >= 2.0**63)
        if values.dtype.kind == "f":  # of text, which may be rounded already
            wrong |= np.abs(values) >= 2.0**53
    wrong &= np.isfinite(made)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"{name!r} is {int(values[row])} in {place(row)}, and {made.dtype} would round it: "
            "subtract a whole number near all of its values, stream it as levels or hashed, or "
            "stream float64 with JAX's 64-bit mode."
        )


def reading_seconds(decoding: Decoder, form: str, rows: int) -> float:
    """About how long a pass over some rows takes."""
    hashed = getattr(decoding, "row_entries", 0)
    return rows * (decoding.row_bytes / RATES.get(form, OTHER_RATE) + hashed / HASHED_RATE)
