"""What NumPy says in float64, for tests of several modules."""

import numpy as np

from jaxdescent.designs import Design


def matrix(objective):
    """X written out, as it was given or as a design that ``checked`` made of it."""
    X = objective.X
    return np.asarray(X.to_dense() if isinstance(X, Design) else X, float)


def least_squares(objective):
    """The params of a linear regression's minimum; of least norm where there are many."""
    X, y = matrix(objective), np.asarray(objective.y, float)
    weight = np.ones(len(X))
    if objective.sample_weight is not None:
        weight = np.asarray(objective.sample_weight, float)
    columns = y.reshape(len(y), -1)
    means = np.zeros(X.shape[1]), np.zeros(columns.shape[1])
    if objective.intercept:
        means = np.average(X, axis=0, weights=weight), np.average(columns, 0, weights=weight)
    A, t = X - means[0], columns - means[1]
    gram = A.T @ (weight[:, None] * A)
    l2 = np.broadcast_to(np.asarray(objective.l2, float), y.shape[1:]).reshape(-1)
    weights = np.stack(
        [
            np.linalg.pinv(gram + penalty * np.eye(len(gram)), rcond=1e-12)
            @ (A.T @ (weight * column))
            for penalty, column in zip(l2, t.T, strict=True)
        ],
        axis=1,
    )
    params = {"weights": weights.reshape(X.shape[1], *y.shape[1:])}
    if objective.intercept:
        params["intercept"] = (means[1] - means[0] @ weights).reshape(y.shape[1:])
    return params


def height(objective, params):
    """How far the value is above the minimum: half the curvature times the distance's square, and
    no difference of two values, whose rounding would hide it."""
    best = least_squares(objective)
    X = matrix(objective)
    off = {name: np.asarray(params[name], float) - best[name] for name in best}
    image = (X @ off["weights"] + off.get("intercept", 0.0)).reshape(len(X), -1)
    weight = 1.0 if objective.sample_weight is None else np.asarray(objective.sample_weight, float)
    penalty = np.asarray(objective.l2, float) * np.sum(np.square(off["weights"]), axis=0)
    return 0.5 * (np.sum(weight * np.sum(np.square(image), axis=1)) + np.sum(penalty))


def value(objective, params):
    """Half the weighted sum of squares of the residuals, and of the penalised weights."""
    X, y = matrix(objective), np.asarray(objective.y, float)
    weights = np.asarray(params["weights"], float)
    residual = X @ weights + np.asarray(params.get("intercept", 0.0), float) - y
    weight = 1.0 if objective.sample_weight is None else np.asarray(objective.sample_weight, float)
    squares = weight * np.sum(np.square(residual).reshape(len(y), -1), axis=1)
    penalty = np.asarray(objective.l2, float) * np.sum(np.square(weights), axis=0)
    return 0.5 * (np.sum(squares) + np.sum(penalty))
