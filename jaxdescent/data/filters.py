"""Conditions on rows: ``month <= 6 and (carrier = AA or delay is missing)``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from jaxdescent.data.arrow import pa
from jaxdescent.data.arrow_types import array_of
from jaxdescent.data.conditions import MISSING, THERE, Comparison, Condition, number_of
from jaxdescent.data.decoding import refuse_rounded
from jaxdescent.data.entries import SparseColumn
from jaxdescent.data.protocol import Block, Kind, Source, located
from jaxdescent.data.read_ahead import read_ahead
from jaxdescent.data.shares import Share
from jaxdescent.data.wrapped import WrappedSource
from jaxdescent.rows.errors import DataError, check_columns

TOKEN = re.compile(
    r"\s*(?:(?P<quoted>'[^']*'|\"[^\"]*\")|(?P<column>`[^`]+`)|(?P<operator><=|>=|==|!=|=|<|>)"
    r"|(?P<bracket>[()])|(?P<word>[^\s<>=!'\"`()]+))"
)

COUNTED_ROWS = 1 << 16
"""Rows that are counted at a time: reading can begin at the first one that meets a condition."""

MOST_DEEP = 100
"""The deepest nesting of parentheses."""

GRAMMAR = (
    "expected is COLUMN OP VALUE or COLUMN is [not] missing, joined by and, or and parentheses, "
    "such as month <= 6 and (carrier != 'AA' or delay is missing)"
)


def condition_of(text: str, kinds: Mapping[str, Kind]) -> Condition:
    """The condition that a text states about columns of these kinds; ``and`` binds before ``or``.

    Columns with spaces, operators or parentheses in their names stand between backquotes; text may
    stand between quotes, and must where it has spaces or parentheses. Numeric columns are compared
    as numbers, true and false as 1 and 0; dates and times as such, written as 2013-06-30,
    2013-06-30T12:30 or 12:30; all others by their text.

    Raises:
      DataError: where the text cannot be read, a column is not there, or a value is of another
      kind.

    >>> condition_of("month <= 6", {"month": Kind.WHOLE}).parts
    (Comparison(column='month', op='<=', value=6),)
    >>> condition_of("a = x or a is missing", {"a": Kind.TEXT}).is_all
    False
    """
    return _Parser(text, kinds).parsed()


class _Parser:
    """Reads a text by recursive descent."""

    def __init__(self, text: str, kinds: Mapping[str, Kind]) -> None:
        self._text, self._kinds, self._at = text, kinds, 0
        self._tokens = [*_tokens(text), *[("end", "")] * 3]

    def parsed(self) -> Condition:
        """The condition that the whole text states."""
        found = self._joined("or", 0)
        if not self._takes("end", ""):
            raise self._unreadable("; text with spaces stands between quotes")
        return found

    def _joined(self, word: str, depth: int) -> Condition:
        parts: list[Comparison | Condition] = []
        while not parts or self._takes("word", word, word.upper()):
            parts.append(self._joined("and", depth) if word == "or" else self._single(depth))
        first, *others = parts
        if isinstance(first, Condition) and not others:
            return first
        return Condition(tuple(parts), word == "and")

    def _single(self, depth: int) -> Comparison | Condition:
        if self._takes("bracket", "("):
            if depth >= MOST_DEEP:
                raise DataError(f"--where has more than {MOST_DEEP} parentheses in each other.")
            found = self._joined("or", depth + 1)
            if not self._takes("bracket", ")"):
                raise self._unreadable()
            return found
        (kind, column), (then, op), (form, value) = self._tokens[self._at : self._at + 3]
        if kind not in ("word", "column"):
            raise self._unreadable()
        if then == "word":
            self._at += 1
            return self._presence(column)
        if then != "operator" or form not in ("word", "quoted"):
            raise self._unreadable()
        check_columns([column], self._kinds)
        self._at += 3
        op = "=" if op == "==" else op
        return Comparison(column, op, _value(column, value, form, self._kinds[column]))

    def _presence(self, column: str) -> Comparison:
        tokens = self._tokens[self._at : self._at + 3]
        ahead = [text.lower() if kind == "word" else "" for kind, text in tokens]
        op = THERE if ahead == THERE.split() else MISSING
        if ahead[: len(op.split())] != op.split():
            raise self._unreadable()
        self._at += len(op.split())
        check_columns([column], self._kinds)
        if self._kinds[column] is Kind.SPARSE:
            raise DataError(f"--where: {column!r} holds sparse numbers: none is named.")
        return Comparison(column, op)

    def _takes(self, kind: str, *texts: str) -> bool:
        is_there = self._tokens[self._at] in [(kind, text) for text in texts]
        self._at += is_there
        return is_there

    def _unreadable(self, advice: str = "") -> DataError:
        kind, rest = self._tokens[self._at]
        where = f" at {rest!r}" if kind != "end" and self._at else ""
        return DataError(f"--where {self._text!r} cannot be read{where}: {GRAMMAR}{advice}.")


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while text[at:].strip():
        found = TOKEN.match(text, at)
        if found is None:
            raise DataError(f"--where {text!r} cannot be read at {text[at:].strip()!r}: {GRAMMAR}.")
        at = found.end()
        kind = str(found.lastgroup)
        token = found[kind]
        yield kind, token if kind in ("operator", "word", "bracket") else token[1:-1]


def _value(column: str, text: str, token: str, kind: Kind) -> float | Decimal | str:
    if kind is Kind.TEXT:
        return text
    if not kind.is_number:
        raise DataError(f"--where: {column!r} holds {kind}, which cannot be compared.")
    lowered = text.lower()
    if token == "word" and lowered in ("true", "false"):
        return int(lowered == "true")
    number = number_of(text)
    if token != "word" or number is None:
        raise DataError(f"--where: {column!r} is numeric, and cannot be compared with {text!r}.")
    return number


class Filtered(WrappedSource):
    """The rows of a source that meet a condition; their numbers in the files stay known.

    Parts of the source without such rows are passed over where that is known without reading: row
    groups of Parquet files by their statistics.
    """

    def __init__(self, base: Source, text: str) -> None:
        self._text = text
        self._condition = condition_of(text, base.kinds)
        self._counted: int | None = None
        # The columns of whole numbers that are compared with one beyond what float64 counts.
        self._long = [
            column
            for column, _, value in self._condition.comparisons
            if base.kinds[column] is Kind.WHOLE and not isinstance(value, str)
            if abs(value) >= 2**53
        ]
        # For each met row at which reading can begin, the row of the base at which its block does.
        self._places = [0]
        super().__init__(base)

    def _wrap(self, base: Source) -> None:
        super()._wrap(base)
        self.rows, self.looks = self._counted, base.looks + (self._counted is not None)
        self.description = f" where {self._text}"

    def counted(self, part: int, parts: int, tell: Callable[[bytes], list[bytes]]) -> Source:
        """The source with its rows counted: it reads the condition's columns of this part."""
        base = self.base.counted(part, parts, tell)
        if base.rows is None:
            return self
        own = Share(base, base.rows * part // parts, base.rows * (part + 1) // parts)
        met, first, place = 0, [], []
        names = self._condition.columns
        for block in read_ahead(lambda: located(own, names, COUNTED_ROWS, number=own.first)):
            count = int(np.count_nonzero(self._met(block)))
            if count:
                first.append(met)
                place.append(block.start)
            met += count
        rows, firsts, places = 0, [], []
        for text in tell(json.dumps([met, first, place]).encode()):
            met, first, place = json.loads(text)
            firsts += [rows + each for each in first]
            places += place
            rows += met
        if not rows:
            raise self._nothing_left()
        return self._with(_counted=rows, _places=places, _starts=firsts).around(base)

    def fingerprint(self) -> str:
        return f"{self.base.fingerprint()} where {self._text}"

    def _read(self, names: Sequence[str]) -> list[str]:
        return list(dict.fromkeys([*names, *self._condition.columns]))

    def row_bytes(self, names: Sequence[str]) -> int:
        return 2 * super().row_bytes(names)  # before and after

    def blocks(self, names: Sequence[str], rows: int, begin: int = 0) -> Iterator[Block]:
        base, is_empty, place = self.base, True, self._places[self._starts.index(begin)]
        if self._counted is None:  # parts that are passed over would have no place in the count
            base = base.skipping(self._condition)
        for block in located(base, self._read(names), rows, place):
            met = self._met(block)
            if not met.any():
                continue
            is_empty = False
            yield rows_of(block, names, met)
        if is_empty:
            raise self._nothing_left()

    def _met(self, block: Block) -> np.ndarray:
        """Which rows of a block meet the condition."""
        for name in self._long:
            refuse_rounded(block, name, f"--where {self._text!r}: {name!r} is read")
        return self._condition.is_met(block.columns)

    def _nothing_left(self) -> DataError:
        return DataError(f"no row meets --where {self._text!r}: nothing is left.")


def rows_of(block: Block, names: Sequence[str], met: np.ndarray) -> Block:
    """These columns of the rows that meet a condition; the rows' numbers stay known."""
    columns = {name: block.columns[name] for name in names}
    where, numbers = np.flatnonzero(met), block.numbers
    origin = numbers.start + where if isinstance(numbers, range) else numbers[where]
    if where.size < block.rows:
        columns = {name: _kept(column, met) for name, column in columns.items()}
    return Block(columns, where.size, block.start, block.file, block.start_in_file, origin)


def _kept(column: Any, met: np.ndarray) -> Any:
    if isinstance(column, (np.ndarray, SparseColumn)):
        return column[np.flatnonzero(met)]
    return array_of(column).filter(pa.array(met))  # pyarrow filters no views of text
