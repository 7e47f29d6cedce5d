"""Columns of dates: the month, the weekday and the hour as levels, and the days since the first
date as a number, by expressions of Polars.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from jaxdescent.rows import DataError

TREND = "trend"

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

PARTS = ("month", "weekday", "hour")
"""The parts that are levels."""

DAY = 86_400 * 10**6
"""A day in microseconds, the unit of times here."""

OFFSET = r"\s*(?:Z|(?<sign>[+-])(?<hours>\d\d):?(?<minutes>\d\d)?)$"
"""The offset from UTC at the end of a text with a time, which is read as the clock shows it."""

EXPECTED = "--date must be such as date:weekday,hour,trend, of month, weekday, hour and trend"


class Dates(NamedTuple):
    """The parts that a column of dates becomes, and the range of a fit's dates, in microseconds
    since 1970 by the clock of the column.
    """

    parts: tuple[str, ...]  # names among :data:`PARTS` and :data:`TREND`
    first: int = 0
    last: int = 0
    zone: str | None = None  # the time zone whose clock is read

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


def is_zone(name: str) -> bool:
    """Whether a time zone has this name."""
    try:
        pl.Series([0], dtype=pl.Datetime("us", name))
    except (pl.exceptions.PolarsError, ValueError):
        return False
    return True


def times_of(name: str, kind: Any, zone: str | None) -> tuple[pl.Expr, pl.Expr]:
    """The instants of a column of dates, times or text, and what a clock in the zone shows then.

    Text is read as 2013-06-30, 2013-06-30 12:30 or 2013-06-30T12:30:05, with or without an offset
    from UTC at its end, at which its clock is.
    """
    column = pl.col(name)
    if kind.base_type() in (pl.String, pl.Categorical, pl.Enum):
        text = column.cast(pl.String).str.replace(rf"(\d:\d\d.*?){OFFSET}", "${1}")
        text = text.str.replace("T", " ")
        clock = pl.coalesce(
            [
                text.str.to_datetime(form, time_unit="us", strict=False)
                for form in ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M")
            ]
            + [text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))]
        )
        offset = column.cast(pl.String).str.extract_groups(rf"\d:\d\d.*?{OFFSET}").struct
        hours, minutes = (
            offset.field(each).cast(pl.Int64).fill_null(0) for each in ("hours", "minutes")
        )
        ahead = pl.when(offset.field("sign") == "-").then(-1).otherwise(1)
        return clock - pl.duration(minutes=ahead * (hours * 60 + minutes)), clock
    if isinstance(kind, pl.Datetime) and kind.time_zone is not None:
        own = column.dt.cast_time_unit("us")
        local = own.dt.convert_time_zone(zone or kind.time_zone)
        instants = own.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return instants, local.dt.replace_time_zone(None)
    clock = column.cast(pl.Datetime("us"))
    return clock, clock


def part_of(times: tuple[pl.Expr, pl.Expr], part: str, first: int) -> pl.Expr:
    """A part of some times: text for levels, or the days since the first date."""
    instants, clock = times
    if part == TREND:
        return (instants.to_physical() - first).cast(pl.Float64) / DAY
    if part == "weekday":
        names = dict(enumerate(WEEKDAYS, start=1))
        return clock.dt.weekday().replace_strict(names, return_dtype=pl.String)
    number = clock.dt.month() if part == "month" else clock.dt.hour()
    return number.cast(pl.String).str.zfill(2)


def check_zone(name: str, kind: Any, dated: Dates, place: str) -> None:
    """Refuse dates with a time zone for a model of dates without one, and the reverse."""
    zone = getattr(kind, "time_zone", None)
    if kind.is_temporal() and (zone is None) != (dated.zone is None):
        has, had = ("no", "one") if zone is None else ("a", "none")
        raise DataError(
            f"{name!r} has {has} time zone in {place}, and {had} in the data of the fit: write all "
            "dates alike."
        )
