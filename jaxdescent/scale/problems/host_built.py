"""Problems whose designs are laid out on the host, from random places of entries.

The layout depends on the places, so that the shapes of its arrays are known only once it is made.
For devices that are not attached the layout is made of the rows of one device, which stand for
those of the others.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxdescent as jd
from jaxdescent.designs.row_sharding import RowSharding
from jaxdescent.scale.point import ScalingPoint
from jaxdescent.scale.problems.protocol import NOISE, ScalingProblem, placed

ENTRIES_OF_A_ROW = 50
LEVELS_OF_YEARS = 10
HASHED_WEIGHTS = 2**33


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
