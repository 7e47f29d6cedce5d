"""A method whose progress is told while its program runs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.methods import Method, Progress
from jaxdescent.objectives import Objective

Listener = Callable[[float, float], None]

_listeners: list[Listener] = []


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """A context in which ``listener`` gets the value and its suboptimality (NaN where unknown) at
    each check of a :func:`reporting` method.
    """
    _listeners.append(listener)
    try:
        yield
        jax.effects_barrier()  # late callbacks must still find the listener
    finally:
        _listeners.remove(listener)


def reporting(method: Method) -> Method:
    """The method, which looks ahead, with reports of each check to the listeners.

    Reports go to a callback on the host, which calls nothing of JAX.
    """
    fields = dataclasses.fields(method)  # pyright: ignore[reportArgumentType]
    own = {field.name: getattr(method, field.name) for field in fields}
    return _reporting(type(method))(**own)


@functools.cache
def _reporting(kind: type[Method]) -> Any:
    """A subclass of a method's class that tells of its progress."""

    def progress(self: Any, objective: Objective, params: Any, state: Any) -> Progress:
        found = kind.progress(self, objective, params, state)
        left = jnp.nan if found.estimate is None else found.estimate.suboptimality
        jax.debug.callback(_tell, found.value, left)
        return found

    return jax.tree_util.register_dataclass(type(kind.__name__, (kind,), {"progress": progress}))


def _tell(value: Any, left: Any) -> None:
    """Call every listener; programs are compiled with this function, and not with a listener."""
    for listener in _listeners:
        listener(float(value), float(left))
