"""Conditions on rows: ``month <= 6 and (carrier = AA or delay is missing)``."""

from __future__ import annotations

import functools
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdescent.data.decoding import values_of
from jaxdescent.data.errors import DataError, check_columns, need_arrow, one_line
from jaxdescent.data.protocol import Block, Kind, Source, Wrapped, located
from jaxdescent.data.times import TimePoint, counts_of, holds_times, time_of, units_of

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}

TOKEN = re.compile(
    r"\s*(?:(?P<quoted>'[^']*'|\"[^\"]*\")|(?P<column>`[^`]+`)|(?P<operator><=|>=|==|!=|=|<|>)"
    r"|(?P<bracket>[()])|(?P<word>[^\s<>=!'\"`()]+))"
)

MISSING, THERE = "is missing", "is not missing"

MOST_DEEP = 100
"""Parentheses within each other."""

GRAMMAR = (
    "expected is COLUMN OP VALUE or COLUMN is [not] missing, joined by and, or and parentheses, "
    "such as month <= 6 and (carrier != 'AA' or delay is missing)"
)


class Condition(NamedTuple):
    """What a row has to meet: ``column op value``; a row without a value does not, but where
    ``op`` is "is missing".
    """

    column: str
    op: str
    value: float | str = ""

    @property
    def columns(self) -> list[str]:
        """Those that it is about."""
        return [self.column]

    def is_met(self, columns: Mapping[str, Any]) -> np.ndarray:
        """Which rows of a block's columns meet it."""
        column = columns[self.column]
        if self.op in (MISSING, THERE):
            missing = _missing(column)
            return missing if self.op == MISSING else ~missing
        if isinstance(self.value, str):
            met, missing = self._compared(column, self.value)
        else:
            numbers, missing = _numbers(column)
            with np.errstate(invalid="ignore", over="ignore"):
                met = OPERATORS[self.op](numbers, self.value)
            if np.issubdtype(numbers.dtype, np.floating):
                met &= ~np.isnan(numbers)  # missing, which is other than nothing
        return met if missing is None else met & ~missing

    def _compared(self, column: Any, value: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Times as times, texts as texts; but a text that says a time, with one, as times."""
        pa, compare = need_arrow(), OPERATORS[self.op]
        column = pa.array(column) if isinstance(column, np.ndarray) else column
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if holds_times(column.type):
            own, missing = _without_missing(column)
            op, limit = self._in_units(column.type)
            return OPERATORS[op](counts_of(own), limit), missing
        texts, missing = _texts(column)
        point = time_of(value)
        each = {text: _compare(text, value, point, compare) for text in set(texts)}
        return np.fromiter((each[text] for text in texts), bool, len(texts)), missing

    def _in_units(self, of_type: Any) -> tuple[str, int]:
        """The operator and the value for whole numbers of a type's unit."""
        value, op = units_of(str(self.value), of_type, self.column), self.op
        if value.denominator == 1:
            return op, int(value)
        if op in ("<", "<="):
            return "<=", math.floor(value)
        if op in (">", ">="):
            return ">=", math.ceil(value)
        return ("<" if op in ("=", "==") else ">="), -(2**63)  # none, or all

    def chosen(self, of: Callable[[Condition], set[int]]) -> set[int]:
        """The parts that can hold rows that meet it, which ``of`` knows."""
        return of(self)

    def expression(self, of_type: Any) -> Any:
        """It as an expression of pyarrow's datasets, about a column of this type, which is false
        for a part of a file only if no row of it meets the condition; None where there is none.

        Floating-point numbers are compared in their own precision, as :meth:`is_met` does.
        """
        import pyarrow as pa
        from pyarrow import dataset

        types, field = pa.types, dataset.field(self.column)
        if self.op == THERE:
            return field.is_valid()
        if self.op == MISSING:
            return None if types.is_floating(of_type) else field.is_null()  # NaN is missing too
        op, value = self.op, self.value
        if holds_times(of_type):
            op, count = self._in_units(of_type)
            short = types.is_date32(of_type) or types.is_time32(of_type)
            value = pa.scalar(count, pa.int32() if short else pa.int64()).cast(of_type)
        elif isinstance(value, str) and time_of(value) is not None:
            return None  # texts may be compared as times
        elif types.is_floating(of_type):
            value = pa.scalar(float(value)).cast(of_type)
        return OPERATORS[op](field, value)


class Joined(NamedTuple):
    """Conditions of which all have to be met, or any."""

    parts: tuple[Condition | Joined, ...]
    is_all: bool

    @property
    def columns(self) -> list[str]:
        """Those that they are about."""
        return list(dict.fromkeys(name for part in self.parts for name in part.columns))

    def is_met(self, columns: Mapping[str, Any]) -> np.ndarray:
        """Which rows of a block's columns meet them."""
        join = np.logical_and if self.is_all else np.logical_or
        return functools.reduce(join, (part.is_met(columns) for part in self.parts))

    def chosen(self, of: Callable[[Condition], set[int]]) -> set[int]:
        """The parts that can hold rows that meet them, where ``of`` knows those of a condition."""
        join = set.intersection if self.is_all else set.union
        return join(*(part.chosen(of) for part in self.parts))


def condition_of(text: str, kinds: Mapping[str, Kind]) -> Condition | Joined:
    """The conditions that a text states about columns of these kinds; ``and`` binds before ``or``.

    Columns with spaces, operators or parentheses in their names stand between backquotes; text may
    stand between quotes, and must where it has spaces or parentheses. Numeric columns are compared
    as numbers, true and false as 1 and 0; dates and times as such, written as 2013-06-30,
    2013-06-30T12:30 or 12:30; all others by their text.

    Raises:
      DataError: where it cannot be read, a column is not there, or a value is of another kind.

    >>> condition_of("month <= 6", {"month": Kind.WHOLE})
    Condition(column='month', op='<=', value=6)
    >>> condition_of("a = x or a is missing", {"a": Kind.TEXT}).is_all
    False
    """
    return _Parser(text, kinds).parsed()


class _Parser:
    """Reads a text by recursive descent."""

    def __init__(self, text: str, kinds: Mapping[str, Kind]) -> None:
        self._text, self._kinds = text, kinds
        self._tokens, self._at = list(_tokens(text)), 0

    def parsed(self) -> Condition | Joined:
        """All of it."""
        found = self._joined("or", 0)
        if self._at < len(self._tokens):
            raise self._unreadable("; text with spaces stands between quotes")
        return found

    def _joined(self, word: str, depth: int) -> Condition | Joined:
        parts: list[Condition | Joined] = []
        while not parts or self._takes(word):
            parts.append(self._joined("and", depth) if word == "or" else self._single(depth))
        return parts[0] if len(parts) == 1 else Joined(tuple(parts), word == "and")

    def _single(self, depth: int) -> Condition | Joined:
        if self._kinds_ahead(1) == ["bracket"] and self._tokens[self._at][1] == "(":
            if depth >= MOST_DEEP:
                raise DataError(f"--where has more than {MOST_DEEP} parentheses in each other.")
            self._at += 1
            found = self._joined("or", depth + 1)
            if self._tokens[self._at : self._at + 1] != [("bracket", ")")]:
                raise self._unreadable()
            self._at += 1
            return found
        first, *others = self._kinds_ahead(3) or [""]
        if first not in ("word", "column"):
            raise self._unreadable()
        column = self._tokens[self._at][1]
        if others[:1] == ["word"]:
            self._at += 1
            for op, words in ((THERE, ["is", "not", "missing"]), (MISSING, ["is", "missing"])):
                ahead = self._tokens[self._at : self._at + len(words)]
                if [(k, t.lower()) for k, t in ahead] == [("word", word) for word in words]:
                    self._at += len(words)
                    check_columns([column], self._kinds)
                    if self._kinds[column] is Kind.SPARSE:
                        raise DataError(f"--where: {column!r} holds sparse numbers: none is named.")
                    return Condition(column, op)
            raise self._unreadable()
        if others not in (["operator", "word"], ["operator", "quoted"]):
            raise self._unreadable()
        check_columns([column], self._kinds)
        (_, op), (kind, value) = self._tokens[self._at + 1 : self._at + 3]
        self._at += 3
        return Condition(column, op, _value(column, value, kind, self._kinds[column]))

    def _takes(self, word: str) -> bool:
        if self._tokens[self._at : self._at + 1] in ([("word", word)], [("word", word.upper())]):
            self._at += 1
            return True
        return False

    def _kinds_ahead(self, count: int) -> list[str]:
        return [kind for kind, _ in self._tokens[self._at : self._at + count]]

    def _unreadable(self, advice: str = "") -> DataError:
        rest = self._tokens[self._at : self._at + 1]
        where = f" at {rest[0][1]!r}" if rest and self._at else ""
        return DataError(f"--where {self._text!r} cannot be read{where}: {GRAMMAR}{advice}.")


def _compare(
    text: str, value: str, point: TimePoint | None, compare: Callable[[Any, Any], Any]
) -> bool:
    own = None if point is None else time_of(text)
    if own is None or point is None or own.is_time != point.is_time:
        return compare(text, value)  # by code points, as lists are compared
    return compare(own.utc, point.utc)


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


def _value(column: str, text: str, token: str, kind: Kind) -> float | str:
    if kind is Kind.TEXT:
        return text
    if not kind.is_number:
        raise DataError(f"--where: {column!r} holds {kind}, which cannot be compared.")
    lowered = text.lower()
    if token == "word" and lowered in ("true", "false"):
        return int(lowered == "true")
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if token != "word" or np.isnan(number):
        raise DataError(f"--where: {column!r} is numeric, and cannot be compared with {text!r}.")
    return number


def _numbers(column: Any) -> tuple[np.ndarray, np.ndarray | None]:
    if not isinstance(column, np.ndarray):
        pa = need_arrow()
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_string(column.type):  # of CSV, read as text to be levels
            try:
                column = column.cast(pa.float64())
            except pa.ArrowInvalid as error:
                raise DataError(f"--where: {one_line(error)}.") from error
    numbers, missing = values_of(column)
    return (numbers.astype(np.uint8) if numbers.dtype == np.bool_ else numbers), missing


def _texts(column: Any) -> tuple[list[str], np.ndarray | None]:
    column, missing = _without_missing(column.cast(need_arrow().string()))
    return column.to_pylist(), missing


def _without_missing(column: Any) -> tuple[Any, np.ndarray | None]:
    """An Arrow column with something in place of what is missing, and where that is."""
    if not column.null_count:
        return column, None
    pa = need_arrow()
    missing = column.is_null().to_numpy(zero_copy_only=False)
    nothing: Any = "" if pa.types.is_string(column.type) else 0
    if holds_times(column.type):
        is_short = pa.types.is_date32(column.type) or pa.types.is_time32(column.type)
        nothing = pa.scalar(0, pa.int32() if is_short else pa.int64()).cast(column.type)
    return column.fill_null(nothing), missing


def _missing(column: Any) -> np.ndarray:
    """Which rows have no value; NaN is none."""
    if isinstance(column, np.ndarray):
        is_float = np.issubdtype(column.dtype, np.floating)
        return np.isnan(column) if is_float else np.zeros(len(column), bool)
    if need_arrow().types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)


