"""Conditions on single columns, joined by and/or: the rows that meet them, and parts that can."""

from __future__ import annotations

import functools
import importlib
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxdescent.data.arrow_types import decoded, kind_of, text_of
from jaxdescent.data.decoding import NumberColumn, values_of
from jaxdescent.data.errors import DataError, need_arrow, one_line
from jaxdescent.data.times import holds_times, time_of, units_of

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


class Comparison(NamedTuple):
    """The condition ``column op value`` on a row; a row without a value does not meet it, unless
    ``op`` is "is missing".
    """

    column: str
    op: str
    value: float | str = ""

    @property
    def leaves(self) -> int:
        """How many conditions this is: one."""
        return 1

    @property
    def columns(self) -> list[str]:
        """The column that the condition is about."""
        return [self.column]

    def is_met(self, columns: Mapping[str, Any]) -> np.ndarray:
        """Which rows of a block's columns meet the condition."""
        column = Columns.of(columns)[self.column]
        if self.op in (MISSING, THERE):
            return column.is_missing == (self.op == MISSING)
        number = number_of(self.value) if isinstance(self.value, str) else self.value
        if isinstance(self.value, float | int) or (column.is_number_encoded and number is not None):
            return self._numbers_compared(column.numbers, number)
        if holds_times(column.decoded.type):
            op, count = self._in_units(column.decoded.type)
            return self._replace(op=op)._numbers_compared(column.counts, count)
        return self._texts_compared(column.texts, self.value)

    def _numbers_compared(self, numbers: NumberColumn, value: Any) -> np.ndarray:
        values, missing = numbers
        op = self.op
        if np.issubdtype(values.dtype, np.floating) and isinstance(value, int):
            low, high = neighbours(value, values.dtype)
            op, value = rounded(op, low, high, low == high, -np.inf)
        with np.errstate(invalid="ignore", over="ignore"):
            met = OPERATORS[op](values, value)
        return met if missing is None else met & ~missing

    def _texts_compared(self, texts: Any, value: str) -> np.ndarray:
        """Compare texts with a value: by code points, or as times where the value is a time."""
        if time_of(value) is None:
            compare = getattr(importlib.import_module("pyarrow.compute"), NAMES[self.op])
            met = compare(texts, need_arrow().scalar(value))
        else:
            encoded = texts.dictionary_encode()
            each = (
                _compare(text, value, OPERATORS[self.op]) for text in encoded.dictionary.to_pylist()
            )
            met = need_arrow().array(each, "bool").take(encoded.indices)
        return met.fill_null(False).to_numpy(zero_copy_only=False)

    def _in_units(self, of_type: Any) -> tuple[str, int]:
        """The operator and the value for whole numbers of a type's unit."""
        value = units_of(str(self.value), of_type, self.column)
        low, high = math.floor(value), math.ceil(value)
        return rounded(self.op, low, high, value.denominator == 1, -(2**63))

    def chosen(self, of: Callable[[Comparison], set[int]]) -> set[int]:
        """The parts of a source that can hold rows that meet the condition, as ``of`` tells."""
        return of(self)

    def may_be_met(self, least: Any, most: Any, of_type: Any) -> bool:
        """Whether a row with a value from ``least`` to ``most`` in a column of this type can meet
        the condition.
        """
        ends = {self.column: need_arrow().array([least, most], of_type)}
        low, high = self.is_met(ends).tolist()
        if isinstance(least, str) and time_of(str(self.value)) is not None:
            return True  # texts may be compared as times, which have another order
        if self.op in ("<", "<="):
            return low
        if self.op in (">", ">="):
            return high
        if self.op == "!=":
            # Bounds of text may be cut off.
            return low or high or isinstance(least, str)
        reaches = (self._replace(op=op).is_met(ends).tolist() for op in ("<=", ">="))
        return next(reaches)[0] and next(reaches)[1]


