"""Derivatives of a minimiser with respect to the objective's data, by the implicit function
theorem.

At a minimiser ``g(x, data) = 0``. Differentiating gives ``H dx = -dg``, where ``dg`` is the change
of the gradient at fixed x; no iteration of the descent is differentiated. The system is solved with
Hessian-vector products, in which few unknowns are scaled by their own curvatures: otherwise an
unknown in small units would have a small share of the residual however wrong it is. Where H is
singular there are many minimisers, and ``dx = -H^+ dg``: the minimiser that was returned does not
move along a flat direction. Where the curvatures of few unknowns differ by more than
:func:`~jaxdescent.regression.solve.factor.is_uneven` allows, directions and norms are those in
units of these curvatures.

A regression's weights have an augmented system of their own
(:mod:`jaxdescent.regression.solve.augmented`). If there are several solutions they are those of
least norm, also with an intercept, which follows from the weights. Where the rank is lower than the
shape of X allows, the weights jump as X moves, and their derivatives by X are NaN, if X is not too
large to be factorised. Derivatives that conjugate gradients do not solve in their limit are NaN.
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

from jaxdescent.kernels.branches import of_any
from jaxdescent.numerics import precision
from jaxdescent.numerics.linear_systems import System, on_vectors, solve
from jaxdescent.objectives import Objective, Params
from jaxdescent.objectives.forward import pushed
from jaxdescent.regression.solve.augmented import Weights, tied
from jaxdescent.regression.solve.factor import is_uneven
from jaxdescent.result import Result

FEW = 32
"""The most unknowns of a function whose own curvatures are computed, with a product each."""

MOST_NUMBERS = 1 << 26
"""The most numbers that the products for all unknowns may read."""


def attach_derivatives(objective: Objective, result: Result) -> Result:
    """The given result, with derivatives of params and value with respect to the objective's data.

    The derivatives are those of the stationary point that the descent approaches, and are
    meaningful if it converged. With respect to the start and the method they are zero.
    """
    result = jax.tree.map(lax.stop_gradient, result)
    root = _root(objective, precision.widen(result.params))
    params = jax.tree.map(lambda x, like: x.astype(like.dtype), root, result.params)
    value = _value_at_root(objective, root, result.value)
    return result._replace(params=params, value=value)


# lax.custom_root would trace its solver even if nothing is differentiated, which takes longer than
# most descents.
@jax.custom_jvp
def _root(objective: Objective, params: Params) -> Params:
    """The params, defined as the point where the objective's gradient is zero."""
    return params


@functools.partial(_root.defjvp, symbolic_zeros=True)
def _root_jvp(primals: Any, tangents: Any) -> tuple[Params, Params]:
    objective, params = primals
    # Not the params, so that second derivatives see the root.
    root = _root(objective, params)
    regression = objective.linear_regression
    if regression is not None:
        return root, _moved_regression(regression, root, tangents[0])

    def product(direction: Params) -> Params:
        return pushed(objective.gradient, (root,), (direction,))[1]

    known = _system(objective, root, product)
    system = known._replace(units=lax.stop_gradient(known.units))
    change = _change(lambda objective: objective.gradient(root), objective, tangents[0])
    solved = lax.custom_linear_solve(
        lambda direction: tied(product(direction)),
        tied(change),
        functools.partial(solve, system=system),
        symmetric=True,
    )
    return root, jax.tree.map(jnp.negative, solved)


