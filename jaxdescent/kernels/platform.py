"""The choice of a form by the platform that a program is compiled for.

A program may be traced on one machine and compiled for another, and arrays may live on the CPU of a
host with GPUs. So the process's default backend is not asked: both forms are traced, and the choice
is made when the program is lowered, for the platform that it is lowered for. If the arrays of a
program exist already, the program is for their platform (:func:`compiled_for`), and only one form
is traced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.core import Tracer

SMALL_BYTES = 1 << 20
"""The most bytes of a program's inputs for which its compilation matters more than its speed."""

OF_DEVICES = "device", "unpinned_host"
"""The kinds of memory that arrays have by default: of accelerators, and of CPUs."""


class Known(NamedTuple):
    """Facts about the arrays of a program that are known while it is traced, because they exist."""

    platform: str  # the platform of their devices
    devices: int  # the number of these devices
    is_whole: bool  # whether all arrays lie in the memory of one device
    is_small: bool  # whether they have so few bytes that the program compiles longer than it runs
    is_far: bool | None = None  # whether the means of X lie far from zero; None if it is not known

    @property
    def compiler_options(self) -> dict[str, Any] | None:
        """The options of XLA: less optimisation by LLVM for programs of small arrays, whose
        compilation takes longer than their run; else None.
        """
        is_light = self.platform == "cpu" and self.is_whole and self.is_small
        if jax.config.read("jax_disable_most_optimizations"):
            return None  # this setting optimises even less
        return {"xla_backend_optimization_level": 1} if is_light else None


compiled_for = jax.make_user_context(None)
"""A context for tracing a program whose arrays exist: ``with compiled_for(known_of(arrays)):``.
Functions that JAX has traced and cached in this context are used in this context alone.
"""


def known_of(tree: Any) -> Known | None:
    """The known facts about a program's inputs; None if some are traced, or none is an array."""
    devices, is_on_device, size = set(), True, 0
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, Tracer):
            return None
        if isinstance(leaf, jax.Array):
            devices |= leaf.sharding.device_set
            is_on_device &= leaf.sharding.memory_kind in (None, *OF_DEVICES)
        size += getattr(leaf, "nbytes", 0)
    if not devices:
        return None
    platform = next(iter(devices)).platform
    is_whole = len(devices) == 1 and is_on_device
    return Known(platform, len(devices), is_whole, size <= SMALL_BYTES)


def is_on_one_cpu() -> bool:
    """Whether the program that is traced is for one CPU, where all its arrays lie."""
    known = compiled_for.value
    return known is not None and known.platform == "cpu" and known.is_whole


def cpu_count() -> int:
    """The number of CPU devices, over which an array on CPUs may be sharded; zero if JAX uses
    accelerators only, so that no program is for a CPU.
    """
    try:
        return jax.device_count("cpu")
    except RuntimeError:
        return 0


def most_shards() -> int:
    """The most devices over which the program that is traced may find rows: those of its arrays if
    they exist, else all CPU devices.
    """
    known = compiled_for.value
    return max(cpu_count(), 1) if known is None else known.devices


def has_one_cpu() -> bool:
    """Whether JAX has one CPU device, so that no array on a CPU can be sharded."""
    return cpu_count() == 1


def on_cpu(own: Callable[..., Any], plain: Callable[..., Any], *operands: Any) -> Any:
    """``own(*operands)`` in a program for a CPU, else ``plain(*operands)``.

    Operands are pytrees of arrays; the functions may close over arrays too.
    """
    return _on("cpu", own, plain, operands)


def on_tpu(own: Callable[..., Any], plain: Callable[..., Any], *operands: Any) -> Any:
    """``own(*operands)`` in a program for a TPU, else ``plain(*operands)``."""
    return _on("tpu", own, plain, operands)


def _on(platform: str, own: Any, plain: Any, operands: tuple[Any, ...]) -> Any:
    known = compiled_for.value
    if known is not None:
        return own(*operands) if known.platform == platform else plain(*operands)
    return lax.platform_dependent(*operands, default=plain, **{platform: own})


def on_one_cpu(
    own: Callable[..., Any], plain: Callable[..., Any], *operands: Any, is_whole: bool | None = None
) -> Any:
    """``own(*operands)`` in a program for a CPU whose arrays are whole, else ``plain(*operands)``.

    ``own`` may slice arrays into blocks, for each of which XLA would gather a sharded array.
    ``is_whole`` says whether the operands are known to lie on one device; None stands for the
    answer of :func:`has_one_cpu`: with one CPU device no array on a CPU can be sharded.
    """
    if not (has_one_cpu() if is_whole is None else is_whole):
        return plain(*operands)
    return on_cpu(own, plain, *operands)


def kept_apart(tree: Any) -> Any:
    """The arrays behind a barrier, so that they are computed once before they are used.

    Without it XLA for CPUs may fuse the computation of an operand into each of its uses, and may
    move an array that does not change with a loop out of it, where it must be stored.
    """
    return on_cpu(lax.optimization_barrier, lambda tree: tree, tree)
