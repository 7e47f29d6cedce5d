"""Whether a loss is computed element by element, so that one derivative serves all predictions."""

from __future__ import annotations

import types
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent.inputs.tracing import is_top_level

ROUNDING = 1e-3
"""The relative difference of two changes of a loss that may be rounding."""

_known: weakref.WeakSet[Any] = weakref.WeakSet()
"""Losses that have passed the check."""


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
