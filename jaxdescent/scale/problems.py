"""The built-in problems: what their arrays are, how they lie over devices, and how they are made.

Arrays are born sharded: each device computes its own part, from counters, so that the same numbers
come out however many devices there are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxdescent as jd
from jaxdescent.breakdown.llama_tree import tree
from jaxdescent.numerics import randomness

NOISE, PENALTY = 0.1, 1.0

LAYOUTS: dict[str, tuple[str, ...]] = {
    "samples": ("samples",),
    "features": ("features",),
    "both": ("samples", "features"),
    "params": ("params",),
}
"""The axes of the arrays that lie over the devices, by the name of the layout."""


class NotDivisible(ValueError):
    """An axis that the devices cannot share evenly."""


@dataclasses.dataclass(frozen=True)
class Array:
    """The shape and dtype of an array, and a name for each of its axes."""

    shape: tuple[int, ...]
    dtype: str
    axes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """The bytes of the whole array."""
        return math.prod(self.shape) * jnp.dtype(self.dtype).itemsize


class Problem(NamedTuple):
    """A built-in problem.

    Attributes:
      arrays: from rows, features and dtype to arrays by name.
      fill: from the arrays' descriptions and a seed to their numbers, inside ``jit``.
      pose: from the arrays to the objective and the start, inside ``jit``.
      has_rows: whether it has rows and features; otherwise its size is its own.
      donated: whether the start is given, and its memory may be reused.
    """

    arrays: Callable[[int, int, str], dict[str, Array]]
    fill: Callable[[dict[str, Array], Any], dict[str, jax.Array]]
    pose: Callable[[dict[str, jax.Array]], tuple[Any, Any]]
    has_rows: bool = True
    donated: bool = False


def mesh_of(devices: list[Any], layout: str) -> Mesh:
    """The devices in a mesh with the layout's axes, as square as their number allows."""
    axes = LAYOUTS[layout]
    shape = (len(devices),)
    if len(axes) == 2:
        first = max(d for d in range(1, math.isqrt(len(devices)) + 1) if len(devices) % d == 0)
        shape = (len(devices) // first, first)
    return Mesh(np.array(devices).reshape(shape), axes, axis_types=(AxisType.Auto,) * len(axes))


def placed(arrays: dict[str, Array], mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The arrays' shapes with their shardings.

    Of an array's axes those that the mesh has a name for lie over it; params along their longest
    axis.

    Raises:
      NotDivisible: if an axis is not a multiple of the devices it lies over.
    """
    return {name: _placed(name, array, mesh) for name, array in arrays.items()}


def bytes_of_a_device(arrays: dict[str, Array], mesh: Mesh) -> int:
    """The bytes of the arrays' parts on one device."""
    return sum(
        math.prod(shape.sharding.shard_shape(shape.shape)) * shape.dtype.itemsize
        for shape in placed(arrays, mesh).values()
    )


def _placed(name: str, array: Array, mesh: Mesh) -> jax.ShapeDtypeStruct:
    spec: list[str | None] = []
    for axis, size in zip(array.axes, array.shape, strict=True):
        parts = mesh.shape.get(axis, 1)
        if size % parts:
            raise NotDivisible(
                f"{name} has {size:,} {axis}, which {parts} devices cannot share evenly: take a "
                f"multiple, such as {size - size % parts + parts:,}."
            )
        spec.append(axis if parts > 1 else None)
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def made(problem: Problem, arrays: dict[str, Array], mesh: Mesh, seed: int) -> Any:
    """The arrays themselves, each part of them computed where it lies."""
    places = {name: shape.sharding for name, shape in placed(arrays, mesh).items()}
    fill = jax.jit(lambda seed: problem.fill(arrays, seed), out_shardings=places)
    return fill(jnp.uint32(seed))


def _regression(rows: int, features: int, dtype: str) -> dict[str, Array]:
    # 16-bit data keep targets that are not rounded to 16 bits.
    targets = "float32" if dtype == "bfloat16" else dtype
    return {
        "X": Array((rows, features), dtype, ("samples", "features")),
        "y": Array((rows,), targets, ("samples",)),
    }


def _filled_regression(arrays: dict[str, Array], seed: Any) -> dict[str, jax.Array]:
    shape, dtype = arrays["X"].shape, arrays["y"].dtype
    X = randomness.normal(shape, randomness.fold(seed, 1), dtype)
    w = randomness.normal(shape[1:], randomness.fold(seed, 2), dtype)
    noise = randomness.normal(shape[:1], randomness.fold(seed, 3), dtype)
    return {"X": X.astype(arrays["X"].dtype), "y": X @ w + NOISE * noise}


def _posed_regression(arrays: dict[str, jax.Array]) -> tuple[Any, Any]:
    return jd.LinearRegression(arrays["X"], arrays["y"], l2=PENALTY), None


def _llama(rows: int, features: int, dtype: str) -> dict[str, Array]:
    del rows, features

    def of(shape: tuple[int, ...]) -> Array:
        longest = max(range(len(shape)), key=lambda axis: shape[axis])
        axes = tuple("params" if axis == longest else "whole" for axis in range(len(shape)))
        return Array(shape, dtype, axes)

    return {name: of(shape) for name, shape in tree().shapes.items()}


def _filled_params(arrays: dict[str, Array], seed: Any) -> dict[str, jax.Array]:
    return {
        name: randomness.normal(array.shape, randomness.fold(seed, index), jnp.float32).astype(
            array.dtype
        )
        for index, (name, array) in enumerate(arrays.items())
    }


PROBLEMS = {
    "dense": Problem(_regression, _filled_regression, _posed_regression),
    "llama3-8b": Problem(
        _llama,
        _filled_params,
        lambda arrays: (jd.SumOfSquares(), arrays),
        has_rows=False,
        donated=True,
    ),
}
"""``dense``: a ridge regression on normal numbers. ``llama3-8b``: the sum of squares of params in
the shapes of Llama-3-8B, in which every element is minimised for itself."""
