"""Points whose kind is known.

From 10 to a million unknowns, with smallest eigenvalues down to a millionth of the largest, of both
signs. All functions are plain ones: nothing of their structure is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxdescent as jd

Posed = tuple[Callable[..., jax.Array], Any, tuple[Any, ...]]


class Point(NamedTuple):
    """A stationary point of a function.

    Attributes:
      name: with the number of unknowns.
      kind: what is known of it.
      pose: makes the function, the params and the function's args.
      is_slow: whether it takes more than a few seconds.
    """

    name: str
    kind: str
    pose: Callable[[], Posed]
    is_slow: bool = False


def _form(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum(x * jnp.matmul(matrix, x, precision=jax.lax.Precision.HIGHEST))


def rotated(size: int, sign: int) -> Posed:
    """Eigenvalues from a millionth to one along random directions; the least has the sign."""
    random = np.random.default_rng(size)
    basis, _ = np.linalg.qr(random.normal(size=(size, size)))
    values = np.logspace(-6, 0, size)
    values[0] *= sign
    return _form, jnp.zeros(size), (jnp.asarray((basis * values) @ basis.T, jnp.float32),)


def reflected(size: int, sign: int) -> Posed:
    """These eigenvalues by a reflection, of many unknowns: no entry of the Hessian is zero."""
    normal = np.random.default_rng(0).normal(size=size)
    normal = jnp.asarray(normal / np.linalg.norm(normal), jnp.float32)
    values = np.logspace(-6, 0, size)
    values[0] *= sign

    def value(x: jax.Array, normal: jax.Array, values: jax.Array) -> jax.Array:
        y = x - 2 * normal * jnp.sum(normal * x)
        return 0.5 * jnp.sum(values * y * y)

    return value, jnp.zeros(size), (normal, jnp.asarray(values, jnp.float32))


def _chain(x: jax.Array, mass: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum(jnp.square(jnp.diff(x))) + 0.5 * mass * jnp.sum(jnp.square(x))


def chain(size: int, mass: float) -> Posed:
    """Neighbours tied to each other: eigenvalues from the mass to four more."""
    return _chain, jnp.zeros(size), (jnp.float32(mass),)


def grid(side: int, mass: float) -> Posed:
    """Neighbours in a square tied to each other."""

    def value(x: jax.Array, mass: jax.Array) -> jax.Array:
        return _chain(x, mass) + _chain(x.T, mass)

    return value, jnp.zeros((side, side)), (jnp.float32(mass),)


def separable(size: int, sign: int) -> Posed:
    """A sum of functions of single unknowns, which does not say that it is one."""
    weights = np.logspace(-6, 0, size)
    weights[size // 2] *= sign
    weights = jnp.asarray(weights, jnp.float32)
    return lambda x, w: jnp.sum(w * jnp.cosh(x)), jnp.zeros(size), (weights,)


def logistic() -> Posed:
    """A logistic regression with a small ridge penalty, at its minimum."""
    random = np.random.default_rng(0)
    features = (random.normal(size=(20_000, 100)) * np.logspace(-2.5, 0, 100)).astype(np.float32)
    labels = np.sign(features @ random.normal(size=100) + random.normal(size=20_000))
    args = jnp.asarray(features), jnp.asarray(labels, jnp.float32)

    def value(w: jax.Array, features: jax.Array, labels: jax.Array) -> jax.Array:
        margins = labels * jnp.matmul(features, w, precision=jax.lax.Precision.HIGHEST)
        return jnp.sum(jnp.log1p(jnp.exp(-margins))) * 5e-3 + 1e-4 * jnp.sum(jnp.square(w))

    return value, jd.minimize(value, jnp.zeros(100), args=args).params, args


def _squares(w: jax.Array, features: jax.Array, penalty: jax.Array) -> jax.Array:
    rows = jnp.matmul(features, w, precision=jax.lax.Precision.HIGHEST)
    return 0.5 * jnp.sum(jnp.square(rows)) + 0.5 * penalty * jnp.sum(jnp.square(w))


def wide(rows: int, size: int, penalty: float) -> Posed:
    """Fewer rows than unknowns: all but so many eigenvalues are the penalty, the largest one."""
    features = np.random.default_rng(0).normal(size=(rows, size))
    features /= np.linalg.norm(features, 2)
    return _squares, jnp.zeros(size), (jnp.asarray(features, jnp.float32), jnp.float32(penalty))


def dependent() -> Posed:
    """Two columns, one three times the other."""
    column = np.random.default_rng(0).normal(size=(50, 1)).astype(np.float32)
    features = jnp.asarray(np.hstack([column, 3 * column]))
    return _squares, jnp.zeros(2), (features, jnp.float32(0))


def shifted_features() -> Posed:
    """A ridge regression of features about 300, with an intercept that is not penalised."""
    random = np.random.default_rng(0)
    features = jnp.asarray(random.normal(size=(1000, 20)) + 300, jnp.float32)

    def value(p: dict[str, jax.Array], features: jax.Array) -> jax.Array:
        rows = jnp.matmul(features, p["w"], precision=jax.lax.Precision.HIGHEST) + p["b"]
        return 0.5 * jnp.sum(jnp.square(rows)) + 0.5e-3 * jnp.sum(jnp.square(p["w"]))

    return value, {"w": jnp.zeros(20), "b": jnp.zeros(())}, (features,)


def vardim() -> Posed:
    """Moré, Garbow and Hillstrom's "variably dimensioned" function of 200 unknowns."""

    def value(x: jax.Array) -> jax.Array:
        s = jnp.sum(jnp.arange(1, 201).astype(x.dtype) * (x - 1))
        return jnp.sum(jnp.square(x - 1)) + s**2 + s**4

    return value, jnp.ones(200), ()


