"""Points whose kind is known.

From 21 to 100,000 unknowns, with smallest eigenvalues down to a millionth of the largest, of both
signs. All functions are plain ones: nothing of their structure is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.problems.more_garbow_hillstrom import variably_dimensioned

Posed = tuple[Callable[..., jax.Array], Any, tuple[Any, ...]]


class Point(NamedTuple):
    """A stationary point of a function.

    Attributes:
      name: with the number of unknowns.
      kind: what is known of it.
      pose: makes the function, the params and the function's args.
    """

    name: str
    kind: str
    pose: Callable[[], Posed]


def form(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """A function of many unknowns that hides its structure."""
    return 0.5 * jnp.sum(x * jnp.matmul(matrix, x, precision=jax.lax.Precision.HIGHEST))


def rotated(size: int, sign: int) -> Posed:
    """Eigenvalues from a millionth to one along random directions; the least has the sign."""
    random = np.random.default_rng(size)
    basis, _ = np.linalg.qr(random.normal(size=(size, size)))
    values = np.logspace(-6, 0, size)
    values[0] *= sign
    return form, np.zeros(size, np.float32), (((basis * values) @ basis.T).astype(np.float32),)


def turned(function: Callable[..., jax.Array], point: Any, args: tuple[Any, ...]) -> Posed:
    """Upside down, of a function that is linear in its argument."""
    return function, point, tuple(-each for each in args)


def _reflected(x: jax.Array, normal: jax.Array, values: jax.Array) -> jax.Array:
    y = x - 2 * normal * jnp.sum(normal * x)
    return 0.5 * jnp.sum(values * y * y)


def reflected(size: int, sign: int) -> Posed:
    """These eigenvalues by a reflection, of many unknowns: no entry of the Hessian is zero."""
    normal = np.random.default_rng(0).normal(size=size)
    normal = (normal / np.linalg.norm(normal)).astype(np.float32)
    values = np.logspace(-6, 0, size)
    values[0] *= sign
    return _reflected, np.zeros(size, np.float32), (normal, values.astype(np.float32))


def _chain(x: jax.Array, mass: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum(jnp.square(jnp.diff(x))) + 0.5 * mass * jnp.sum(jnp.square(x))


def chain(size: int, mass: float) -> Posed:
    """Neighbours tied to each other: eigenvalues from the mass to four more."""
    return _chain, np.zeros(size, np.float32), (np.float32(mass),)


def separable(size: int, sign: int) -> Posed:
    """A sum of functions of single unknowns, which does not say that it is one."""
    weights = np.logspace(-6, 0, size)
    weights[size // 2] *= sign
    weights = weights.astype(np.float32)
    return lambda x, w: jnp.sum(w * jnp.cosh(x)), np.zeros(size, np.float32), (weights,)


def _squares(w: jax.Array, features: jax.Array, penalty: jax.Array) -> jax.Array:
    rows = jnp.matmul(features, w, precision=jax.lax.Precision.HIGHEST)
    return 0.5 * jnp.sum(jnp.square(rows)) + 0.5 * penalty * jnp.sum(jnp.square(w))


def wide(rows: int, size: int, penalty: float) -> Posed:
    """Fewer rows than unknowns: all but so many eigenvalues are the penalty, the largest one."""
    features = np.random.default_rng(0).normal(size=(rows, size))
    features /= np.linalg.norm(features, 2)
    return _squares, np.zeros(size, np.float32), (features.astype(np.float32), np.float32(penalty))


def shifted_features() -> Posed:
    """A ridge regression of features about 300, with an intercept that is not penalised."""
    random = np.random.default_rng(0)
    features = jnp.asarray(random.normal(size=(1000, 20)) + 300, jnp.float32)

    def value(p: dict[str, jax.Array], features: jax.Array) -> jax.Array:
        rows = jnp.matmul(features, p["w"], precision=jax.lax.Precision.HIGHEST) + p["b"]
        return 0.5 * jnp.sum(jnp.square(rows)) + 0.5e-3 * jnp.sum(jnp.square(p["w"]))

    return value, {"w": np.zeros(20, np.float32), "b": np.float32(0)}, (features,)


def vardim() -> Posed:
    """Moré, Garbow and Hillstrom's "variably dimensioned" function of 200 unknowns."""

    def value(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(variably_dimensioned(x)))

    return value, np.ones(200, np.float32), ()


def in_units() -> Posed:
    """A well-conditioned form whose unknowns come in units from 1e-4 to 1e4."""
    random = np.random.default_rng(0)
    matrix = random.normal(size=(64, 64)) / 16
    matrix = matrix @ matrix.T + np.eye(64)
    units = np.logspace(-4, 4, 64)
    return form, np.zeros(64, np.float32), ((matrix * units[:, None] * units).astype(np.float32),)


def factors(side: int, rank: int) -> Posed:
    """``1/2 |U V' - M|^2`` where U and V are zero: half of what curves, curves down."""
    target = jnp.asarray(np.random.default_rng(0).normal(size=(side, side)), jnp.float32)

    def value(p: dict[str, jax.Array], target: jax.Array) -> jax.Array:
        product = jnp.matmul(p["u"], p["v"].T, precision=jax.lax.Precision.HIGHEST)
        return 0.5 * jnp.sum(jnp.square(product - target))

    return value, dict.fromkeys("uv", np.zeros((side, rank), np.float32)), (target,)


POINTS = [
    Point("rotated, 500", "minimum", lambda: rotated(500, 1)),
    Point("rotated, 500, negative", "saddle", lambda: rotated(500, -1)),
    Point("rotated, 500, flat", "degenerate", lambda: rotated(500, 0)),
    Point("rotated, 500, upside down", "maximum", lambda: turned(*rotated(500, 1))),
    Point("features about 300, 21", "minimum", shifted_features),
    Point("vardim, 200", "minimum", vardim),
    Point("mixed units, 64", "minimum", in_units),
    Point("rotated, 1,000", "minimum", lambda: rotated(1000, 1)),
    Point("rotated, 1,000, negative", "saddle", lambda: rotated(1000, -1)),
    Point("wide ridge, 20,000", "minimum", lambda: wide(50, 20_000, 1e-6)),
    Point("wide ridge, 20,000, negative", "saddle", lambda: wide(50, 20_000, -1e-6)),
    Point("factors at zero, 2,000", "saddle", lambda: factors(100, 10)),
    Point("reflected, 100,000", "minimum", lambda: reflected(100_000, 1)),
    Point("reflected, 100,000, negative", "saddle", lambda: reflected(100_000, -1)),
    Point("separable, 100,000", "minimum", lambda: separable(100_000, 1)),
]
