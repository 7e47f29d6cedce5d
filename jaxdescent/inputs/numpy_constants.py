"""NumPy arrays that functions close over, in programs of 32 and of 64 bits side by side.

A claim is examined in float64 where the caller's own programs have float32. jaxlib 0.12 remembers
by its identity what a NumPy array was converted to, for as long as a program holds the result,
whether or not 64-bit numbers are enabled: a float64 array that a program in float32 closes over is
float32 in a program in float64 too, and the other way round, and XLA refuses both. So does whatever
else the caller computes from that array. Here each dtype has a conversion of its own.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any

import jax
import numpy as np
from jax._src import dtypes

_converted: dict[tuple[int, np.dtype], tuple[Any, Any]] = {}
"""An array, and what it was converted to, by the array's ``id`` and the dtype; weak references."""


def keep_precisions_apart() -> None:
    """Give each dtype a conversion of its own, where JAX confuses them."""
    if not hasattr(dtypes, "register_canonicalize_value_handler"):
        return  # no public name of JAX's tells of its conversions; another JAX may have others
    array = np.zeros(1)
    with jax.enable_x64(False):
        single = dtypes.canonicalize_value(array)
    with jax.enable_x64(True):
        double = dtypes.canonicalize_value(array)
    if single.dtype == double.dtype:
        handler = functools.partial(_as_constant, type(single))
        dtypes.register_canonicalize_value_handler(np.ndarray, handler)


def _as_constant(kind: type[np.ndarray], array: np.ndarray) -> np.ndarray:
    """The array in the dtype that JAX computes in, of the kind that JAX holds as constants.

    While a program holds the result, it is one object for equal numbers of one array: each object
    is an input of its own of a program, and takes memory of its own on the device.
    """
    dtypes.check_valid_dtype(array.dtype)
    dtype = dtypes.canonicalize_dtype(array.dtype)
    made, key = np.asarray(array, dtype).view(kind), (id(array), dtype)
    if known := _converted.get(key):
        of, kept = (each() for each in known)
        if of is array and kept is not None and np.array_equal(kept, made):
            return kept
    _converted[key] = weakref.ref(array), weakref.ref(made, lambda _: _converted.pop(key, None))
    return made
