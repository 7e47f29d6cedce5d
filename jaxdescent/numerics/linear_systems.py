"""Linear systems whose symmetric matrix is known only by its products with vectors.

The unknowns are a pytree, which is never copied into one vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.numerics import precision

Params = Any


def solve(product: Callable[[Params], Params], rhs: Params) -> Params:
    """Solve ``H x = rhs`` by conjugate gradients, or by MINRES if H turns out to be indefinite.

    At a minimum H is positive semidefinite. At a saddle or a maximum, where Newton's method may
    have stopped, only MINRES is defined. At a minimum conjugate gradients are preferred, because
    MINRES's rounding error grows with the square of the condition number.

    Both work on a right-hand side of norm one, in any units of H: the square of 1e-20 is no float32
    number, and a residual that seems to be zero ends both with x = 0.
    """
    length = precision.norm(rhs)
    unit = _scaled(_inverse(length), rhs)
    solution, is_indefinite = conjugate_gradient(product, unit)
    solution = lax.cond(is_indefinite, lambda: minres(product, unit), lambda: solution)
    return _scaled(length, solution)


def conjugate_gradient(
    product: Callable[[Params], Params], rhs: Params
) -> tuple[Params, jax.Array]:
    """Solve ``H x = rhs`` for a symmetric positive semidefinite H given by its products.

    Stops at a relative residual of ``16 eps``, after ``10 n + 100`` products (at most 10,000), or
    when rounding makes the curvature non-positive. If H is singular and ``rhs`` lies in its range,
    the solution is the one of minimum norm.

    Returns:
      x, and whether negative curvature was met; x is no solution then.
    """
    limit, target = _limits(rhs)
    squared = precision.squared_norm(rhs)

    def is_running(carry: Any) -> jax.Array:
        _, _, _, squared, count, is_curved, _ = carry
        return (squared > target) & (count < limit) & is_curved

    def iterate(carry: Any) -> Any:
        x, residual, direction, squared, count, _, _ = carry
        image = product(direction)
        curvature = precision.inner(direction, image)
        is_curved = curvature > 0
        length = precision.norm(direction) * precision.norm(image)
        is_indefinite = curvature < -16 * jnp.finfo(curvature.dtype).eps * length
        step = jnp.where(is_curved, squared / jnp.where(is_curved, curvature, 1), 0)
        x = _add_scaled(x, step, direction)
        residual = _add_scaled(residual, -step, image)
        new_squared = precision.squared_norm(residual)
        direction = _add_scaled(residual, new_squared / squared, direction)
        return x, residual, direction, new_squared, count + 1, is_curved, is_indefinite

    zeros = jax.tree.map(jnp.zeros_like, rhs)
    carry = (zeros, rhs, rhs, squared, jnp.zeros((), jnp.int32), squared > 0, jnp.array(False))
    carry = lax.while_loop(is_running, iterate, carry)
    # A product that overflows would leave x as it is, which is no solution.
    is_finite = jnp.isfinite(carry[3])
    return jax.tree.map(lambda x: jnp.where(is_finite, x, jnp.nan), carry[0]), carry[-1]


def minres(product: Callable[[Params], Params], rhs: Params) -> Params:
    """Solve ``H x = rhs`` for a symmetric H given by its products, with the least residual norm.

    The Lanczos process reduces H to a tridiagonal matrix, which Givens rotations make triangular
    as it grows. It stops by the same rules as :func:`conjugate_gradient`.

    Reference: Paige and Saunders (1975), "Solution of sparse indefinite systems of linear
    equations".
    """
    limit, target = _limits(rhs)
    zeros = jax.tree.map(jnp.zeros_like, rhs)
    start = precision.norm(rhs)
    first = _scaled(_inverse(start), rhs)
    one, zero = jnp.ones_like(start), jnp.zeros_like(start)

    def is_running(carry: Any) -> jax.Array:
        *_, eta, count, goes_on = carry
        return (jnp.square(eta) > target) & (count < limit) & goes_on

    def iterate(carry: Any) -> Any:
        x, (v_old, v), (w_old, w), beta, (c_old, c), (s_old, s), eta, count, _ = carry
        image = product(v)
        alpha = precision.inner(v, image)
        image = _add_scaled(_add_scaled(image, -alpha, v), -beta, v_old)
        beta_new = precision.norm(image)
        delta = c * alpha - c_old * s * beta
        rho = jnp.hypot(delta, beta_new)
        c_new, s_new = delta * _inverse(rho), beta_new * _inverse(rho)
        w_new = _add_scaled(v, -s_old * beta, w_old)
        w_new = _scaled(_inverse(rho), _add_scaled(w_new, -(s * alpha + c_old * c * beta), w))
        x = _add_scaled(x, c_new * eta, w_new)
        floor = jnp.finfo(beta.dtype).eps * (jnp.abs(alpha) + beta)
        return (
            x,
            (v, _scaled(_inverse(beta_new), image)),
            (w, w_new),
            beta_new,
            (c, c_new),
            (s, s_new),
            -s_new * eta,
            count + 1,
            beta_new > floor,
        )

    carry = (zeros, (zeros, first), (zeros, zeros), zero, (one, one), (zero, zero), start)
    carry = (*carry, jnp.zeros((), jnp.int32), start > 0)
    return lax.while_loop(is_running, iterate, carry)[0]


def _limits(rhs: Params) -> tuple[int, jax.Array]:
    """The most iterations, and the squared residual norm at which to stop."""
    eps = jnp.finfo(jnp.result_type(*jax.tree.leaves(rhs))).eps
    size = sum(leaf.size for leaf in jax.tree.leaves(rhs))
    return min(10 * size + 100, 10_000), (16 * eps) ** 2 * precision.squared_norm(rhs)


def _inverse(x: jax.Array) -> jax.Array:
    return jnp.where(x == 0, 0, 1 / jnp.where(x == 0, 1, x))


def _scaled(scale: jax.Array, a: Params) -> Params:
    return jax.tree.map(lambda x: scale.astype(x.dtype) * x, a)


def _add_scaled(a: Params, scale: jax.Array, b: Params) -> Params:
    return jax.tree.map(lambda x, y: x + scale.astype(x.dtype) * y, a, b)
