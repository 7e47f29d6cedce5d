"""Regressions drawn at random, in float32, whose minimum is known in float64."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdescent as jd

TWO_CLUSTERS = 10.0**-3.7
TINY = 10.0**-3.9


@dataclasses.dataclass(frozen=True)
class DrawnRegression:
    """A least-squares problem: its name, its matrix as numbers, the targets, and its design."""

    name: str
    X: np.ndarray  # (rows, features), float32
    y: np.ndarray  # (rows,), float32
    design: Callable[[np.ndarray], Any]
    l2: float = 0.0

    def objective(self) -> jd.LinearRegression:
        return jd.LinearRegression(self.design(self.X), jnp.asarray(self.y), l2=self.l2)

    def truth(self, params: Any) -> tuple[float, float, float]:
        """The value at the weights' best intercept, how far it is above the minimum, and half of
        the sum of the squares of the centred targets.
        """
        X, y, basis = self._reference
        residual = y - X @ np.asarray(params["weights"], float).ravel()
        gap = 0.5 * float(np.sum((basis.T @ residual) ** 2))
        return 0.5 * float(residual @ residual), gap, 0.5 * float(y @ y)

    @functools.cached_property
    def _reference(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The centred matrix and targets, the penalty as rows, and a basis of the range."""
        X, y = self.X.astype(float), self.y.astype(float)
        X, y = X - X.mean(axis=0), y - y.mean()
        if self.l2:
            features = X.shape[1]
            X = np.vstack([X, np.sqrt(float(np.float32(self.l2))) * np.eye(features)])
            y = np.concatenate([y, np.zeros(features)])
        left, singular_values, _ = np.linalg.svd(X, full_matrices=False)
        return X, y, left[:, singular_values > 1e-10 * singular_values[0]]


