"""Linear and ridge regressions: data in float32 unless asked for, optima in float64."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from benchmarks.harness import referee

ROWS_AT_ONCE = 1 << 24
"""Elements of X that are drawn at once: NumPy draws them in float32 without a copy."""


@dataclasses.dataclass(frozen=True)
class Data:
    """A regression: ``X (rows, features)``, ``Y (rows, outputs)``, ``l2 (outputs,)``."""

    X: np.ndarray
    Y: np.ndarray
    l2: np.ndarray

    @property
    def is_path(self) -> bool:
        """Whether one target is regressed with many penalties."""
        return len(np.unique(self.l2)) > 1


@dataclasses.dataclass(frozen=True)
class Regression:
    """``1/2 |X w - y|^2 + l2/2 |w|^2`` for each output; judged by relative suboptimality.

    Attributes:
      rows, features, outputs: the sizes.
      condition: None for independent normal entries; else singular values log-spaced over it.
      noise: its standard deviation over the signal's.
      l2: the penalty; two numbers are a path between them, for one target.
      seed: of everything.
      dtype: of the data, and so of what the contenders compute in.
      is_judged_by_gradient: the verdict is the backward error ``|X'r| / (|X| |r|)`` with |X| in
        Frobenius' norm instead, by which LSMR and LSQR stop (Stewart, 1977); without penalty.
    """

    rows: int
    features: int
    outputs: int = 1
    condition: float | None = None
    noise: float = 0.1
    l2: float | tuple[float, float] = 0.0
    seed: int = 0
    dtype: str = "float32"
    is_judged_by_gradient: bool = False

    @property
    def penalties(self) -> np.ndarray:
        if isinstance(self.l2, tuple):
            return np.geomspace(*self.l2, self.outputs)
        return np.full(self.outputs, float(self.l2))

    def draw(self, folder: pathlib.Path, rng: np.random.Generator) -> np.ndarray:
        """X alone, into its file."""
        X = np.lib.format.open_memmap(
            folder / "X.npy", "w+", np.dtype(self.dtype), (self.rows, self.features)
        )
        self._fill(X, rng)
        return X

    def write(self, folder: pathlib.Path) -> None:
        rng = np.random.default_rng(self.seed)
        X = self.draw(folder, rng)
        targets = 1 if isinstance(self.l2, tuple) else self.outputs
        signal = X @ rng.standard_normal((self.features, targets), X.dtype)
        noise = self.noise * signal.std() * rng.standard_normal(signal.shape, X.dtype)
        Y = np.tile(signal + noise, (1, self.outputs // targets)).astype(X.dtype)
        np.save(folder / "Y.npy", Y)
        if self.is_judged_by_gradient:
            return
        best = referee.ridge_optimum(X, Y, self.penalties)
        np.save(folder / "best.npy", referee.ridge_values(X, Y, self.penalties, best))

    def _fill(self, X: np.ndarray, rng: np.random.Generator) -> None:
        if self.condition is None:
            step = max(1, ROWS_AT_ONCE // self.features)
            for first in range(0, self.rows, step):
                part = X[first : first + step]
                part[:] = rng.standard_normal(part.shape, X.dtype)
            return
        k = min(X.shape)
        left = np.linalg.qr(rng.standard_normal((self.rows, k), X.dtype))[0]
        right = np.linalg.qr(rng.standard_normal((self.features, k), X.dtype))[0]
        values = np.sqrt(self.rows) * np.geomspace(1, 1 / self.condition, k)
        np.matmul(left * values.astype(X.dtype), right.T, out=X)

    def load(self, folder: pathlib.Path) -> Data:
        # Mapped copy-on-write: contenders share the pages, and may still be given a writeable array
        X = np.load(folder / "X.npy", mmap_mode="c")
        return Data(np.asarray(X), np.load(folder / "Y.npy"), self.penalties)

    def judge(self, folder: pathlib.Path, params: np.ndarray) -> float:
        data = self.load(folder)
        if params.shape != (self.features, self.outputs):
            return float("inf")
        if self.is_judged_by_gradient:
            return referee.backward_error(data.X, data.Y, params)
        values = referee.ridge_values(data.X, data.Y, data.l2, params)
        return referee.relative_suboptimality(values, np.load(folder / "best.npy"))


@dataclasses.dataclass(frozen=True)
class GradientData:
    """``X (rows, features)``, ``y (rows,)``, ``w (features,)``, and the dtype to compute in."""

    X: np.ndarray
    y: np.ndarray
    w: np.ndarray
    dtype: str


@dataclasses.dataclass(frozen=True)
class Gradient:
    """``X'(X w - y)``, judged by its relative error."""

    rows: int
    features: int
    dtype: str
    seed: int = 0

    def write(self, folder: pathlib.Path) -> None:
        rng = np.random.default_rng(self.seed)
        X = Regression(self.rows, self.features).draw(folder, rng)
        data = {
            "w": rng.standard_normal(self.features, np.float32),
            "y": rng.standard_normal(self.rows, np.float32),
        }
        for name, array in data.items():
            np.save(folder / f"{name}.npy", array)
        zero = np.zeros(1)
        gradient = referee.ridge_gradient(X, data["y"][:, None], zero, data["w"][:, None])
        np.save(folder / "gradient.npy", gradient[:, 0])

    def load(self, folder: pathlib.Path) -> GradientData:
        X = np.asarray(np.load(folder / "X.npy", mmap_mode="c"))
        return GradientData(X, np.load(folder / "y.npy"), np.load(folder / "w.npy"), self.dtype)

    def judge(self, folder: pathlib.Path, params: np.ndarray) -> float:
        return referee.relative_error(params, np.load(folder / "gradient.npy"))
