"""Methods, objectives and designs are shown as the calls that make them."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxdescent.display.numbers import (
    FEW,
    LONGEST,
    entries,
    guarded,
    shape_of,
    shortened,
    signature,
)

MOST_WRAPPERS = 8
"""The most wrappers that are opened: a mock object answers any name with a callable."""


class Displayed:
    """A base class whose subclasses are shown as the call that makes them.

    It sets the inherited ``__repr__`` as an attribute of each subclass before a decorator sees the
    class: ``dataclasses.dataclass`` writes none if there is one, so that a new method or objective
    needs nothing of its own.

    >>> import dataclasses, jax.numpy as jnp
    >>> @dataclasses.dataclass(frozen=True, eq=False)
    ... class Memory(Displayed):
    ...     pairs: int = 10
    ...     scale: float = 1.0
    >>> Memory(), Memory(pairs=5), Memory(scale=jnp.ones((2, 3)))
    (Memory(), Memory(pairs=5), Memory(scale=float32[2,3]))
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = cls.__repr__

    def __repr__(self) -> str:
        name = type(self).__name__
        return guarded(lambda: f"{name}({', '.join(self._arguments())})", name)

    def _arguments(self) -> list[str]:
        """The text between the parentheses, which distinguishes this object from others: of a
        dataclass the arguments that make it, without those that have their defaults.

        The first is shown without its name if it is required, if its default is an object, or if
        its value is an object whose text says what it is.
        """
        texts: list[str] = []
        fields = dataclasses.fields(self) if dataclasses.is_dataclass(self) else ()
        for place, field in enumerate(fields):
            value = getattr(self, field.name, None)
            if not (field.init and field.repr) or _is_default(field, value):
                continue
            goes_without = place == 0 and not field.kw_only
            if goes_without and field.default is not dataclasses.MISSING:
                is_function = callable(value) and shape_of(value) is None
                goes_without = is_function or isinstance(value, Displayed)
            texts.append(argument(value) if goes_without else f"{field.name}={argument(value)}")
        return texts


def structure_name(thing: Any) -> str:
    """An object as the call that makes it, without numbers: the part that belongs to a program.

    >>> import dataclasses
    >>> @dataclasses.dataclass(frozen=True, eq=False)
    ... class Rule(Displayed):
    ...     inner: object = None
    ...     rate: float = 1.0
    >>> structure_name(Rule(Rule(rate=2.0), rate=3.0))
    'Rule(Rule())'
    """
    fields = dataclasses.fields(thing) if dataclasses.is_dataclass(thing) else ()
    values = [getattr(thing, field.name) for field in fields]
    inner = [structure_name(value) for value in values if isinstance(value, Displayed)]
    return f"{type(thing).__name__}({', '.join(inner)})"


def argument(value: Any) -> str:
    """An argument in a few words: numbers in full, arrays by their dtype and shape.

    >>> import jax.numpy as jnp, numpy as np
    >>> argument(0.5), argument(np.zeros((3, 2))), argument(jnp.sin), argument({"a": 1.0})
    ('0.5', 'float64[3,2]', 'sin', "{'a': 1.0}")
    """
    return guarded(lambda: _argument(value), type(value).__name__)


def _argument(value: Any) -> str:
    if isinstance(value, Displayed):
        return repr(value)
    if (shape := shape_of(value)) is not None:
        known = entries(value) if shape == () else None
        return signature(value) if known is None else str(known)
    if callable(value):
        return name_of(value)
    if dataclasses.is_dataclass(value) or hasattr(value, "_fields"):
        return f"{type(value).__name__}(...)"  # its own text may contain whole arrays
    if isinstance(value, (tuple, list, dict)):
        if len(value) > FEW:
            return f"{type(value).__name__} of {len(value):,}"
        return shortened(_container(value), 3 * LONGEST)
    return shortened(repr(value))


def _container(value: tuple[Any, ...] | list[Any] | dict[Any, Any]) -> str:
    if isinstance(value, dict):
        inside = ", ".join(f"{key!r}: {argument(item)}" for key, item in value.items())
        return f"{{{inside}}}"
    inside = ", ".join(argument(item) for item in value)
    if isinstance(value, list):
        return f"[{inside}]"
    return f"({inside},)" if len(value) == 1 else f"({inside})"


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.default is dataclasses.MISSING:
        return False
    if value is None or value is field.default:  # None replaces a zero that was given
        return True
    return isinstance(value, (bool, int, float, str)) and value == field.default


def name_of(function: Any) -> str:
    """The qualified name of a callable, without its wrappers.

    >>> import functools, math
    >>> name_of(functools.partial(math.pow, 2.0)), name_of(lambda x: x), name_of(float)
    ('pow', '<lambda>', 'float')
    """
    for _ in range(MOST_WRAPPERS):
        inner = getattr(function, "func", None)
        if not callable(inner):
            break
        function = inner  # inside a functools.partial, or a wrapper of inputs.functions.as_pytree
    name = getattr(function, "__qualname__", None)
    name = name if isinstance(name, str) else type(function).__name__
    return shortened(name.replace(".<locals>", ""))
