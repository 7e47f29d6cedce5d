"""Calls like one before: what was looked at then is not looked at again.

For a small problem the look at its input takes longer than its descent. Nearly all of it depends on
structures, shapes and dtypes, the rest on the values of a few numbers: a call that repeats both
goes straight to its program.
"""

from __future__ import annotations

import dataclasses
import weakref
from types import FunctionType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent import placement
from jaxdescent.calls import programs
from jaxdescent.objectives import Objective


class Call(NamedTuple):
    """What a call is known by, and its leaves."""

    key: tuple[Any, ...]
    data: list[Any]
    settings: list[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class _Known:
    program: tuple[Any, ...]  # its key: the program itself would be a cycle
    inputs: list[Any]  # the program's, with None for the data
    places: list[int]  # of the data among them
    named: list[Any]  # so that no other object takes over an identity in the key


# A program's calls go with the program: an identity in a key is that of what the program keeps.
_known: weakref.WeakValueDictionary[tuple[Any, ...], _Known] = weakref.WeakValueDictionary()


def call_of(objective: Any, data: Any, settings: Any) -> Call | None:
    """This call; None if it holds what cannot be told from another.

    Args:
      objective: a plain function, which counts by identity, or an objective that says what of it
        is data and what is not (:meth:`jaxdescent.objectives.Objective.parts`).
      data: a pytree of uncommitted JAX arrays, which count by shape and dtype.
      settings: a pytree of Python numbers, which count by value, and of scalar arrays and
        functions, which count by identity.
    """
    if type(objective) is FunctionType:
        identity: Any = id(objective)
    else:
        parts = objective.parts() if isinstance(objective, Objective) else None
        if parts is None:
            return None
        identity = type(objective), parts.kind
        data, settings = (data, parts.data), (settings, parts.numbers)
    leaves, structure = jax.tree_util.tree_flatten(data)
    numbers, form = jax.tree_util.tree_flatten(settings)
    key = [identity, structure, form, jax.sharding.get_abstract_mesh()]
    # Anything but a JAX array that is there lacks one of these; its type is part of the key.
    try:
        for leaf in leaves:
            if leaf.committed or leaf.is_deleted():
                return None
            key += type(leaf), leaf.aval
        for number in numbers:
            kind = type(number)
            if kind is int or kind is float:
                key += kind, number
                continue
            is_fixed = kind is FunctionType or issubclass(kind, np.generic)
            if not is_fixed and (number.ndim or number.is_deleted()):
                return None
            key += kind, id(number)
    except AttributeError:
        return None
    return Call(tuple(key), leaves, numbers)


def run(call: Call) -> Any:
    """What the program of a known call returns; None if the call is new."""
    try:
        known = _known.get(call.key)
    except Exception:  # whatever an object among the data raises when it is hashed or compared
        return None
    if known is None:
        return None
    inputs = known.inputs.copy()
    for place, leaf in zip(known.places, call.data, strict=True):
        inputs[place] = leaf
    return programs.kept(known.program).of_leaves(*inputs)


def remember(call: Call, program: programs.Program, inputs: Any) -> None:
    """That ``program`` with these inputs answers the call, if the call's data are among them, in
    their order and as they are.
    """
    leaves = jax.tree.leaves(inputs)
    places: list[int] = []
    for own in call.data:
        begin = places[-1] + 1 if places else 0
        place = next((i for i in range(begin, len(leaves)) if leaves[i] is own), None)
        if place is None or not placement.is_concrete(own):
            return
        places.append(place)
    # As arrays: JAX takes longer to convert a number than to do all else.
    fixed = [None if i in places else jnp.asarray(leaf) for i, leaf in enumerate(leaves)]
    known = _Known(program.key, fixed, places, call.settings)
    _known[call.key] = known
    program.calls.append(known)
