"""Regressions whose minimum is known exactly, in rational numbers, however badly they are scaled.

Floating-point data are rational, and so are the normal equations and their solution. A few unknowns
keep the numbers short enough.
"""

from __future__ import annotations

import dataclasses
import functools
from fractions import Fraction
from typing import Any

import numpy as np

SHAPES = ((40, 4, 1), (6, 9, 1), (1, 3, 1), (30, 3, 2))
"""Rows, features, outputs: few, so that each method is compiled for few shapes."""

Matrix = list[list[Fraction]]


@dataclasses.dataclass(frozen=True, eq=False)
class ExactRegression:
    """``1/2 sum_i s_i |x_i W + b - y_i|^2 + l2/2 |W|^2`` in float32 or float64.

    Attributes:
      name: what was drawn, in words.
      X, Y: (rows, features), and (rows,) or (rows, outputs).
      l2: the penalty.
      sample_weight: s, (rows,).
      intercept: whether there is b.
      start: params, or None for the objective's own.
    """

    name: str
    X: np.ndarray
    Y: np.ndarray
    l2: np.ndarray
    sample_weight: np.ndarray
    intercept: bool
    start: dict[str, np.ndarray] | None

    def heights(self, weights: np.ndarray) -> tuple[float, float]:
        """The value minus the minimum, and the minimum, at the best intercept for the weights."""
        W = _rational(weights.reshape(self.X.shape[1], -1))
        hessian, right, squares, solution = self._solved
        above = Fraction(0)
        for output in range(len(W[0])):
            off = [w[output] - z[output] for w, z in zip(W, solution, strict=True)]
            moved = [sum(h * d for h, d in zip(row, off, strict=True)) for row in hessian]
            above += sum(d * m for d, m in zip(off, moved, strict=True)) / 2
        gained = sum(
            r * z
            for row, own in zip(right, solution, strict=True)
            for r, z in zip(row, own, strict=True)
        )
        return float(above), float((squares - gained) / 2)

    @functools.cached_property
    def constant(self) -> float:
        """The value of the best constant model."""
        return float(self._solved[2] / 2)

    @functools.cached_property
    def minimiser(self) -> np.ndarray:
        """Weights of a minimum, (features, outputs), as long doubles."""
        return np.array([[np.longdouble(float(each)) for each in row] for row in self._solved[3]])

    def rounding(self, weights: np.ndarray) -> float:
        """``eps^2 (sum_j |x_j| |w_j| + |y|)^2 / 2``, by which rounding may change a computed value:
        the norms are those of the weighted columns, not centred.
        """
        W = np.abs(np.asarray(weights, np.longdouble).reshape(self.X.shape[1], -1))
        X, s = self.X.astype(np.longdouble), self.sample_weight.astype(np.longdouble)
        lengths = np.sqrt(np.sum(s[:, None] * X**2, axis=0) + np.longdouble(float(self.l2)))
        Y = self.Y.reshape(self.X.shape[0], -1).astype(np.longdouble)
        moved = np.sum(lengths[:, None] * W, axis=0) + np.sqrt(np.sum(s[:, None] * Y**2, axis=0))
        return float(0.5 * np.sum((np.finfo(self.X.dtype).eps * moved) ** 2))

    @functools.cached_property
    def _solved(self) -> tuple[Matrix, Matrix, Fraction, Matrix]:
        """The Hessian for the weights, the right-hand side, the targets' squares, the solution."""
        X, Y = _rational(self.X), _rational(self.Y.reshape(self.X.shape[0], -1))
        s = [Fraction(float(each)) for each in self.sample_weight]
        if self.intercept:
            X, Y = _centred(X, s), _centred(Y, s)
        hessian, right = _products(X, X, s), _products(X, Y, s)
        for i, row in enumerate(hessian):
            row[i] += Fraction(float(self.l2))
        squares = sum(
            (w * y * y for row, w in zip(Y, s, strict=True) for y in row), start=Fraction(0)
        )
        return hessian, right, squares, _solution(hessian, right)


