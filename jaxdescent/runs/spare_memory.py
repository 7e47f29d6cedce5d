"""Memory for a copy of a loop, which is allocated while the device works."""

from __future__ import annotations

import threading

import jax
import jax.numpy as jnp

from jaxdescent.descent.watch import Loop


class SpareMemory:
    """Zeros of a loop's shapes, dtypes and shardings, which a thread writes.

    A system gives a process new memory page by page and clears each, which takes several times as
    long as copying into memory that the process has already written to.

    Args:
      loop: the loop whose copy will take the memory; no reference to it is kept.
    """

    def __init__(self, loop: Loop) -> None:
        leaves, self._structure = jax.tree.flatten(loop)
        self._like = [(leaf.shape, leaf.dtype, leaf.sharding) for leaf in leaves]
        self._found: list[jax.Array] | None = None
        self._is_wanted = True
        self._thread = threading.Thread(target=self._find, name="spare memory", daemon=True)
        self._thread.start()

    @property
    def is_found(self) -> bool:
        """Whether the allocation is over."""
        return not self._thread.is_alive()

    def taken(self) -> Loop | None:
        """The zeros, once they are written; None where they have been taken, where the devices have
        no memory left, and where JAX lays them out differently: random keys, and arrays in the
        host's memory beside a device's.
        """
        self._thread.join()
        found, self._found = self._found, None
        return None if found is None else self._structure.unflatten(found)

    def leave(self) -> None:
        """End the allocation; its memory is free when this returns."""
        self._is_wanted = False
        self.taken()

    def _find(self) -> None:
        found = []
        for shape, dtype, sharding in self._like:
            if not self._is_wanted:
                return
            try:
                with jax.enable_x64(True):  # it is a setting of each thread
                    zeros = jax.block_until_ready(jnp.zeros(shape, dtype, device=sharding))
            except (jax.errors.JaxRuntimeError, ValueError):
                return
            if not zeros.sharding.is_equivalent_to(sharding, zeros.ndim):
                return
            found.append(zeros)
        self._found = found
