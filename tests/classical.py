"""Classical test functions of unconstrained minimisation, as functions of arrays.

Each is a function of a vector in any floating dtype, with its usual start and the value at its
minimum. References: More, Garbow and Hillstrom (1981), "Testing unconstrained optimization
software"; Himmelblau (1972).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A function, where to start, and the lowest value (None: known only numerically)."""

    name: str
    function: Callable[[Any], Any]
    start: np.ndarray
    minimum: float | None = 0.0


def rosenbrock(x):
    """Chained: ``sum 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2``."""
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def extended_rosenbrock(x):
    return jnp.sum(100 * (x[1::2] - x[::2] ** 2) ** 2 + (1 - x[::2]) ** 2)


def powell_singular(x):
    a, b, c, d = x.reshape(-1, 4).T
    return jnp.sum((a + 10 * b) ** 2 + 5 * (c - d) ** 2 + (b - 2 * c) ** 4 + 10 * (a - d) ** 4)


def beale(x):
    a, b = x
    return (1.5 - a * (1 - b)) ** 2 + (2.25 - a * (1 - b**2)) ** 2 + (2.625 - a * (1 - b**3)) ** 2


def brown_almost_linear(x):
    n = x.shape[0]
    return jnp.sum((x[:-1] + jnp.sum(x) - (n + 1)) ** 2) + (jnp.prod(x) - 1) ** 2


def broyden_tridiagonal(x):
    zero = jnp.zeros((1,), x.dtype)
    before, after = jnp.concatenate([zero, x[:-1]]), jnp.concatenate([x[1:], zero])
    return jnp.sum(((3 - 2 * x) * x - before - 2 * after + 1) ** 2)


def wood(x):
    a, b, c, d = x
    return (
        100 * (b - a**2) ** 2
        + (1 - a) ** 2
        + 90 * (d - c**2) ** 2
        + (1 - c) ** 2
        + 10 * (b + d - 2) ** 2
        + 0.1 * (b - d) ** 2
    )


def himmelblau(x):
    a, b = x
    return (a**2 + b - 11) ** 2 + (a + b**2 - 7) ** 2


def helical_valley(x):
    a, b, c = x
    angle = jnp.arctan2(b, a) / (2 * np.pi)
    radius = jnp.sqrt(a**2 + b**2)
    return 100 * ((c - 10 * angle) ** 2 + (radius - 1) ** 2) + c**2


def quartic(x):
    return jnp.sum(x**4)


def cosh(x):
    return jnp.sum(jnp.cosh(x))


def scaled_quadratic(x, condition=1e6):
    weights = jnp.asarray(np.geomspace(1, condition, x.shape[0]), x.dtype)
    return 0.5 * jnp.sum(weights * (x - 1) ** 2)


def logistic(x):
    X, labels = _classes(x.shape[0])
    X, labels = jnp.asarray(X, x.dtype), jnp.asarray(labels, x.dtype)
    margins = labels * jnp.matmul(X, x, precision="highest")
    return jnp.sum(jax.nn.softplus(-margins)) + 0.5 * jnp.sum(x**2)


def huber(x):
    X, y = _outliers(x.shape[0])
    X, y = jnp.asarray(X, x.dtype), jnp.asarray(y, x.dtype)
    size = jnp.abs(jnp.matmul(X, x, precision="highest") - y)
    return jnp.sum(jnp.where(size <= 1, 0.5 * size**2, size - 0.5))


def _classes(features):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(5 * features, features)) * np.geomspace(0.1, 10, features)
    return X, np.sign(X @ rng.normal(size=features) + rng.normal(size=5 * features))


def _outliers(features):
    rng = np.random.default_rng(2)
    X = rng.normal(size=(5 * features, features))
    y = X @ rng.normal(size=features) + 0.1 * rng.normal(size=5 * features)
    y[::7] += 50
    return X, y


def problems() -> list[Problem]:
    """All of them, from their usual starts and some hard ones."""
    pair = np.array([-1.2, 1.0])
    return [
        Problem("rosenbrock 2", rosenbrock, pair),
        Problem("rosenbrock 100", rosenbrock, np.zeros(100)),
        Problem("rosenbrock 10000", rosenbrock, np.tile(pair, 5_000)),
        Problem("extended rosenbrock 1000", extended_rosenbrock, np.tile(pair, 500)),
        Problem("extended rosenbrock 10000", extended_rosenbrock, np.tile(pair, 5_000)),
        Problem("powell singular 4", powell_singular, np.array([3.0, -1.0, 0.0, 1.0])),
        Problem("powell singular 1000", powell_singular, np.tile([3.0, -1.0, 0.0, 1.0], 250)),
        Problem("beale", beale, np.array([1.0, 1.0])),
        Problem("brown almost linear 10", brown_almost_linear, np.full(10, 0.5)),
        Problem("broyden tridiagonal 100", broyden_tridiagonal, np.full(100, -1.0)),
        Problem("broyden tridiagonal 1000", broyden_tridiagonal, np.full(1000, -1.0)),
        Problem("wood", wood, np.array([-3.0, -1.0, -3.0, -1.0])),
        Problem("himmelblau", himmelblau, np.array([0.0, 0.0])),
        Problem("himmelblau far", himmelblau, np.array([300.0, -400.0])),
        Problem("helical valley", helical_valley, np.array([-1.0, 0.1, 0.0])),
        Problem("logistic 50", logistic, np.zeros(50), None),
        Problem("huber 50", huber, np.zeros(50), None),
        Problem("quartic 100", quartic, np.linspace(-3, 5, 100)),
        Problem("quartic far", quartic, np.full(10, 1e3)),
        Problem("cosh 100", cosh, np.linspace(-3, 4, 100), 100.0),
        Problem("cosh far", cosh, np.linspace(15, 25, 10), 10.0),
        Problem("quadratic 1e6", scaled_quadratic, np.zeros(100)),
        Problem("huge gradient", lambda x: 1e10 * rosenbrock(x), pair),
        Problem("tiny gradient", lambda x: 1e-10 * rosenbrock(x), pair),
        Problem("tiny quadratic", lambda x: 1e-10 * scaled_quadratic(x), np.zeros(10)),
        Problem("far start", rosenbrock, np.array([-120.0, 1000.0])),
    ]
