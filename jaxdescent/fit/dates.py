"""Columns that are made of dates: the month, the weekday and the hour as levels, and the days since
the first of them as a number.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdescent import processes
from jaxdescent.data import Block, DataError, Kind, Source, located, read_ahead
from jaxdescent.data.arrow import pa, pc
from jaxdescent.data.arrow_types import decoded
from jaxdescent.data.times import holds_times
from jaxdescent.data.wrapped import WrappedSource
from jaxdescent.rows.errors import check_columns, one_line

TREND = "trend"

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

PARTS: Mapping[str, tuple[str, Sequence[str]]] = {
    "month": ("month", ["", *(f"{month:02}" for month in range(1, 13))]),
    "weekday": ("day_of_week", WEEKDAYS),
    "hour": ("hour", [f"{hour:02}" for hour in range(24)]),
}
"""For each part with levels: the name of Arrow's function for its number, and the levels' texts."""

DAY = 86_400 * 10**6
"""A day in microseconds, the unit of all times here."""

AS_WRITTEN = "as written"
"""The zone of texts that state an offset from UTC: the time is read as it is written."""

READ_ROWS = 1 << 16

OFFSET = r"\s*(Z|[+-]\d\d(:?\d\d)?)$"

EXPECTED = "--date must be such as date:weekday,hour,trend, of month, weekday, hour and trend"


class Dates(NamedTuple):
    """The parts that a column of dates becomes, its time zone, and its range."""

    parts: tuple[str, ...]  # names among :data:`PARTS` and :data:`TREND`
    zone: str | None = None  # the time zone whose clock is read; None where the column has none
    first: int = 0  # the first date of a fit, in microseconds since 1970 (UTC)
    last: int = 0  # the last date of a fit, likewise

    @property
    def span(self) -> str:
        """The range of the dates of a fit, as text."""
        first, last = (str(np.datetime64(each, "us"))[:16] for each in (self.first, self.last))
        return f"{first} to {last}"


def asked_for(wanted: Iterable[str]) -> dict[str, Dates]:
    """The columns of dates, and which parts of each are taken.

    >>> asked_for(["when:hour,trend"])["when"].parts
    ('hour', 'trend')
    """
    found: dict[str, Dates] = {}
    for each in wanted:
        column, colon, names = each.rpartition(":")
        parts = [part.strip() for part in names.split(",")]
        if not colon or not column or not {*parts} <= {*PARTS, TREND} or column in found:
            raise DataError(f"{EXPECTED}, once for a column, got {each!r}.")
        found[column] = Dates(tuple(dict.fromkeys(parts)))
    return found


def columns_made(dates: Mapping[str, Dates]) -> dict[str, tuple[str, str]]:
    """The columns that the parts of dates become, by name, with the column and the part of each."""
    each = ((name, part) for name, dated in dates.items() for part in dated.parts)
    return {f"{name}.{part}": (name, part) for name, part in each}


def looked_at(source: Source, dates: Mapping[str, Dates]) -> dict[str, Dates]:
    """The columns of dates with their zones, and the first and the last date that the rows of all
    processes have.
    """
    source.check_restart("--date reads the rows once for the first date and once to fit")
    own: dict[str, list[Any]] = {}
    for block in read_ahead(lambda: located(source, list(dates), READ_ROWS)):
        for name in dates:
            column = decoded(block.columns[name])
            if column.null_count == len(column):
                continue
            zone = own[name][0] if name in own else _zone_of(column)
            instants, _ = _times(block, name, zone)
            least, most = pc.min_max(instants.cast("int64")).as_py().values()
            _, first, last = own.get(name, [zone, least, most])
            own[name] = [zone, min(first, least), max(last, most)]
    found: dict[str, Dates] = {}
    everyone = processes.told_by_all(own)
    for name, each in dates.items():
        spans = [one[name] for one in everyone if name in one]
        if not spans:
            raise DataError(f"{name!r} has no value in any row: leave it out of --date.")
        zones, firsts, lasts = zip(*spans, strict=True)
        found[name] = Dates(each.parts, zones[0], min(firsts), max(lasts))
    return found


class Dated(WrappedSource):
    """A source whose columns of dates are replaced by the columns of their parts. A fit replaces
    ``dates`` by the ones of :func:`looked_at`; ``who`` is the subject of an error.
    """

    def __init__(self, base: Source, dates: dict[str, Dates], who: str = "the data") -> None:
        check_columns(dates, base.kinds, who=who)
        for name in dates:
            if base.kinds[name] is not Kind.TEXT:
                raise DataError(
                    f"{name!r} holds {base.kinds[name]} and no dates: leave it out of --date, or "
                    "convert it to dates."
                )
        self.dates, self._made = dates, columns_made(dates)
        self._outside = dict.fromkeys(dates, 0)
        super().__init__(base)

    def _wrap(self, base: Source) -> None:
        super()._wrap(base)
        own = {
            name: Kind.NUMBER if part == TREND else Kind.TEXT
            for name, (_, part) in self._made.items()
        }
        twice = [name for name in own if name in base.kinds]
        if twice:
            raise DataError(f"there is a column called {twice[0]!r}: rename it to take --date.")
        self.kinds = {n: kind for n, kind in base.kinds.items() if n not in self.dates} | own

    def _read(self, names: Sequence[str]) -> list[str]:
        return list(dict.fromkeys(self._made.get(name, (name,))[0] for name in names))

    def row_bytes(self, names: Sequence[str]) -> int:
        return super().row_bytes(names) + 24 * len(names)

    def text_bytes(self, name: str) -> int:
        return self.base.text_bytes(name) if name in self.base.kinds else 0

    def start_before(self, row: int) -> int:
        return self.base.start_before(row)

    def blocks(self, names: Sequence[str], rows: int, begin: int = 0) -> Iterator[Block]:
        made = {name: of for name, of in self._made.items() if name in names}
        for block in located(self.base, self._read(names), rows, begin):
            zones = {name: self.dates[name].zone for name, _ in made.values()}
            times = {name: _times(block, name, zone) for name, zone in zones.items()}
            columns = dict(block.columns)
            for column, (name, part) in made.items():
                columns[column] = self._part(name, part, *times[name])
            yield dataclasses.replace(block, columns={name: columns[name] for name in names})

    def _part(self, name: str, part: str, instants: Any, clock: Any) -> Any:
        """A part of a column of dates, from its times."""
        if part != TREND:
            function, texts = PARTS[part]
            numbers = getattr(pc, function)(clock).cast("int8")
            return pa.DictionaryArray.from_arrays(numbers, pa.array(texts, pa.string()))
        first, last = self.dates[name].first, self.dates[name].last
        counts = instants.cast("int64").fill_null(first).to_numpy()
        self._outside[name] += int(np.count_nonzero((counts < first) | (counts > last)))
        missing = instants.is_null().to_numpy(zero_copy_only=False)
        return pa.array((counts - first).astype(np.float64) / DAY, mask=missing)

    def warn_of_rows_outside(self) -> None:
        """Say how many of the rows that were read are outside of the dates of the fit, where the
        trend that was fitted is continued.
        """
        for name, count in self._outside.items():
            if count:
                warnings.warn(
                    f"{count:,} rows have {name!r} outside of {self.dates[name].span}, the dates "
                    "of the fit: its trend is continued there",
                    stacklevel=2,
                )


def with_columns(
    source: Source,
    dates: dict[str, Dates],
    names: Sequence[str],
    labelled: Sequence[str],
    who: str = "the data",
) -> Source:
    """A source with the parts of its dates, and with these columns where it has them without
    listing them; ``labelled`` columns are read as the text in the file.
    """
    source = source.offering(names, [name for name in labelled if name in source.kinds])
    return Dated(source, dates, who) if dates else source


def is_zone(name: str) -> bool:
    """Whether the clock of a zone of this name is known."""
    try:
        pc.local_timestamp(pa.scalar(0, pa.timestamp("us", name)))
    except pa.ArrowInvalid:
        return name == AS_WRITTEN
    return True


def _zone_of(column: Any) -> str | None:
    """The time zone of a column of Arrow that has at least one value."""
    types = pa.types
    if types.is_timestamp(column.type):
        return column.type.tz
    if types.is_date(column.type) or types.is_time(column.type):
        return None
    # The hyphens of a date alone look like one of an offset.
    is_zoned = re.search(rf":\d\d(\.\d+)?{OFFSET}", str(column.drop_null()[0]))
    return AS_WRITTEN if is_zoned else None


def _times(block: Block, name: str, zone: str | None) -> tuple[Any, Any]:
    """The times of a column in UTC, or as they are where it has no zone, and the local times in the
    zone: arrays of Arrow of microseconds without a zone.
    """
    column = decoded(block.columns[name])
    plain, kind = pa.timestamp("us"), column.type
    if column.null_count == len(column):
        return pa.nulls(len(column), plain), pa.nulls(len(column), plain)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if pa.types.is_time(kind) or not (is_text or holds_times(kind)):
        raise DataError(f"{name!r} holds {kind}, and --date takes dates: leave it out.")
    if (_zone_of(column) is None) != (zone is None):
        has, had = ("a", "none") if zone is None else ("no", "one")
        raise DataError(
            f"{name!r} has {has} time zone in {block.place(0)}, and {had} in the data of the fit: "
            "write all dates alike."
        )
    target = plain if zone is None else pa.timestamp("us", "UTC")
    if is_text:
        # Arrow reads no digits beyond microseconds.
        texts = pc.replace_substring_regex(column, r"(\.\d{6})\d+", r"\1")
        column = _parsed(block, name, texts, target)
        if zone == AS_WRITTEN:
            clock = pc.replace_substring_regex(texts, OFFSET, "")
            return column.cast(plain), _parsed(block, name, clock, plain)
    elif pa.types.is_date(kind):
        column = column.cast(pa.timestamp("ms"))
    instants = column.cast(target, safe=False).cast(plain)
    if zone is None:
        return instants, instants
    if zone != AS_WRITTEN:
        column = instants.cast(target).cast(pa.timestamp("us", zone))
    try:
        return instants, pc.local_timestamp(column)
    except pa.ArrowInvalid as error:
        raise DataError(f"{name!r}: {one_line(error)}: convert it to a known zone.") from error


def _parsed(block: Block, name: str, texts: Any, target: Any) -> Any:
    try:
        return texts.cast(target)
    except pa.ArrowInvalid:
        for row in range(len(texts)):
            try:
                texts[row : row + 1].cast(target)
            except pa.ArrowInvalid as error:
                such = "2013-06-30 or 2013-06-30 12:30, without a time zone as the first one here"
                if target.tz is not None:
                    such = "2013-06-30 12:30+02:00, with a time zone as the first one here"
                raise DataError(
                    f"{name!r} is {texts[row].as_py()!r} in {block.place(row)}, and --date takes "
                    f"dates such as {such}: correct the data, or leave it out."
                ) from error
        raise
