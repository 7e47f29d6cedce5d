"""Conditions on single columns, joined by and/or: the rows that meet them, by pyarrow's functions,
and the parts of a source that can have such rows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from jaxdescent.data.arrow import pa, pc
from jaxdescent.data.arrow_types import decoded, kind_of, text_of
from jaxdescent.data.protocol import Kind
from jaxdescent.data.times import holds_times, time_of, units_of
from jaxdescent.rows.errors import DataError, one_line

OPERATORS = {
    "<=": "less_equal",
    ">=": "greater_equal",
    "!=": "not_equal",
    "=": "equal",
    "<": "less",
    ">": "greater",
}
"""The operators, and the functions of pyarrow and of NumPy for them."""

MISSING, THERE = "is missing", "is not missing"


class Comparison(NamedTuple):
    """``column op value`` for a row; a row without a value does not meet it, unless ``op`` is "is
    missing".
    """

    column: str
    op: str
    value: float | Decimal | str = ""


class ColumnBounds(NamedTuple):
    """The range of a column's values in each of some parts of a source: four arrays of Arrow."""

    least: Any  # values that are at most the least one of each part, null where none is known
    most: Any  # values that are at least the greatest one, likewise
    can_lack: Any  # whether a value may be missing
    has_values: Any  # whether some value may be there


class Condition(NamedTuple):
    """Comparisons joined by "and" (all have to be met) or by "or" (one of them does)."""

    parts: tuple[Comparison | Condition, ...]
    is_all: bool = True

    @property
    def comparisons(self) -> list[Comparison]:
        """All comparisons that are joined."""
        each = (part.comparisons if isinstance(part, Condition) else [part] for part in self.parts)
        return [comparison for comparisons in each for comparison in comparisons]

    @property
    def columns(self) -> list[str]:
        """The columns that the condition is about."""
        return list(dict.fromkeys(comparison.column for comparison in self.comparisons))

    def is_met(self, columns: Mapping[str, Any]) -> np.ndarray:
        """Which rows of a block's columns meet the condition."""
        forms = {name: _Column(columns[name], name) for name in self.columns}
        met = self._joined(lambda comparison: _met(comparison, forms[comparison.column]))
        return met.to_numpy(zero_copy_only=False)

    def is_possible(self, bounds: Mapping[str, ColumnBounds]) -> np.ndarray:
        """Which parts of a source can have rows that meet the condition, by the columns' bounds."""
        met = self._joined(lambda comparison: _is_possible(comparison, bounds[comparison.column]))
        return met.to_numpy(zero_copy_only=False)

    def _joined(self, of: Callable[[Comparison], Any]) -> Any:
        """``of`` all comparisons, arrays of Arrow, joined as these are."""
        join = pc.and_ if self.is_all else pc.or_
        each = (p._joined(of) if isinstance(p, Condition) else of(p) for p in self.parts)
        return functools.reduce(join, each)


class _Column:
    """A column of a block in the forms that conditions compare, each form made once."""

    def __init__(self, given: Any, name: str) -> None:
        self.name = name
        self.plain = decoded(given)
        self.type = self.plain.type
        if pa.types.is_floating(self.type):
            self.plain = _without_nan(self.plain)

    @functools.cached_property
    def texts(self) -> Any:
        """The values as texts."""
        return text_of(self.plain, repr(self.name))

    @functools.cached_property
    def numbers(self) -> Any:
        """The values of a column of texts, which CSV has of levels, or of nothing as numbers."""
        try:
            return _without_nan(self.plain.cast(pa.float64()))
        except pa.ArrowInvalid as error:
            raise DataError(f"--where: {one_line(error)}.") from error


def _without_nan(numbers: Any) -> Any:
    """Floating-point numbers, none of them NaN, which counts as a missing value."""
    if pa.types.is_float16(numbers.type):
        numbers = numbers.cast(pa.float32())  # pyarrow compares no shorter ones
    is_nan = pc.is_nan(numbers)
    return pc.if_else(is_nan, None, numbers) if is_nan.true_count else numbers


def _met(comparison: Comparison, column: _Column) -> Any:
    """Which rows of a column meet a condition, as an array of Arrow."""
    op, value = comparison.op, comparison.value
    if op in (MISSING, THERE):
        return column.plain.is_null() if op == MISSING else column.plain.is_valid()
    values, of_type = column.plain, column.type
    if isinstance(value, str) and kind_of(of_type).is_number:  # a dictionary of numbers
        value = value if number_of(value) is None else number_of(value)
    if isinstance(value, str):
        if not holds_times(of_type):
            return _text_met(op, column.texts, value).fill_null(False)
    elif not kind_of(of_type).is_number or pa.types.is_null(of_type):
        values, of_type = column.numbers, column.numbers.type
    op, scalar = scalar_of(op, value, of_type, column.name)
    return getattr(pc, OPERATORS[op])(values, scalar).fill_null(False)


