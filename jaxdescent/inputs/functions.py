"""Functions inside pytrees: which of their values are data, and when two functions are the same.

A plain function is compared by identity, as in ``jax.jit``, and its compiled programs are kept. An
object whose attributes may be changed is called *fleeting*: nothing tells whether it still computes
what it computed before, so each call traces it anew and compares the jaxprs by their content.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import types
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial

from jaxdescent.inputs.numpy_constants import kept_apart
from jaxdescent.inputs.traced_functions import ByIdentity, Form, Traced, without_constants


def as_pytree(function: Any) -> Any:
    """A callable as a pytree; what is not callable (JAX's placeholders) is returned unchanged.

    A callable that JAX does not know as a pytree is compared by identity and has no leaves, with
    one exception: a bound method of a registered object whose leaves are JAX arrays becomes the
    function of its class, with the object's arrays as leaves. A ``jax.tree_util.Partial`` or a
    registered class with ``__call__`` keeps its own leaves.
    """
    if _is_partial(function):
        return _bound(function.func, *function.args, **function.keywords)
    if not callable(function):
        return function
    leaves = jax.tree.leaves(function)
    is_plain = len(leaves) == 1 and leaves[0] is function
    return _bound(function) if is_plain else function


def is_fleeting(tree: Any) -> bool:
    """Whether the tree holds a callable that may compute something else in the next call."""
    for leaf in jax.tree.leaves(tree, is_leaf=_is_partial):
        if _is_partial(leaf):
            func = leaf.func
            is_kept = func.is_kept if isinstance(func, ByIdentity | Traced) else _is_constant(func)
            if not is_kept or is_fleeting((leaf.args, leaf.keywords)):
                return True
    return False


MOST_IN_DOUBLE = 512
"""The most unknowns for which a Hessian is formed and every eigenvalue computed: for a certificate,
and in float64 for a claim on a function, which its certificate must not contradict."""


def hoist(function: Any, *example: Any, always: bool = False, in_double: bool = False) -> Any:
    """The function as a ``Partial`` whose leaves are the arrays that it closes over.

    A function defined inside ``jit`` or ``grad`` may close over traced values; as leaves these can
    be held constant and differentiated like any other data. The arrays of a fleeting object become
    leaves too, and its program is found again by what it computes. A plain function that closes
    over no traced value is returned unchanged, unless it is ``always`` hoisted: XLA would fold
    constants while it compiles.

    The result accepts arguments of the structure, shapes and dtypes of the ``example``; if
    ``in_double``, in float64 too where the function does, and the first has few numbers.
    """
    with hinting("the function"), kept_apart():
        closed, shapes = jax.make_jaxpr(anew(function), return_shape=True)(*example)
    has_tracers = any(isinstance(constant, Tracer) for constant in closed.consts)
    if not always and not has_tracers and not is_fleeting(function):
        return function
    made = [(closed, shapes)]
    if in_double and sum(map(np.size, jax.tree.leaves(example[0]))) <= MOST_IN_DOUBLE:
        made += _made_in_double(function, example)
    constants = {id(each): each for closed, _ in made for each in closed.consts}
    places = {key: place for place, key in enumerate(constants)}
    forms = tuple(
        Form(
            without_constants(closed),
            tuple(places[id(each)] for each in closed.consts),
            jax.tree.structure(shapes),
        )
        for closed, shapes in made
    )
    traced = Traced.of(forms, jax.tree.structure(example), has_tracers)
    held = [
        # JAX holds a NumPy constant without copying it, and the caller may write to that array.
        constant if isinstance(constant, jax.Array) else jax.numpy.array(constant, copy=True)
        for constant in constants.values()
    ]
    return Partial(traced, tuple(held))


def _made_in_double(function: Any, example: tuple[Any, ...]) -> list[tuple[Any, Any]]:
    """The jaxpr for floating point arguments in float64, and the shapes of its results; nothing if
    they have that dtype anyway, or the function raises for it what it may.
    """

    def wide(leaf: Any) -> Any:
        dtype = jax.numpy.result_type(leaf)
        dtype = np.float64 if jax.numpy.issubdtype(dtype, np.floating) else dtype
        return jax.ShapeDtypeStruct(np.shape(leaf), dtype)

    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), kept_apart():
        given = jax.tree.map(wide, example)
        same = [jax.numpy.result_type(leaf) for leaf in jax.tree.leaves(example)]
        if [leaf.dtype for leaf in jax.tree.leaves(given)] == same:
            return []
        try:
            return [jax.make_jaxpr(anew(function), return_shape=True)(*given)]
        except Exception:  # a function may raise anything in a dtype that it was not written for
            return []


_HINTS = (
    (
        jax.errors.TracerArrayConversionError,
        "a function of NumPy or SciPy was given a traced value: write jax.numpy (jnp) in place of "
        "numpy, and jax.scipy in place of scipy",
    ),
    (
        jax.errors.TracerBoolConversionError,
        "an if, while, and, or, min or max depends on a traced value: write jnp.where or "
        "jax.lax.cond (jax.lax.while_loop for a loop, jnp.logical_and, jnp.minimum)",
    ),
    (
        jax.errors.NonConcreteBooleanIndexError,
        "an array is indexed by a traced condition, so that its shape depends on values: write "
        "jnp.where(condition, x, 0)",
    ),
    (
        jax.errors.TracerIntegerConversionError,
        "a traced value is used as a Python integer, such as an index of a list or the length of a "
        "range: write jnp.take, or jax.lax.fori_loop",
    ),
    (
        jax.errors.ConcretizationTypeError,
        "a traced value is used as a Python number, by float(), int(), .item() or a function of "
        "math: leave the conversion out, and write jnp.exp in place of math.exp",
    ),
)


@contextlib.contextmanager
def hinting(what: str) -> Iterator[None]:
    """A context that replaces JAX's errors about traced values in a caller's function by one that
    says what to write instead.

    Raises:
      TypeError: in place of JAX's own error, which is its cause.
    """
    try:
        yield
    except tuple(kind for kind, _ in _HINTS) as error:
        hint = next(text for kind, text in _HINTS if isinstance(error, kind))
        raise TypeError(f"{what} cannot be traced by JAX: {hint}.") from error


def anew(function: Any) -> Any:
    """A new function object that calls ``function``.

    JAX caches traces by the equality of functions, and would not notice that an object was changed.
    """

    def call(*args: Any) -> Any:
        return function(*args)

    return call


def _is_partial(value: Any) -> bool:
    return type(value) is Partial


def _bound(func: Any, *args: Any, **keywords: Any) -> Partial:
    """``func`` with its arguments bound as data, as a pytree."""
    if type(func) is types.FunctionType or isinstance(func, ByIdentity | Traced | type):
        return Partial(func, *args, **keywords)  # it is compared in the intended way
    if type(func) is types.MethodType and _is_data(func.__self__):
        inner = as_pytree(func.__func__)
        if _is_partial(inner) and not is_fleeting(inner):
            return Partial(inner.func, *inner.args, func.__self__, *args, **keywords)
    return Partial(ByIdentity(func, _is_constant(func)), *args, **keywords)


def _is_data(owner: Any) -> bool:
    """Whether ``owner`` is a JAX array or a pytree whose leaves are all JAX arrays.

    Other leaves stay untraced: a Python number may serve as a shape or in an ``if``, and a NumPy
    array as an argument of NumPy, which would raise for tracers.
    """
    leaves, structure = jax.tree.flatten(owner)
    if not leaves or not all(isinstance(leaf, jax.Array) for leaf in leaves):
        return False
    try:
        hash(structure)
    except Exception:  # The owner's metadata may raise anything.
        return False
    return True


_JAX_WRAPPERS: tuple[type, ...] = (
    type(jax.jit(lambda: None)),
    jax.custom_jvp,
    jax.custom_vjp,
    jax.numpy.ufunc,
    np.ufunc,
)
# The class that Partial wraps around a functools.partial, so that their arguments stay apart.
_BOX: type = type(Partial(functools.partial(int)).func)
_NUMBERS = (int, float, complex, np.generic, jax.Array)
_CONSTANTS = (*_NUMBERS, str, bytes, type, np.dtype, enum.Enum)


def _is_constant(value: Any) -> bool:
    """Whether ``value`` cannot change, apart from what a plain function closes over."""
    kind = type(value)
    if value is None or kind is types.FunctionType or isinstance(value, _JAX_WRAPPERS):
        return True
    if kind is types.BuiltinFunctionType:
        return value.__self__ is None or isinstance(value.__self__, types.ModuleType)
    if kind in (functools.partial, Partial, _BOX):
        parts = (value.func, *value.args, *value.keywords.values())
        return all(map(_is_constant, parts))
    if kind in (tuple, frozenset):
        return all(map(_is_constant, value))
    return isinstance(value, _CONSTANTS)
