"""Dates, times of the day and timestamps, as they are written and as Arrow stores them."""

from __future__ import annotations

import datetime
import fractions
import functools
import re
from typing import Any, NamedTuple

import numpy as np

from jaxdescent.data.errors import DataError, need_arrow

SECOND = 10**9
"""In nanoseconds, as all numbers here."""

DAY = 86_400 * SECOND

UNITS = {"s": SECOND, "ms": 10**6, "us": 10**3, "ns": 1}

CLOCK = r"(?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:\.(?P<fraction>\d{1,9}))?)?"
ZONE = r"(?:\s*(?P<zone>Z|[+-]\d\d(?::?\d\d)?))?"
WRITTEN = re.compile(rf"(?P<day>\d{{4}}-\d\d-\d\d)(?:[T ]{CLOCK}{ZONE})?")
TIME = re.compile(CLOCK)
OFFSET = re.compile(r"[+-]\d\d(?::?\d\d)?")


class TimePoint(NamedTuple):
    """What a text says: since 1970, or since midnight for a time of the day.

    Attributes:
      nanoseconds: since then.
      zone: seconds by which its clock is ahead of UTC; None where it says none.
      is_time: whether it is a time of the day.
    """

    nanoseconds: int
    zone: int | None = None
    is_time: bool = False

    @property
    def utc(self) -> int:
        """Its nanoseconds in UTC, which is taken where it says no zone."""
        return self.nanoseconds - (self.zone or 0) * SECOND


@functools.lru_cache(1 << 16)
def time_of(text: str) -> TimePoint | None:
    """A date such as 2013-06-30 (its midnight), a timestamp such as 2013-06-30 12:00:00.5+02:00, or
    a time such as 12:00; None for other texts.

    >>> time_of("1970-01-02")
    TimePoint(nanoseconds=86400000000000, zone=None, is_time=False)
    >>> time_of("1970-01-01T00:00+01:00").utc
    -3600000000000
    """
    found = TIME.fullmatch(text)
    if found:
        clock = _clock(found)
        return None if clock is None else TimePoint(clock, is_time=True)
    found = WRITTEN.fullmatch(text)
    if not found:
        return None
    try:
        day = datetime.date.fromisoformat(found["day"])
    except ValueError:
        return None
    clock = 0 if found["hour"] is None else _clock(found)
    if clock is None:
        return None
    days = day.toordinal() - datetime.date(1970, 1, 1).toordinal()
    return TimePoint(days * DAY + clock, _seconds(found["zone"]))


def holds_times(arrow_type: Any) -> bool:
    """Whether a type holds dates, timestamps or times of the day."""
    types = need_arrow().types
    return types.is_date(arrow_type) or types.is_timestamp(arrow_type) or types.is_time(arrow_type)


FRACTION = r"(:\d\d)(?:\.0+|(\.\d*[1-9])0*)(|Z|[+-]\d\d:?\d\d)$"


def plain(texts: Any) -> Any:
    """Times as Arrow writes them, without the zeros at the end of their fractions: an instant has
    the same text in a column of seconds as in one of nanoseconds.

    >>> import pyarrow as pa
    >>> plain(pa.array(["12:00:05.500000", "2020-01-01 00:00:00.000Z"])).to_pylist()
    ['12:00:05.5', '2020-01-01 00:00:00Z']
    """
    import pyarrow.compute as pc

    call = pc.call_function
    options = pc.ReplaceSubstringOptions(FRACTION, r"\1\2\3")
    return call("replace_substring_regex", [texts], options)


def counts_of(column: Any) -> np.ndarray:
    """An Arrow column without missing values as whole numbers of its own unit, int64."""
    pa = need_arrow()
    is_short = pa.types.is_date32(column.type) or pa.types.is_time32(column.type)
    if is_short:
        column = column.cast(pa.int32())
    return column.cast(pa.int64()).to_numpy(zero_copy_only=False)


def units_of(text: str, arrow_type: Any, name: str) -> fractions.Fraction:
    """What a text says, in the unit of a column of this type. Without a zone it is in the column's.

    Raises:
      DataError: where it cannot be compared with such a column.
    """
    types = need_arrow().types
    point = time_of(text)
    is_time = types.is_time(arrow_type)
    if point is None or point.is_time != is_time:
        shown = "times such as 12:30" if is_time else "dates or times such as 2013-06-30 12:30"
        raise DataError(f"--where: {name!r} holds {shown}, and cannot be compared with {text!r}.")
    zone = getattr(arrow_type, "tz", None)
    if zone is None:
        if point.zone is not None:
            raise DataError(
                f"--where: {name!r} has no time zone, and cannot be compared with {text!r}: leave "
                "the zone out."
            )
        count = point.nanoseconds
    else:
        count = point.utc if point.zone is not None else _in_zone(point.nanoseconds, zone)
    unit = DAY if types.is_date32(arrow_type) else UNITS[getattr(arrow_type, "unit", "ms")]
    return fractions.Fraction(count, unit)


def _clock(found: re.Match[str]) -> int | None:
    """Nanoseconds since midnight; None where no clock shows such a time."""
    hour, minute, second = (int(found[part] or 0) for part in ("hour", "minute", "second"))
    if hour > 23 or minute > 59 or second > 59:
        return None
    fraction = int((found["fraction"] or "").ljust(9, "0"))
    return (3600 * hour + 60 * minute + second) * SECOND + fraction


def _seconds(zone: str | None) -> int | None:
    """Of a zone's offset from UTC."""
    if zone is None:
        return None
    if zone == "Z":
        return 0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    return int(f"{zone[0]}1") * (3600 * int(digits[:2]) + 60 * int(digits[2:]))


def _in_zone(count: int, zone: str) -> int:
    """Nanoseconds in UTC of what a clock in a zone shows; of two such points the earlier one."""
    if OFFSET.fullmatch(zone):
        return count - (_seconds(zone) or 0) * SECOND
    if zone in ("UTC", "Z"):
        return count
    import pyarrow as pa
    import pyarrow.compute as pc

    whole, rest = divmod(count, UNITS["us"])
    local = pa.scalar(whole, pa.timestamp("us"))
    options = pc.AssumeTimezoneOptions(zone, ambiguous="earliest", nonexistent="earliest")
    there = pc.call_function("assume_timezone", [local], options)
    return there.value * UNITS["us"] + rest
