"""Where tests of several modules lay arrays: over the virtual devices of a CPU."""

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def rows_over(count=8, axis_type=AxisType.Auto):
    """The sharding of arrays whose first axis lies over so many devices."""
    devices = jax.devices()[:count]
    mesh = jax.make_mesh((count,), ("rows",), axis_types=(axis_type,), devices=devices)
    return NamedSharding(mesh, PartitionSpec("rows"))
