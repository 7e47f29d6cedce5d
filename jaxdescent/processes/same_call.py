"""The arguments that must be equal in all processes of a call, as names and texts to compare."""

from __future__ import annotations

import hashlib
import re
import types
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdescent.display.displayed import argument, name_of

MOST_SHOWN = 3
"""The most differences between calls that an error lists."""

MOST_VALUES = 64
"""The most values of an array that are compared: larger ones are data, compared by shape."""

_ADDRESS = re.compile(r"0x[0-9a-f]+")


def texts(**parts: Any) -> dict[str, str]:
    """The arguments of a call, with their numbers and functions, as texts that are equal in two
    processes if the arguments are.

    >>> import jaxdescent as jd
    >>> texts(method=jd.GradientDescent(0.5), history=3)
    {'method': 'GradientDescent(0.5)', 'method.learning_rate': '0.5', 'history': '3'}
    """
    found = {}
    for name, part in parts.items():
        found[name] = without_addresses(argument(part))
        for path, leaf in jax.tree.leaves_with_path(part, is_leaf=callable):
            found[name + jax.tree_util.keystr(path)] = _text(leaf)
    return found


def differing(call: str, processes: tuple[int, ...], told: list[dict[str, str]]) -> str:
    """The error message for a call whose :func:`texts` differ between processes."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(name for each in told for name in each):
        given: dict[str, list[str]] = {}
        for process, each in zip(processes, told, strict=True):
            given.setdefault(each.get(name, "absent"), []).append(str(process))
        if len(given) > 1 and not name.startswith(tuple(found)):
            found[name] = " and ".join(
                f"{text[:200]} in process {', '.join(those)}" for text, those in given.items()
            )
    shown = "; ".join(f"{name} is {text}" for name, text in list(found.items())[:MOST_SHOWN])
    return (
        f"the processes must make the same call of {call}, and {shown}: give all of them the same."
    )


def without_addresses(text: str) -> str:
    """A text without the memory addresses by which it names objects."""
    return _ADDRESS.sub("0x", text)


def _text(leaf: Any) -> str:
    if callable(leaf):
        content = "".join(_written(leaf, set()))
        return f"{name_of(leaf)} of digest {hashlib.sha256(content.encode()).hexdigest()[:8]}"
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        return without_addresses(repr(leaf))
    shown = f"{leaf.dtype}{list(leaf.shape)}"
    is_here = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
    if leaf.size > MOST_VALUES or not is_here or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return shown
    return f"{shown} {np.asarray(leaf).tolist()}"


def _written(value: Any, seen: set[int]) -> Iterator[str]:
    """The code of a function, and the numbers and functions that it holds or closes over."""
    if id(value) in seen:
        return
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic):
        yield f"{value!r},"
        return
    seen.add(id(value))
    inner: list[Any] = []
    if isinstance(value, types.CodeType):
        yield value.co_code.hex()
        inner = [*value.co_names, *value.co_consts]
    elif isinstance(value, types.FunctionType):
        cells = value.__closure__ or ()
        held = [cell.cell_contents for cell in cells if cell != types.CellType()]
        inner = [value.__code__, value.__defaults__, value.__kwdefaults__, *held]
    elif isinstance(value, Partial) or hasattr(value, "func"):
        inner = [value.func, getattr(value, "args", ()), getattr(value, "keywords", {})]
    elif isinstance(value, types.MethodType):
        inner = [value.__func__]
    elif isinstance(value, tuple | list):
        inner = list(value)
    elif isinstance(value, dict):
        inner = [part for item in value.items() for part in item]
    elif isinstance(value, jax.Array | np.ndarray):
        yield _text(value)
    elif hasattr(value, "__wrapped__"):
        inner = [value.__wrapped__]
    else:
        yield type(value).__qualname__
    for part in inner:
        yield from _written(part, seen)
