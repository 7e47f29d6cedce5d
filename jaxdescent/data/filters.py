"""Conditions on rows: ``month <= 6 and carrier = AA``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdescent.data.errors import DataError, check_columns, need_arrow, one_line
from jaxdescent.data.protocol import Block, Kind, Source, Wrapped, located

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
    r"|(?P<word>[^\s<>=!'\"`]+))"
)

GRAMMAR = "expected is COLUMN OP VALUE, joined by and, such as month <= 6 and carrier != 'AA'"


class Condition(NamedTuple):
    """What a row has to meet: ``column op value``; a row without a value does not."""

    column: str
    op: str
    value: float | str

    def is_met(self, column: Any) -> np.ndarray:
        """Which rows of this column of a block meet it."""
        compare = OPERATORS[self.op]
        if isinstance(self.value, str):
            texts, missing = _texts(column)
            # As lists are compared: by code points, which is the order of dates too.
            met = np.fromiter((compare(text, self.value) for text in texts), bool, len(texts))
        else:
            numbers, missing = _numbers(column)
            with np.errstate(invalid="ignore", over="ignore"):
                met = compare(numbers, self.value)
            if np.issubdtype(numbers.dtype, np.floating):
                met &= ~np.isnan(numbers)  # missing, which is other than nothing
        return met if missing is None else met & ~missing

    def expression(self, of_type: Any) -> Any:
        """It as an expression of pyarrow's datasets, about a column of this type: floating-point
        numbers are compared in their own precision, as :meth:`is_met` does.
        """
        import pyarrow as pa
        from pyarrow import dataset

        value: Any = self.value
        if pa.types.is_floating(of_type):
            value = pa.scalar(float(value)).cast(of_type)
        return OPERATORS[self.op](dataset.field(self.column), value)


def conditions_of(text: str, kinds: Mapping[str, Kind]) -> list[Condition]:
    """The conditions that a text states about columns of these kinds.

    Columns with spaces or operators in their names stand between backquotes; text may stand between
    quotes, and must where it has spaces or is ``and``. Numeric columns are compared as numbers,
    true and false as 1 and 0; all others by their text, dates written as 2013-06-30.

    Raises:
      DataError: where it cannot be read, a column is not there, or a value is of another kind.

    >>> conditions_of("month <= 6 and carrier = AA", {"month": Kind.WHOLE, "carrier": Kind.TEXT})
    [Condition(column='month', op='<=', value=6), Condition(column='carrier', op='=', value='AA')]
    """
    tokens = list(_tokens(text))
    found: list[Condition] = []
    at = 0
    while True:
        part = tokens[at : at + 3]
        kinds_of_part = [kind for kind, _ in part]
        is_right = (
            len(part) == 3
            and kinds_of_part[0] in ("word", "column")
            and kinds_of_part[1] == "operator"
            and kinds_of_part[2] in ("word", "quoted")
        )
        if not is_right:
            raise DataError(f"--where {text!r} cannot be read: {GRAMMAR}.")
        (_, column), (_, op), (kind, value) = part
        check_columns([column], kinds)
        found.append(Condition(column, op, _value(column, value, kind, kinds[column])))
        at += 3
        if at == len(tokens):
            return found
        if tokens[at] != ("word", "and") and tokens[at] != ("word", "AND"):
            raise DataError(
                f"--where {text!r} cannot be read at {tokens[at][1]!r}: {GRAMMAR}; text with "
                "spaces stands between quotes."
            )
        at += 1


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while text[at:].strip():
        found = TOKEN.match(text, at)
        if found is None:
            raise DataError(f"--where {text!r} cannot be read at {text[at:].strip()!r}: {GRAMMAR}.")
        at = found.end()
        kind = str(found.lastgroup)
        token = found[kind]
        yield kind, token if kind in ("operator", "word") else token[1:-1]


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
    if isinstance(column, np.ndarray):
        return column, None
    pa = need_arrow()
    types = pa.types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (types.is_integer(column.type) or types.is_floating(column.type)):
        try:
            # Decimals, booleans, and numbers of CSV that are read as text to be levels.
            column = column.cast(pa.uint8() if types.is_boolean(column.type) else pa.float64())
        except pa.ArrowInvalid as error:
            raise DataError(f"--where: {one_line(error)}.") from error
    missing = None
    if column.null_count:
        missing = column.is_null().to_numpy(zero_copy_only=False)
        column = column.fill_null(0)
    return column.to_numpy(zero_copy_only=False), missing


def _texts(column: Any) -> tuple[list[str], np.ndarray | None]:
    pa = need_arrow()
    if isinstance(column, np.ndarray):
        column = pa.array(column)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    column = column.cast(pa.string())
    missing = None
    if column.null_count:
        missing = column.is_null().to_numpy(zero_copy_only=False)
        column = column.fill_null("")
    return column.to_pylist(), missing


class Filtered(Wrapped):
    """The rows of a source that meet all conditions; their numbers in the files stay known.

    Parts of the source that can be known without reading to hold none are passed over: groups of
    rows of Parquet files by their statistics.
    """

    def __init__(self, base: Source, text: str) -> None:
        self._text = text
        self._conditions = conditions_of(text, base.kinds)
        super().__init__(base.skipping(self._conditions))

    @property
    def rows(self) -> int | None:
        return None

    @property
    def description(self) -> str:
        return f" where {self._text}"

    def fingerprint(self) -> str:
        return f"{self.base.fingerprint()} where {self._text}"

    def _read(self, names: Sequence[str]) -> list[str]:
        return list(dict.fromkeys([*names, *(each.column for each in self._conditions)]))

    def row_bytes(self, names: Sequence[str]) -> int:
        return 2 * self.base.row_bytes(self._read(names))  # before and after

    def reading_bytes(self, names: Sequence[str], rows: int) -> int:
        return self.base.reading_bytes(self._read(names), rows)

    def blocks(self, names: Sequence[str], rows: int) -> Iterator[Block]:
        is_empty = True
        for block in located(self.base, self._read(names), rows):
            met = np.ones(block.rows, bool)
            for each in self._conditions:
                met &= each.is_met(block.columns[each.column])
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
