"""The devices that JAX has, of all processes of a run."""

from __future__ import annotations

import jax
from jax.sharding import AxisType, Mesh


def count() -> int:
    """How many there are."""
    return jax.device_count()


def mesh(axis: str) -> Mesh:
    """All of them along one axis, which XLA's partitioner handles."""
    return jax.make_mesh((count(),), (axis,), axis_types=(AxisType.Auto,))