class Filtered(Wrapped):
    """The rows of a source that meet a condition; their numbers in the files stay known.

    Parts of the source that can be known without reading to hold none are passed over: groups of
    rows of Parquet files by their statistics.
    """

    def __init__(self, base: Source, text: str) -> None:
        self._text = text
        self._condition = condition_of(text, base.kinds)
        super().__init__(base.skipping(self._condition))

    @property
    def rows(self) -> int | None:
        return None

    @property
    def description(self) -> str:
        return f" where {self._text}"

    def fingerprint(self) -> str:
        return f"{self.base.fingerprint()} where {self._text}"

    def _read(self, names: Sequence[str]) -> list[str]:
        return list(dict.fromkeys([*names, *self._condition.columns]))

    def row_bytes(self, names: Sequence[str]) -> int:
        return 2 * self.base.row_bytes(self._read(names))  # before and after

    def reading_bytes(self, names: Sequence[str], rows: int) -> int:
        return self.base.reading_bytes(self._read(names), rows)

    def blocks(self, names: Sequence[str], rows: int) -> Iterator[Block]:
        is_empty = True
        for block in located(self.base, self._read(names), rows):
            met = self._condition.is_met(block.columns)
            if not met.any():
                continue
            is_empty = False
            columns = {name: block.columns[name] for name in names}
            where = np.flatnonzero(met)
            first = block.start_in_file if block.file else block.start
            origin = first + where if block.origin is None else block.origin[where]
            if where.size < block.rows:
                columns = {name: _kept(column, met) for name, column in columns.items()}
            yield Block(columns, where.size, 0, block.file, block.start_in_file, origin)
        if is_empty:
            raise DataError(f"no row meets --where {self._text!r}: nothing is left.")


def _kept(column: Any, met: np.ndarray) -> Any:
    if isinstance(column, np.ndarray):
        return column[met]
    pa = need_arrow()
    if getattr(column, "type", None) == pa.string_view():
        column = column.cast(pa.string())  # pyarrow filters no views
    return column.filter(pa.array(met))
