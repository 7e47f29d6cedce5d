"""The one judge, in float64 NumPy: it sees answers, and knows of no contender."""

from __future__ import annotations

import numpy as np

BLOCK_BYTES = 1 << 26
"""Of float64 at once, so that judging needs no second copy of the data."""

MAX_NEWTON_STEPS = 100


def ridge_values(X: np.ndarray, Y: np.ndarray, l2: np.ndarray, W: np.ndarray) -> np.ndarray:
    """``1/2 |X w - y|^2 + l2/2 |w|^2`` for each column of ``Y`` and ``W``."""
    W = np.asarray(W, np.float64)
    squares = np.zeros(Y.shape[1])
    for rows in blocks(X):
        residual = X[rows].astype(np.float64) @ W - Y[rows]
        squares += np.einsum("ij,ij->j", residual, residual)
    return 0.5 * squares + 0.5 * l2 * np.einsum("ij,ij->j", W, W)


def ridge_gradient(X: np.ndarray, Y: np.ndarray, l2: np.ndarray, W: np.ndarray) -> np.ndarray:
    """Of :func:`ridge_values`."""
    W = np.asarray(W, np.float64)
    gradient = l2 * W
    for rows in blocks(X):
        block = X[rows].astype(np.float64)
        gradient += block.T @ (block @ W - Y[rows])
    return gradient


def backward_error(X: np.ndarray, Y: np.ndarray, W: np.ndarray) -> float:
    """The largest ``|X'r| / (|X| |r|)``, ``r = y - X w``, with |X| in Frobenius' norm."""
    W = np.asarray(W, np.float64)
    gradient, residual_square, square = np.zeros(W.shape), np.zeros(Y.shape[1]), 0.0
    for rows in blocks(X):
        block = X[rows].astype(np.float64)
        residual = Y[rows] - block @ W
        gradient += block.T @ residual
        residual_square += np.einsum("ij,ij->j", residual, residual)
        square += float(np.vdot(block, block))
    worst = np.max(np.linalg.norm(gradient, axis=0) / np.sqrt(square * residual_square))
    return float(worst) if np.isfinite(worst) else float("inf")


def ridge_optimum(X: np.ndarray, Y: np.ndarray, l2: np.ndarray) -> np.ndarray:
    """The minimisers in float64: normal equations with refinement, or their dual form."""
    rows, features = X.shape
    if rows < features:
        gram = np.zeros((rows, rows))
        step = max(1, BLOCK_BYTES // (8 * rows))
        for first in range(0, features, step):
            block = X[:, first : first + step].astype(np.float64)
            gram += block @ block.T
        dual = _solve_each(gram, l2, Y.astype(np.float64))
        parts = [
            X[:, first : first + step].T.astype(np.float64) @ dual
            for first in range(0, features, step)
        ]
        return np.concatenate(parts)
    gram = np.zeros((features, features))
    for part in blocks(X):
        block = X[part].astype(np.float64)
        gram += block.T @ block
    W = np.zeros((features, Y.shape[1]))
    for _ in range(4):
        W -= _solve_each(gram, l2, ridge_gradient(X, Y, l2, W))
    return W


def logistic_value(X: np.ndarray, labels: np.ndarray, l2: float, w: np.ndarray) -> float:
    """``sum log(1 + exp(-label x.w)) + l2/2 |w|^2``, labels of -1 and 1."""
    w = np.asarray(w, np.float64)
    terms = [np.sum(np.logaddexp(0, -labels[rows] * (X[rows] @ w))) for rows in blocks(X)]
    return float(sum(terms) + 0.5 * l2 * w @ w)


def logistic_optimum(X: np.ndarray, labels: np.ndarray, l2: float) -> np.ndarray:
    """The minimiser of :func:`logistic_value` by Newton's method in float64, steps halved while
    they would lead upwards.
    """
    w = np.zeros(X.shape[1])
    for _ in range(MAX_NEWTON_STEPS):
        gradient, hessian = l2 * w, l2 * np.eye(len(w))
        for rows in blocks(X):
            block = X[rows].astype(np.float64)
            wrong = 1 / (1 + np.exp(labels[rows] * (block @ w)))
            gradient -= block.T @ (labels[rows] * wrong)
            hessian += (block.T * (wrong * (1 - wrong))) @ block
        step = np.linalg.solve(hessian, gradient)
        decrement = gradient @ step
        value, rate = logistic_value(X, labels, l2, w), 1.0
        if decrement <= 1e-14 * value:
            return w - step
        while logistic_value(X, labels, l2, w - rate * step) > value:
            rate /= 2
        w -= rate * step
    raise ArithmeticError("Newton's method did not converge: the data are not as they should be.")


def relative_suboptimality(values: np.ndarray, best: np.ndarray) -> float:
    """The largest ``(f - f*) / f*``; infinite for an answer that is not a number."""
    worst = np.max((np.asarray(values, np.float64) - best) / best)
    return float(worst) if np.isfinite(worst) else float("inf")


def relative_error(found: np.ndarray, true: np.ndarray) -> float:
    """``|found - true| / |true|``."""
    found = np.asarray(found, np.float64)
    if found.shape != true.shape or not np.all(np.isfinite(found)):
        return float("inf")
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


def reduction_left(value: float, start: float, best: float) -> float:
    """``(f - f*) / (f0 - f*)``: what is left of the way down (More and Wild, 2009)."""
    left = (value - best) / (start - best)
    return float(left) if np.isfinite(left) else float("inf")


def blocks(X: np.ndarray) -> list[slice]:
    """Slices of rows that are small in float64."""
    step = max(1, BLOCK_BYTES // (8 * X.shape[1]))
    return [slice(first, first + step) for first in range(0, X.shape[0], step)]


def _solve_each(gram: np.ndarray, l2: np.ndarray, right: np.ndarray) -> np.ndarray:
    """``(gram + l2 I) w = r``, one factorisation for each distinct penalty."""
    answer = np.empty_like(right)
    for penalty in np.unique(l2):
        which = l2 == penalty
        answer[:, which] = np.linalg.solve(gram + penalty * np.eye(len(gram)), right[:, which])
    return answer
