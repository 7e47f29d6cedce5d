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
    if _is_refused(made):
        value, push = _transposed(function, *at)
        return value, push(*along)
    leaves = jaxpr_as_fun(made)(*jax.tree.leaves(given))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def linearized(function: Callable[[Any], Any], at: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The value of ``function`` and its derivative along directions, like ``jax.linearize``; of one
    that has only a reverse rule as :func:`pushed` has it.
    """
    value, push = jax.linearize(function, at)
    return _transposed(function, at) if _is_refused(jax.make_jaxpr(push)(at)) else (value, push)


def _is_refused(made: Any) -> bool:
    """Whether the equations have a derivative along a direction that JAX will refuse."""
    return any(equation.primitive.name == "custom_lin" for equation in equations(made.jaxpr))


def _transposed(function: Callable[..., Any], *at: Any) -> tuple[Any, Callable[..., Any]]:
    value, pull = jax.vjp(function, *at)
    transpose = jax.linear_transpose(pull, value)
    return value, lambda *along: transpose(along)[0]
