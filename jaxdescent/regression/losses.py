"""Whether a loss is one of each prediction, which derivatives of all of them at once need."""

from __future__ import annotations

import types
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent.inputs.tracing import is_top_level

ROUNDING = 1e-3
"""The share of a change of a loss that may be rounding."""

_known: weakref.WeakSet[Any] = weakref.WeakSet()
"""Losses that were looked at."""


def check_loss(model: Any, targets: jax.Array, dtype: Any) -> None:
    """Raise unless ``model.loss`` is computed element by element, which is looked at once for each
    loss, at arbitrary predictions, outside of ``jit``, ``vmap`` and ``grad``.

    Raises:
      TypeError: if it sums the losses, or if one prediction changes another's loss: its slope by
        all of them is then no gradient.
    """
    loss = type(model).loss
    if not is_top_level() or not targets.is_fully_addressable or loss in _known:
        return
    shape = targets.shape
    predictions = jnp.linspace(0.1, 0.9, targets.size, dtype=dtype).reshape(shape)
    powers = np.random.default_rng(0).integers(0, 3, shape)
    direction = jnp.asarray(2.0**powers, dtype)  # by which products are exact

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
    if bool(jnp.any(far)):  # not so where NaN is compared
        raise TypeError(
            f"{type(model).__name__}.loss must be computed element by element, but a prediction "
            "changes the losses of others: write it as a function of the params instead."
        )
    if isinstance(loss, types.FunctionType):
        _known.add(loss)
