"""scikit-learn."""

from __future__ import annotations

import numpy as np

from benchmarks.harness.case import Answer, Factory, NotOffered, Solve
from benchmarks.problems import batches, functions, regression

NAME = "scikit-learn"
PACKAGE = "sklearn"
DISTRIBUTION = "scikit-learn"

MAX_ITERATIONS = 20_000
SOLVERS = ("svd", "cholesky", "lsqr", "sparse_cg", "sag", "saga")
LOGISTIC_SOLVERS = ("lbfgs", "newton-cg", "newton-cholesky", "liblinear", "sag", "saga")


def _linear_regression(data: regression.Data) -> Solve:
    import sklearn.linear_model

    if np.any(data.l2):
        raise NotOffered("LinearRegression takes no penalty")
    model = sklearn.linear_model.LinearRegression(fit_intercept=False)
    return lambda _: Answer(model.fit(data.X, data.Y).coef_.T)


def _ridge(solver: str) -> Factory:
    def prepare(data: regression.Data) -> Solve:
        import sklearn.linear_model

        def solve(tolerance: float) -> Answer:
            model = sklearn.linear_model.Ridge(
                alpha=data.l2,
                fit_intercept=False,
                solver=solver,
                tol=tolerance,
                max_iter=None if solver in {"svd", "cholesky"} else MAX_ITERATIONS,
                random_state=0,
            ).fit(data.X, data.Y)
            iterations = None if model.n_iter_ is None else int(np.sum(model.n_iter_))
            return Answer(model.coef_.reshape(data.Y.shape[1], -1).T, iterations)

        return solve

    return prepare


def _stochastic(data: regression.Data) -> Solve:
    import sklearn.linear_model

    def solve(tolerance: float) -> Answer:
        columns, iterations = [], 0
        for y, penalty in zip(data.Y.T, data.l2, strict=True):
            model = sklearn.linear_model.SGDRegressor(
                alpha=penalty / len(y),
                fit_intercept=False,
                tol=tolerance,
                max_iter=MAX_ITERATIONS,
                average=True,
                random_state=0,
            )
            columns.append(model.fit(data.X, y).coef_)
            iterations += model.n_iter_
        return Answer(np.stack(columns, axis=1), iterations)

    return solve


def _logistic_regression(solver: str) -> Factory:
    def prepare(data: functions.Data) -> Solve:
        import sklearn.linear_model

        X, labels, l2 = data.args

        def solve(tolerance: float) -> Answer:
            model = sklearn.linear_model.LogisticRegression(
                C=1 / float(l2),
                fit_intercept=False,
                solver=solver,
                tol=tolerance,
                max_iter=MAX_ITERATIONS,
                random_state=0,
            ).fit(X, labels)
            return Answer(model.coef_[0], int(np.sum(model.n_iter_)))

        return solve

    return prepare


def _looped_regressions(data: batches.RegressionsData) -> Solve:
    import sklearn.linear_model

    def solve(_: float) -> Answer:
        model = sklearn.linear_model.LinearRegression(fit_intercept=False)
        pairs = zip(data.X, data.y, strict=True)
        return Answer(np.stack([model.fit(X, y).coef_ for X, y in pairs]))

    return solve


CONTENDERS: dict[str, dict[str, Factory]] = {
    "regression": {
        "LinearRegression": _linear_regression,
        **{f"Ridge {solver}": _ridge(solver) for solver in SOLVERS},
        "SGDRegressor": _stochastic,
    },
    "classification": {
        f"LogisticRegression {solver}": _logistic_regression(solver) for solver in LOGISTIC_SOLVERS
    },
    "batch of regressions": {"Python loop of LinearRegression": _looped_regressions},
}
CONTENDERS["descents"] = CONTENDERS["regression"]
