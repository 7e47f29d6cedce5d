"""Functions that were traced, compared by what they compute."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, Literal, jaxpr_as_fun
from jax.extend.linear_util import WrappedFun

# The class of a traced function with its constants; in newer JAX it is Jaxpr itself.
_CLOSED: Any = type(jax.make_jaxpr(lambda: None)())
with jax.disable_jit(False):  # a program that is debugged may have disabled it
    _inner = jax.make_jaxpr(jax.jit(lambda x: x))(0).eqns[0]
    _UNSPECIFIED: type = type(_inner.params["in_shardings"][0])


class Form(NamedTuple):
    """A jaxpr for arguments of certain dtypes, whose first inputs are constants."""

    jaxpr: Jaxpr
    places: tuple[int, ...]  # the places of the constants among those of the function
    outputs: Any  # the structure of the results

    @property
    def arguments(self) -> list[tuple[Any, Any]]:
        """Shape and dtype of each argument."""
        return [_type_of(var.aval) for var in self.jaxpr.invars[len(self.places) :]]


@dataclasses.dataclass(frozen=True, eq=False)
class Traced:
    """Jaxprs as a function of the arrays it closes over, followed by its arguments."""

    forms: tuple[Form, ...]  # the first is for the arguments it was hoisted with
    inputs: Any
    key: tuple[Hashable, ...]
    hash: int
    is_kept: bool

    @classmethod
    def of(cls, forms: tuple[Form, ...], inputs: Any, has_tracers: bool) -> Traced:
        content = _Content(has_tracers)
        kept = ((content.of_jaxpr(form.jaxpr), form.places, form.outputs) for form in forms)
        key = inputs, *kept
        return cls(forms, inputs, key, hash(key), not content.has_unknown)

    def __call__(self, constants: tuple[Any, ...], *args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        got = [_type_of(jax.typeof(leaf)) for leaf in leaves]
        form = next((form for form in self.forms if form.arguments == got), None)
        if structure != self.inputs or form is None:
            raise TypeError(
                f"a function traced for {self.inputs} of {self.forms[0].arguments} was called with "
                f"{structure} of {got}: please report this as a bug of jaxdescent."
            )
        # Constants that were cast with the arguments get their own dtype back.
        given = [
            jnp.asarray(constants[place], _type_of(var.aval)[1])
            for place, var in zip(form.places, form.jaxpr.invars, strict=False)
        ]
        results = jaxpr_as_fun(_CLOSED(form.jaxpr, ()))(*given, *leaves)
        return jax.tree.unflatten(form.outputs, results)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Traced) and self.hash == other.hash and self.key == other.key

    def __hash__(self) -> int:
        return self.hash


@dataclasses.dataclass(frozen=True, eq=False)
class ByIdentity:
    """An object that is compared by identity, however its own ``__eq__`` is defined.

    The program that uses the object keeps it alive, so that no other object takes its ``id``. If
    ``is_kept`` is False, two instances that hold the same object are not equal.
    """

    func: Any
    is_kept: bool = True

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return self.func(*args, **keywords)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, ByIdentity) and self.is_kept and self.func is other.func

    def __hash__(self) -> int:
        return id(self.func)

    def __repr__(self) -> str:
        return repr(self.func)


class _Content:
    """Turns a jaxpr into a hashable key that is equal only if the computation is the same.

    Objects that cannot be compared count by identity: this may compile a program once too often,
    but never reuses a wrong one.
    """

    def __init__(self, has_tracers: bool) -> None:
        self.has_tracers = has_tracers
        self.has_unknown = False

    def of_jaxpr(self, jaxpr: Jaxpr) -> Hashable:
        numbers: dict[Any, int] = {}

        def of_atom(atom: Any) -> Hashable:
            if isinstance(atom, Literal):
                value = np.asarray(atom.val)
                return atom.aval, value.dtype, value.tobytes()
            return numbers.setdefault(atom, len(numbers)), atom.aval

        def of_equation(equation: Any) -> Hashable:
            return (
                equation.primitive,
                tuple(map(of_atom, equation.invars)),
                tuple(map(of_atom, equation.outvars)),
                tuple((name, self.of(equation.params[name])) for name in sorted(equation.params)),
                ByIdentity(equation.ctx),  # JAX has one object for each context.
            )

        return (
            tuple(map(of_atom, jaxpr.constvars)),
            tuple(map(of_atom, jaxpr.invars)),
            tuple(map(of_equation, jaxpr.eqns)),
            tuple(map(of_atom, jaxpr.outvars)),
        )

    def of(self, value: Any) -> Hashable:
        kind = type(value)
        if value is None or kind in (bool, int, str, bytes):
            return kind, value
        if kind in (float, complex):
            return kind, repr(value)  # distinguishes 0.0 from -0.0; NaN equals itself
        if isinstance(value, _CLOSED):  # before Jaxpr, which is the same class in newer JAX
            return self.of_jaxpr(value.jaxpr), tuple(map(self._unknown, value.consts))
        if isinstance(value, Jaxpr):
            return self.of_jaxpr(value)
        if isinstance(value, np.generic):
            return value.dtype, value.tobytes()
        if isinstance(value, tuple | list):
            return kind, tuple(map(self.of, value))
        if isinstance(value, dict):
            return kind, tuple((self.of(key), self.of(value[key])) for key in value)
        if isinstance(value, WrappedFun) and self.has_tracers:
            return self._unknown(value)  # the rule of a derivative, which may close over tracers
        if isinstance(value, np.dtype | type | enum.Enum) or _is_compared_by_jax(value):
            return kind, value
        return self._unknown(value)

    def _unknown(self, value: Any) -> ByIdentity:
        self.has_unknown = True
        return ByIdentity(value)


def without_constants(closed: Any) -> Jaxpr:
    """The jaxpr with its constants as leading arguments, so that it holds no data."""
    jaxpr = closed.jaxpr
    return jaxpr.replace(constvars=(), invars=[*jaxpr.constvars, *jaxpr.invars])


def _type_of(aval: Any) -> tuple[Any, Any]:
    return aval.shape, aval.dtype


def _is_compared_by_jax(value: Any) -> bool:
    """Whether ``value`` is of a class that JAX's own caches compare by ``==`` (shardings, meshes,
    abstract values).
    """
    kind: Any = type(value)
    # JAX has one object for each mesh, and one object for an unspecified sharding.
    if isinstance(value, (jax.sharding.Mesh, _UNSPECIFIED)):
        return True
    if callable(value) or isinstance(value, jax.Array | np.ndarray):
        return False
    if kind.__module__.partition(".")[0] not in ("jax", "jaxlib"):
        return False
    if kind.__eq__ is object.__eq__:
        return False
    try:
        hash(value)
    except TypeError:
        return False
    return True