def rosenbrock() -> Posed:
    """Fifty valleys side by side."""

    def value(x: jax.Array) -> jax.Array:
        return jnp.sum(100 * jnp.square(x[1::2] - jnp.square(x[::2])) + jnp.square(1 - x[::2]))

    return value, jnp.ones(100), ()


def in_units() -> Posed:
    """A well-conditioned form whose unknowns come in units from 1e-4 to 1e4."""
    random = np.random.default_rng(0)
    matrix = random.normal(size=(64, 64)) / 16
    matrix = matrix @ matrix.T + np.eye(64)
    units = np.logspace(-4, 4, 64)
    return _form, jnp.zeros(64), (jnp.asarray(matrix * units[:, None] * units, jnp.float32),)


def factors(side: int, rank: int) -> Posed:
    """``1/2 |U V' - M|^2`` where U and V are zero: half of what curves, curves down."""
    target = jnp.asarray(np.random.default_rng(0).normal(size=(side, side)), jnp.float32)

    def value(p: dict[str, jax.Array], target: jax.Array) -> jax.Array:
        product = jnp.matmul(p["u"], p["v"].T, precision=jax.lax.Precision.HIGHEST)
        return 0.5 * jnp.sum(jnp.square(product - target))

    return value, {"u": jnp.zeros((side, rank)), "v": jnp.zeros((side, rank))}, (target,)


def summit() -> Posed:
    """The maximum of a sum of coupled cosines."""

    def value(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.cos(x)) + 0.5 * jnp.sum(jnp.cos(jnp.diff(x)))

    return value, jnp.zeros(50), ()


def quartic() -> Posed:
    """A fourth power along one of 300 unknowns."""

    def value(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(x[1:])) + x[0] ** 4 + jnp.square(x[0] * x[1])

    return value, jnp.zeros(300), ()


POINTS = [
    Point("rotated, 10", "minimum", lambda: rotated(10, 1)),
    Point("rotated, 10, negative", "saddle", lambda: rotated(10, -1)),
    Point("rotated, 100", "minimum", lambda: rotated(100, 1)),
    Point("rotated, 100, negative", "saddle", lambda: rotated(100, -1)),
    Point("rotated, 500", "minimum", lambda: rotated(500, 1)),
    Point("rotated, 500, negative", "saddle", lambda: rotated(500, -1)),
    Point("logistic ridge, 100", "minimum", logistic),
    Point("dependent columns, 2", "degenerate", dependent),
    Point("features about 300, 21", "minimum", shifted_features),
    Point("vardim, 200", "minimum", vardim),
    Point("rosenbrock, 100", "minimum", rosenbrock),
    Point("mixed units, 64", "minimum", in_units),
    Point("cosines, 50", "maximum", summit),
    Point("quartic, 300", "degenerate", quartic),
    Point("rotated, 1,000", "minimum", lambda: rotated(1000, 1), True),
    Point("rotated, 1,000, negative", "saddle", lambda: rotated(1000, -1), True),
    Point("rotated, 2,000, negative", "saddle", lambda: rotated(2000, -1), True),
    Point("wide, 2,000", "degenerate", lambda: wide(200, 2000, 0.0), True),
    Point("wide ridge, 20,000", "minimum", lambda: wide(50, 20_000, 1e-6), True),
    Point("wide ridge, 20,000, negative", "saddle", lambda: wide(50, 20_000, -1e-6), True),
    Point("factors at zero, 20,000", "saddle", lambda: factors(1000, 10), True),
    Point("reflected, 100,000", "minimum", lambda: reflected(100_000, 1), True),
    Point("reflected, 100,000, negative", "saddle", lambda: reflected(100_000, -1), True),
    Point("grid, 250,000", "minimum", lambda: grid(500, 4e-4), True),
    Point("chain, 1,000,000", "minimum", lambda: chain(1_000_000, 4e-6), True),
    Point("chain, 1,000,000, negative", "saddle", lambda: chain(1_000_000, -4e-6), True),
    Point("chain, 1,000,000, free", "degenerate", lambda: chain(1_000_000, 0.0), True),
    Point("separable, 1,000,000", "minimum", lambda: separable(1_000_000, 1), True),
]
