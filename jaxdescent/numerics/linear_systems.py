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
"""The most unknowns for which all eigenvalues of a singular matrix are computed, and the number of
its columns that are computed at a time."""

NULL = 4.0
"""The size of an eigenvalue that may be rounding, in eps times the largest one, times the root of
the number of unknowns."""

MOST_STEPS = 10_000
"""The most steps of an iteration."""

OUTSIDE = 1e-3
"""The share of the right-hand side above which a residual counts as outside the range of H."""


class System(NamedTuple):
    """The known properties of a matrix besides its products."""

    units: Params | None = None  # positive numbers in which the unknowns have similar curvatures
    are_uneven: Any = False  # whether solutions of singular systems have least norm in these units
    is_small: bool = True  # whether a product for each of up to ``FEW`` unknowns costs little


UNKNOWN = System()


def solve(product: Callable[[Params], Params], rhs: Params, system: System = UNKNOWN) -> Params:
    """The solution ``H^+ rhs`` of least norm; a component of the right-hand side outside the range
    of H is ignored.

    For few unknowns all eigenvalues of H are computed. Otherwise conjugate gradients are tried
    first; if they meet a direction without curvature or with negative curvature, as at a saddle or
    a maximum, MINRES takes their place.

    The right-hand side is scaled to norm one, whatever the units of H: the square of 1e-20
    underflows in float32, and a residual that seems to be zero would give x = 0.
    """
    length = precision.norm(rhs)
    unit = scaled(inverse(length), rhs)
    units = system.units
    is_few = sum(leaf.size for leaf in jax.tree.leaves(rhs)) <= FEW and system.is_small

    def within(units: Params | None, of: Callable[..., Any]) -> Any:
        """The solution by ``of`` in these units of the unknowns, and the flag that it returns."""
        if units is None:
            return of(product, unit)
        times = functools.partial(jax.tree.map, jnp.multiply, units)
        solution, flag = of(lambda x: times(product(times(x))), times(unit))
        return times(solution), flag

    def in_own_units(of: Callable[..., Any]) -> Any:
        own = units
        if units is not None:
            own = jax.tree.map(lambda d: jnp.where(system.are_uneven, d, 1).astype(d.dtype), units)
        return within(own, of)

    def tried(product: Callable[[Params], Params], rhs: Params) -> tuple[Params, jax.Array]:
        return conjugate_gradient(product, rhs, null_share(rhs))

    usual, of_singular = (_by_eigenvalues, _by_eigenvalues) if is_few else (tried, minres)
    solution, is_regular = within(units, usual)
    if units is not None or not is_few:
        solution = lax.cond(is_regular, lambda: solution, lambda: in_own_units(of_singular)[0])
    return scaled(length, solution)


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
    """``H^+ rhs`` by all eigenvalues of H, and whether none of them may be zero."""
    column, unravel = ravel_pytree(rhs)
    units = jnp.eye(column.size, dtype=column.dtype)
    matrix = lax.map(on_vectors(product, unravel), units, batch_size=COLUMNS)
    values, vectors = jnp.linalg.eigh(matrix)
    is_null = jnp.abs(values) <= null_share(rhs) * jnp.max(jnp.abs(values))
    gain = jnp.where(is_null, 0, 1 / jnp.where(is_null, 1, values))
    turned = jnp.matmul(vectors.T, column, precision=lax.Precision.HIGHEST)
    solution = jnp.matmul(vectors, gain * turned, precision=lax.Precision.HIGHEST)
    return unravel(solution), ~jnp.any(is_null)


def minres(product: Callable[[Params], Params], rhs: Params) -> tuple[Params, jax.Array]:
    """Solve ``H x = rhs`` for a symmetric H given by its products, with the least residual norm.

    The Lanczos process reduces H to a tridiagonal matrix, which Givens rotations make triangular
    as it grows. It stops by the same rules as :func:`conjugate_gradient`, or where the residual r
    is outside the range of H, ``|H r| <= sqrt(eps) |H| |r|``, beyond which rounding grows. Then
    ``x - (r.x / |r|^2) r`` is the solution of least norm.

    Returns:
      x, and whether ``rhs`` is within the range.

    References: Paige and Saunders (1975), "Solution of sparse indefinite systems of linear
    equations"; Liu, Milzarek and Roosta (2023), "Obtaining pseudo-inverse solutions with MINRES".
    """
    limit, target = _limits(rhs)
    null = float(jnp.finfo(jnp.result_type(*jax.tree.leaves(rhs))).eps)
    zeros = jax.tree.map(jnp.zeros_like, rhs)
    start = precision.norm(rhs)
    first = scaled(inverse(start), rhs)
    one, zero = jnp.ones_like(start), jnp.zeros_like(start)

    def is_running(carry: Any) -> jax.Array:
        *_, eta, count, goes_on = carry
        return (jnp.square(eta) > target) & (count < limit) & goes_on

    def iterate(carry: Any) -> Any:
        x, (v_old, v), (w_old, w), beta, (c_old, c), (s_old, s), largest, eta, count, _ = carry
        image = product(v)
        alpha = precision.inner(v, image)
        image = add_scaled(add_scaled(image, -alpha, v), -beta, v_old)
        beta_new = precision.norm(image)
        delta = c * alpha - c_old * s * beta
        rho = hypotenuse(delta, beta_new)
        c_new, s_new = delta * inverse(rho), beta_new * inverse(rho)
        w_new = add_scaled(v, -s_old * beta, w_old)
        w_new = scaled(inverse(rho), add_scaled(w_new, -(s * alpha + c_old * c * beta), w))
        x = add_scaled(x, c_new * eta, w_new)
        largest = jnp.maximum(largest, jnp.abs(alpha) + beta)
        # The hypotenuse is |H r| / |r| for the residual that this step began with.
        is_outside = hypotenuse(delta, c * beta_new) <= null**0.5 * largest
        x = jax.tree.map(lambda new, old: jnp.where(is_outside, old, new), x, carry[0])
        floor = jnp.finfo(beta.dtype).eps * largest
        return (
            x,
            (v, scaled(inverse(beta_new), image)),
            (w, w_new),
            beta_new,
            (c, c_new),
            (s, s_new),
            largest,
            -s_new * eta,
            count + 1,
            (beta_new > floor) & ~is_outside,
        )

    carry = (zeros, (zeros, first), (zeros, zeros), zero, (one, one), (zero, zero), zero, start)
    carry = (*carry, jnp.zeros((), jnp.int32), start > 0)
    x = lax.while_loop(is_running, iterate, carry)[0]
    residual = add_scaled(rhs, -one, product(x))
    left = precision.norm(residual)
    unit = scaled(inverse(left), residual)
    part = jnp.where(left > OUTSIDE * start, precision.inner(unit, x), 0)
    return add_scaled(x, -part, unit), left <= OUTSIDE * start


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
