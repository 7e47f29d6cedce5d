"""Functions inside pytrees: part of the structure if plain, with their data as leaves if not."""

from __future__ import annotations

from typing import Any

import jax


def as_pytree(function: Any) -> Any:
    """A callable as a pytree; anything that is not callable (JAX's placeholders) as it is.

    A callable that JAX does not know as a pytree counts by identity and has no leaves; a
    ``jax.tree_util.Partial`` or a registered class with ``__call__`` keeps its own leaves.
    """
    if not callable(function):
        return function
    leaves = jax.tree.leaves(function)
    is_plain = len(leaves) == 1 and leaves[0] is function
    return jax.tree_util.Partial(function) if is_plain else function


def hoist(function: Any, *example: Any) -> Any:
    """The same function, carrying the traced values it closes over as leaves.

    A function defined inside ``jit`` or ``grad`` may close over values that are differentiated;
    as leaves they can be stopped and differentiated like any other data. A function that closes
    over none is returned as it is.

    Args:
      function: a callable pytree.
      example: arguments to trace it with.
    """
    converted, constants = jax.closure_convert(function, *example)
    if not constants:
        return function
    return jax.tree_util.Partial(
        lambda constants, *args: converted(*args, *constants), tuple(constants)
    )
