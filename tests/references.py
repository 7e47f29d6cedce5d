"""What NumPy says in float64, for tests of several modules."""

import jax
import numpy as np

from jaxdescent.descent.fused_steps import FUSED_STEPS
from jaxdescent.designs import Design


def matrix(objective):
    """X written out, as it was given or as a design that ``checked`` made of it."""
    X = objective.X
    return np.asarray(X.to_dense() if isinstance(X, Design) else X, float)


def of_condition(condition, rng, rows, features):
    """A random matrix whose singular values are log-spaced from 1 to 1 / condition."""
    side = min(rows, features)
    U, V = (np.linalg.qr(rng.normal(size=(size, side)))[0] for size in (rows, features))
    return U * np.geomspace(1, 1 / condition, side) @ V.T


def one_hot(values, levels=None):
    """A column for each level: of so many codes, or else of all values, which are sorted."""
    values = np.asarray(values)
    known = np.unique(values) if levels is None else np.arange(levels)
    return (values[:, None] == known).astype(float)


def closed_form(X, y, l2=0.0, sample_weight=None, intercept=True, *, in_lengths=False):
    """Weights, intercept and value of a linear regression's minimum, in float64; the weights of
    least norm where there are many, in units of the columns' lengths if they are uneven. Each
    output has its own l2, or all have one.
    """
    X, y = np.asarray(X, float), np.asarray(y, float)
    weight = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, float)
    mean, target = np.zeros(X.shape[1]), np.zeros(y.shape[1:])
    if intercept:
        mean, target = (np.average(each, axis=0, weights=weight) for each in (X, y))
    root = np.sqrt(weight)[:, None]
    A, t = root * (X - mean), root * (y - target).reshape(len(y), -1)
    penalties = np.broadcast_to(np.asarray(l2, float), y.shape[1:]).reshape(-1)
    rows, features = A.shape
    solutions = []
    for penalty, column in zip(penalties, t.T, strict=True):
        if rows < features and not in_lengths:  # of least norm together with the residuals
            wide = np.concatenate([A, np.sqrt(penalty) * np.eye(rows)], axis=1)
            solutions.append(np.linalg.lstsq(wide, column, rcond=1e-12)[0][:features])
            continue
        tall = np.concatenate([A, np.sqrt(penalty) * np.eye(features)])
        lengths = np.linalg.norm(tall, axis=0) if in_lengths else np.ones(features)
        targets = np.concatenate([column, np.zeros(features)])
        solutions.append(np.linalg.lstsq(tall / lengths, targets, rcond=1e-12)[0] / lengths)
    weights = np.stack(solutions, axis=1)
    value = 0.5 * np.sum((A @ weights - t) ** 2) + 0.5 * np.sum(penalties * weights**2)
    weights = weights.reshape(X.shape[1], *y.shape[1:])
    return weights, target - mean @ weights, value


def least_squares(objective, **options):
    """The params of a linear regression's minimum; of least norm where there are many."""
    weights, intercept, _ = closed_form(
        matrix(objective),
        objective.y,
        objective.l2,
        objective.sample_weight,
        objective.intercept,
        **options,
    )
    return {"weights": weights} | ({"intercept": intercept} if objective.intercept else {})


def height(objective, params, best=None):
    """How far the value is above the minimum, whose params may be given: half the curvature times
    the distance's square, and no difference of two values, whose rounding would hide it."""
    best = least_squares(objective) if best is None else best
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


def replay(start, max_iterations, check_every, rate):
    """The end of constant steps on a sum of squares: in float32, and rounded to the dtype of the
    start after every pass; and the number of these roundings.
    """
    fused = min(FUSED_STEPS, check_every)
    stored, write_backs, done = start, 0, 0
    while done < max_iterations:
        ahead = min(check_every, max_iterations - done)
        for first in range(0, ahead, fused):
            wide = stored.astype(np.float32)
            for _ in range(min(fused, ahead - first)):
                # A fused multiply-add, rounded once; float64 holds the product exactly.
                step = np.float64(np.float32(2 * rate)) * wide
                wide = (wide - step).astype(np.float32)
            stored = wide.astype(start.dtype)
            write_backs += 1
        done += ahead
    return stored, write_backs


@jax.jit
def _answers(design, columns, rows, weight, center):
    return {
        "product": design.product(columns),
        "product with one column": design.product(columns[:, 0]),
        "transposed product": design.transposed_product(rows),
        "transposed product with one column": design.transposed_product(rows[:, 0]),
        "entries": design.to_dense(),
        "squares": design.column_squared_norms(weight, None),
        "squares about a center": design.column_squared_norms(weight, center),
    }


def assert_is_matrix(design, A, rng, *, are_sums=False):
    """That a design in float64 answers what the entries of the matrix A give, which may be sums."""
    assert design.shape == A.shape
    rows, features = A.shape
    columns, residuals = rng.normal(size=(features, 3)), rng.normal(size=(rows, 3))
    weight, center = rng.random(rows), rng.normal(size=features)
    found = _answers(design, columns, residuals, weight, center)
    exact = {
        "product": A @ columns,
        "product with one column": A @ columns[:, 0],
        "transposed product": A.T @ residuals,
        "transposed product with one column": A.T @ residuals[:, 0],
        "entries": A,
        "squares": weight @ A**2,
        "squares about a center": weight @ (A - center) ** 2,
    }
    for name, expected in exact.items():
        assert found[name].dtype == np.float64
        if name == "entries" and not are_sums:
            np.testing.assert_array_equal(found[name], expected)
        np.testing.assert_allclose(found[name], expected, rtol=1e-12, atol=1e-12, err_msg=name)
