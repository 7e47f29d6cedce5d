"""NumPy arrays that functions close over, in programs of 32 and of 64 bits side by side.

A claim is examined in float64 where the caller's own programs have float32. jaxlib 0.12 remembers
by its identity what a NumPy array was converted to, for as long as a program holds the result,
whether or not 64-bit numbers are enabled: a float64 array that a program in float32 closes over is
float32 in a program in float64 too, and the other way round, and XLA refuses both. So does whatever
else the caller computes from that array. Here each precision has a conversion of its own.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax._src import dtypes

WIDE = frozenset(map(np.dtype, ("float64", "int64", "uint64", "complex128")))
"""The dtypes that are others where 64-bit numbers are not enabled."""


_views = threading.local()
"""In a thread that traces, ``of``: an array and a view of it, by the array's ``id`` and the dtype
of the conversion."""

_lock = threading.Lock()
_tracing: set[int] = set()
"""The threads that trace."""

_convert: Any = getattr(dtypes, "canonicalize_value", None)  # no public name of JAX's tells of it


@contextlib.contextmanager
def kept_apart() -> Iterator[None]:
    """A context for tracing, in which a view of an array is converted in the array's place: a view
    has an identity of its own, and takes no memory.

    So the caller's programs find nothing that this package has converted, and traces here nothing
    older, such as numbers from before the array was changed. JAX's function is replaced while a
    thread is in such a context, and does what it did in all other threads.
    """
    if _convert is None or hasattr(_views, "of"):
        yield
        return
    thread, _views.of = threading.get_ident(), {}
    try:
        with _lock:
            _tracing.add(thread)
            dtypes.canonicalize_value = _converted
        yield
    finally:
        del _views.of
        with _lock:
            _tracing.discard(thread)
            if not _tracing:
                dtypes.canonicalize_value = _convert


def _converted(value: Any) -> Any:
    """The value as JAX computes with it."""
    views: dict[Any, Any] | None = getattr(_views, "of", None)
    is_wide = isinstance(value, np.ndarray) and value.dtype in WIDE
    if views is None or not is_wide or hasattr(value, "aval"):  # JAX made what has one
        return _convert(value)
    key = id(value), jax.dtypes.canonicalize_dtype(value.dtype)
    return _convert(views.setdefault(key, (value, value.view()))[1])
