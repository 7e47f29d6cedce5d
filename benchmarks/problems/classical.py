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
    """A function of a vector, and what is known of it.

    Attributes:
      name: with the number of unknowns where it may vary.
      function: from a vector in any floating dtype to a number.
      start: where its authors start.
      minimum: the lowest value; None where it is known only numerically.
      residuals: a function to a vector, the sum of whose squares is the function; None where there
        is no such form.
      minimiser: a point where the minimum is attained, where one is known in closed form.
      local_minima: the values at other minima that are known, in which a descent may end as well.
    """

    name: str
    function: Callable[[Any], Any]
    start: np.ndarray
    minimum: float | None = 0.0
    residuals: Callable[[Any], Any] | None = None
    minimiser: np.ndarray | None = None
    local_minima: tuple[float, ...] = ()


def rosenbrock(x):
    """Chained: ``sum 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2``."""
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def rosenbrock_residuals(x):
    return jnp.concatenate([10 * (x[1:] - x[:-1] ** 2), 1 - x[:-1]])


def extended_rosenbrock(x):
    return jnp.sum(100 * (x[1::2] - x[::2] ** 2) ** 2 + (1 - x[::2]) ** 2)


def extended_rosenbrock_residuals(x):
    return jnp.concatenate([10 * (x[1::2] - x[::2] ** 2), 1 - x[::2]])


def powell_singular(x):
    a, b, c, d = _fours(x)
    return jnp.sum((a + 10 * b) ** 2 + 5 * (c - d) ** 2 + (b - 2 * c) ** 4 + 10 * (a - d) ** 4)


def powell_singular_residuals(x):
    a, b, c, d = _fours(x)
    linear = [a + 10 * b, 5**0.5 * (c - d)]
    return jnp.concatenate([*linear, (b - 2 * c) ** 2, 10**0.5 * (a - d) ** 2])


def beale(x):
    a, b = x
    return (1.5 - a * (1 - b)) ** 2 + (2.25 - a * (1 - b**2)) ** 2 + (2.625 - a * (1 - b**3)) ** 2


def beale_residuals(x):
    a, b = x
    return jnp.stack([1.5 - a * (1 - b), 2.25 - a * (1 - b**2), 2.625 - a * (1 - b**3)])


def brown_almost_linear(x):
    n = x.shape[0]
    return jnp.sum((x[:-1] + jnp.sum(x) - (n + 1)) ** 2) + (jnp.prod(x) - 1) ** 2


def brown_almost_linear_residuals(x):
    n = x.shape[0]
    return jnp.append(x[:-1] + jnp.sum(x) - (n + 1), jnp.prod(x) - 1)


def broyden_tridiagonal(x):
    return jnp.sum(broyden_tridiagonal_residuals(x) ** 2)


def broyden_tridiagonal_residuals(x):
    zero = jnp.zeros((1,), x.dtype)
    before, after = jnp.concatenate([zero, x[:-1]]), jnp.concatenate([x[1:], zero])
    return (3 - 2 * x) * x - before - 2 * after + 1


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


def wood_residuals(x):
    a, b, c, d = x
    first = [10 * (b - a**2), 1 - a, 90**0.5 * (d - c**2), 1 - c]
    return jnp.stack([*first, 10**0.5 * (b + d - 2), 0.1**0.5 * (b - d)])


def himmelblau(x):
    a, b = x
    return (a**2 + b - 11) ** 2 + (a + b**2 - 7) ** 2


def himmelblau_residuals(x):
    a, b = x
    return jnp.stack([a**2 + b - 11, a + b**2 - 7])


def helical_valley(x):
    a, b, c = x
    angle = jnp.arctan2(b, a) / (2 * np.pi)
    radius = jnp.sqrt(a**2 + b**2)
    return 100 * ((c - 10 * angle) ** 2 + (radius - 1) ** 2) + c**2


def helical_valley_residuals(x):
    a, b, c = x
    angle = jnp.arctan2(b, a) / (2 * np.pi)
    return jnp.stack([10 * (c - 10 * angle), 10 * (jnp.sqrt(a**2 + b**2) - 1), c])


def quartic(x):
    return jnp.sum(x**4)


def quartic_residuals(x):
    return x**2


def cosh(x):
    return jnp.sum(jnp.cosh(x))


