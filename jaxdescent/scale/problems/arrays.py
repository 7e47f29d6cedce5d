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
from jaxdescent.numerics import randomness
from jaxdescent.scale.problems.protocol import NOISE, PENALTY, Problem, placed

Axes = tuple[tuple[int, ...], str, tuple[str, ...]]
"""Shape, dtype, and a name for each axis."""


class OfArrays(Problem):
    """A problem whose arrays are known by shape, dtype and axes."""

    @abc.abstractmethod
    def arrays(self, rows: int, features: int, dtype: str, outputs: int) -> dict[str, Axes]:
        """The arrays by name; no outputs stand for one without an axis of its own."""

    @abc.abstractmethod
    def fill(self, shapes: dict[str, Any], seed: Any) -> dict[str, jax.Array]:
        """Their numbers, inside ``jit``."""

    def shapes(self, rows: int, features: int, dtype: str, mesh: Mesh, *, outputs: int = 1) -> Any:
        # What shall lie over devices has to be an axis.
        has_axis = outputs > 1 or "outputs" in mesh.axis_names
        arrays = self.arrays(rows, features, dtype, outputs if has_axis else 0)
        return {
            name: jax.ShapeDtypeStruct(shape, kind, sharding=placed(name, shape, axes, mesh))
            for name, (shape, kind, axes) in arrays.items()
        }

    def prepared(
        self, rows: int, features: int, dtype: str, mesh: Mesh, *, seed: int, outputs: int = 1
    ) -> Callable[[], Any]:
        shapes = self.shapes(rows, features, dtype, mesh, outputs=outputs)
        places = {name: shape.sharding for name, shape in shapes.items()}
        fill = jax.jit(lambda seed: self.fill(shapes, seed), out_shardings=places)
        program = fill.lower(np.uint32(seed)).compile()
        return lambda: program(np.uint32(seed))


class Dense(OfArrays):
    """A ridge regression on normal numbers."""

    layouts, has_outputs = ("samples", "features", "both", "outputs"), True

    def arrays(self, rows: int, features: int, dtype: str, outputs: int) -> dict[str, Axes]:
        # 16-bit data keep targets that are not rounded to 16 bits.
        targets = "float32" if dtype == "bfloat16" else dtype
        return {
            "X": ((rows, features), dtype, ("samples", "features")),
            "y": ((rows, outputs), targets, ("samples", "outputs"))
            if outputs
            else ((rows,), targets, ("samples",)),
        }

    def fill(self, shapes: dict[str, Any], seed: Any) -> dict[str, jax.Array]:
        shape, of_targets, dtype = shapes["X"].shape, shapes["y"].shape, shapes["y"].dtype
        X = randomness.normal(shape, randomness.fold(seed, 1), dtype)
        w = randomness.normal((*shape[1:], *of_targets[1:]), randomness.fold(seed, 2), dtype)
        noise = randomness.normal(of_targets, randomness.fold(seed, 3), dtype)
        return {"X": X.astype(shapes["X"].dtype), "y": X @ w + NOISE * noise}

    def operations(self, arrays: Any) -> float:
        X, y = arrays["X"], arrays["y"]
        return 4.0 * X.size * (y.size // X.shape[0])

    def pose(self, arrays: Any) -> tuple[Any, Any]:
        return jd.LinearRegression(arrays["X"], arrays["y"], l2=PENALTY), None


class Llama(OfArrays):
    """The sum of squares of params in the shapes of Llama-3-8B: each is minimised for itself."""

    has_rows, donated, layouts = False, True, ("params",)

    def arrays(self, rows: int, features: int, dtype: str, outputs: int) -> dict[str, Axes]:
        del rows, features, outputs

        def axes(shape: tuple[int, ...]) -> tuple[str, ...]:
            longest = max(range(len(shape)), key=lambda axis: shape[axis])
            return tuple("params" if axis == longest else "whole" for axis in range(len(shape)))

        return {name: (shape, dtype, axes(shape)) for name, shape in tree().shapes.items()}

    def fill(self, shapes: dict[str, Any], seed: Any) -> dict[str, jax.Array]:
        def numbers(index: int, like: Any) -> jax.Array:
            normal = randomness.normal(like.shape, randomness.fold(seed, index), jnp.float32)
            return normal.astype(like.dtype)

        return {name: numbers(index, like) for index, (name, like) in enumerate(shapes.items())}

    def operations(self, arrays: Any) -> float:
        return 2.0 * sum(leaf.size for leaf in jax.tree.leaves(arrays))  # x - (2 rate) x

    def pose(self, arrays: Any) -> tuple[Any, Any]:
        return jd.SumOfSquares(), arrays