def _moved_regression(regression: Any, root: Params, tangents: Any) -> Params:
    """The change of a regression's params. If there are several solutions, the weights have least
    norm, and determine the intercept.
    """
    weights, others = Weights.near(regression, root["weights"])

    def moved_by(weights: Weights) -> Params:
        def params(regression: Any) -> Params:
            if not regression.intercept:
                return {"weights": weights(regression)}
            weights_alone, means = regression.eliminated()
            return means.with_intercept(weights(weights_alone))

        return _change(params, regression, tangents)

    def moved_if(is_needed: jax.Array, weights: Weights) -> Params:
        still = functools.partial(jax.tree.map, jnp.zeros_like, root)
        return lax.cond(of_any(jnp.any(is_needed)), lambda: moved_by(weights), still)

    usual = functools.reduce(jnp.logical_and, (~serves for _, serves in others), jnp.array(True))
    moved = moved_if(usual, weights) if others else moved_by(weights)
    for other, serves in others:
        moved = jax.tree.map(functools.partial(jnp.where, serves), moved_if(serves, other), moved)
    if weights.jumps is None:
        return moved
    jumps = weights.jumps & (jnp.asarray(regression.l2) <= 0)
    # A product with NaN makes cotangents NaN too.
    one = jnp.where(jumps, jnp.nan, 1) if _moves(tangents.X) else _one(regression.X, jumps)
    return jax.tree.map(lambda x: x * jnp.broadcast_to(one.astype(x.dtype), x.shape), moved)


@jax.custom_jvp
def _one(design: Any, jumps: jax.Array) -> jax.Array:
    """One, whose derivative by the design is NaN where the weights jump: so is the second
    derivative of the weights by their targets and then by the design.
    """
    del design
    return jnp.ones(jumps.shape)


@functools.partial(_one.defjvp, symbolic_zeros=True)
def _one_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    one, moving = _one(*primals), _moves(tangents[0])
    total = sum((jnp.sum(leaf).astype(one.dtype) for leaf in moving), start=jnp.zeros_like(one))
    return one, jnp.where(primals[1], jnp.nan, 0).astype(one.dtype) * total


def _moves(tangents: Any) -> list[jax.Array]:
    """The tangents that are no symbolic zeros."""
    leaves = jax.tree.leaves(tangents, is_leaf=lambda leaf: isinstance(leaf, SymbolicZero))
    return [leaf for leaf in leaves if not isinstance(leaf, SymbolicZero)]


@jax.custom_jvp
def _value_at_root(objective: Objective, root: Params, value: jax.Array) -> jax.Array:
    """The value; at a zero gradient its derivative is the partial one by the data at fixed params.

    This derivative is evaluated at the root as a function of the data, so that second derivatives
    are correct.
    """
    return value


@functools.partial(_value_at_root.defjvp, symbolic_zeros=True)
def _value_at_root_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    objective, root, value = primals

    def value_of(objective: Objective) -> jax.Array:
        return jnp.asarray(objective.value(root), value.dtype)

    return _value_at_root(*primals), _change(value_of, objective, tangents[0])


def _change(function: Callable[[Any], Any], objective: Objective, tangents: Any) -> Any:
    """The tangent of ``function`` along those data whose tangents are not symbolic zeros."""
    leaves, treedef = jax.tree.flatten(objective)
    directions = treedef.flatten_up_to(tangents)
    moving = [index for index, d in enumerate(directions) if not isinstance(d, SymbolicZero)]

    def of_moving(*moved: jax.Array) -> Any:
        both = dict(enumerate(leaves)) | dict(zip(moving, moved, strict=True))
        return function(treedef.unflatten(both.values()))

    at = [leaves[index] for index in moving]
    return pushed(of_moving, tuple(at), tuple(directions[index] for index in moving))[1]


def _system(objective: Objective, params: Params, product: Callable[[Params], Params]) -> System:
    """The known properties of the Hessian, for the linear solver.

    The unit of each of few unknowns is the root of one over its own curvature, which follows from
    one product with each unit vector.
    """
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    data = sum(jnp.size(leaf) for leaf in jax.tree.leaves(objective))
    is_small = size * data <= MOST_NUMBERS
    if size > FEW:
        return System(is_small=is_small)
    flat, unravel = ravel_pytree(params)
    own = on_vectors(product, unravel)
    units = jnp.eye(flat.size, dtype=flat.dtype)
    curvatures = jax.vmap(lambda unit: jnp.sum(unit * own(unit)))(units)
    roots = jnp.sqrt(jnp.abs(curvatures))
    is_usable = (roots > 0) & jnp.isfinite(roots)
    units = jnp.where(is_usable, 1 / jnp.where(is_usable, roots, 1), 1)
    return System(unravel(units), are_uneven=is_uneven(roots), is_small=is_small)
