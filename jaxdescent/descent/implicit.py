"""Derivatives of a minimiser with respect to the objective's data, by the implicit function
theorem.

At a minimiser ``g(x, data) = 0``. Differentiating gives ``H dx = -dg``, where ``dg`` is the change
of the gradient at fixed x. The system is solved by conjugate gradients with Hessian-vector
products: no iteration of the descent is differentiated, and no Hessian is formed. The unknowns are
scaled by their own curvatures where these are known: in small units an unknown's share of the
residual is small beside the others', wherever it stands.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.flatten_util import ravel_pytree

from jaxdescent.designs import as_design
from jaxdescent.numerics import precision
from jaxdescent.numerics.linear_systems import solve
from jaxdescent.objectives import Objective
from jaxdescent.result import Result

Params = Any

FEW = 32
"""The most unknowns of a function whose own curvatures are computed, with a product each."""


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
    units = lax.stop_gradient(_units(objective, root, product))
    return root, jax.tree.map(jnp.negative, _solve_symmetric(product, change, units))


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


def _solve_symmetric(
    product: Callable[[Params], Params], rhs: Params, units: Params | None
) -> Params:
    """The solution of ``H x = rhs``, where x is found in these units."""
    if units is None:
        return lax.custom_linear_solve(
            lambda direction: _tied(product(direction)), _tied(rhs), solve, symmetric=True
        )

    def in_units(tree: Params) -> Params:
        return jax.tree.map(jnp.multiply, units, tree)

    def scaled(direction: Params) -> Params:
        return in_units(product(in_units(direction)))

    return in_units(_solve_symmetric(scaled, in_units(rhs), None))


def _units(
    objective: Objective, params: Params, product: Callable[[Params], Params]
) -> Params | None:
    """The root of one over each unknown's own curvature; None where it would take a product each.

    Of a regression they come from the lengths of its columns, of few unknowns from one product with
    each.
    """
    regression = objective.linear_regression
    if regression is not None:
        return _units_of_regression(regression, params)
    if sum(leaf.size for leaf in jax.tree.leaves(params)) > FEW:
        return None
    flat, unravel = ravel_pytree(params)

    def own(unit: jax.Array) -> jax.Array:
        return jnp.sum(unit * ravel_pytree(product(unravel(unit)))[0])

    curvatures = jax.vmap(own)(jnp.eye(flat.size, dtype=flat.dtype))
    return unravel(_inverse(jnp.sqrt(jnp.abs(curvatures))))


def _units_of_regression(regression: Any, params: Params) -> Params | None:
    design, weight = as_design(regression.X), regression.sample_weight
    squared = design.column_lengths(weight, None)
    if squared is None:
        return None
    dtype = params["weights"].dtype
    penalty = jnp.maximum(jnp.asarray(regression.l2, dtype), 0)
    lengths = jnp.hypot(squared.astype(dtype)[:, None], jnp.sqrt(penalty).reshape(1, -1))
    lengths = jnp.broadcast_to(lengths, (design.shape[1], params["weights"].size // len(lengths)))
    units = {"weights": _inverse(lengths).reshape(params["weights"].shape)}
    if "intercept" in params:
        total = jnp.asarray(design.shape[0], dtype) if weight is None else jnp.sum(weight)
        units["intercept"] = jnp.broadcast_to(
            _inverse(jnp.sqrt(total.astype(dtype))), params["intercept"].shape
        )
    return units


def _inverse(lengths: jax.Array) -> jax.Array:
    is_usable = (lengths > 0) & jnp.isfinite(lengths)
    return jnp.where(is_usable, 1 / jnp.where(is_usable, lengths, 1), 1)


def _tied(tree: Params) -> Params:
    """The same numbers, with each leaf made to depend on all leaves.

    The rules of the linear solve fail for a leaf whose tangent is a symbolic zero (such as the
    intercept's when differentiating by l2).
    """
    leaves, treedef = jax.tree.flatten(tree)
    zeros = [0 * leaf.ravel()[:1].sum().astype(leaves[0].dtype) for leaf in leaves]
    tie = sum(zeros, start=jnp.zeros((), leaves[0].dtype))
    return treedef.unflatten([leaf + tie.astype(leaf.dtype) for leaf in leaves])
