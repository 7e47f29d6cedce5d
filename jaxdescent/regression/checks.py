"""Checks of the arrays that belong to the rows of a regression."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxdescent import placement
from jaxdescent.inputs.arrays import as_array
from jaxdescent.inputs.numbers import refuse_masked
from jaxdescent.inputs.trees import check_floats


def checked_array(name: str, value: Any, rows: int, ndims: tuple[int, ...]) -> jax.Array:
    """An array of a regression's data as a JAX array, if its shape fits X's rows.

    Raises:
      TypeError: if it is no floating-point array.
      ValueError: if its shape does not fit.
    """
    refuse_masked(name, value)
    value = value if isinstance(value, jax.Array) else np.asarray(value)
    check_floats(name, value.dtype)
    if value.ndim not in ndims or value.shape[0] != rows or 0 in value.shape:
        shapes = {1: f"({rows},)", 2: f"({rows}, outputs)"}
        raise ValueError(
            f"{name} must have shape {' or '.join(shapes[n] for n in ndims)} to go with X's {rows} "
            f"rows, got {value.shape}."
        )
    return as_array(value)


def refuse_negative(name: str, value: Any) -> None:
    """Raise if a visible value is negative or NaN; a traced value passes."""
    if isinstance(value, Tracer):
        return
    for part in placement.visible_parts(value):
        least = np.min(part)  # NaN if any element is NaN
        if not least >= 0:
            raise ValueError(f"{name} must be at least 0, got {float(least)}.")


def is_zero(value: jax.Array) -> bool:
    """Whether all elements are known to be zero, which needs all shards in this process."""
    is_visible = placement.is_concrete(value) and value.is_fully_addressable
    return is_visible and not np.any(np.asarray(value))