class Column:
    """A column of a block in the forms that conditions compare, each form made once."""

    def __init__(self, given: Any, name: str) -> None:
        self._given, self._name = given, name

    @functools.cached_property
    def decoded(self) -> Any:
        """The column as an array of Arrow without a dictionary."""
        return decoded(self._given)

    @property
    def is_number_encoded(self) -> bool:
        """Whether the column was given as a dictionary of numbers."""
        is_number = kind_of(self.decoded.type).is_number
        return is_number and self.decoded.type != self._given.type

    @functools.cached_property
    def is_missing(self) -> np.ndarray:
        """Which rows have no value; NaN counts as none."""
        if isinstance(self._given, np.ndarray):
            is_float = np.issubdtype(self._given.dtype, np.floating)
            return np.isnan(self._given) if is_float else np.zeros(len(self._given), bool)
        return self.decoded.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)

    @functools.cached_property
    def numbers(self) -> NumberColumn:
        """The column's numbers, and which of them are missing."""
        column = self._given
        if not isinstance(column, np.ndarray):
            pa, column = need_arrow(), self.decoded
            if pa.types.is_decimal(column.type):
                column = column.cast(pa.string())  # which is read as the number that is written
            if pa.types.is_string(column.type):  # of CSV, read as text to be levels
                try:
                    column = column.cast(pa.float64())
                except pa.ArrowInvalid as error:
                    raise DataError(f"--where: {one_line(error)}.") from error
        values, missing = values_of(column)
        if np.issubdtype(values.dtype, np.floating):
            missing = self.is_missing | np.isnan(values)  # a text may be "NaN"
        is_bool = values.dtype == np.bool_
        return NumberColumn(values.astype(np.uint8) if is_bool else values, missing)

    @functools.cached_property
    def counts(self) -> NumberColumn:
        """The column's times as whole numbers of their unit, and which of them are missing."""
        pa, column = need_arrow(), self.decoded
        if pa.types.is_date32(column.type) or pa.types.is_time32(column.type):
            column = column.cast(pa.int32())
        return values_of(column.cast(pa.int64()))

    @functools.cached_property
    def texts(self) -> Any:
        """The column as an array of Arrow of texts."""
        return text_of(self.decoded, repr(self._name))


class Columns(dict[str, Column]):
    """A block's columns as conditions compare them."""

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> Columns:
        """Columns for conditions, made of a block's columns unless they are such already."""
        if isinstance(columns, Columns):
            return columns
        return cls({name: Column(column, name) for name, column in columns.items()})


class Joined(NamedTuple):
    """Conditions joined by "and" (all have to be met) or by "or" (one of them does)."""

    parts: tuple[Comparison | Joined, ...]
    is_all: bool

    @property
    def leaves(self) -> int:
        """How many conditions are joined."""
        return sum(part.leaves for part in self.parts)

    @property
    def columns(self) -> list[str]:
        """The columns that the conditions are about."""
        return list(dict.fromkeys(name for part in self.parts for name in part.columns))

    def is_met(self, columns: Mapping[str, Any]) -> np.ndarray:
        """Which rows of a block's columns meet the joined conditions."""
        columns = Columns.of(columns)
        join = np.logical_and if self.is_all else np.logical_or
        return functools.reduce(join, (part.is_met(columns) for part in self.parts))

    def chosen(self, of: Callable[[Comparison], set[int]]) -> set[int]:
        """The parts that can hold rows that meet the joined conditions; ``of`` knows one's."""
        join = set.intersection if self.is_all else set.union
        return join(*(part.chosen(of) for part in self.parts))


def number_of(text: str) -> float | None:
    """The number that a text writes, as an int where it is whole; None for other texts and for NaN.

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
    # As an int, it is compared exactly with whole numbers beyond 2**53.
    return int(number) if number.is_integer() and abs(number) < 2**64 else number


def neighbours(value: int, dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """The nearest floats at or below, and at or above, a whole number; both equal it if it is one.

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
    """The comparison with a value as one with numbers of a grid, on which ``low`` and ``high``
    enclose the value, and ``least`` is the least number.
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
