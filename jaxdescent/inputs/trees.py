"""Checks of what callers pass as arrays, whose faults JAX would tell in terms of its own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_tree(name: str, tree: Any) -> None:
    """Raise where JAX cannot take a pytree: keys that have no order, arrays of a foreign dtype.

    Raises:
      TypeError: naming the place, the value there and what to do.

    >>> check_tree("params", {"a": np.ones(2, ">f4")})
    Traceback (most recent call last):
    TypeError: params['a'] must be of a dtype that JAX has, got >f4: convert it, for example
    with .astype('float32').
    """
    try:
        leaves = jax.tree.leaves(tree)
    except ValueError as error:
        if "dictionary keys" not in str(error):
            raise
        raise TypeError(
            f"{name} has a dictionary whose keys have no common order: give it keys of one type, "
            "such as text."
        ) from error
    if any(map(_is_foreign, leaves)):
        for path, leaf in jax.tree.leaves_with_path(tree):
            if _is_foreign(leaf):
                at = f"{name}{jax.tree_util.keystr(path)}"
                raise TypeError(
                    f"{at} must be of a dtype that JAX has, got {leaf.dtype}: convert it, for "
                    "example with .astype('float32')."
                )


def leading_axis(name: str, tree: Any, expected: str, hint: str) -> int:
    """The length of the leading axis of all leaves of a tree: the ``expected`` axis in words.

    Raises:
      ValueError: if they have none of one length, or it has no entry.
    """
    sizes = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(tree)}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"{name} must have {expected} on every leaf, got shapes "
            f"{jax.tree.map(jnp.shape, tree)}: {hint}."
        )
    return sizes.pop()


def check_floats(name: str, dtype: Any, hint: str = "") -> None:
    """Raise unless a dtype is one of JAX's real floating-point ones.

    Raises:
      TypeError: saying how the array of this name is converted.
    """
    is_foreign = isinstance(dtype, np.dtype) and not _is_known(dtype)
    if is_foreign or not jnp.issubdtype(dtype, jnp.floating):
        of_jax = " of a dtype that JAX has" if is_foreign and dtype.kind == "f" else ""
        way_out = f"convert it, for example with {name}.astype('float32'){hint}"
        if jnp.issubdtype(dtype, jnp.complexfloating):  # a conversion would drop half of it
            way_out = f"state the problem in real numbers, by {name}.real and {name}.imag"
        raise TypeError(
            f"{name} must be real floating-point{of_jax}, got dtype {dtype}: {way_out}."
        )


def _is_foreign(leaf: Any) -> bool:
    return isinstance(leaf, (np.ndarray, np.generic)) and not _is_known(leaf.dtype)


def _is_known(dtype: np.dtype[Any]) -> bool:
    """Whether JAX has this dtype, in the byte order of the machine."""
    if dtype.kind in "OSUMm" or dtype.type is np.void:
        return False
    return dtype.isnative and dtype.itemsize <= (16 if dtype.kind == "c" else 8)
