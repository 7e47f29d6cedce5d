"""Repeated calls, which skip the checks that an equal call has passed before.

For a small problem, checking the inputs takes longer than the descent. Nearly all checks depend on
structures, shapes and dtypes, and the others on the values of a few numbers: a call that agrees
with an earlier one in these goes straight to its program.
"""

from __future__ import annotations

import dataclasses
import weakref
from types import FunctionType
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdescent import placement
from jaxdescent.calls import programs
from jaxdescent.calls.problem import known_of_descent
from jaxdescent.inputs.arrays import as_array
from jaxdescent.kernels.platform import Known
from jaxdescent.objectives import Objective


class Call(NamedTuple):
    """The key that identifies a call, and the call's leaves."""

    key: tuple[Any, ...]
    data: list[Any]
    settings: list[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class _Known:
    program: tuple[Any, ...]  # the program's key; the program itself would make a reference cycle
    inputs: list[Any]  # the program's inputs, with None in place of the data
    places: list[int]  # the positions of the data among the inputs
    named: list[Any]  # kept alive so that no other object takes an ``id`` in the key


# Calls are dropped with their program, which keeps the objects alive whose ``id`` is in a key.
_known: weakref.WeakValueDictionary[tuple[Any, ...], _Known] = weakref.WeakValueDictionary()


def call_of(objective: Any, data: Any, settings: Any) -> Call | None:
    """The key and leaves of a call; None if it cannot be told from a different one.

    Args:
      objective: a plain function, which is compared by identity, or an objective that separates
        its data from the rest (:meth:`jaxdescent.objectives.Objective.parts`).
      data: a pytree of uncommitted JAX arrays, which are compared by shape and dtype.
      settings: a pytree of Python numbers, which are compared by value, and of scalar arrays and
        functions, which are compared by identity.
    """
    if type(objective) is FunctionType:
        identity: Any = id(objective)
    else:
        parts = objective.parts() if isinstance(objective, Objective) else None
        if parts is None:
            return None
        identity = type(objective), parts.kind
        data, settings = (data, parts.data), (settings, parts.numbers)
    try:
        leaves, structure = jax.tree_util.tree_flatten(data)
        numbers, form = jax.tree_util.tree_flatten(settings)
    except ValueError:  # keys without an order, which the checks of a new call refuse
        return None
    key = [identity, structure, form, jax.sharding.get_abstract_mesh()]
    # An object that is no JAX array lacks one of these attributes; the leaf's type is in the key.
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


def run(call: Call) -> tuple[programs.Program, Any, Any, Any, dict[str, Any]] | None:
    """The program of a known call, its result for this call's data, and the problem, the limit and
    the flags; None if the call is new.
    """
    try:
        known = _known.get(call.key)
    except Exception:  # an object among the data may raise anything when hashed or compared
        return None
    if known is None:
        return None
    inputs = known.inputs.copy()
    for place, leaf in zip(known.places, call.data, strict=True):
        inputs[place] = leaf
    _, structure, _, flags, facts = known.program
    whole = jax.tree.unflatten(structure, inputs)
    if isinstance(facts, Known) and facts.is_far is not None:
        now = known_of_descent(whole)
        if now is None or now.is_far != facts.is_far:
            return None  # these data need another program
    program, (_, problem, limit) = programs.kept(known.program), whole
    return program, program.of_leaves(*inputs), problem, limit, dict(flags)


def remember(call: Call, program: programs.Program, inputs: Any) -> None:
    """Record that ``program`` with these inputs answers the call.

    Nothing is recorded unless the call's data are among the inputs, in their order and unchanged.
    """
    leaves = jax.tree.leaves(inputs)
    places: list[int] = []
    for own in call.data:
        begin = places[-1] + 1 if places else 0
        place = next((i for i in range(begin, len(leaves)) if leaves[i] is own), None)
        if place is None or not placement.is_concrete(own):
            return
        places.append(place)
    # Numbers are kept as arrays: converting one takes JAX longer than the rest of the call.
    fixed = [None if i in places else as_array(leaf) for i, leaf in enumerate(leaves)]
    known = _Known(program.key, fixed, places, call.settings)
    _known[call.key] = known
    program.calls.append(known)
