"""Many small problems at once."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from benchmarks.harness import referee


@dataclasses.dataclass(frozen=True)
class RegressionsData:
    """``X (members, rows, features)``, ``y (members, rows)``."""

    X: np.ndarray
    y: np.ndarray


@dataclasses.dataclass(frozen=True)
class Regressions:
    """Judged by the largest relative suboptimality of any member."""

    members: int
    rows: int
    features: int
    seed: int = 0

    def write(self, folder: pathlib.Path) -> None:
        rng = np.random.default_rng(self.seed)
        X = rng.standard_normal((self.members, self.rows, self.features), np.float32)
        w = rng.standard_normal((self.members, self.features, 1), np.float32)
        y = (X @ w)[..., 0] + rng.standard_normal((self.members, self.rows), np.float32)
        wide, target = X.astype(np.float64), y.astype(np.float64)
        gram = wide.transpose(0, 2, 1) @ wide
        best = np.linalg.solve(gram, wide.transpose(0, 2, 1) @ target[..., None])
        np.save(folder / "X.npy", X)
        np.save(folder / "y.npy", y)
        np.save(folder / "best.npy", self._values(wide, target, best[..., 0]))

    def load(self, folder: pathlib.Path) -> RegressionsData:
        return RegressionsData(np.load(folder / "X.npy"), np.load(folder / "y.npy"))

    def judge(self, folder: pathlib.Path, params: np.ndarray) -> float:
        if params.shape != (self.members, self.features):
            return float("inf")
        data = self.load(folder)
        values = self._values(data.X.astype(np.float64), data.y, params.astype(np.float64))
        return referee.relative_suboptimality(values, np.load(folder / "best.npy"))

    @staticmethod
    def _values(X: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
        residual = (X @ w[..., None])[..., 0] - y
        return 0.5 * np.einsum("mr,mr->m", residual, residual)


@dataclasses.dataclass(frozen=True)
class StartsData:
    """``starts (members, dimension)`` of the chained Rosenbrock function."""

    starts: np.ndarray


@dataclasses.dataclass(frozen=True)
class Starts:
    """A nonconvex function from many starts.

    Judged by the 99th percentile of the gradient's norm over that at the start: each member may
    end in a minimum of its own, and in float32 a few stop early.
    """

    members: int
    dimension: int = 8
    seed: int = 0

    def write(self, folder: pathlib.Path) -> None:
        rng = np.random.default_rng(self.seed)
        starts = rng.uniform(-2, 2, (self.members, self.dimension)).astype(np.float32)
        np.save(folder / "starts.npy", starts)

    def load(self, folder: pathlib.Path) -> StartsData:
        return StartsData(np.load(folder / "starts.npy"))

    def judge(self, folder: pathlib.Path, params: np.ndarray) -> float:
        starts = self.load(folder).starts
        if params.shape != starts.shape or not np.all(np.isfinite(params)):
            return float("inf")
        found = np.linalg.norm(rosenbrock_gradient(params.astype(np.float64)), axis=1)
        start = np.linalg.norm(rosenbrock_gradient(starts.astype(np.float64)), axis=1)
        return float(np.quantile(found / start, 0.99))


def rosenbrock_gradient(x: np.ndarray) -> np.ndarray:
    """Of the chained function, for each row."""
    gradient = np.zeros_like(x)
    rise = x[:, 1:] - x[:, :-1] ** 2
    gradient[:, :-1] = -400 * x[:, :-1] * rise - 2 * (1 - x[:, :-1])
    gradient[:, 1:] += 200 * rise
    return gradient


@dataclasses.dataclass(frozen=True)
class RatesData:
    """One regression, ``X (rows, features)``, ``y (rows,)``, and the learning rates to try."""

    X: np.ndarray
    y: np.ndarray
    rates: np.ndarray
    iterations: int


@dataclasses.dataclass(frozen=True)
class Rates:
    """Plain descent with each learning rate, judged by the largest relative error of the params."""

    members: int
    iterations: int = 200
    rows: int = 1000
    features: int = 20
    seed: int = 0

    def write(self, folder: pathlib.Path) -> None:
        rng = np.random.default_rng(self.seed)
        X = rng.standard_normal((self.rows, self.features), np.float32)
        y = X @ rng.standard_normal(self.features, np.float32)
        y += rng.standard_normal(self.rows, np.float32)
        gram = X.T.astype(np.float64) @ X
        rates = np.geomspace(1e-3, 1, self.members) / np.linalg.eigvalsh(gram)[-1]
        arrays = {"X": X, "y": y, "rates": rates.astype(np.float32)}
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        # The gradient step is affine: its k-th power acts on the error, eigenvector by eigenvector.
        values, vectors = np.linalg.eigh(gram)
        target = vectors.T @ (X.T.astype(np.float64) @ y) / values
        powers = (1 - arrays["rates"][:, None].astype(np.float64) * values) ** self.iterations
        np.save(folder / "params.npy", ((1 - powers) * target) @ vectors.T)

    def load(self, folder: pathlib.Path) -> RatesData:
        arrays = [np.load(folder / f"{name}.npy") for name in ("X", "y", "rates")]
        return RatesData(*arrays, self.iterations)

    def judge(self, folder: pathlib.Path, params: np.ndarray) -> float:
        true = np.load(folder / "params.npy")
        if params.shape != true.shape:
            return float("inf")
        return max(referee.relative_error(a, b) for a, b in zip(params, true, strict=True))
