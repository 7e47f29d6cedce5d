"""NumPy."""

from __future__ import annotations

import numpy as np

from benchmarks.harness.case import Answer, Factory, NotOffered, Solve
from benchmarks.problems import batches, functions, regression

NAME = "NumPy"
PACKAGE = "numpy"
DISTRIBUTION = "numpy"

MAX_NEWTON_STEPS = 100


def _lstsq(data: regression.Data) -> Solve:
    def solve(_: float) -> Answer:
        columns = []
        for penalty in np.unique(data.l2):
            which = data.l2 == penalty
            X, Y = data.X, data.Y[:, which]
            if penalty:
                root = data.X.dtype.type(np.sqrt(penalty))
                X = np.vstack([X, root * np.eye(X.shape[1], dtype=X.dtype)])
                Y = np.vstack([Y, np.zeros((X.shape[1], Y.shape[1]), Y.dtype)])
            columns.append(np.linalg.lstsq(X, Y, rcond=None)[0])
        return Answer(np.hstack(columns))  # penalties ascend, as np.unique gives them

    return solve


def _normal_equations(data: regression.Data) -> Solve:
    def solve(_: float) -> Answer:
        X, Y = data.X, data.Y
        is_dual = X.shape[0] < X.shape[1]
        gram = X @ X.T if is_dual else X.T @ X
        right = Y if is_dual else X.T @ Y
        columns = []
        for penalty in np.unique(data.l2):
            shifted = gram.copy()
            shifted.flat[:: len(gram) + 1] += gram.dtype.type(penalty)
            columns.append(np.linalg.solve(shifted, right[:, data.l2 == penalty]))
        found = np.hstack(columns)
        return Answer(X.T @ found if is_dual else found)

    return solve


def _newton(data: functions.Data) -> Solve:
    """Newton's method for a logistic regression (iteratively reweighted least squares)."""

    def solve(tolerance: float) -> Answer:
        X, labels, l2 = data.args
        w, norms = data.start.copy(), []
        while len(norms) <= MAX_NEWTON_STEPS:
            wrong = 1 / (1 + np.exp(labels * (X @ w)))
            gradient = l2 * w - (labels * wrong) @ X
            norms.append(np.linalg.norm(gradient))
            if norms[-1] <= tolerance * norms[0]:
                break
            hessian = (X.T * (wrong * (1 - wrong))) @ X
            hessian.flat[:: len(w) + 1] += l2
            w -= np.linalg.solve(hessian, gradient)
        return Answer(w, len(norms) - 1)

    return solve


def _gradient(data: regression.GradientData) -> Solve:
    if data.dtype != "float32":
        raise NotOffered(f"NumPy has no product in {data.dtype}")
    return lambda _: Answer((data.X @ data.w - data.y) @ data.X)


def _looped_regressions(data: batches.RegressionsData) -> Solve:
    def solve(_: float) -> Answer:
        pairs = zip(data.X, data.y, strict=True)
        return Answer(np.stack([np.linalg.lstsq(X, y, rcond=None)[0] for X, y in pairs]))

    return solve


def _stacked_regressions(data: batches.RegressionsData) -> Solve:
    def solve(_: float) -> Answer:
        transposed = data.X.transpose(0, 2, 1)
        return Answer(np.linalg.solve(transposed @ data.X, transposed @ data.y[..., None])[..., 0])

    return solve


def _rates(data: batches.RatesData) -> Solve:
    def solve(_: float) -> Answer:
        found = []
        for rate in data.rates:
            w = np.zeros(data.X.shape[1], np.float32)
            for _i in range(data.iterations):
                w -= rate * ((data.X @ w - data.y) @ data.X)
            found.append(w)
        return Answer(np.stack(found), data.iterations)

    return solve


CONTENDERS: dict[str, dict[str, Factory]] = {
    "gradient": {"X'(Xw - y)": _gradient},
    "regression": {"lstsq": _lstsq, "normal equations": _normal_equations},
    "classification": {"Newton's method": _newton},
    "batch of regressions": {
        "Python loop of lstsq": _looped_regressions,
        "stacked solve": _stacked_regressions,
    },
    "batch of rates": {"Python loop": _rates},
}
CONTENDERS["descents"] = CONTENDERS["regression"]
