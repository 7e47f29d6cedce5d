"""Conditions on single columns, and what joins them: which rows meet them, and which parts can."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxdescent.data.arrow_types import kind_of, text_of
from jaxdescent.data.decoding import values_of
from jaxdescent.data.errors import DataError, need_arrow, one_line
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

MISSING, THERE = "is missing", "is not missing"


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
            met, missing = self._numbers_compared(column)
        return met if missing is None else met & ~missing

    def _numbers_compared(self, column: Any) -> tuple[np.ndarray, np.ndarray | None]:
        numbers, missing = _numbers(column)
        with np.errstate(invalid="ignore", over="ignore"):
            met = OPERATORS[self.op](numbers, self.value)
        if np.issubdtype(numbers.dtype, np.floating):
            met &= ~np.isnan(numbers)  # missing, which is other than nothing
        return met, missing

    def _compared(self, column: Any, value: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Times as times, texts as texts; but a text that says a time, with one, as times, and
        numbers of a dictionary as numbers.
        """
        pa, compare = need_arrow(), OPERATORS[self.op]
        column = pa.array(column) if isinstance(column, np.ndarray) else column
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
            number = number_of(value)
            if number is not None and kind_of(column.type).is_number:
                return Condition(self.column, self.op, number)._numbers_compared(column)
        if holds_times(column.type):
            own, missing = _without_missing(column)
            op, limit = self._in_units(column.type)
            return OPERATORS[op](counts_of(own), limit), missing
        texts, missing = _texts(column, self.column)
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
        elif types.is_decimal(of_type):
            return None  # pyarrow's 3 times 0.1 is more than 0.3
        elif types.is_floating(of_type):
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


def _compare(
    text: str, value: str, point: TimePoint | None, compare: Callable[[Any, Any], Any]
) -> bool:
    own = None if point is None else time_of(text)
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


def _texts(column: Any, name: str) -> tuple[list[str], np.ndarray | None]:
    column, missing = _without_missing(text_of(column, repr(name)))
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