class LargerRegression(ExactRegression):
    """The same of float32 data that are too many for rational numbers, in float64.

    What stands for the minimum is a least-squares solution with the columns at length one. A lower
    value may exist, so that heights are bounds from below: a claim that they belie is false.
    """

    def heights(self, weights: np.ndarray) -> tuple[float, float]:
        A, B, solution = self._in_double
        left = B - A @ weights.reshape(A.shape[1], -1).astype(np.float64)
        least = B - A @ solution
        return float(0.5 * np.sum((left - least) * (left + least))), float(0.5 * np.sum(least**2))

    @functools.cached_property
    def constant(self) -> float:
        return float(0.5 * np.sum(self._in_double[1] ** 2))

    @functools.cached_property
    def minimiser(self) -> np.ndarray:
        return self._in_double[2].astype(np.longdouble)

    @functools.cached_property
    def _in_double(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The centred and weighted columns with the penalty below, the targets, a solution."""
        X, s = self.X.astype(np.float64), self.sample_weight.astype(np.float64)
        Y = self.Y.reshape(len(X), -1).astype(np.float64)
        for _ in range(2 * self.intercept):  # the first mean is rounded
            X, Y = X - s @ X / s.sum(), Y - s @ Y / s.sum()
        root, ridge = np.sqrt(s)[:, None], np.sqrt(float(self.l2)) * np.eye(X.shape[1])
        A = np.concatenate([root * X, ridge])
        B = np.concatenate([root * Y, np.zeros((X.shape[1], Y.shape[1]))])
        lengths = np.linalg.norm(A, axis=0)
        lengths[lengths == 0] = 1
        return A, B, np.linalg.lstsq(A / lengths, B, rcond=1e-13)[0] / lengths[:, None]


def larger_regression(seed: int, shape: tuple[int, int, int]) -> LargerRegression:
    """A random one, drawn as :func:`exact_regression` draws it."""
    return LargerRegression(**vars(exact_regression(seed, shape, np.float32)))


def exact_regression(seed: int, shape: tuple[int, int, int], dtype: Any) -> ExactRegression:
    """A random one: its spectrum, scales, means, copies of columns, weights, penalty and start."""
    rng = np.random.default_rng(seed)
    rows, features, outputs = shape
    facts = []

    def drawn(name: str, *choices: Any) -> Any:
        choice = choices[rng.integers(len(choices))]
        if choice != choices[0]:
            facts.append(f"{name} {choice:g}" if isinstance(choice, float) else f"{name} {choice}")
        return choice

    X = rng.normal(size=(rows, features))
    condition = drawn("spread", 1.0, 1.0, 10.0 ** rng.uniform(0, 7), 10.0 ** rng.uniform(0, 14))
    u, sizes, v = np.linalg.svd(X, full_matrices=False)
    X = u * (sizes * condition ** -np.linspace(0, 1, len(sizes))) @ v
    X /= np.abs(X).max()
    X = X + rng.choice([-1, 1], features) * drawn("mean", 0.0, 0.0, 1.0, 1e2, 1e4, 1e8)
    decades = drawn("scales", 0.0, 0.0, 2.0, 5.0, 8.0, 15.0, 20.0)
    scale = 10.0 ** np.round(rng.uniform(-decades, decades, features), 2)
    X = X * scale
    if drawn("copy", 0, 0, 0, 1) and features > 1:
        X[:, 1] = X[:, 0]
    if drawn("zero", 0, 0, 0, 1):
        X[:, -1] = 0
    of_unknowns = rng.normal(size=(features, outputs)) / scale[:, None]
    kind = drawn("targets", "noise", "noise", "exact", "noisy", "unrelated", "zero")
    signal = X @ of_unknowns
    share = {"noise": 1e-1, "exact": 0.0, "noisy": 1e2}.get(kind, 1.0)
    Y = signal + share * np.std(signal) * rng.normal(size=signal.shape)
    if kind == "unrelated":
        Y = rng.normal(size=signal.shape)
    if kind == "zero":
        Y = 0 * Y
    Y = Y * drawn("units", 1.0, 1.0, 1e-10, 1e8) + drawn("mean of targets", 0.0, 0.0, 1e3)
    weight = {
        "ones": np.ones(rows),
        "uniform": rng.uniform(0, 2, rows),
        "half zeros": np.where(np.arange(rows) % 2, rng.uniform(0, 2, rows), 1.0),
        "1e6 apart": 10.0 ** rng.uniform(-3, 3, rows),
    }[drawn("weights", "ones", "ones", "uniform", "half zeros", "1e6 apart")]
    if "weights half zeros" in facts:
        weight[1::2] = 0
    l2 = drawn("l2", 0.0, 0.0, 0.0, 1e-6, 1.0, 1e6, 1e20)
    intercept = drawn("intercept", True, True, False)
    start = None
    if drawn("start", "own", "own", "far") == "far":
        far = rng.normal(size=(features, outputs)) * 10.0 ** rng.uniform(0, 8)
        start = {"weights": far if outputs > 1 else far[:, 0]}
        if intercept:
            start["intercept"] = np.zeros(outputs) if outputs > 1 else np.zeros(())
        start = {name: each.astype(dtype) for name, each in start.items()}
    Y = Y if outputs > 1 else Y[:, 0]
    X, Y, weight, penalty = (np.asarray(each, dtype) for each in (X, Y, weight, l2))
    name = f"{rows} x {features} x {outputs}, seed {seed}: " + (", ".join(facts) or "plain")
    return ExactRegression(name, X, Y, penalty, weight, intercept, start)


def _rational(array: np.ndarray) -> Matrix:
    return [[Fraction(float(each)) for each in row] for row in array]


def _centred(rows: Matrix, weights: list[Fraction]) -> Matrix:
    total = sum(weights)
    means = [
        sum(w * row[j] for row, w in zip(rows, weights, strict=True)) / total
        for j in range(len(rows[0]))
    ]
    return [[each - mean for each, mean in zip(row, means, strict=True)] for row in rows]


def _products(left: Matrix, right: Matrix, weights: list[Fraction]) -> Matrix:
    """``left' diag(weights) right``."""
    return [
        [
            sum(
                (w * a[i] * b[j] for a, b, w in zip(left, right, weights, strict=True)),
                start=Fraction(0),
            )
            for j in range(len(right[0]))
        ]
        for i in range(len(left[0]))
    ]


def _solution(matrix: Matrix, right: Matrix) -> Matrix:
    """One solution of consistent equations, by Gauss-Jordan elimination."""
    size, rows = len(matrix), [[*a, *b] for a, b in zip(matrix, right, strict=True)]
    pivots: list[tuple[int, int]] = []
    for column in range(size):
        at = len(pivots)
        found = next((i for i in range(at, size) if rows[i][column]), None)
        if found is None:
            continue
        rows[at], rows[found] = rows[found], rows[at]
        rows[at] = [each / rows[at][column] for each in rows[at]]
        for i in range(size):
            if i != at and rows[i][column]:
                factor = rows[i][column]
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[at], strict=True)]
        pivots.append((at, column))
    solution = [[Fraction(0)] * len(right[0]) for _ in range(size)]
    for row, column in pivots:
        solution[column] = rows[row][size:]
    return solution
