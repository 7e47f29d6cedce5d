"""Random regressions and quadratics, and how far params are above their exact minima.

Everything follows from a seed: sizes, spectra, scales, means, noise, penalties. Data are rounded to
the dtype they are asked for in, and the minima are those of the rounded data, in long double. How
far params are above a minimum is the quadratic form ``1/2 |A (w - w*)|^2``, never a difference of
two values, which would be lost in their rounding.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import scipy.linalg

SPECTRA = ("flat", "geometric", "clustered", "one small", "power law")
REFINEMENTS = 10

Params = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class RandomRegression:
    """``1/2 sum_i s_i |x_i W + b - y_i|^2 + l2/2 |W|^2``, as ``jd.LinearRegression`` has it.

    Attributes:
      name: what was drawn, in words.
      X, Y: (rows, features) and (rows, outputs), or (rows,) for one output.
      l2: the penalty.
      sample_weight: s, (rows,), or None.
      intercept: whether there is b.
      noise: its standard deviation over the signal's.
    """

    name: str
    X: np.ndarray
    Y: np.ndarray
    l2: float
    sample_weight: np.ndarray | None
    intercept: bool
    noise: float

    @property
    def value_at_zero(self) -> float:
        """The objective at zeros, which is the scale of its values."""
        return float(0.5 * np.sum(self._system[1] ** 2))

    @property
    def minimum(self) -> float:
        """The least value."""
        return float(0.5 * np.sum((self._system[1] - self._image) ** 2))

    def suboptimality(self, params: Params) -> float:
        """``1/2 |A (w - w*)|^2``: how far the objective at the params is above its minimum."""
        weights = np.asarray(params["weights"]).reshape(self.X.shape[1], -1)
        if self.intercept:
            weights = np.concatenate([weights, np.asarray(params["intercept"]).reshape(1, -1)])
        difference = self._system[0] @ weights.astype(np.longdouble) - self._image
        return float(0.5 * np.sum(difference**2))

    @functools.cached_property
    def _system(self) -> tuple[np.ndarray, np.ndarray]:
        """A and B of ``1/2 |A W - B|^2``, the penalty's rows last, in long double."""
        rows, features = self.X.shape
        A = self.X.astype(np.longdouble)
        B = self.Y.reshape(rows, -1).astype(np.longdouble)
        if self.intercept:
            A = np.concatenate([A, np.ones((rows, 1), A.dtype)], axis=1)
        if self.sample_weight is not None:
            root = np.sqrt(self.sample_weight.astype(np.longdouble))[:, None]
            A, B = root * A, root * B
        if self.l2:
            penalty = np.sqrt(np.longdouble(self.l2)) * np.eye(features, A.shape[1], dtype=A.dtype)
            A = np.concatenate([A, penalty])
            B = np.concatenate([B, np.zeros((features, B.shape[1]), B.dtype)])
        return A, B

    @functools.cached_property
    def _image(self) -> np.ndarray:
        """``A W*``, the targets' projection on what A can reach.

        The factor R of a QR in float64 makes ``A R^-1`` orthonormal up to the condition number
        times the rounding of float64, so that each refinement in long double gains the digits that
        are left of these.
        """
        A, B = self._system
        if A.shape[1] > A.shape[0]:
            return B
        scale = np.sqrt(np.sum(A**2, axis=0))
        A = A / scale
        R = np.linalg.qr(A.astype(np.float64), mode="r")
        residual = B
        for _ in range(REFINEMENTS):
            gradient = (A.T @ residual).astype(np.float64)
            half = scipy.linalg.solve_triangular(R, gradient, trans="T")
            step = scipy.linalg.solve_triangular(R, half)
            residual = residual - A @ step.astype(np.longdouble)
        return B - residual


@dataclasses.dataclass(frozen=True, eq=False)
class RandomQuadratic:
    """``1/2 x.Hx - linear.x``, as ``jd.Quadratic`` has it, with H positive definite.

    Attributes:
      name: what was drawn, in words.
      hessian, linear: H, (n, n), and (n,).
    """

    name: str
    hessian: np.ndarray
    linear: np.ndarray

    @property
    def minimum(self) -> float:
        """The least value."""
        return float(-0.5 * np.dot(self.linear.astype(np.longdouble), self._minimiser))

    @property
    def value_at_zero(self) -> float:
        """How far zeros are above the minimum, which is the scale of its values."""
        return -self.minimum

    def suboptimality(self, params: Any) -> float:
        """``1/2 (x - x*).H (x - x*)``."""
        difference = np.asarray(params).astype(np.longdouble) - self._minimiser
        return float(0.5 * difference @ (self.hessian.astype(np.longdouble) @ difference))

    @functools.cached_property
    def _minimiser(self) -> np.ndarray:
        """By a Cholesky factor in float64 and refinement in long double."""
        hessian, linear = self.hessian.astype(np.longdouble), self.linear.astype(np.longdouble)
        factor = scipy.linalg.cho_factor(self.hessian.astype(np.float64))
        x = np.zeros_like(linear)
        for _ in range(REFINEMENTS):
            residual = (linear - hessian @ x).astype(np.float64)
            x = x + scipy.linalg.cho_solve(factor, residual)
        return x


