"""Derivatives along directions, also of functions that have only a reverse rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import jaxpr_as_fun

from jaxdescent.kernels.loops import equations


def pushed(function: Callable[..., Any], at: tuple[Any, ...], along: tuple[Any, ...]) -> Any:
    """The value and the derivative of ``function`` along a direction, like ``jax.jvp``.

    The forward rule of a ``jax.custom_vjp`` usually calls the function itself, whose derivative
    along a direction JAX refuses: in a program only when that is lowered, so that the equations
    must be asked. The backward rule may be differentiated in reverse: the pullback is linear in its
    argument, and its transpose is the derivative along the direction.
    """
    given = at, along
    made, like = jax.make_jaxpr(lambda *given: jax.jvp(function, *given), return_shape=True)(*given)
    if any(equation.primitive.name == "custom_lin" for equation in equations(made.jaxpr)):
        value, pull = jax.vjp(function, *at)
        return value, jax.linear_transpose(pull, value)(along)[0]
    leaves = jaxpr_as_fun(made)(*jax.tree.leaves(given))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
