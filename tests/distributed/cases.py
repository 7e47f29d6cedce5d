"""Problems that are solved by one process, and by several that share their rows."""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from scipy import optimize

import jaxdescent as jd
from tests.meshes import rows_over
from tests.references import closed_form

ROWS, FEATURES = 240, 6


def data(outputs=None, dtype=np.float32):
    rng = np.random.default_rng(7)
    X = rng.normal(size=(ROWS, FEATURES)) * [1, 2, 0.5, 1, 3, 1] + [0, 1, 0, 5, 0, 0]
    w = rng.normal(size=(FEATURES, outputs) if outputs else FEATURES)
    y = X @ w + 0.1 * rng.normal(size=(ROWS, outputs) if outputs else ROWS) + 2
    return X.astype(dtype), y.astype(dtype), rng.uniform(0, 2, ROWS).astype(dtype)


def across_processes():
    """A function that places an array with its rows over all devices of all processes."""
    rows = rows_over(len(jax.devices()))
    return lambda array: jax.make_array_from_callback(array.shape, rows, lambda at: array[at])


METHODS = {
    "default": lambda: None,
    "gram": jd.Gram,
    "cg": jd.ConjugateGradient,
    "cg-nystrom": lambda: jd.ConjugateGradient(jd.Nystrom(3)),
    "lsmr": jd.LSMR,
    "lbfgs": jd.LBFGS,
    "backtracking": lambda: jd.GradientDescent(jd.Backtracking()),
    "momentum": lambda: jd.GradientDescent(jd.InverseLipschitz(), momentum=jd.Nesterov()),
    "adam": lambda: optax.adam(0.05),
}


def regression(place, method="default", outputs=None, **options):
    X, y, weight = data(outputs)
    options = {name: place(weight) if value == "rows" else value for name, value in options.items()}
    objective = jd.LinearRegression(place(X), place(y), **options)
    return jd.minimize(objective, method=METHODS[method]())


class Traced(NamedTuple):
    """What is left of a result that was made under jit."""

    status: jax.Array
    value: jax.Array
    params: Any


def traced(place):
    X, y, _ = data()

    def solve(X, y):
        result = jd.minimize(jd.LinearRegression(X, y, l2=0.5))
        return Traced(result.status, result.value, result.params)

    return jax.jit(solve)(place(X), place(y))


def squares(place):
    start = place(np.linspace(-1, 2, 60, dtype=np.float32))
    return jd.minimize(jd.SumOfSquares(), start, jd.GradientDescent(0.1))


def least_squares(place):
    X, y, _ = data()

    def residuals(w, X, y):
        return jax.numpy.tanh(X @ w) - jax.numpy.tanh(y)

    start = np.full(FEATURES, 0.01, np.float32)
    return jd.minimize(jd.LeastSquares(residuals), start, args=(place(X), place(y)))


def function(place, method="default"):
    X, y, _ = data()

    def loss(w, X, y):
        return jax.numpy.mean(jax.numpy.logaddexp(0, -jax.numpy.sign(y) * (X @ w))) + 0.05 * (w @ w)

    start = np.zeros(FEATURES, np.float32)
    return jd.minimize(loss, start, method=METHODS[method](), args=(place(X), place(y)))


CASES = {name: (regression, {"method": name, "l2": 0.5}) for name in METHODS}
CASES |= {
    "weights": (regression, {"sample_weight": "rows", "intercept": False, "outputs": 3}),
    "cg": (regression, {"sample_weight": "rows", "method": "cg", "l2": 0.1}),
    "lsmr": (regression, {"outputs": 3, "method": "lsmr", "l2": 0.5}),
    "traced": (traced, {}),
    "squares": (squares, {}),
    "least-squares": (least_squares, {}),
    "function": (function, {}),
    "function-lbfgs": (function, {"method": "lbfgs"}),
}


def solved(name, place):
    """Status, value, and the params as flat lists, of a case."""
    build, options = CASES[name]
    result = build(place, **options)
    leaves = {
        jax.tree_util.keystr(path): np.asarray(_visible(leaf)).ravel().tolist()
        for path, leaf in jax.tree.leaves_with_path(result.params)
    }
    status, value = int(_visible(result.status)), float(_visible(result.value))
    return {"status": status, "value": value, "params": leaves}


def minimum(name):
    """Value, and params as flat lists by their names, of a case's minimum: by NumPy and SciPy."""
    build, options = CASES[name]
    X, y, weight = (np.asarray(each, float) for each in data(options.get("outputs")))
    start = np.full(FEATURES, 0.01)
    if build is function:
        signs = np.sign(y)

        def loss(w):
            return np.mean(np.logaddexp(0, -signs * (X @ w))) + 0.05 * (w @ w)

        found = optimize.minimize(loss, start, tol=1e-12)
        return found.fun, {"": found.x}
    if build is least_squares:
        found = optimize.least_squares(lambda w: np.tanh(X @ w) - np.tanh(y), start, xtol=1e-12)
        return found.cost, {"": found.x}
    if build is squares:
        return 0.0, {"": np.zeros(60)}
    intercept = options.get("intercept", True)
    weights, constant, value = closed_form(
        X,
        y,
        options.get("l2", 0.5 if build is traced else 0.0),
        weight if "sample_weight" in options else None,
        intercept,
    )
    params = {"['weights']": weights} | ({"['intercept']": constant} if intercept else {})
    return value, {name: np.ravel(leaf) for name, leaf in params.items()}


def ends_of_spectrum():
    """The least and the largest eigenvalue of the Hessian that :func:`certified` looks at."""
    X = np.asarray(data()[0], float)
    wide = np.column_stack([X, np.ones(ROWS)])
    return np.linalg.eigvalsh(wide.T @ wide + 0.5 * np.diag([1.0] * FEATURES + [0.0]))[[0, -1]]


def certified(place):
    """The kind and the ends of the spectrum, by two ways to them."""
    X, y, _ = data()
    objective = jd.LinearRegression(place(X), place(y), l2=0.5)
    found = jd.certify(objective, jd.minimize(objective))

    def loss(w, X, y):
        return jax.numpy.mean((X @ w - y) ** 2)

    start = np.zeros(FEATURES, np.float32)
    away = jd.certify(loss, start, args=(place(X), place(y)))
    ends = [found.smallest_eigenvalue, found.largest_eigenvalue]
    return {"kind": found.kind, "ends": ends, "away": away.kind}


def _visible(leaf):
    if leaf.is_fully_addressable or leaf.is_fully_replicated:
        return leaf
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(leaf, tiled=True)
