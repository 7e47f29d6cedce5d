"""Numbers and arrays as text, whether their values are here or not."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdescent.display.guard import guarded

LARGEST_RANGE = 10_000_000
"""Most elements of an array whose least and largest are looked for."""

FEW = 6
"""An array of up to so many elements is shown element by element."""

LARGEST_COPY = 1 << 16
"""Most elements that are copied from an accelerator: a copy takes less time than to compile."""


def is_array(thing: Any) -> bool:
    """Whether it has a shape and a dtype, as arrays, tracers and shapes alone do."""
    return shape_of(thing) is not None


def shape_of(thing: Any) -> tuple[Any, ...] | None:
    """The shape of what has a shape and a dtype; None for everything else."""
    shape = getattr(thing, "shape", None)
    return shape if isinstance(shape, tuple) and hasattr(thing, "dtype") else None


def signature(thing: Any) -> str:
    """Dtype and shape, and why there are no values where there are none.

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
    """Whether it is a number or an array of them whose values are here."""
    if isinstance(thing, (bool, int, float)):
        return True
    if not isinstance(thing, (np.ndarray, np.generic, jax.Array)) or _obstacle(thing):
        return False
    return bool(jnp.issubdtype(thing.dtype, jnp.number) or thing.dtype == np.bool_)


def entries(thing: Any) -> np.ndarray | None:
    """The values of a number or an array, copied from where they are; None if they are not here."""
    if not is_readable(thing):
        return None
    if isinstance(thing, jax.Array) and not thing.is_fully_addressable:
        return np.asarray(thing.addressable_data(0))
    return np.asarray(thing)


def _ends(array: Any) -> tuple[Any, Any] | None:
    """The least and the largest element, where they can be had without a copy of the array."""
    is_ordered = not jnp.issubdtype(array.dtype, jnp.complexfloating)
    if not is_ordered or not is_readable(array) or not 0 < array.size <= LARGEST_RANGE:
        return None
    parts = [array]
    if isinstance(array, jax.Array):
        # NumPy reads the memory of a CPU where it is, and nothing has to be compiled.
        if not _is_on_cpus(array) and array.size > LARGEST_COPY:
            with jax.ensure_compile_time_eval():
                low, high = _least_and_largest(array)
            return np.asarray(low)[()], np.asarray(high)[()]
        shards = [shard.data for shard in array.addressable_shards if shard.replica_id == 0]
        parts = [np.asarray(part) for part in shards or [array]]
    parts = [part for part in parts if part.size]
    with np.errstate(all="ignore"):
        lows, highs = [np.min(part) for part in parts], [np.max(part) for part in parts]
        return np.min(np.asarray(lows)), np.max(np.asarray(highs))


def _is_on_cpus(array: jax.Array) -> bool:
    return all(device.platform == "cpu" for device in array.sharding.device_set)


@jax.jit
def _least_and_largest(array: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.min(array), jnp.max(array)


def values(thing: Any) -> str:
    """Few numbers one by one, more by their least and largest, none if they cannot be read.

    >>> values(jnp.arange(3.0)), values(np.linspace(-1, 1, 100)), values(jnp.zeros(9))
    ('[0, 1, 2]', '-1 .. 1', 'all 0')
    """
    return guarded(lambda: _values(thing), "")


def _values(thing: Any) -> str:
    if math.prod(shape_of(thing) or ()) <= FEW:
        known = entries(thing)
        return "" if known is None else _nested(known.tolist())
    ends = _ends(thing)
    return "" if ends is None else _between(*ends)


def _between(low: Any, high: Any) -> str:
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
    """A number, the range of a batch of them, or the dtype and shape of what cannot be read."""

    def show() -> str:
        known = entries(thing)
        if known is None:
            return signature(thing)
        if known.ndim == 0:
            return _digits(known[()], digits)
        return _values(known) or signature(thing)

    return guarded(show, type(thing).__name__)


def readable_seconds(seconds: float) -> str:
    """Three digits in the unit that suits.

    >>> readable_seconds(0.00123), readable_seconds(90), readable_seconds(1e9)
    ('1.23 ms', '90 s', '31.7 years')
    """
    for least, unit, name in (
        (3.156e7, 3.156e7, "years"),
        (86_400 * 2, 86_400, "days"),
        (3600 * 2, 3600, "h"),
        (60 * 2, 60, "min"),
        (0.9995, 1, "s"),
        (9.995e-4, 1e-3, "ms"),
    ):
        if seconds >= least:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e6:.3g} us"