KINDS = {
    "gaussian": lambda rng, n, d: rng.standard_normal((n, d)),
    "geometric 1e2": lambda rng, n, d: _of_spectrum(rng, n, np.logspace(0, -2, d)),
    "geometric 1e3": lambda rng, n, d: _of_spectrum(rng, n, np.logspace(0, -3, d)),
    "geometric 1e4": lambda rng, n, d: _of_spectrum(rng, n, np.logspace(0, -4, d)),
    "two clusters": lambda rng, n, d: _of_spectrum(
        rng, n, np.where(np.arange(d) < d // 2, 1.0, TWO_CLUSTERS)
    ),
    "one tiny": lambda rng, n, d: _of_spectrum(rng, n, np.where(np.arange(d) < d - 1, 1.0, TINY)),
    "three decades": lambda rng, n, d: rng.standard_normal((n, d)) * 10 ** rng.uniform(-3, 0, d),
    "means of 30 spreads": lambda rng, n, d: (
        rng.standard_normal((n, d)) + 30 * rng.choice([-1.0, 1.0], d)
    ),
}
"""Matrices by name: from a generator, rows and features."""


def dense(kind: str, rows: int, features: int, seed: int, l2: float = 0.0) -> DrawnRegression:
    """A dense regression of a kind. "flat target, KIND" has targets along the flattest directions,
    "faint target, KIND" a part along flat directions that is worth little more than the tolerance.
    """
    rng = np.random.default_rng([seed, rows, features, sum(kind.encode())])
    which, _, base = kind.rpartition("target, ")
    X = KINDS[base](rng, rows, features).astype(np.float32)
    y = {"": _targets, "flat ": _flat_targets, "faint ": _faint_targets}[which](rng, X)
    name = f"{kind}, {rows} x {features}, seed {seed}" + (f", l2 {l2:g}" if l2 else "")
    return DrawnRegression(name, X, y, jnp.asarray, l2)


def sparse(rows: int, features: int, seed: int) -> DrawnRegression:
    """One entry in fifty, in columns of uneven counts and scales."""
    rng = np.random.default_rng([seed, rows, features, 1])
    shares = 0.04 * rng.uniform(0, 1, features) ** 2 + 4 / rows
    is_stored = rng.random((rows, features)) < shares
    scales = 10 ** rng.uniform(-1, 1, features)
    X = np.where(is_stored, rng.standard_normal((rows, features)) * scales, 0).astype(np.float32)
    return DrawnRegression(
        f"sparse, {rows} x {features}, seed {seed}", X, _targets(rng, X), _stored
    )


def categorical(rows: int, levels: int, seed: int) -> DrawnRegression:
    """The dummy variables of one code of skewed levels, the first of which is left out."""
    rng = np.random.default_rng([seed, rows, levels, 2])
    codes = (levels * rng.uniform(0, 1, rows) ** 3).astype(np.int32) - 1
    X = (codes[:, None] == np.arange(levels - 1)).astype(np.float32)
    name = f"categorical, {rows} x {levels - 1}, seed {seed}"
    return DrawnRegression(name, X, _targets(rng, X), _coded)


def matrix_free(kind: str, rows: int, features: int, seed: int) -> DrawnRegression:
    """A dense regression whose matrix is known as a function alone."""
    drawn = dense(kind, rows, features, seed)
    return dataclasses.replace(drawn, name=f"matrix-free {drawn.name}", design=_as_function)


def _stored(X: np.ndarray) -> jd.Sparse:
    rows, columns = np.nonzero(X)
    return jd.Sparse.from_indices(rows, columns, jnp.asarray(X[rows, columns]), shape=X.shape)


def _coded(X: np.ndarray) -> jd.Categorical:
    codes = np.where(X.any(axis=1), X.argmax(axis=1), -1)
    return jd.Categorical(codes, levels=X.shape[1])


def _as_function(X: np.ndarray) -> jd.MatrixFree:
    forward = jax.tree_util.Partial(_product, jnp.asarray(X))
    return jd.MatrixFree(forward, rows=X.shape[0], features=X.shape[1])


def _product(X: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.matmul(X, weights, precision=jax.lax.Precision.HIGHEST)


def _of_spectrum(rng: np.random.Generator, rows: int, spectrum: np.ndarray) -> np.ndarray:
    left = np.linalg.qr(rng.standard_normal((rows, spectrum.size)))[0]
    right = np.linalg.qr(rng.standard_normal((spectrum.size, spectrum.size)))[0]
    return (left * spectrum) @ right.T


def _targets(rng: np.random.Generator, X: np.ndarray) -> np.ndarray:
    signal = X @ rng.standard_normal(X.shape[1])
    noise = 10 ** rng.uniform(-2, 0) * np.std(signal) * rng.standard_normal(X.shape[0])
    return (signal + noise).astype(np.float32)


def _flat_targets(rng: np.random.Generator, X: np.ndarray) -> np.ndarray:
    """A mean of the flattest third of the left singular vectors, and noise."""
    left = np.linalg.svd(X.astype(float), full_matrices=False)[0]
    third = max(1, X.shape[1] // 3)
    signal = left[:, -third:] @ rng.standard_normal(third)
    noise = 0.1 * np.std(signal) * rng.standard_normal(X.shape[0])
    return (signal + noise).astype(np.float32)


def _faint_targets(rng: np.random.Generator, X: np.ndarray) -> np.ndarray:
    """Gaussian along steep directions, and a residual of half the size. The part along directions
    under a hundredth of the steepest is worth 8 times what the default tolerance allows.
    """
    X = X.astype(float)
    left, singular_values, _ = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    is_flat = singular_values < 1e-2 * singular_values[0]
    signal = left @ np.where(is_flat, 0, rng.standard_normal(is_flat.size))
    residual = rng.standard_normal(X.shape[0])
    residual -= residual.mean() + left @ (left.T @ residual)
    residual *= 0.5 * np.linalg.norm(signal) / np.linalg.norm(residual)
    faint = left @ np.where(is_flat, rng.standard_normal(is_flat.size), 0)
    allowed = np.finfo(np.float32).eps ** (2 / 3) * np.sum(residual**2)
    faint *= np.sqrt(8 * allowed) / np.linalg.norm(faint)
    return (signal + residual + faint).astype(np.float32)
