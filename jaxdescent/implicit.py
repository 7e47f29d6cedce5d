"""Derivatives of a minimiser by the objective's data, from the implicit function theorem.

At a minimiser ``g(x, data) = 0``; differentiating, ``H dx = -dg``, where ``dg`` is the gradient's
change at fixed x. The solve is matrix-free, by conjugate gradients on Hessian-vector products, so
no iteration of the descent is ever differentiated and no Hessian is formed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent import precision
from jaxdescent.objectives import Objective
from jaxdescent.result import Result

Params = Any


def attach_derivatives(objective: Objective, result: Result) -> Result:
    """The same result, whose params and value know how they depend on the objective's data.

    Derivatives are those of the stationary point that the descent was approaching: meaningful
    where it converged. With respect to the start and the method they are zero.
    """
    result = jax.tree.map(lax.stop_gradient, result)
    root = lax.custom_root(
        objective.gradient,
        precision.widen(result.params),
        lambda gradient, start: start,
        _solve_symmetric,
    )
    params = jax.tree.map(lambda x, like: x.astype(like.dtype), root, result.params)
    return dataclasses.replace(
        result, params=params, value=_with_envelope(objective, root, result.value)
    )


def _with_envelope(objective: Objective, root: Params, value: jax.Array) -> jax.Array:
    """The value with its derivative: where the gradient is zero only the data's own part counts.

    That part is taken at the root as a function of the data, so that second derivatives hold.
    """

    @jax.custom_jvp
    def known(objective: Objective, root: Params) -> jax.Array:
        del objective, root
        return value

    @known.defjvp
    def known_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
        objective, root = primals

        def value_of(objective: Objective) -> jax.Array:
            return jnp.asarray(objective.value(root), value.dtype)

        return known(objective, root), jax.jvp(value_of, (objective,), (tangents[0],))[1]

    return known(objective, root)


def _solve_symmetric(product: Callable[[Params], Params], rhs: Params) -> Params:
    return lax.custom_linear_solve(
        lambda direction: _tied(product(direction)), _tied(rhs), conjugate_gradient, symmetric=True
    )


def _tied(tree: Params) -> Params:
    """The same numbers, each leaf depending on all: a leaf whose tangent is a symbolic zero (the
    intercept's, differentiating by l2) breaks the linear solve's rules.
    """
    leaves, treedef = jax.tree.flatten(tree)
    tie = sum((0 * leaf.ravel()[:1].sum() for leaf in leaves), start=jnp.zeros(()))
    return treedef.unflatten([leaf + tie.astype(leaf.dtype) for leaf in leaves])


def conjugate_gradient(product: Callable[[Params], Params], rhs: Params) -> Params:
    """Solve ``H x = rhs`` for a symmetric positive semidefinite H given by its products.

    Stops at a relative residual of ``16 eps``, after ``10 n + 100`` products (at most 10,000), or
    where rounding makes the curvature non-positive. Where H is singular and ``rhs`` in its range
    the solution is the one of minimum norm.
    """
    dtype = jnp.result_type(*jax.tree.leaves(rhs))
    size = sum(leaf.size for leaf in jax.tree.leaves(rhs))
    limit = min(10 * size + 100, 10_000)
    squared = precision.squared_norm(rhs)
    target = (16 * jnp.finfo(dtype).eps) ** 2 * squared

    def is_running(carry: Any) -> jax.Array:
        _, _, _, squared, count, is_curved = carry
        return (squared > target) & (count < limit) & is_curved

    def iterate(carry: Any) -> Any:
        x, residual, direction, squared, count, _ = carry
        image = product(direction)
        curvature = precision.inner(direction, image)
        is_curved = curvature > 0
        step = jnp.where(is_curved, squared / jnp.where(is_curved, curvature, 1), 0)
        x = _add_scaled(x, step, direction)
        residual = _add_scaled(residual, -step, image)
        new_squared = precision.squared_norm(residual)
        direction = _add_scaled(residual, new_squared / squared, direction)
        return x, residual, direction, new_squared, count + 1, is_curved

    zeros = jax.tree.map(jnp.zeros_like, rhs)
    carry = (zeros, rhs, rhs, squared, jnp.zeros((), jnp.int32), squared > 0)
    return lax.while_loop(is_running, iterate, carry)[0]


def _add_scaled(a: Params, scale: jax.Array, b: Params) -> Params:
    return jax.tree.map(lambda x, y: x + scale.astype(x.dtype) * y, a, b)