def scaled_quadratic(x, condition=1e6):
    weights = jnp.asarray(np.geomspace(1, condition, x.shape[0]), x.dtype)
    return 0.5 * jnp.sum(weights * (x - 1) ** 2)


def scaled_quadratic_residuals(x, condition=1e6):
    weights = jnp.asarray(np.geomspace(0.5, 0.5 * condition, x.shape[0]) ** 0.5, x.dtype)
    return weights * (x - 1)


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


def _fours(x):
    """The first, second, third and fourth of every four unknowns."""
    return x.reshape(-1, 4).T


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


def squares(name, residuals, start, minimum=0.0, *, minimiser=None, local_minima=()) -> Problem:
    """The problem of the least sum of squared residuals."""

    def function(x):
        return jnp.sum(residuals(x) ** 2)

    start = np.asarray(start, np.float64)
    minimiser = None if minimiser is None else np.asarray(minimiser, np.float64)
    return Problem(name, function, start, minimum, residuals, minimiser, local_minima)


def problems() -> list[Problem]:
    """All of them, from their usual starts and some hard ones."""
    pair, four = np.array([-1.2, 1.0]), np.array([3.0, -1.0, 0.0, 1.0])
    return [
        _with_residuals("rosenbrock 2", rosenbrock, pair),
        _with_residuals("rosenbrock 100", rosenbrock, np.zeros(100)),
        _with_residuals("rosenbrock 10000", rosenbrock, np.tile(pair, 5_000)),
        _with_residuals("extended rosenbrock 1000", extended_rosenbrock, np.tile(pair, 500)),
        _with_residuals("extended rosenbrock 10000", extended_rosenbrock, np.tile(pair, 5_000)),
        _with_residuals("powell singular 4", powell_singular, four),
        _with_residuals("powell singular 1000", powell_singular, np.tile(four, 250)),
        _with_residuals("beale", beale, np.array([1.0, 1.0])),
        _with_residuals("brown almost linear 10", brown_almost_linear, np.full(10, 0.5)),
        _with_residuals("broyden tridiagonal 100", broyden_tridiagonal, np.full(100, -1.0)),
        _with_residuals("broyden tridiagonal 1000", broyden_tridiagonal, np.full(1000, -1.0)),
        _with_residuals("wood", wood, np.array([-3.0, -1.0, -3.0, -1.0])),
        _with_residuals("himmelblau", himmelblau, np.array([0.0, 0.0])),
        _with_residuals("himmelblau far", himmelblau, np.array([300.0, -400.0])),
        _with_residuals("helical valley", helical_valley, np.array([-1.0, 0.1, 0.0])),
        Problem("logistic 50", logistic, np.zeros(50), None),
        Problem("huber 50", huber, np.zeros(50), None),
        _with_residuals("quartic 100", quartic, np.linspace(-3, 5, 100)),
        _with_residuals("quartic far", quartic, np.full(10, 1e3)),
        Problem("cosh 100", cosh, np.linspace(-3, 4, 100), 100.0),
        Problem("cosh far", cosh, np.linspace(15, 25, 10), 10.0),
        _with_residuals("quadratic 1e6", scaled_quadratic, np.zeros(100)),
        _with_residuals("huge gradient", rosenbrock, pair, factor=1e10),
        _with_residuals("tiny gradient", rosenbrock, pair, factor=1e-10),
        _with_residuals("tiny quadratic", scaled_quadratic, np.zeros(10), factor=1e-10),
        _with_residuals("far start", rosenbrock, np.array([-120.0, 1000.0])),
    ]


def _with_residuals(name, function, start, factor=None):
    """A problem whose residuals have a function of their own beside it, times a factor."""
    residuals = _RESIDUALS[function]
    if factor is None:
        return Problem(name, function, start, residuals=residuals)
    root = factor**0.5
    return Problem(
        name, lambda x: factor * function(x), start, residuals=lambda x: root * residuals(x)
    )


_RESIDUALS = {
    rosenbrock: rosenbrock_residuals,
    extended_rosenbrock: extended_rosenbrock_residuals,
    powell_singular: powell_singular_residuals,
    beale: beale_residuals,
    brown_almost_linear: brown_almost_linear_residuals,
    broyden_tridiagonal: broyden_tridiagonal_residuals,
    wood: wood_residuals,
    himmelblau: himmelblau_residuals,
    helical_valley: helical_valley_residuals,
    quartic: quartic_residuals,
    scaled_quadratic: scaled_quadratic_residuals,
}
