"""Dates, times of the day and timestamps, as they are written and as Arrow stores them."""

from __future__ import annotations

import datetime
import fractions
import functools
import re
from typing import Any, NamedTuple

from jaxdescent.data.arrow import pa, pc
from jaxdescent.rows.errors import DataError

SECOND = 10**9
"""A second in nanoseconds, the unit of all times here."""

DAY = 86_400 * SECOND

UNITS = {"s": SECOND, "ms": 10**6, "us": 10**3, "ns": 1}

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

CLOCK = r"(?P<clock>(?:[01]\d|2[0-3]):\d\d(?::\d\d(?:\.(?P<fraction>\d{1,9}))?)?)"
OFFSET = r"[+-]\d\d(?::?\d\d)?"
TIME = re.compile(CLOCK)
WRITTEN = re.compile(rf"(?P<day>\d{{4}}-\d\d-\d\d)(?:[T ]{CLOCK}(?:\s*(?P<zone>Z|{OFFSET}))?)?")


class TimePoint(NamedTuple):
    """The date or time that a text states."""

    # The nanoseconds since 1970, or since midnight for a time of the day, in UTC; a text without a
    # zone counts as UTC.
    utc: int
    has_zone: bool = False  # whether the text states an offset from UTC
    is_time: bool = False  # whether the text is a time of the day


@functools.lru_cache(1 << 16)
def time_of(text: str) -> TimePoint | None:
    """A date such as 2013-06-30 (its midnight), a timestamp such as 2013-06-30 12:00:00.5+02:00, or
    a time such as 12:00; None for other texts.

    >>> time_of("1970-01-02")
    TimePoint(utc=86400000000000, has_zone=False, is_time=False)
    >>> time_of("1970-01-01T00:00+01:00").utc
    -3600000000000
    """
    found = TIME.fullmatch(text) or WRITTEN.fullmatch(text)
    if not found:
        return None
    parts = found.groupdict()
    day, clock, zone = (parts.get(part) or "" for part in ("day", "clock", "zone"))
    try:
        moment = datetime.datetime.fromisoformat(
            f"{day or '1970-01-01'}T{clock or '00:00'}{zone or 'Z'}"
        )
    except ValueError:
        return None
    seconds = (moment - EPOCH) // datetime.timedelta(seconds=1)
    fraction = int((parts["fraction"] or "").ljust(9, "0"))
    return TimePoint(seconds * SECOND + fraction, bool(zone), is_time=not day)


def holds_times(arrow_type: Any) -> bool:
    """Whether a type holds dates, timestamps or times of the day."""
    types = pa.types
    return types.is_date(arrow_type) or types.is_timestamp(arrow_type) or types.is_time(arrow_type)


FRACTION = r"(:\d\d)(?:\.0+|(\.\d*[1-9])0*)(|Z|[+-]\d\d:?\d\d)$"


def plain(texts: Any) -> Any:
    """Times as Arrow writes them, without the zeros at the end of their fractions: an instant has
    the same text in a column of seconds as in one of nanoseconds.

    >>> import pyarrow as pa
    >>> plain(pa.array(["12:00:05.500000", "2020-01-01 00:00:00.000Z"])).to_pylist()
    ['12:00:05.5', '2020-01-01 00:00:00Z']
    """
    return pc.replace_substring_regex(texts, FRACTION, r"\1\2\3")


def units_of(text: str, arrow_type: Any, name: str) -> fractions.Fraction:
    """The time that a text states, in the unit of a column of this type, by default in its zone."""
    types = pa.types
    point = time_of(text)
    is_time = types.is_time(arrow_type)
    if point is None or point.is_time != is_time:
        shown = "times such as 12:30" if is_time else "dates or times such as 2013-06-30 12:30"
        raise DataError(f"--where: {name!r} holds {shown}, and cannot be compared with {text!r}.")
    zone = getattr(arrow_type, "tz", None)
    if zone is None and point.has_zone:
        raise DataError(
            f"--where: {name!r} has no time zone, and cannot be compared with {text!r}: leave the "
            "zone out."
        )
    count = point.utc if zone is None or point.has_zone else _in_zone(point.utc, zone)
    unit = DAY if types.is_date32(arrow_type) else UNITS[getattr(arrow_type, "unit", "ms")]
    return fractions.Fraction(count, unit)


def _in_zone(count: int, zone: str) -> int:
    """The nanoseconds in UTC of a local time in a zone; of two such instants the earlier one."""
    if zone == "UTC":
        return count
    midnight = time_of(f"1970-01-01T00:00{zone}")  # None but for an offset or Z
    if midnight is not None:
        return count + midnight.utc
    whole, rest = divmod(count, UNITS["us"])
    local = pa.scalar(whole, pa.timestamp("us"))
    options = {"ambiguous": "earliest", "nonexistent": "earliest"}
    there = pc.assume_timezone(local, zone, **options)
    return there.value * UNITS["us"] + rest
