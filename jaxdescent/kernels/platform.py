"""The choice of a form by the platform that a program is compiled for.

A program may be traced on one machine and compiled for another, and arrays may live on the CPU of a
host with GPUs. So the process's default backend is not asked: both forms are traced, and the choice
is made when the program is lowered, for the platform that it is lowered for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax


def has_one_cpu() -> bool:
    """Whether JAX has one CPU device, so that no array on a CPU can be sharded.

    False if JAX has no CPU device, because it uses accelerators only: no program is for a CPU then.
    """
    try:
        return jax.device_count("cpu") == 1
    except RuntimeError:
        return False


def on_cpu(own: Callable[..., Any], plain: Callable[..., Any], *operands: Any) -> Any:
    """``own(*operands)`` in a program for a CPU, else ``plain(*operands)``.

    Operands are pytrees of arrays; the functions may close over arrays too.
    """
    return lax.platform_dependent(*operands, cpu=own, default=plain)


def on_tpu(own: Callable[..., Any], plain: Callable[..., Any], *operands: Any) -> Any:
    """``own(*operands)`` in a program for a TPU, else ``plain(*operands)``."""
    return lax.platform_dependent(*operands, tpu=own, default=plain)


def on_one_cpu(
    own: Callable[..., Any], plain: Callable[..., Any], *operands: Any, is_whole: bool | None = None
) -> Any:
    """``own(*operands)`` in a program for a CPU whose arrays are whole, else ``plain(*operands)``.

    Args:
      own: the form for a CPU. It may slice arrays into blocks; XLA would gather a sharded array for
        each of them.
      plain: the form for accelerators, and for sharded arrays.
      operands: pytrees of arrays. The functions may close over arrays too.
      is_whole: whether the operands are known to lie on one device. None stands for the answer of
        :func:`has_one_cpu`: with one CPU device no array on a CPU can be sharded.
    """
    if not (has_one_cpu() if is_whole is None else is_whole):
        return plain(*operands)
    return on_cpu(own, plain, *operands)


def kept_apart(tree: Any) -> Any:
    """The same arrays behind a barrier, so that they are computed once before they are used.

    Without it XLA for CPUs may fuse the computation of an operand into each of its uses, and may
    move an array that does not change with a loop out of it, where it must be stored.
    """
    return on_cpu(lax.optimization_barrier, lambda tree: tree, tree)
