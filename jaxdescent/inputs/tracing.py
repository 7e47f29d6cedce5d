"""Whether a call is traced."""

from __future__ import annotations

import functools
import threading
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

# Imported with this module and not in the first call: it changes settings of Pallas, and JAX traces
# every function again whose settings have changed.
from jax.extend.core import get_opaque_trace_state


def is_top_level() -> bool:
    """Whether no transformation surrounds this call, so that nothing can be differentiated."""
    return get_opaque_trace_state() == _top_level_state()


def is_there(tree: Any) -> bool:
    """Whether the arrays of a tree exist now, and results computed from them would too.

    This holds in ``grad`` and ``vmap`` for arrays that these do not trace, and not in ``jit``.
    """
    leaves = [*jax.tree.leaves(tree), jnp.zeros(())]
    return not any(isinstance(leaf, Tracer) for leaf in leaves)


@functools.cache
def _top_level_state() -> Any:
    # A new thread is outside every transformation, wherever the first call is made.
    states: list[Any] = []
    thread = threading.Thread(target=lambda: states.append(get_opaque_trace_state()))
    thread.start()
    thread.join()
    return states[0]
