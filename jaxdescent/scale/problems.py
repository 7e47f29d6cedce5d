"""The problems that ``jaxdescent scale`` knows, by name, and the placement of their arrays.

Dense arrays and params are born sharded: each device computes its own part, from counters, so that
the same numbers come out however many devices there are. Sparse and categorical designs are laid
out on the host, from random places of entries: the shapes of their arrays are known only once the
layout is made. For devices that are not attached it is made of the rows of one device, which stand
for those of the others.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxdescent as jd
from jaxdescent import placement
from jaxdescent.breakdown.llama_tree import tree
from jaxdescent.descent.loop import CHECK_EVERY
from jaxdescent.designs.row_sharding import RowSharding
from jaxdescent.numerics import randomness

if TYPE_CHECKING:
    from jaxdescent.scale.experiment import ScalingPoint

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

ENTRIES_OF_A_ROW, LEVELS_OF_YEARS, HASHED_WEIGHTS = 50, 10, 2**33


class NotDivisible(ValueError):
    """An axis that the devices cannot share evenly."""


class TooFewDevices(ValueError):
    """More devices were asked for than JAX has."""


class ScalingProblem(abc.ABC):
    """A built-in problem: pytrees of arrays of any size, and the objective on them."""

    # Whether the problem has rows and features. Otherwise it has one size, and its arrays are the
    # start of a descent, which reuses their memory.
    has_rows = True
    # The layouts that the problem can have, keys of :data:`LAYOUTS`; with "outputs" among them it
    # can have several targets for each row.
    layouts: tuple[str, ...] = ("samples",)
    readings = 2  # how often an iteration must read or write its arrays at least
    steps_in_a_turn = 1  # the iterations that one turn of a descent's loop makes
    # Whether :meth:`shapes` comes from the rows of one device, which stand for those of others.
    is_by_share = False

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


class HostBuilt(ScalingProblem):
    """A regression on a design that the host makes; ``features`` is the number of its columns."""

    is_by_share = True
    readings = 1  # each product has its own copy of the entries, that with the transpose too

    @abc.abstractmethod
    def design(self, point: ScalingPoint, rng: np.random.Generator, sharding: Any) -> Any:
        """The design matrix."""

    def share(self, point: ScalingPoint, parts: int) -> Any:
        """The design of the rows of one of ``parts`` devices, with all columns."""
        own = dataclasses.replace(point, rows=point.rows // parts)
        return self.design(own, np.random.default_rng(0), None)

    def shapes(self, point: ScalingPoint, mesh: Mesh) -> Any:
        rows = point.rows
        sharding = placed("X", (rows,), ("samples",), mesh)
        share = self.share(point, mesh.size)
        y = jax.ShapeDtypeStruct((rows,), point.dtype, sharding=sharding)
        if mesh.size > 1:
            return {"X": share.repeated(RowSharding.of(sharding, rows)), "y": y}
        alone = NamedSharding(mesh, PartitionSpec())
        X = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=alone), share
        )
        return {"X": X, "y": y}

    def prepared(self, point: ScalingPoint, mesh: Mesh, seed: int) -> Callable[[], Any]:
        rows, dtype = point.rows, point.dtype
        sharding = placed("X", (rows,), ("samples",), mesh)
        rng = np.random.default_rng(seed)
        over = sharding if mesh.size > 1 else None
        X = self.design(point, rng, over)
        noise = rng.normal(0, 1, rows).astype(dtype)
        w = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(dtype), _weights(X))

        def targets(X: Any, w: Any, noise: Any) -> jax.Array:
            return X.product(w) + NOISE * noise

        # Each process has all of the noise; `device_put` would compare the processes' copies.
        placed_noise = jax.make_array_from_callback(noise.shape, sharding, lambda at: noise[at])
        given = X, w, placed_noise
        program = jax.jit(targets, out_shardings=sharding).lower(*given).compile()
        return lambda: {"X": X, "y": program(*given)}

    def operations(self, arrays: Any) -> float:
        return 4.0 * arrays["X"].entries


class SparseRegression(HostBuilt):
    """A ridge regression on 50 entries a row, columns as frequent as words: the k-th by 1/k."""

    def design(self, point: ScalingPoint, rng: np.random.Generator, sharding: Any) -> Any:
        row, column = _words(point, rng)
        values = rng.normal(size=row.size).astype(point.dtype)
        shape = point.rows, point.features
        return jd.Sparse.from_indices(row, column, values, shape=shape, sharding=sharding)


class HashedRegression(HostBuilt):
    """A sparse regression without values, its columns hashed to 2^33: weights of columns that no
    row touches are zero and are not held. ``features`` is the number of words.
    """

    def design(self, point: ScalingPoint, rng: np.random.Generator, sharding: Any) -> Any:
        row, word = _words(point, rng)
        spread = word.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(31)
        shape = point.rows, HASHED_WEIGHTS
        return jd.Hashed(row, spread, shape=shape, sharding=sharding, dtype=point.dtype)

    def share(self, point: ScalingPoint, parts: int) -> Any:
        # Columns are numbered among those that the rows of all devices touch, by expectation.
        draws = point.rows * ENTRIES_OF_A_ROW
        edges = np.log1p(np.arange(point.features + 1.0)) / np.log(point.features + 1.0)
        touched = int(np.sum(-np.expm1(draws * np.log1p(-np.minimum(np.diff(edges), 1 - 1e-12)))))
        own = dataclasses.replace(point, rows=point.rows // parts)
        row, word = _words(own, np.random.default_rng(0))
        column = np.minimum(word, max(touched, 1) - 1)
        shape = own.rows, max(touched, 1)
        return jd.Sparse.from_indices(row, column, shape=shape, dtype=point.dtype)


class FixedEffects(HostBuilt):
    """Fixed effects: ``features`` workers, a tenth as many firms, and ten years."""

    def design(self, point: ScalingPoint, rng: np.random.Generator, sharding: Any) -> Any:
        workers = point.features
        counts = {"worker": workers, "firm": max(workers // 10, 1), "year": LEVELS_OF_YEARS}

        def effects(levels: int) -> jd.Categorical:
            codes = rng.integers(0, levels, point.rows)
            return jd.Categorical(codes, levels, dtype=point.dtype, sharding=sharding)

        return jd.Concatenated({name: effects(levels) for name, levels in counts.items()})


def _words(point: ScalingPoint, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The row and the column of each entry."""
    features = point.features
    row = np.repeat(np.arange(point.rows, dtype=np.int32), ENTRIES_OF_A_ROW)
    # The inverse of the distribution function of 1/k, nearly.
    column = np.floor((features + 1.0) ** rng.random(row.size)) - 1
    return row, np.minimum(column, features - 1).astype(np.int32)


def _weights(X: Any) -> Any:
    regression = jd.LinearRegression(X, np.zeros(X.shape[0], X.dtype))
    return regression.checked().start()["weights"]


PROBLEMS: dict[str, ScalingProblem] = {
    "dense": DenseRegression(),
    "sparse": SparseRegression(),
    "hashed": HashedRegression(),
    "categorical": FixedEffects(),
    "llama3-8b": Llama(),
}
