"""Checks that every entry point makes first: of params, the objective's data and its value."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent import placement
from jaxdescent.inputs.arrays import as_array
from jaxdescent.inputs.functions import is_fleeting
from jaxdescent.inputs.numbers import refuse_masked
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective, Params

_NUMBERS = (int, float, complex, np.ndarray, np.generic, jax.Array)


def checked_params(params: Params, objective: Objective) -> Params:
    """The params as arrays without weak types; None stands for the objective's own start.

    Raises:
      TypeError: if a leaf is not a real floating-point array or number.
      ValueError: if there are no params, or a leaf is empty or deleted.
    """
    if params is None:
        params = objective.start()
        if params is None:
            raise ValueError(
                f"params must be given: {type(objective).__name__} has no start of its own."
            )
    # Checked before they are packed, which may join several arrays into one of a common dtype.
    leaves = jax.tree.leaves_with_path(params)
    if not leaves:
        raise ValueError(f"params must have at least one array, got {params!r}.")
    for path, leaf in leaves:
        name = f"params{jax.tree_util.keystr(path)}"
        if not isinstance(leaf, _NUMBERS):
            raise TypeError(
                f"{name} must be a floating-point array or number, got {type(leaf).__name__}."
            )
        _refuse_unusable(name, leaf)
        dtype = _firm_dtype(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            way_out = (
                "minimise over its real and imaginary parts"
                if jnp.issubdtype(dtype, jnp.complexfloating)
                else f"write {int(leaf)}.0"
                if isinstance(leaf, int)
                else "convert it, for example with .astype('float32')"
            )
            raise TypeError(f"{name} must be real floating-point, got dtype {dtype}: {way_out}.")
        if np.size(leaf) == 0:
            raise ValueError(f"{name} must not be empty, got shape {np.shape(leaf)}.")
    # A weakly typed scalar would compile a second program.
    return jax.tree.map(_firm, objective.packed(params))


def _firm(leaf: Any) -> jax.Array:
    if isinstance(leaf, jax.Array) and not leaf.weak_type:
        return leaf
    return as_array(leaf, _firm_dtype(leaf))


def _firm_dtype(leaf: Any) -> Any:
    return leaf.dtype if isinstance(leaf, jax.Array) else jnp.result_type(leaf)


def settled(objective: Objective, params: Params) -> Objective:
    """The objective with the current state of its mutable objects, hoisted into leaves."""
    if not is_fleeting(objective):
        return objective
    check_value(objective, params)
    objective = objective.hoisted(precision.widen(params))
    check_leaves(objective)
    return objective


def check_leaves(objective: Objective) -> None:
    """Raise if the objective holds data that is not an array or a number."""
    for path, leaf in jax.tree.leaves_with_path(objective):
        name = f"{type(objective).__name__}{jax.tree_util.keystr(path)}"
        if isinstance(leaf, Objective):
            raise TypeError(
                f"the class {type(leaf).__name__} must be registered with JAX: decorate it with "
                "@jax.tree_util.register_dataclass."
            )
        if not isinstance(leaf, _NUMBERS):
            raise TypeError(
                f"{name} must be an array or a number, got {type(leaf).__name__} {leaf!r}: bind "
                "what is not data into the function, with functools.partial or a closure."
            )
        _refuse_unusable(name, leaf)


def _refuse_unusable(name: str, leaf: Any) -> None:
    refuse_masked(name, leaf)
    if placement.is_concrete(leaf) and leaf.is_deleted():
        raise ValueError(
            f"{name} was deleted, by a call with donate=True for example: make the array anew, or "
            "pass donate=False."
        )


def check_value(objective: Objective, params: Params) -> Any:
    """The dtype of the objective's value; this traces the objective, once for each program.

    Raises:
      TypeError: if the value is not a real floating-point number.
      ValueError: if it is not a scalar.
    """

    def value(params: Params) -> Any:
        returned = objective.value(params)
        if isinstance(returned, tuple) and returned and jnp.shape(returned[0]) == ():
            raise ValueError(
                f"the objective must return a scalar, got a tuple of {len(returned)} items: "
                "jaxdescent's objectives return the scalar alone, so write lambda p: f(p)[0]."
            )
        for leaf in jax.tree.leaves(returned):
            if not isinstance(leaf, _NUMBERS):
                raise TypeError(
                    f"the objective must return a scalar, got {type(leaf).__name__} {leaf!r}."
                )
        return returned

    shape = jax.eval_shape(value, precision.widen(params))
    leaves = jax.tree.leaves(shape)
    if len(leaves) != 1 or leaves[0] is not shape or shape.shape != ():
        raise ValueError(
            "the objective must return a scalar, got "
            f"{jax.tree.map(lambda leaf: leaf.shape, shape)}: sum or average it, or wrap the "
            "function in jd.LeastSquares to minimise half its squared norm."
        )
    if not jnp.issubdtype(shape.dtype, jnp.floating):
        raise TypeError(
            f"the objective must return a real floating-point number, got dtype {shape.dtype}."
        )
    return shape.dtype
