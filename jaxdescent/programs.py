"""Where jit is: compiled programs, kept in a bounded cache, and what surrounds a call.

A program is compiled for a structure: functions, classes and flags. Arrays and hyper-parameters
are its inputs. JAX's own cache would keep every function ever passed alive.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import get_opaque_trace_state

PROGRAMS = 128
"""How many compiled programs are kept; the one unused for longest makes room."""


def compiled(
    function: Callable[..., Any], inputs: Any, *, donate: tuple[int, ...] = (), **flags: Any
) -> Callable[..., Any]:
    """``function`` with its static ``flags`` set, compiled for inputs of this structure.

    Raises:
      TypeError: if the structure holds an object that cannot be hashed.
    """
    structure = jax.tree.structure(inputs)
    try:
        hash(structure)
    except TypeError as error:
        raise TypeError(
            f"the objective or method holds an object that cannot be hashed ({error}): pass data "
            "through args, or register the object's class as a pytree."
        ) from error
    return _compiled(function, structure, donate, tuple(flags.items()))


def is_top_level() -> bool:
    """Whether no transformation surrounds this call, so that nothing can be differentiated."""
    return get_opaque_trace_state() == _top_level_state()


@functools.lru_cache(maxsize=PROGRAMS)
def _compiled(
    function: Callable[..., Any], structure: Any, donate: tuple[int, ...], flags: tuple[Any, ...]
) -> Callable[..., Any]:
    del structure  # part of the cache's key: what leaves the cache frees what it compiled
    return jax.jit(functools.partial(function, **dict(flags)), donate_argnums=donate)


@functools.cache
def _top_level_state() -> Any:
    # A new thread is outside every transformation, wherever the first call comes from.
    states: list[Any] = []
    thread = threading.Thread(target=lambda: states.append(get_opaque_trace_state()))
    thread.start()
    thread.join()
    return states[0]