def _text_met(op: str, texts: Any, value: str) -> Any:
    """Which texts meet a condition: by code points, or as times where both are times."""
    point = time_of(value)
    if point is None:
        return getattr(pc, OPERATORS[op])(texts, pa.scalar(value, texts.type))
    encoded, pairs = texts.dictionary_encode(), list[tuple[Any, Any]]()
    for text in encoded.dictionary.to_pylist():
        own = time_of(text)
        if own is None or own.is_time != point.is_time:
            pairs.append((text, value))
        else:
            pairs.append((own.utc, point.utc))
    left, right = np.array(pairs, object).reshape(-1, 2).T
    met = getattr(np, OPERATORS[op])(left, right).astype(bool)
    return pa.array(met).take(encoded.indices)


def _is_possible(comparison: Comparison, bounds: ColumnBounds) -> Any:
    """Which parts can have rows that meet a comparison with a column of these bounds."""
    both, either = pc.and_, pc.or_
    name, op, value = comparison
    if op in (MISSING, THERE):
        return bounds.can_lack if op == MISSING else bounds.has_values
    least, most = _Column(bounds.least, name), _Column(bounds.most, name)
    is_text = kind_of(least.type) is Kind.TEXT and not holds_times(least.type)
    if is_text and (op == "!=" or time_of(str(value)) is not None):
        return bounds.has_values  # bounds may be cut off, and times have another order than texts
    if op == "=":
        reaches = (comparison._replace(op=each) for each in ("<=", ">="))
        met = both(*map(_met, reaches, (least, most)))
    else:
        met = either(_met(comparison, least), _met(comparison, most))
    is_unknown = either(least.plain.is_null(), most.plain.is_null())
    return both(bounds.has_values, either(met, is_unknown))


@functools.lru_cache(1 << 16, typed=True)  # a whole number and a float are rounded otherwise
def scalar_of(op: str, value: float | Decimal | str, of_type: Any, name: str) -> tuple[str, Any]:
    """A comparison as one with a value of a column's type: the operator and a scalar of Arrow."""
    types = pa.types
    exact: Any = value
    if holds_times(of_type):
        exact = units_of(str(value), of_type, name)
    elif types.is_floating(of_type):
        near = _float_near(exact, of_type.to_pandas_dtype())
        # A fraction is rounded as the column's own numbers are, and a whole number is not.
        op, near = nearest(op, near, exact if isinstance(exact, int) else near, -math.inf)
        return op, pa.scalar(near, pa.float32() if types.is_float16(of_type) else of_type)
    elif types.is_decimal(of_type):
        exact = exact if abs(exact) == math.inf else Fraction(str(exact))
        exact *= Fraction(10) ** of_type.scale
    least, most = _counts_of(of_type)
    op, count = nearest(op, math.floor(min(max(exact, least), most)), exact, least)
    if types.is_decimal(of_type):
        return op, pa.scalar(Decimal(f"{count}E{-of_type.scale}"), of_type)
    return op, pa.scalar(bool(count) if types.is_boolean(of_type) else count, of_type)


def _float_near(value: float | Decimal, dtype: Any) -> float:
    """A number as a floating-point number of this type, infinite if it is too large."""
    try:
        with np.errstate(over="ignore"):
            return float(dtype(value))
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _counts_of(of_type: Any) -> tuple[int, int]:
    """The least and the largest number that a type which counts units can hold."""
    types = pa.types
    if types.is_decimal(of_type):
        return 1 - 10**of_type.precision, 10**of_type.precision - 1
    if types.is_boolean(of_type) or types.is_unsigned_integer(of_type):
        return 0, (1 << of_type.bit_width) - 1
    half = 1 << of_type.bit_width - 1
    return -half, half - 1


def nearest(op: str, near: Any, value: Any, least: Any) -> tuple[str, Any]:
    """The comparison with a value as one with a number near it, such that the column's type has no
    number between the two; ``least`` is the type's least number.

    >>> nearest("<", 5, 5.5, 0), nearest(">", 5, 5.5, 0), nearest("=", 5, 5.5, 0)
    (('<=', 5), ('>', 5), ('<', 0))
    """
    if near == value:
        return op, near
    if op in ("<", "<="):
        return ("<=" if near < value else "<"), near
    if op in (">", ">="):
        return (">" if near < value else ">="), near
    return (">=" if op == "!=" else "<"), least  # all, or none


def number_of(text: str) -> float | Decimal | None:
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
    # Other digits than a float's own are compared exactly, unless their exponent may have no end.
    if number and math.isfinite(number) and Decimal(text) != Decimal(repr(number)):
        return Decimal(text)
    # As an int, it is compared exactly with whole numbers beyond 2**53.
    return int(number) if number.is_integer() and abs(number) < 2**64 else number
