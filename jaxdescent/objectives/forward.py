"""Derivatives along directions, also of functions that have only a reverse rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax


def pushed(function: Callable[..., Any], at: tuple[Any, ...], along: tuple[Any, ...]) -> Any:
    """The value and the derivative of ``function`` along a direction, like ``jax.jvp``.

    The forward rule of a ``jax.custom_vjp`` usually calls the function itself, whose derivative
    along a direction JAX refuses. The backward rule may be differentiated in reverse: the pullback
    is linear in its argument, and its transpose is the derivative along the direction.
    """
    try:
        return jax.jvp(function, at, along)
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
    value, pull = jax.vjp(function, *at)
    return value, jax.linear_transpose(pull, value)(along)[0]
