"""Derivatives of a minimiser with respect to the objective's data, by the implicit function
theorem.

At a minimiser ``g(x, data) = 0``. Differentiating gives ``H dx = -dg``, where ``dg`` is the change
of the gradient at fixed x. The system is solved by conjugate gradients with Hessian-vector
products: no iteration of the descent is differentiated, and no Hessian is formed.
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
    """The same result, with derivatives of params and value with respect to the objective's data.

    They are the derivatives of the stationary point that the descent approaches, and meaningful if
    it converged. With respect to the start and the method they are zero.
    """
    result = jax.tree.map(lax.stop_gradient, result)
    is_on_host = objective.cuts is not None  # where nothing is computed, widening included
    root = _root(objective, result.params if is_on_host else precision.widen(result.params))
    params = jax.tree.map(lambda x, like: x.astype(like.dtype), root, result.params)
    value = _value_at_root(objective, root, result.value)
    return result._replace(params=params, value=value)


# lax.custom_root would trace its solver even if nothing is differentiated; conjugate gradients and
# MINRES are twice as long as most descents.
@jax.custom_jvp
def _root(objective: Objective, params: Params) -> Params:
    """The params, defined as the point where the objective's gradient is zero."""
    del objective
    return params


@functools.partial(_root.defjvp, symbolic_zeros=True)
def _root_jvp(primals: Any, tangents: Any) -> tuple[Params, Params]:
    objective, params = primals
    root = _root(objective, params)  # not the params, so that second derivatives see the root

    def product(direction: Params) -> Params:
        return jax.jvp(objective.gradient, (root,), (direction,))[1]

    change = _change(lambda objective: objective.gradient(root), objective, tangents[0])
    return root, jax.tree.map(jnp.negative, _solve_symmetric(product, change))


@jax.custom_jvp
def _value_at_root(objective: Objective, root: Params, value: jax.Array) -> jax.Array:
    """The value, whose derivative at a zero gradient is that by the data at fixed params.

    It is evaluated at the root as a function of the data, so that second derivatives are correct.
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
    """The tangent of ``function`` along those data whose tangents are not symbolic zeros."""
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
    """The same numbers, with each leaf made to depend on all leaves.

    The rules of the linear solve fail for a leaf whose tangent is a symbolic zero (such as the
    intercept's when differentiating by l2).
    """
    leaves, treedef = jax.tree.flatten(tree)
    tie = sum((0 * leaf.ravel()[:1].sum() for leaf in leaves), start=jnp.zeros(()))
    return treedef.unflatten([leaf + tie.astype(leaf.dtype) for leaf in leaves])
