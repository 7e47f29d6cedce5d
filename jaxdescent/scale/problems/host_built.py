"""Problems whose designs are laid out on the host, from random places of entries.

The layout depends on the places, so that the shapes of its arrays are known only once it is made.
For devices that are not attached it is made on as many virtual ones.
"""

from __future__ import annotations

import abc
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxdescent as jd
from jaxdescent.scale.problems.protocol import NOISE, PENALTY, Problem, TooFewDevices, placed

ENTRIES_OF_A_ROW = 50
LEVELS_OF_YEARS = 10
HASHED_WEIGHTS = 2**33


class HostBuilt(Problem):
    """A regression on a design that the host makes; ``features`` is the number of its columns."""

    readings = 1  # what a product reads is stored twice, once for the product with the transpose

    @abc.abstractmethod
    def design(
        self, rows: int, features: int, dtype: str, rng: np.random.Generator, sharding: Any
    ) -> Any:
        """The design matrix."""

    def shapes(self, rows: int, features: int, dtype: str, mesh: Mesh) -> Any:
        placed("X", (rows,), ("samples",), mesh)
        own = [device for device in jax.devices() if device.process_index == jax.process_index()]
        if len(own) < mesh.size:
            raise TooFewDevices(
                f"the layout for {mesh.size} devices is made on as many virtual ones, and JAX has "
                f"{len(own)}: give --virtual-devices {mesh.size}."
            )
        here = Mesh(np.array(own[: mesh.size]), mesh.axis_names, axis_types=mesh.axis_types)

        def elsewhere(leaf: jax.Array) -> jax.ShapeDtypeStruct:
            spec = leaf.sharding.spec if isinstance(leaf.sharding, NamedSharding) else None
            sharding = NamedSharding(mesh, spec or PartitionSpec())
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        return jax.tree.map(elsewhere, self.made(rows, features, dtype, here, seed=0))

    def made(self, rows: int, features: int, dtype: str, mesh: Mesh, *, seed: int) -> Any:
        sharding = placed("X", (rows,), ("samples",), mesh)
        rng = np.random.default_rng(seed)
        over = sharding if mesh.size > 1 else None
        X = self.design(rows, features, dtype, rng, over)
        noise = rng.normal(0, 1, rows).astype(dtype)
        w = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(dtype), _weights(X))

        def targets(X: Any, w: Any, noise: Any) -> jax.Array:
            return X.product(w) + NOISE * noise

        y = jax.jit(targets, out_shardings=sharding)(X, w, jax.device_put(noise, sharding))
        return {"X": X, "y": y}

    def pose(self, arrays: Any) -> tuple[Any, Any]:
        return jd.LinearRegression(arrays["X"], arrays["y"], l2=PENALTY), None


class Sparse(HostBuilt):
    """A ridge regression on 50 entries a row, columns as frequent as words: the k-th by 1/k."""

    def design(
        self, rows: int, features: int, dtype: str, rng: np.random.Generator, sharding: Any
    ) -> Any:
        row, column = _words(rows, features, rng)
        values = rng.normal(size=row.size).astype(dtype)
        return jd.Sparse.from_indices(
            row, column, values, shape=(rows, features), sharding=sharding
        )


class Hashed(HostBuilt):
    """The same without values, columns hashed to 2^33: weights of columns that no row touches are
    zero and are not held. ``features`` is the number of words.
    """

    def design(
        self, rows: int, features: int, dtype: str, rng: np.random.Generator, sharding: Any
    ) -> Any:
        row, word = _words(rows, features, rng)
        spread = word.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(31)
        return jd.Hashed(row, spread, shape=(rows, HASHED_WEIGHTS), sharding=sharding, dtype=dtype)


class Categorical(HostBuilt):
    """Fixed effects: ``features`` workers, a tenth as many firms, and ten years."""

    def design(
        self, rows: int, features: int, dtype: str, rng: np.random.Generator, sharding: Any
    ) -> Any:
        counts = {"worker": features, "firm": max(features // 10, 1), "year": LEVELS_OF_YEARS}
        return jd.Concatenated(
            {
                name: jd.Categorical(
                    rng.integers(0, levels, rows), levels, dtype=dtype, sharding=sharding
                )
                for name, levels in counts.items()
            }
        )


def _words(rows: int, features: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    row = np.repeat(np.arange(rows, dtype=np.int32), ENTRIES_OF_A_ROW)
    # The inverse of the distribution function of 1/k, nearly.
    column = np.floor((features + 1.0) ** rng.random(row.size)) - 1
    return row, np.minimum(column, features - 1).astype(np.int32)


def _weights(X: Any) -> Any:
    regression = jd.LinearRegression(X, np.zeros(X.shape[0], X.dtype))
    return regression.checked().start()["weights"]
