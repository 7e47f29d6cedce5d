"""Checks of numbers and counts that a caller passes, where their values are not traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

MOST = 2**31 - 1
"""The largest count that int32 can hold."""


def refuse_masked(name: str, value: Any) -> None:
    """Raise for an array of ``numpy.ma``, whose mask would be ignored in computations.

    >>> refuse_masked("y", np.ma.array([1.0, 2.0], mask=[True, False]))
    Traceback (most recent call last):
    TypeError: y is a masked array, whose mask would be ignored: leave out or fill what it masks.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, whose mask would be ignored: leave out or fill what it "
            "masks."
        )


def check_number(
    name: str,
    value: Any,
    expected: str,
    holds: Callable[[Any], Any],
    *,
    may_be_none: bool = False,
    hint: str = "",
) -> None:
    """Raise unless ``value`` is a real scalar for which ``holds``; any traced scalar passes.

    The message says that the value "must be ``expected``", and ends with the ``hint`` what to do.

    Raises:
      TypeError: if the value is not a real scalar.
      ValueError: if ``holds`` returns False.

    >>> check_number("decay", 2.0, "in [0, 1)", lambda c: 0 <= c < 1)
    Traceback (most recent call last):
    ValueError: decay must be in [0, 1), got 2.0.
    """
    if value is None and may_be_none:
        return
    hint = f": {hint}" if hint else ""
    numbers = (int, float, np.ndarray, np.generic, jax.Array)
    if (
        isinstance(value, bool)
        or getattr(value, "dtype", None) == np.bool_
        or not isinstance(value, numbers)
        or np.ndim(value)
        or np.iscomplexobj(value)
    ):
        kind = "a number or None" if may_be_none else "a number"
        raise TypeError(f"{name} must be {kind}, {expected}, got {value!r}{hint}.")
    if not isinstance(value, Tracer) and not holds(value):
        raise ValueError(f"{name} must be {expected}, got {float(value)}{hint}.")


def check_seed(name: str, value: Any) -> None:
    """Raise unless ``value`` is an integer from 0 to 2^32 - 1; a traced value passes.

    >>> check_seed("seed", 1.5)
    Traceback (most recent call last):
    TypeError: seed must be a Python integer, got 1.5.
    """
    if isinstance(value, Tracer):
        return
    if isinstance(value, jax.Array):
        if jnp.ndim(value) or not jnp.issubdtype(value.dtype, jnp.integer):
            raise TypeError(f"{name} must be an integer, got {value.dtype} of shape {value.shape}.")
        value = int(value)  # JAX would compare it with the bounds in its own dtype
    check_count(name, value, least=0, most=2**32 - 1)


def check_count(name: str, value: Any, *, least: int = 1, most: int = MOST) -> None:
    """Raise unless ``value`` is an integer with ``least <= value <= most``.

    Raises:
      TypeError: if the value is traced or not an integer.
      ValueError: if it is out of range.

    >>> check_count("history", -1, least=0)
    Traceback (most recent call last):
    ValueError: history must be at least 0, got -1.
    """
    if isinstance(value, Tracer):
        raise TypeError(f"{name} must be a Python integer, got a traced value.")
    # NumPy has no integer dtype for a Python integer beyond 64 bits.
    is_integer = type(value) is int or np.issubdtype(np.asarray(value).dtype, np.integer)
    if np.ndim(value) or not is_integer:
        raise TypeError(f"{name} must be a Python integer, got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}.")
    if value > most:
        limit = "below 2**31" if most == MOST else f"at most {most:,}"
        raise ValueError(f"{name} must be {limit}, got {value}.")
