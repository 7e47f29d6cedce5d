"""Where jit is: compiled programs, kept in a bounded cache, and what surrounds a call.

A program is compiled for a structure: functions, classes and flags. Arrays and hyper-parameters
are its inputs. JAX's own cache would keep every function ever passed alive.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# With this module, not in the first call: it brings settings of Pallas along, and JAX traces every
# function anew whose settings have changed since.
from jax.extend.core import get_opaque_trace_state

from jaxdescent.inputs.functions import is_fleeting

PROGRAMS = 128
"""How many compiled programs are kept; the one unused for longest makes room."""

CALLS = 8
"""How many of a program's last new calls it keeps for :mod:`jaxdescent.calls.repeated`."""


def compiled(
    function: Callable[..., Any], inputs: Any, *, donate: tuple[int, ...] = (), **flags: Any
) -> Program:
    """``function`` with its static ``flags`` set, compiled for inputs of this structure.

    The program is kept, unless a callable among the inputs may compute something else next time.
    """
    structure = jax.tree.structure(tuple(inputs))
    key = function, structure, donate, tuple(flags.items())
    return _compiled.__wrapped__(*key) if is_fleeting(inputs) else _compiled(*key)


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A jitted function of leaves, called with the trees that they come from."""

    of_leaves: Any
    key: tuple[Any, ...]
    calls: collections.deque[Any] = dataclasses.field(
        default_factory=lambda: collections.deque(maxlen=CALLS)
    )

    def __call__(self, *inputs: Any) -> Any:
        """Run it, compiling it first where the leaves' shapes are new."""
        return self.of_leaves(*jax.tree.leaves(inputs))

    def prepared(self, *inputs: Any) -> Callable[[], Any]:
        """The call on these inputs, compiled now: another thread, which knows nothing of this
        one's settings of JAX, may make it.
        """
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(inputs)]
        return functools.partial(self.of_leaves.lower(*leaves).compile(), *leaves)

    def lower(self, *inputs: Any) -> Any:
        """What ``jax.jit(...).lower`` returns: to look at a program without running it."""
        return self.of_leaves.lower(*jax.tree.leaves(inputs))


def kept(key: tuple[Any, ...]) -> Program:
    """The program of this key, found without a look at inputs."""
    return _compiled(*key)


def is_top_level() -> bool:
    """Whether no transformation surrounds this call, so that nothing can be differentiated."""
    return get_opaque_trace_state() == _top_level_state()


@functools.lru_cache(maxsize=PROGRAMS)
def _compiled(
    function: Callable[..., Any], structure: Any, donate: tuple[int, ...], flags: tuple[Any, ...]
) -> Program:
    # Leaves alone cross into jit: JAX's own caches would keep the structure of its arguments, and
    # with it every function ever minimised. What leaves this cache frees what it compiled.
    counts = [child.num_leaves for child in structure.children()]
    first = [sum(counts[:index]) for index in range(len(counts))]
    donated = [first[index] + leaf for index in donate for leaf in range(counts[index])]

    def program(*leaves: Any) -> Any:
        return function(*jax.tree.unflatten(structure, leaves), **dict(flags))

    return Program(jax.jit(program, donate_argnums=donated), (function, structure, donate, flags))


@functools.cache
def _top_level_state() -> Any:
    # A new thread is outside every transformation, wherever the first call comes from.
    states: list[Any] = []
    thread = threading.Thread(target=lambda: states.append(get_opaque_trace_state()))
    thread.start()
    thread.join()
    return states[0]