def random_regression(seed: int, dtype: Any = np.float32) -> RandomRegression:
    """A regression of 50 to 20,000 rows and 1 to 300 features, and what is drawn of the rest.

    The spectrum of X is one of :data:`SPECTRA` with a condition number of 1 to 1e5;
    columns may have scales of 10^-1.5 to 10^1.5 and means of up to 300 times their spread; the
    noise is 0, a tenth or ten times the signal; the penalty is 0 or from 1e-3 to 1e2; rows may have
    weights; there are 1 to 4 outputs, with or without an intercept.
    """
    rng = np.random.default_rng([seed, 1])
    rows = round(10 ** rng.uniform(np.log10(50), np.log10(20_000)))
    features = round(10 ** rng.uniform(0, np.log10(300)))
    kind, condition = str(rng.choice(SPECTRA)), 10 ** rng.uniform(0, 5)
    intercept = bool(rng.random() < 2 / 3)
    # Beside an intercept a centred X, so that the spectrum is that of the weights alone.
    k = min(rows - intercept, features)
    left = _orthonormal(rng, rows, k, is_centred=intercept)
    values = np.sqrt(rows) * spectrum(kind, k, condition, rng)
    X = (left * values) @ _orthonormal(rng, features, k).T
    words = [_described(kind, condition)]
    if rng.random() < 1 / 3:
        X *= 10 ** rng.uniform(-1.5, 1.5, features)
        words.append("scaled columns")
    signal_weights = rng.standard_normal((features, int(rng.integers(1, 5))))
    signal = X @ signal_weights
    if rng.random() < 1 / 2:
        X += X.std(axis=0) * 10 ** rng.uniform(0, np.log10(300), features)
        words.append("means")
    noise = float(rng.choice([0.0, 0.1, 10.0]))
    Y = signal + noise * signal.std() * rng.standard_normal(signal.shape)
    if intercept:
        Y += rng.normal() * signal.std()
    l2 = float(rng.choice([0.0, 10 ** rng.uniform(-3, 2)]))
    sample_weight = rng.gamma(2.0, size=rows).astype(dtype) if rng.random() < 1 / 3 else None
    words += [f"noise {noise:g}", f"l2 {l2:.0e}"]
    words += ["weights"] * (sample_weight is not None) + ["intercept"] * intercept
    name = f"regression {seed}: {rows} x {features} x {Y.shape[1]}, {', '.join(words)}"
    Y = Y[:, 0] if Y.shape[1] == 1 else Y
    # Rounded to the dtype, so that the penalty that is passed is the penalty that is meant.
    l2 = float(np.asarray(l2, dtype))
    return RandomRegression(
        name, X.astype(dtype), Y.astype(dtype), l2, sample_weight, intercept, noise
    )


def random_quadratic(seed: int, dtype: Any = np.float32) -> RandomQuadratic:
    """A quadratic of 1 to 300 unknowns with a spectrum of a condition number of 1 to 1e5."""
    rng = np.random.default_rng([seed, 2])
    n = round(10 ** rng.uniform(0, np.log10(300)))
    kind, condition = str(rng.choice(SPECTRA)), 10 ** rng.uniform(0, 5)
    basis = _orthonormal(rng, n, n)
    values = 10 ** rng.uniform(-3, 3) * spectrum(kind, n, condition, rng)
    hessian = (basis * values) @ basis.T
    hessian = (0.5 * (hessian + hessian.T)).astype(dtype)
    # In half of them the minimiser is of one size in all directions, else the gradient at zero.
    is_image = rng.random() < 1 / 2
    linear = rng.standard_normal(n)
    linear = (hessian @ linear if is_image else linear).astype(dtype)
    name = f"quadratic {seed}: {n}, {_described(kind, condition)}"
    return RandomQuadratic(name, hessian, linear)


def spectrum(kind: str, n: int, condition: float, rng: np.random.Generator) -> np.ndarray:
    """Give n singular values or eigenvalues from 1 down to ``1 / condition``."""
    least = 1 / condition
    if n == 1:
        return np.ones(1)
    if kind == "flat":
        # All but alike, whatever the condition asked for.
        return np.linspace(1, 0.9, n)
    if kind == "geometric":
        return np.geomspace(1, least, n)
    if kind == "clustered":
        centres = np.geomspace(1, least, min(4, n))
        chosen = np.concatenate([[0, len(centres) - 1], rng.integers(len(centres), size=n - 2)])
        return np.sort(centres[chosen] * rng.uniform(0.95, 1.05, n))[::-1]
    if kind == "one small":
        return np.append(rng.uniform(0.5, 1, n - 1), least)
    return np.arange(1, n + 1) ** (-np.log(condition) / np.log(n))


def _described(kind: str, condition: float) -> str:
    return kind if kind == "flat" else f"{kind} {condition:.0e}"


def _orthonormal(
    rng: np.random.Generator, rows: int, columns: int, *, is_centred: bool = False
) -> np.ndarray:
    """Random orthonormal columns, each of mean zero where that is asked for."""
    normal = rng.standard_normal((rows, columns))
    if is_centred:
        normal -= normal.mean(axis=0)
    return np.linalg.qr(normal)[0]
