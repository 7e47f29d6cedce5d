"""The interface of an experiment's problems, and the placement of their arrays on devices."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxdescent as jd
from jaxdescent import placement
from jaxdescent.scale.point import ScalingPoint

LAYOUTS: dict[str, tuple[str, ...]] = {
    "samples": ("samples",),
    "features": ("features",),
    "outputs": ("outputs",),
    "both": ("samples", "features"),
    "params": ("params",),
}
"""The axes of the arrays that lie over the devices, by the name of the layout."""

NOISE, PENALTY = 0.1, 1.0
"""The standard deviation of the noise in a regression's targets, and its l2."""


class NotDivisible(ValueError):
    """An axis that the devices cannot share evenly."""


class TooFewDevices(ValueError):
    """More devices were asked for than JAX has."""


class ScalingProblem(abc.ABC):
    """A built-in problem: pytrees of arrays of any size, and the objective on them."""

    has_rows = True
    """Whether the problem has rows and features. Otherwise it has one size, and its arrays are the
    start of a descent, which reuses their memory."""

    layouts: tuple[str, ...] = ("samples",)
    """The layouts that the problem can have, keys of :data:`LAYOUTS`; with "outputs" among them it
    can have several targets for each row."""

    readings = 2
    """How often an iteration must read or write its arrays at least."""

    steps_in_a_turn = 1
    """The iterations that one turn of a descent's loop makes."""

    is_by_share = False
    """Whether :meth:`shapes` comes from the rows of one device, which stand for those of others."""

    @abc.abstractmethod
    def shapes(self, point: ScalingPoint, mesh: Mesh) -> Any:
        """The arrays without numbers, with their shardings on a mesh that need not be attached.

        Raises:
          NotDivisible: if the devices cannot share an axis evenly.
        """

    @abc.abstractmethod
    def prepared(self, point: ScalingPoint, mesh: Mesh, seed: int) -> Callable[[], Any]:
        """A function that makes the arrays themselves, each part of them where it lies.

        Work that a process does without the others is done before; the function runs a program in
        which the processes may wait for each other.
        """

    @abc.abstractmethod
    def operations(self, arrays: Any) -> float:
        """Additions and multiplications of an iteration on arrays, or on shapes: for a regression,
        those of a product with X and of one with its transpose.
        """

    def pose(self, arrays: Any) -> tuple[Any, Any]:
        """The objective and the start, inside ``jit``: by default those of a ridge regression."""
        return jd.LinearRegression(arrays["X"], arrays["y"], l2=PENALTY), None


def mesh_of(devices: list[Any], layout: str) -> Mesh:
    """The devices in a mesh with the layout's axes, as square as their number allows."""
    axes = LAYOUTS[layout]
    shape = (len(devices),)
    if len(axes) == 2:
        first = max(d for d in range(1, math.isqrt(len(devices)) + 1) if len(devices) % d == 0)
        shape = (len(devices) // first, first)
    return placement.automatic_mesh(np.array(devices).reshape(shape), axes)


def placed(name: str, shape: tuple[int, ...], axes: tuple[str, ...], mesh: Mesh) -> NamedSharding:
    """The sharding of an array: axes that the mesh has a name for lie over it.

    Raises:
      NotDivisible: if an axis is not a multiple of the devices it lies over.
    """
    spec: list[str | None] = []
    for axis, size in zip(axes, shape, strict=True):
        parts = mesh.shape.get(axis, 1)
        if size % parts:
            raise NotDivisible(
                f"{name} has {size:,} {axis}, which {parts} devices cannot share evenly: take a "
                f"multiple, such as {size - size % parts + parts:,}."
            )
        spec.append(axis if parts > 1 else None)
    return NamedSharding(mesh, PartitionSpec(*spec))


def bytes_of_a_device(shapes: Any) -> int:
    """The bytes of the arrays' parts on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(shapes)
    )
