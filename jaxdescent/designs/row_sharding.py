"""Rows of a design over several devices, as many on each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdescent import placement


class RowSharding(NamedTuple):
    """Where the parts of a design's rows lie; without a sharding there is one part."""

    rows: int  # of the whole design
    parts: int
    axes: Any  # of the mesh, along which rows are cut; None for one part
    mesh: Mesh | None  # with axes for which XLA's partitioner inserts collectives; None as well

    @classmethod
    def of(cls, sharding: Any, rows: int) -> RowSharding:
        """The parts by the sharding of an array with ``rows`` rows, such as the targets.

        Raises:
          TypeError: if the sharding is no NamedSharding.
          ValueError: if it does not cut the rows, cuts another axis, or cuts rows unequally.
        """
        if sharding is None:
            return cls(rows, 1, None, None)
        if not isinstance(sharding, NamedSharding):
            raise TypeError(
                "sharding must be a jax.sharding.NamedSharding of rows, such as "
                f'NamedSharding(mesh, PartitionSpec("samples")), got {sharding!r}.'
            )
        spec = tuple(sharding.spec)
        if not spec or spec[0] is None or any(axis is not None for axis in spec[1:]):
            raise ValueError(
                'sharding must cut the rows alone, as PartitionSpec("samples") does, got '
                f"{sharding.spec}."
            )
        axes = spec[0]
        names = axes if isinstance(axes, tuple) else (axes,)
        parts = int(np.prod([sharding.mesh.shape[name] for name in names]))
        if rows % parts:
            raise ValueError(
                f"{rows:,} rows cannot be cut into {parts} parts of as many: add rows without "
                f"entries and of weight zero, {-rows % parts} of them."
            )
        mesh = placement.automatic_mesh(sharding.mesh.devices, sharding.mesh.axis_names)
        return cls(rows, parts, axes, mesh)

    @property
    def rows_of_part(self) -> int:
        """The number of rows in a part."""
        return self.rows // self.parts

    def stacked(self, arrays: Sequence[np.ndarray]) -> jax.Array:
        """An array of each part, (parts, ...), each on its own device; the array itself where
        there is one part.
        """
        return self.cut(arrays[0] if self.mesh is None else np.stack(arrays))

    def cut(self, array: np.ndarray) -> jax.Array:
        """An array (rows, ...) with each part on its own device."""
        if self.mesh is None:
            return jax.device_put(array)  # jnp.asarray compiles a program for each shape
        sharding = self._sharding(array.ndim)
        if sharding.is_fully_addressable:
            return jax.device_put(array, sharding)
        # `device_put` would send the whole array to all processes, to compare their copies.
        return jax.make_array_from_callback(array.shape, sharding, lambda at: array[at])

    def like(self, part: Any) -> Any:
        """The shapes of stacked arrays, if every part has arrays like this part's."""
        return jax.tree.map(lambda leaf: self._shape((self.parts, *leaf.shape), leaf.dtype), part)

    def like_rows(self, part: Any) -> jax.ShapeDtypeStruct:
        """The shape of an array (rows, ...), each part on its own device."""
        return self._shape((self.rows, *part.shape[1:]), part.dtype)

    def everywhere(self, array: Any) -> jax.ShapeDtypeStruct:
        """The shape of an array that is replicated on every device."""
        assert self.mesh is not None
        sharding = NamedSharding(self.mesh, PartitionSpec())
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    def on_each(
        self, function: Callable[..., Any], outside: Any, specs: Any, *operands: Any
    ) -> Any:
        """``function(number, *operands)`` on each device, with the number of its part."""
        if self.mesh is None:
            return function(np.int32(0), *operands)

        def on_device(*operands: Any) -> Any:
            return function(lax.axis_index(self.axes), *operands)

        return jax.shard_map(
            on_device, mesh=self.mesh, in_specs=specs, out_specs=outside, check_vma=False
        )(*operands)

    def summed(self, terms: Any) -> Any:
        """The sum over the parts, within :meth:`on_each`."""
        return terms if self.mesh is None else lax.psum(terms, self.axes)

    def _shape(self, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self._sharding(len(shape)))

    def _sharding(self, ndim: int) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(self.mesh, PartitionSpec(self.axes, *[None] * (ndim - 1)))


def local_parts(sharding: Any) -> tuple[list[int], jax.Array]:
    """The numbers of the parts on devices of this process, and an array on all devices.

    Raises:
      TypeError: if there is no sharding.
      ValueError: if the parts of this process do not follow each other.
    """
    if sharding is None:
        raise TypeError("sharding must be a NamedSharding of rows; jd.Streamed takes none.")
    total = RowSharding.of(sharding, 0).parts
    places = sharding.addressable_devices_indices_map((total,))
    parts = sorted({index[0].start or 0 for index in places.values()})
    if parts != list(range(parts[0], parts[0] + len(parts))):
        raise ValueError(
            f"the devices of a process must follow each other along the rows, got shares {parts}: "
            "make the mesh of jax.devices() in their order."
        )
    rows = NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0]))
    zeros = np.zeros(total, np.float32)
    return parts, jax.make_array_from_callback((total,), rows, lambda at: zeros[at])
