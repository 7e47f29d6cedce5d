"""Checks of the arrays that belong to the rows of a regression, and of its loss."""

from __future__ import annotations

import types
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdescent import placement
from jaxdescent.inputs.arrays import as_array
from jaxdescent.inputs.numbers import refuse_masked
from jaxdescent.inputs.tracing import is_top_level
from jaxdescent.inputs.trees import check_floats

ROUNDING = 1e-3
"""The relative difference of two changes of a loss that may be rounding."""

_known: weakref.WeakSet[Any] = weakref.WeakSet()
"""Losses that have passed the check."""


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
    """Raise if a value that this process sees is negative or NaN; a traced value passes."""
    if isinstance(value, Tracer):
        return
    is_shared = isinstance(value, jax.Array) and not value.is_fully_addressable
    for part in [shard.data for shard in value.addressable_shards] if is_shared else [value]:
        least = np.min(np.asarray(part))  # NaN if any element is NaN
        if not least >= 0:
            raise ValueError(f"{name} must be at least 0, got {float(least)}.")


def check_shapes(objective: Any, expected: Any, params: Any) -> None:
    """Raise unless the params have the shapes that an objective needs."""
    got = jax.tree.map(jnp.shape, params)
    if got != expected:
        raise ValueError(
            f"{type(objective).__name__} needs params of shapes {expected}, got {got}: pass "
            "params=None to start from zeros."
        )


def is_zero(value: jax.Array) -> bool:
    """Whether all elements are known to be zero, which needs all shards in this process."""
    is_visible = placement.is_concrete(value) and value.is_fully_addressable
    return is_visible and not np.any(np.asarray(value))


def check_loss(model: Any, targets: jax.Array, dtype: Any) -> None:
    """Raise unless ``model.loss`` is computed element by element. Each loss is checked once, at
    arbitrary predictions, outside of ``jit``, ``vmap`` and ``grad``.

    Raises:
      TypeError: if the loss sums over predictions, or if one prediction changes another's loss: its
        derivative along all predictions at once is then no gradient.
    """
    loss = type(model).loss
    if not is_top_level() or not targets.is_fully_addressable or loss in _known:
        return
    shape = targets.shape
    predictions = jnp.linspace(0.1, 0.9, targets.size, dtype=dtype).reshape(shape)
    powers = np.random.default_rng(0).integers(0, 3, shape)
    direction = jnp.asarray(2.0**powers, dtype)  # powers of two multiply without rounding

    def change(direction: jax.Array) -> tuple[jax.Array, jax.Array]:
        own = targets.astype(dtype)
        return jax.jvp(lambda at: model.loss(at, own), (predictions,), (direction,))

    losses, slope = change(jnp.ones(shape, dtype))
    if losses.shape != targets.shape:
        raise TypeError(
            f"{type(model).__name__}.loss must return the loss of each row and output, of shape "
            f"{targets.shape} as the predictions, got {losses.shape}: they are added up elsewhere."
        )
    apart, together = direction * slope, change(direction)[1]
    far = jnp.abs(together - apart) > ROUNDING * jnp.maximum(jnp.abs(together), jnp.abs(apart))
    if bool(jnp.any(far)):  # a comparison with NaN is false
        raise TypeError(
            f"{type(model).__name__}.loss must be computed element by element, but a prediction "
            "changes the losses of others: write it as a function of the params instead."
        )
    if isinstance(loss, types.FunctionType):
        _known.add(loss)
