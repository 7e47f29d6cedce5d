"""Logistic regressions: functions that are not quadratic, of data that fill the memory."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np

from benchmarks.harness import referee
from benchmarks.problems import functions


@dataclasses.dataclass(frozen=True)
class Classification:
    """``sum log(1 + exp(-label x.w)) + l2/2 |w|^2``; judged by relative suboptimality.

    Attributes:
      rows, features: the sizes.
      scales: by how much the columns of X, normal entries, differ in size.
      l2: the penalty.
      seed: of everything.
    """

    rows: int
    features: int
    scales: float = 100.0
    l2: float = 1.0
    seed: int = 0

    def write(self, folder: pathlib.Path) -> None:
        rng = np.random.default_rng(self.seed)
        X = rng.standard_normal((self.rows, self.features), np.float32)
        X *= np.geomspace(self.scales**-0.5, self.scales**0.5, self.features, dtype=np.float32)
        signal = X @ rng.standard_normal(self.features, np.float32)
        noise = signal.std() * rng.standard_normal(self.rows, np.float32)
        labels = np.where(signal + noise < 0, -1, 1).astype(np.float32)
        np.save(folder / "X.npy", X)
        np.save(folder / "labels.npy", labels)
        best = referee.logistic_optimum(X, labels, self.l2)
        np.save(folder / "best.npy", referee.logistic_value(X, labels, self.l2, best))

    def load(self, folder: pathlib.Path) -> functions.Data:
        X, labels = (np.load(folder / f"{name}.npy", mmap_mode="c") for name in ("X", "labels"))
        args = np.asarray(X), np.asarray(labels), np.float32(self.l2)
        start = np.zeros(self.features, np.float32)
        return functions.Data(logistic, start, args, counted_logistic)

    def judge(self, folder: pathlib.Path, params: np.ndarray) -> float:
        if params.shape != (self.features,):
            return float("inf")
        X, labels, l2 = self.load(folder).args
        value = referee.logistic_value(X, labels, l2, params)
        return referee.relative_suboptimality(np.array([value]), np.load(folder / "best.npy"))


def logistic(w: Any, X: Any, labels: Any, l2: Any) -> Any:
    """The function, in JAX."""
    import jax.numpy as jnp

    return _loss(jnp.matmul(X, w, precision="highest"), w, labels, l2)


def counted_logistic(w: Any, X: Any, labels: Any, l2: Any) -> Any:
    """The same; its passes over X are counted."""
    from benchmarks.harness.passes import counted_product

    return _loss(counted_product(X, w), w, labels, l2)


def _loss(scores: Any, w: Any, labels: Any, l2: Any) -> Any:
    import jax
    import jax.numpy as jnp

    return jnp.sum(jax.nn.softplus(-labels * scores)) + 0.5 * l2 * jnp.sum(w**2)
