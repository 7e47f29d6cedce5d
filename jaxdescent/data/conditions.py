"""Conditions on single columns, and what joins them: which rows meet them, and which parts can."""

from __future__ import annotations

import functools
import importlib
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxdescent.data.arrow_types import kind_of, text_of
from jaxdescent.data.decoding import values_of
from jaxdescent.data.errors import DataError, need_arrow, one_line
from jaxdescent.data.times import counts_of, holds_times, time_of, units_of

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}

NAMES = {
    "<=": "less_equal",
    ">=": "greater_equal",
    "==": "equal",
    "!=": "not_equal",
    "=": "equal",
    "<": "less",
    ">": "greater",
}
"""The operators as pyarrow calls them."""

MISSING, THERE = "is missing", "is not missing"


class Condition(NamedTuple):
    """What a row has to meet: ``column op value``; a row without a value does not, but where
    ``op`` is "is missing".
    """

    column: str
    op: str
    value: float | str = ""

    @property
    def leaves(self) -> int:
        """How many conditions it is."""
        return 1

    @property
    def columns(self) -> list[str]:
        """Those that it is about."""
        return [self.column]

    def is_met(self, columns: Mapping[str, Any]) -> np.ndarray:
        """Which rows of a block's columns meet it."""
        columns = columns if isinstance(columns, Columns) else Columns(columns)
        if self.op in (MISSING, THERE):
            missing = _missing(columns[self.column])
            return missing if self.op == MISSING else ~missing
        if isinstance(self.value, str):
            met, there = self._compared(columns, self.value)
        else:
            met, there = self._numbers_compared(columns)
        return met if there is None else met & there

    def _numbers_compared(self, columns: Columns) -> tuple[np.ndarray, np.ndarray | None]:
        numbers, there = columns.numbers(self.column)
        op, value = self.op, self.value
        if np.issubdtype(numbers.dtype, np.floating):
            op, value = self._in_floats(numbers.dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            return OPERATORS[op](numbers, value), there

    def _compared(self, columns: Columns, value: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Times as times, texts as texts; but a text that says a time, with one, as times, and
        numbers of a dictionary as numbers.
        """
        pa = need_arrow()
        of_type = columns.type_of(self.column)
        number = number_of(value)
        if number is not None and kind_of(of_type).is_number and columns.is_encoded(self.column):
            return Condition(self.column, self.op, number)._numbers_compared(columns)
        if holds_times(of_type):
            op, limit = self._in_units(of_type)
            counts, there = columns.counts(self.column)
            return OPERATORS[op](counts, limit), there
        texts, codes, there = columns.texts(self.column)
        if time_of(value) is None:  # by code points, as lists are compared
            compare = getattr(importlib.import_module("pyarrow.compute"), NAMES[self.op])
            met = compare(texts, pa.scalar(value)).to_numpy(zero_copy_only=False)
        else:
            each = (_compare(text, value, OPERATORS[self.op]) for text in texts.to_pylist())
            met = np.fromiter(each, bool, len(texts))
        return (met[codes] if met.size else np.zeros(len(codes), bool)), there

    def _in_floats(self, dtype: np.dtype[Any]) -> tuple[str, Any]:
        """The operator and the value for floating-point numbers, which are exact for whole ones."""
        if not isinstance(self.value, int):
            return self.op, self.value
        low, high = neighbours(self.value, dtype)
        return rounded(self.op, low, high, low == high, -np.inf)

    def _in_units(self, of_type: Any) -> tuple[str, int]:
        """The operator and the value for whole numbers of a type's unit."""
        value = units_of(str(self.value), of_type, self.column)
        low, high = math.floor(value), math.ceil(value)
        return rounded(self.op, low, high, value.denominator == 1, -(2**63))

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
        elif types.is_decimal(of_type):
            return None  # pyarrow's 3 times 0.1 is more than 0.3
        elif types.is_floating(of_type):
            op, value = self._in_floats(np.dtype(of_type.to_pandas_dtype()))
            value = pa.scalar(float(value)).cast(of_type)
        return OPERATORS[op](field, value)

    def may_be_met(self, least: Any, most: Any, of_type: Any) -> bool:
        """Whether a row with a value from ``least`` to ``most`` in a column of this type can meet
        it, where :meth:`expression` is not None.
        """
        import pyarrow as pa

        if self.op in (MISSING, THERE):
            return True
        ends = {self.column: pa.array([least, most], of_type)}
        low, high = self.is_met(ends).tolist()
        if self.op in ("<", "<="):
            return low
        if self.op in (">", ">="):
            return high
        if self.op == "!=":
            # Bounds of text may be cut off.
            return low or high or isinstance(least, str)
        reaches = (self._replace(op=op).is_met(ends).tolist() for op in ("<=", ">="))
        return next(reaches)[0] and next(reaches)[1]


class Columns(dict[str, Any]):
    """A block's columns as conditions compare them: each is looked at once for all of them."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        super().__init__(columns)
        self._looked: dict[Any, Any] = {}

    def _once(self, look: Callable[[str], Any], name: str) -> Any:
        if (look, name) not in self._looked:
            self._looked[look, name] = look(name)
        return self._looked[look, name]

    def is_encoded(self, name: str) -> bool:
        """Whether it comes as a dictionary of Arrow's."""
        column = self[name]
        return not isinstance(column, np.ndarray) and need_arrow().types.is_dictionary(column.type)

    def _decoded(self, name: str) -> Any:
        column = self[name]
        if isinstance(column, np.ndarray):
            return need_arrow().array(column)
        return column.cast(column.type.value_type) if self.is_encoded(name) else column

    def type_of(self, name: str) -> Any:
        """Its type, out of its dictionary."""
        return self._once(self._decoded, name).type

    def numbers(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Its numbers, and which of them are there; None for all."""
        return self._once(self._numbers, name)

    def _numbers(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        numbers, missing = _numbers(self[name])
        if np.issubdtype(numbers.dtype, np.floating) and np.isnan(numbers).any():
            missing = np.isnan(numbers) | (False if missing is None else missing)
        return numbers, None if missing is None else ~missing

    def counts(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Its times in units, and which of them are there."""
        return self._once(self._counts, name)

    def _counts(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        own, missing = _without_missing(self._once(self._decoded, name))
        return counts_of(own), None if missing is None else ~missing

    def texts(self, name: str) -> tuple[Any, np.ndarray, np.ndarray | None]:
        """Its different texts as an array of Arrow, the place of each row's, and which it has."""
        return self._once(self._texts, name)

    def _texts(self, name: str) -> tuple[Any, np.ndarray, np.ndarray | None]:
        texts, missing = _without_missing(text_of(self._once(self._decoded, name), repr(name)))
        pa = need_arrow()
        if isinstance(texts, pa.ChunkedArray):
            texts = texts.combine_chunks()
        encoded = texts.dictionary_encode()
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        return encoded.dictionary, codes, None if missing is None else ~missing


class Joined(NamedTuple):
    """Conditions of which all have to be met, or any."""

    parts: tuple[Condition | Joined, ...]
    is_all: bool

    @property
    def leaves(self) -> int:
        """How many conditions they are."""
        return sum(part.leaves for part in self.parts)

    @property
    def columns(self) -> list[str]:
        """Those that they are about."""
        return list(dict.fromkeys(name for part in self.parts for name in part.columns))

    def is_met(self, columns: Mapping[str, Any]) -> np.ndarray:
        """Which rows of a block's columns meet them."""
        columns = columns if isinstance(columns, Columns) else Columns(columns)
        join = np.logical_and if self.is_all else np.logical_or
        return functools.reduce(join, (part.is_met(columns) for part in self.parts))

    def chosen(self, of: Callable[[Condition], set[int]]) -> set[int]:
        """The parts that can hold rows that meet them, where ``of`` knows those of a condition."""
        join = set.intersection if self.is_all else set.union
        return join(*(part.chosen(of) for part in self.parts))


def number_of(text: str) -> float | None:
    """The number that a text says, as an int where it is whole; None for others, and for NaN.

    >>> number_of("1e3"), number_of("0.5"), number_of("x")
    (1000, 0.5, None)
    """
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return None
    if math.isnan(number):
        return None
    # Whole numbers beyond 2**53 are compared with it as they are, and not as rounded ones.
    return int(number) if number.is_integer() and abs(number) < 2**64 else number


def neighbours(value: int, dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """The next floating-point numbers from a whole one down and up; both are it where it is one.

    >>> neighbours(2**53 + 1, np.dtype(np.float64)) == (2**53, 2**53 + 2)
    True
    """
    try:
        near = float(value)
    except OverflowError:
        near = math.inf if value > 0 else -math.inf
    with np.errstate(over="ignore"):
        found = dtype.type(near)
        own = float(found)
        low = found if own <= value else np.nextafter(found, dtype.type(-np.inf))
        high = found if own >= value else np.nextafter(found, dtype.type(np.inf))
    return low, high


def rounded(op: str, low: Any, high: Any, is_exact: bool, least: Any) -> tuple[str, Any]:
    """The operator and value for a grid of numbers on which ``low`` and ``high`` are next to the
    value, and ``least`` is the least.
    """
    if op in ("<", "<=") and not is_exact:
        return "<=", low
    if op in (">", ">=") and not is_exact:
        return ">=", high
    if is_exact:
        return op, low
    return ("<" if op in ("=", "==") else ">="), least  # none, or all


def _compare(text: str, value: str, compare: Callable[[Any, Any], Any]) -> bool:
    own, point = time_of(text), time_of(value)
    if own is None or point is None or own.is_time != point.is_time:
        return compare(text, value)  # by code points, as lists are compared
    return compare(own.utc, point.utc)


def _numbers(column: Any) -> tuple[np.ndarray, np.ndarray | None]:
    if not isinstance(column, np.ndarray):
        pa = need_arrow()
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_decimal(column.type):
            column = column.cast(pa.string())  # which is read as the number that is written
        if pa.types.is_string(column.type):  # of CSV, read as text to be levels
            try:
                column = column.cast(pa.float64())
            except pa.ArrowInvalid as error:
                raise DataError(f"--where: {one_line(error)}.") from error
    numbers, missing = values_of(column)
    return (numbers.astype(np.uint8) if numbers.dtype == np.bool_ else numbers), missing


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
