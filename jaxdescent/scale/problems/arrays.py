"""Problems of plain arrays, which are born sharded.

Each device computes its own part, from counters, so that the same numbers come out however many
devices there are.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import jaxdescent as jd
from jaxdescent.breakdown.llama_tree import tree
from jaxdescent.descent.loop import CHECK_EVERY
from jaxdescent.numerics import randomness
from jaxdescent.scale.point import ScalingPoint
from jaxdescent.scale.problems.protocol import NOISE, ScalingProblem, placed

Axes = tuple[tuple[int, ...], str, tuple[str, ...]]
"""Shape, dtype, and a name for each axis."""


class OfArrays(ScalingProblem):
    """A problem whose arrays are known by shape, dtype and axes."""

    @abc.abstractmethod
    def arrays(self, point: ScalingPoint) -> dict[str, Axes]:
        """The arrays by name."""

    @abc.abstractmethod
    def fill(self, shapes: dict[str, Any], seed: Any) -> dict[str, jax.Array]:
        """The arrays with their numbers, inside ``jit``."""

    def shapes(self, point: ScalingPoint, mesh: Mesh) -> Any:
        return {
            name: jax.ShapeDtypeStruct(shape, kind, sharding=placed(name, shape, axes, mesh))
            for name, (shape, kind, axes) in self.arrays(point).items()
        }

    def prepared(self, point: ScalingPoint, mesh: Mesh, seed: int) -> Callable[[], Any]:
        shapes = self.shapes(point, mesh)
        places = {name: shape.sharding for name, shape in shapes.items()}
        fill = jax.jit(lambda seed: self.fill(shapes, seed), out_shardings=places)
        program = fill.lower(np.uint32(seed)).compile()
        return lambda: program(np.uint32(seed))


class DenseRegression(OfArrays):
    """A ridge regression on normal numbers."""

    layouts = ("samples", "features", "both", "outputs")

    def arrays(self, point: ScalingPoint) -> dict[str, Axes]:
        rows, outputs = point.rows, point.outputs
        # 16-bit data keep targets that are not rounded to 16 bits.
        targets = "float32" if point.dtype == "bfloat16" else point.dtype
        X = (rows, point.features), point.dtype, ("samples", "features")
        if outputs > 1 or point.layout == "outputs":  # outputs need an axis to lie over devices
            return {"X": X, "y": ((rows, outputs), targets, ("samples", "outputs"))}
        return {"X": X, "y": ((rows,), targets, ("samples",))}

    def fill(self, shapes: dict[str, Any], seed: Any) -> dict[str, jax.Array]:
        shape, of_targets, dtype = shapes["X"].shape, shapes["y"].shape, shapes["y"].dtype
        X = randomness.normal(shape, randomness.fold(seed, 1), dtype)
        w = randomness.normal((*shape[1:], *of_targets[1:]), randomness.fold(seed, 2), dtype)
        noise = randomness.normal(of_targets, randomness.fold(seed, 3), dtype)
        return {"X": X.astype(shapes["X"].dtype), "y": X @ w + NOISE * noise}

    def operations(self, arrays: Any) -> float:
        X, y = arrays["X"], arrays["y"]
        return 4.0 * X.size * (y.size // X.shape[0])


class Llama(OfArrays):
    """The sum of squares of params in the shapes of Llama-3-8B: each is minimised for itself."""

    has_rows, layouts = False, ("params",)
    steps_in_a_turn = CHECK_EVERY

    def arrays(self, point: ScalingPoint) -> dict[str, Axes]:
        def axes(shape: tuple[int, ...]) -> tuple[str, ...]:
            longest = max(range(len(shape)), key=lambda axis: shape[axis])
            return tuple("params" if axis == longest else "whole" for axis in range(len(shape)))

        return {name: (shape, point.dtype, axes(shape)) for name, shape in tree().shapes.items()}

    def fill(self, shapes: dict[str, Any], seed: Any) -> dict[str, jax.Array]:
        def numbers(index: int, like: Any) -> jax.Array:
            normal = randomness.normal(like.shape, randomness.fold(seed, index), jnp.float32)
            return normal.astype(like.dtype)

        return {name: numbers(index, like) for index, (name, like) in enumerate(shapes.items())}

    def operations(self, arrays: Any) -> float:
        return 2.0 * sum(leaf.size for leaf in jax.tree.leaves(arrays))  # x - (2 rate) x

    def pose(self, arrays: Any) -> tuple[Any, Any]:
        return jd.SumOfSquares(), arrays
