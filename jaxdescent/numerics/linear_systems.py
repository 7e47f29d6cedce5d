"""Linear systems whose symmetric matrix is known only by its products with vectors.

The unknowns are a pytree, which is never copied into one vector.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxdescent.numerics import precision

Params = Any

FEW, COLUMNS = 256, 16
"""The most unknowns for which all eigenvalues of a matrix are computed, and the number of its
columns that are computed at a time."""

NULL = 4.0
"""The size of an eigenvalue that may be rounding, in eps times the largest one, times the root of
the number of unknowns."""

MOST_STEPS = 10_000
"""The most steps of an iteration."""


class System(NamedTuple):
    """The known properties of a matrix besides its products."""

    units: Params | None = None  # positive numbers in which the unknowns have similar curvatures
    are_uneven: Any = False  # whether solutions of singular systems have least norm in these units
    is_small: bool = True  # whether a product for each of up to ``FEW`` unknowns costs little


UNKNOWN = System()


def solve(product: Callable[[Params], Params], rhs: Params, system: System = UNKNOWN) -> Params:
    """The solution ``H^+ rhs`` of a positive semidefinite system; NaN if H is indefinite.

    For few unknowns all eigenvalues of H are computed: if H is singular the solution is the one of
    least norm, without what lies outside the range. Otherwise conjugate gradients solve it, and it
    is NaN where they meet a direction of no or negative curvature before the residual vanishes.

    The right-hand side is scaled to norm one, whatever the units of H: the square of 1e-20
    underflows in float32, and a residual that seems to be zero would give x = 0.
    """
    length = precision.norm(rhs)
    unit, units = scaled(inverse(length), rhs), system.units
    is_few = sum(leaf.size for leaf in jax.tree.leaves(rhs)) <= FEW and system.is_small

    def within(units: Params | None) -> tuple[Params, jax.Array]:
        """The solution in these units of the unknowns, and whether H is definite."""
        method = _by_eigenvalues if is_few else _definite
        if units is None:
            return method(product, unit)
        times = functools.partial(jax.tree.map, jnp.multiply, units)
        solution, is_definite = method(lambda x: times(product(times(x))), times(unit))
        return times(solution), is_definite

    solution, is_definite = within(units)
    if is_few and units is not None:
        own = jax.tree.map(lambda d: jnp.where(system.are_uneven, d, 1).astype(d.dtype), units)
        solution = lax.cond(is_definite, lambda: solution, lambda: within(own)[0])
    return scaled(length, solution)


def _definite(product: Callable[[Params], Params], rhs: Params) -> tuple[Params, jax.Array]:
    """The solution by conjugate gradients, NaN if H is found not to be definite."""
    x, is_definite = conjugate_gradient(product, rhs, null_share(rhs))
    return jax.tree.map(lambda x: jnp.where(is_definite, x, jnp.nan), x), is_definite


def conjugate_gradient(
    product: Callable[[Params], Params],
    rhs: Params,
    null: Any,
    *,
    most_steps: int = MOST_STEPS,
    accuracy: jax.Array | None = None,
) -> tuple[Params, jax.Array]:
    """Solve ``H x = rhs`` for a symmetric positive definite H given by its products.

    Stops at a residual of norm ``accuracy``, by default ``16 eps`` of the right-hand side's, after
    ``10 n + 100`` products (at most ``most_steps``), or at a direction whose curvature is no more
    than a share ``null`` of the largest one: such a curvature may be rounding, unless H is known to
    be definite.

    Returns:
      x, and whether there was no such direction; x is no solution if there was one.
    """
    limit, target = _limits(rhs)
    limit = min(limit, most_steps)
    target = target if accuracy is None else jnp.square(accuracy)
    squared = precision.squared_norm(rhs)

    def is_running(carry: Any) -> jax.Array:
        _, _, _, squared, count, is_curved, _ = carry
        return (squared > target) & (count < limit) & is_curved

    def iterate(carry: Any) -> Any:
        x, residual, direction, squared, count, _, largest = carry
        image = product(direction)
        curvature = precision.inner(direction, image)
        own = precision.squared_norm(direction)
        largest = jnp.maximum(largest, curvature / own)
        is_curved = curvature > jnp.asarray(null, own.dtype) * largest * own
        step = jnp.where(is_curved, squared / jnp.where(is_curved, curvature, 1), 0)
        x = add_scaled(x, step, direction)
        residual = add_scaled(residual, -step, image)
        new_squared = precision.squared_norm(residual)
        direction = add_scaled(residual, new_squared / squared, direction)
        return x, residual, direction, new_squared, count + 1, is_curved, largest

    zeros = jax.tree.map(jnp.zeros_like, rhs)
    none = jnp.zeros_like(squared)
    carry = (zeros, rhs, rhs, squared, jnp.zeros((), jnp.int32), squared > 0, none)
    x, _, _, squared, _, is_curved, largest = lax.while_loop(is_running, iterate, carry)
    # If a product overflowed, x is no solution, and becomes NaN.
    is_finite = jnp.isfinite(squared) & (largest < jnp.inf)
    x = jax.tree.map(lambda x: jnp.where(is_finite, x, jnp.nan), x)
    return x, is_curved | (precision.squared_norm(rhs) == 0) | ~is_finite


def null_share(rhs: Params) -> float:
    """The share of the largest curvature that is the rounding of products of this dtype."""
    size = sum(leaf.size for leaf in jax.tree.leaves(rhs))
    return NULL * float(jnp.finfo(jnp.result_type(*jax.tree.leaves(rhs))).eps) * size**0.5


def _by_eigenvalues(product: Callable[[Params], Params], rhs: Params) -> tuple[Params, jax.Array]:
    """``H^+ rhs`` by all eigenvalues of H, NaN where one is negative; whether all are positive."""
    column, unravel = ravel_pytree(rhs)
    units = jnp.eye(column.size, dtype=column.dtype)
    matrix = lax.map(on_vectors(product, unravel), units, batch_size=COLUMNS)
    values, vectors = jnp.linalg.eigh(matrix)
    rounding = null_share(rhs) * jnp.max(jnp.abs(values))
    is_null = jnp.abs(values) <= rounding
    gain = jnp.where(is_null, 0, 1 / jnp.where(is_null, 1, values))
    turned = jnp.matmul(vectors.T, column, precision=lax.Precision.HIGHEST)
    solution = jnp.matmul(vectors, gain * turned, precision=lax.Precision.HIGHEST)
    solution = jnp.where(jnp.any(values < -rounding), jnp.nan, solution)
    return unravel(solution), ~jnp.any(is_null)


def _limits(rhs: Params) -> tuple[int, jax.Array]:
    """The most iterations, and the squared residual norm at which to stop."""
    eps = jnp.finfo(jnp.result_type(*jax.tree.leaves(rhs))).eps
    size = sum(leaf.size for leaf in jax.tree.leaves(rhs))
    return min(10 * size + 100, MOST_STEPS), (16 * eps) ** 2 * precision.squared_norm(rhs)


def on_vectors(
    function: Callable[[Params], Params], unravel: Callable[[jax.Array], Params]
) -> Callable[[jax.Array], jax.Array]:
    """A function from trees to trees as one from vectors to vectors."""
    return lambda vector: ravel_pytree(function(unravel(vector)))[0]


def inverse(x: jax.Array) -> jax.Array:
    """``1 / x``, and zero where x is zero."""
    return jnp.where(x == 0, 0, 1) / jnp.where(x == 0, 1, x)


def hypotenuse(a: jax.Array, b: jax.Array) -> jax.Array:
    """``sqrt(a^2 + b^2)``, without squares that overflow or underflow; NaN if both are infinite.

    XLA for CPUs computes a scalar again in each kernel that uses it, but for quotients and roots:
    they are computed once, with all that leads to them. ``jnp.hypot`` ends in selections, and is no
    more accurate.
    """
    larger, smaller = jnp.maximum(jnp.abs(a), jnp.abs(b)), jnp.minimum(jnp.abs(a), jnp.abs(b))
    ratio = smaller / jnp.where(larger > 0, larger, 1)
    square = ratio * ratio
    # larger * sqrt(1 + square), in a form that keeps the digits of a small square.
    return larger + larger * (square / (1 + jnp.sqrt(1 + square)))


def scaled(scale: jax.Array, a: Params) -> Params:
    """``scale a``, in the dtypes of a."""
    return jax.tree.map(lambda x: scale.astype(x.dtype) * x, a)


def add_scaled(a: Params, scale: jax.Array, b: Params) -> Params:
    """``a + scale b``, in the dtypes of a."""
    return jax.tree.map(lambda x, y: x + scale.astype(x.dtype) * y, a, b)
