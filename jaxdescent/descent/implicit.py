"""Derivatives of a minimiser by the objective's data, from the implicit function theorem.

At a minimiser ``g(x, data) = 0``; differentiating, ``H dx = -dg``, where ``dg`` is the gradient's
change at fixed x. The solve is matrix-free, by conjugate gradients on Hessian-vector products, so
no iteration of the descent is ever differentiated and no Hessian is formed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxdescent.numerics import precision
from jaxdescent.numerics.linear_systems import solve
from jaxdescent.objectives import Objective
from jaxdescent.result import Result

Params = Any


def attach_derivatives(objective: Objective, result: Result) -> Result:
    """The same result, whose params and value know how they depend on the objective's data.

    Derivatives are those of the stationary point that the descent was approaching: meaningful
    where it converged. With respect to the start and the method they are zero.
    """
    result = jax.tree.map(lax.stop_gradient, result)
    root = _root(objective, precision.widen(result.params))
    params = jax.tree.map(lambda x, like: x.astype(like.dtype), root, result.params)
    value = _value_at_root(objective, root, result.value)
    return result._replace(params=params, value=value)


# Not lax.custom_root, which traces its solver whether or not anybody differentiates: conjugate
# gradients and MINRES are twice as long as most descents.
@jax.custom_jvp
def _root(objective: Objective, params: Params) -> Params:
    """The params, as the point where the objective's gradient is zero."""
    del objective
    return params


@functools.partial(_root.defjvp, symbolic_zeros=True)
def _root_jvp(primals: Any, tangents: Any) -> tuple[Params, Params]:
    objective, params = primals
    root = _root(objective, params)  # not the params: a second derivative follows it

    def product(direction: Params) -> Params:
        return jax.jvp(objective.gradient, (root,), (direction,))[1]

    change = _change(lambda objective: objective.gradient(root), objective, tangents[0])
    return root, jax.tree.map(jnp.negative, _solve_symmetric(product, change))


@jax.custom_jvp
def _value_at_root(objective: Objective, root: Params, value: jax.Array) -> jax.Array:
    """The value with its derivative: where the gradient is zero only the data's own part counts.

    That part is taken at the root as a function of the data, so that second derivatives hold.
    """
    del objective, root
    return value


@functools.partial(_value_at_root.defjvp, symbolic_zeros=True)
def _value_at_root_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    objective, root, value = primals

    def value_of(objective: Objective) -> jax.Array:
        return jnp.asarray(objective.value(root), value.dtype)

    return _value_at_root(*primals), _change(value_of, objective, tangents[0])


def _change(function: Callable[[Objective], Any], objective: Objective, tangents: Any) -> Any:
    """The tangent of ``function`` by those of the objective's data that have one."""
    leaves, treedef = jax.tree.flatten(objective)
    directions = treedef.flatten_up_to(tangents)
    moving = [index for index, d in enumerate(directions) if not isinstance(d, SymbolicZero)]

    def of_moving(*moved: jax.Array) -> Any:
        both = dict(enumerate(leaves)) | dict(zip(moving, moved, strict=True))
        return function(treedef.unflatten(both.values()))

    at = [leaves[index] for index in moving]
    return jax.jvp(of_moving, at, [directions[index] for index in moving])[1]


def _solve_symmetric(product: Callable[[Params], Params], rhs: Params) -> Params:
    return lax.custom_linear_solve(
        lambda direction: _tied(product(direction)), _tied(rhs), solve, symmetric=True
    )


def _tied(tree: Params) -> Params:
    """The same numbers, each leaf depending on all: a leaf whose tangent is a symbolic zero (the
    intercept's, differentiating by l2) breaks the linear solve's rules.
    """
    leaves, treedef = jax.tree.flatten(tree)
    tie = sum((0 * leaf.ravel()[:1].sum() for leaf in leaves), start=jnp.zeros(()))
    return treedef.unflatten([leaf + tie.astype(leaf.dtype) for leaf in leaves])
