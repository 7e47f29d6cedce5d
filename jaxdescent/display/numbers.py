"""Numbers and arrays as text, whether their values can be read or not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

LONGEST = 60
"""The most characters that are shown of an object of a foreign class."""

LARGEST_RANGE = 10_000_000
"""The most elements of an array whose smallest and largest one are searched, on the host: to copy
so many from an accelerator takes no longer than to compile the search there."""

FEW = 6
"""The most elements of an array that are shown one by one."""

YEAR = 365.25 * 86400
"""Seconds of a year."""

MOST_YEARS = 1e5
"""More years than these are told by their power of ten."""


def guarded(show: Callable[[], str], otherwise: str) -> str:
    """``show()``, or ``otherwise`` if that raises.

    Any error counts: reading an array whose computation failed raises, and an object that a caller
    puts into a pytree may raise anything. A traceback must still be able to show both.
    """
    try:
        return show()
    except Exception:
        return otherwise


def shortened(text: str, longest: int = LONGEST) -> str:
    """The text in one line of at most ``longest`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def shape_of(thing: Any) -> tuple[Any, ...] | None:
    """The shape of an object with a shape and a dtype, as arrays, tracers and ``ShapeDtypeStruct``
    have; None for any other.
    """
    shape = getattr(thing, "shape", None)
    return shape if isinstance(shape, tuple) and hasattr(thing, "dtype") else None


def signature(thing: Any) -> str:
    """Dtype and shape, and if values cannot be read the reason.

    >>> signature(jnp.zeros((3, 2))), signature(1.5), signature(jax.ShapeDtypeStruct((), "int32"))
    ('float32[3,2]', 'float', 'int32[]')
    """
    shape = shape_of(thing)
    if shape is None:
        return type(thing).__name__
    name = str(getattr(thing.dtype, "name", thing.dtype))
    text = f"{name}[{','.join(str(length) for length in shape)}]"
    return " ".join(filter(None, (text, _obstacle(thing))))


def _obstacle(thing: Any) -> str:
    if isinstance(thing, Tracer):
        return "traced"
    if isinstance(thing, jax.Array):
        if thing.is_deleted():
            return "deleted"
        if not (thing.is_fully_addressable or thing.is_fully_replicated):
            return "on several hosts"
    return ""


def is_readable(thing: Any) -> bool:
    """Whether an object is a number, or an array of numbers that can be read."""
    if isinstance(thing, (bool, int, float)):
        return True
    if not isinstance(thing, (np.ndarray, np.generic, jax.Array)) or _obstacle(thing):
        return False
    return bool(jnp.issubdtype(thing.dtype, jnp.number) or thing.dtype == np.bool_)


def entries(thing: Any) -> np.ndarray | None:
    """The values of a number or an array, copied to the host; None if they cannot be read."""
    if not is_readable(thing):
        return None
    if isinstance(thing, jax.Array) and not thing.is_fully_addressable:
        return np.asarray(thing.addressable_data(0))
    return np.asarray(thing)


def values(thing: Any) -> str:
    """A few numbers one by one; more by their range; nothing if they cannot be read, or are many or
    without an order.

    >>> values(jnp.arange(3.0)), values(np.linspace(-1, 1, 100)), values(jnp.zeros(9))
    ('[0, 1, 2]', '-1 .. 1', 'all 0')
    """
    return guarded(lambda: _values(thing), "")


def _values(thing: Any) -> str:
    size = math.prod(shape_of(thing) or ())
    if size > LARGEST_RANGE or not is_readable(thing):
        return ""
    if size <= FEW:
        return _nested(np.asarray(entries(thing)).tolist())
    if jnp.issubdtype(thing.dtype, jnp.complexfloating):
        return ""
    # NumPy reads a CPU's memory in place, and nothing is compiled. Of copies one is read.
    shards = getattr(thing, "addressable_shards", [])
    parts = list({str(shard.index): shard.data for shard in shards}.values()) or [thing]
    parts = [np.asarray(part) for part in parts if part.size]
    with np.errstate(all="ignore"):
        low = np.min(np.asarray([np.min(part) for part in parts]))
        high = np.max(np.asarray([np.max(part) for part in parts]))
    if np.isnan(low):
        return "has NaN"
    return f"all {_digits(low, 4)}" if low == high else f"{_digits(low, 4)} .. {_digits(high, 4)}"


def _nested(numbers: Any) -> str:
    if isinstance(numbers, list):
        return f"[{', '.join(_nested(each) for each in numbers)}]"
    return _digits(numbers, 6)


def _digits(number: Any, digits: int) -> str:
    if isinstance(number, (complex, np.complexfloating)):
        return f"{complex(number):.{digits}g}"
    if isinstance(number, (bool, np.bool_)):
        return str(bool(number))
    if isinstance(number, (int, np.integer)):
        return f"{number:,}"
    number = float(number)
    return f"{number + 0.0:.{digits}g}"  # without the sign of a zero


def number(thing: Any, digits: int = 3) -> str:
    """A number, the range of a batch of numbers, or dtype and shape if they cannot be read."""

    def show() -> str:
        known = entries(thing)
        if known is None:
            return signature(thing)
        if known.ndim == 0:
            return _digits(known[()], digits)
        return _values(known) or signature(thing)

    return guarded(show, type(thing).__name__)


def readable_seconds(seconds: float) -> str:
    """Seconds in a suitable unit, with three digits; with one digit beyond :data:`MOST_YEARS`.

    >>> [readable_seconds(s) for s in (0.00123, 90, 1e9, 3e11, 1e20)]
    ['1.23 ms', '90 s', '31.7 years', '9,506 years', '3e12 years']
    """
    years = seconds / YEAR
    if years >= MOST_YEARS:
        return f"{years:.0e} years".replace("e+0", "e").replace("e+", "e")
    if years >= 1000:
        return f"{years:,.0f} years"
    for least, unit, name in (
        (YEAR, YEAR, "years"),
        (86_400 * 2, 86_400, "days"),
        (3600 * 2, 3600, "h"),
        (60 * 2, 60, "min"),
        (0.9995, 1, "s"),
        (9.995e-4, 1e-3, "ms"),
    ):
        if seconds >= least:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e6:.3g} us"


def rough_seconds(seconds: float) -> str:
    """An estimate of seconds in words.

    >>> [rough_seconds(s) for s in (0.3, 7.4, 43, 104, 250, 5000)]
    ['about 1 s', 'about 7 s', 'about 45 s', 'about 1.5 minutes', 'about 4 minutes', \
'about 83 minutes']
    """
    if seconds < 10:
        return f"about {max(round(seconds), 1)} s"
    if seconds < 90:
        return f"about {5 * round(seconds / 5)} s"
    minutes = round(2 * seconds / 60) / 2 if seconds < 300 else round(seconds / 60)
    return f"about {minutes:g} minutes"
