"""Derivatives of a minimiser with respect to the objective's data, by the implicit function
theorem.

At a minimiser ``g(x, data) = 0``. Differentiating gives ``H dx = -dg``, where ``dg`` is the change
of the gradient at fixed x. The system is solved with Hessian-vector products: no iteration of the
descent is differentiated. The unknowns are scaled by their own curvatures where these are known:
otherwise an unknown in small units would have a small share of the residual however wrong it is.

Where H is singular there are many minimisers, and ``dx = -H^+ dg``: the minimiser that was returned
does not move along a flat direction. A regression's weights are those of least norm, also with an
intercept, which follows from the weights. With fewer rows than features ``dx`` has another term,
``(I - H^+ H) dH H^+ x``, because the null space turns with X. Where the rank is lower than the
shape of X allows, the weights jump as X moves, and their derivatives by X are NaN (up to 256
features; with more, the derivatives are those at a constant rank).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.custom_derivatives import SymbolicZero
from jax.flatten_util import ravel_pytree

from jaxdescent.designs import as_design
from jaxdescent.numerics import precision
from jaxdescent.numerics.linear_systems import System, eigenvalues, null_share, solve
from jaxdescent.objectives import Objective
from jaxdescent.regression.solve.factor import is_uneven
from jaxdescent.result import Result

Params = Any

FEW = 32
"""The most unknowns of a function whose own curvatures are computed, with a product each."""

MOST_FEATURES, MOST_NUMBERS = 256, 1 << 26
"""The most features for which the rank of X is computed, and the most numbers that the products for
all unknowns may read."""


def is_definite(objective: Objective) -> bool | None:
    """Whether a regression's penalty makes its Hessian definite; None if the penalty is traced, and
    for other objectives.
    """
    regression = objective.linear_regression
    if regression is None or isinstance(regression.l2, Tracer):
        return None
    return bool(np.min(np.asarray(regression.l2)) > 0)


def attach_derivatives(
    objective: Objective, result: Result, *, is_definite: bool | None = None
) -> Result:
    """The given result, with derivatives of params and value with respect to the objective's data.

    ``is_definite`` is the answer of :func:`is_definite`; if it is known, one solver is compiled
    instead of two.

    The derivatives are those of the stationary point that the descent approaches, and are
    meaningful if it converged. With respect to the start and the method they are zero.
    """
    result = jax.tree.map(lax.stop_gradient, result)
    is_on_host = objective.cuts is not None  # params on the host cannot even be widened there
    params = result.params if is_on_host else precision.widen(result.params)
    root = _root(is_definite, objective, params)
    params = jax.tree.map(lambda x, like: x.astype(like.dtype), root, result.params)
    value = _value_at_root(objective, root, result.value)
    return result._replace(params=params, value=value)


# lax.custom_root would trace its solver even if nothing is differentiated; conjugate gradients and
# MINRES are twice as long as most descents.
@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _root(is_definite: bool | None, objective: Objective, params: Params) -> Params:
    """The params, defined as the point where the objective's gradient is zero."""
    del is_definite, objective
    return params


@functools.partial(_root.defjvp, symbolic_zeros=True)
def _root_jvp(is_definite: bool | None, primals: Any, tangents: Any) -> tuple[Params, Params]:
    objective, params = primals
    root = _root(
        is_definite, objective, params
    )  # not the params, so that second derivatives see the root
    regression = objective.linear_regression
    if regression is not None and regression.intercept:
        # If there are several solutions, the weights have least norm, and determine the intercept.
        def with_intercept(objective: Any) -> Params:
            weights_alone, means = objective.eliminated()
            weights = _root(is_definite, weights_alone, {"weights": params["weights"]})
            return means.with_intercept(weights["weights"])

        return root, _change(with_intercept, objective, tangents[0])

    def product(direction: Params) -> Params:
        return jax.jvp(objective.gradient, (root,), (direction,))[1]

    known = _system(objective, root, product)
    system = known._replace(units=lax.stop_gradient(known.units))
    if is_definite is not None:
        system = system._replace(is_definite=is_definite)

    def solved(rhs: Params) -> Params:
        return _solve_symmetric(product, rhs, system)

    of_data = objective, tangents[0]
    change = _change(lambda objective: objective.gradient(root), *of_data)
    moved = jax.tree.map(jnp.negative, solved(change))
    if regression is None or not _moves(tangents[0].X):
        return root, moved
    if is_definite:
        return root, moved
    design, is_free = as_design(regression.X), jnp.max(jnp.asarray(regression.l2)) <= 0
    rank = design.largest_rank
    if rank < design.shape[1]:
        # The null space of H turns as X moves, which adds (I - H^+ H) dH H^+ x to the derivative.
        dual = solved(root)
        turned = _change(lambda objective: objective.hessian_product(root, dual), *of_data)
        within = solved(product(turned))
        moved = jax.tree.map(
            lambda own, turned, within: (
                own + jnp.where(is_free, turned - within, 0).astype(own.dtype)
            ),
            moved,
            turned,
            within,
        )
    if design.shape[1] <= MOST_FEATURES and system.is_small:
        # If the rank is lower than the shape allows, the solution jumps as X moves.
        values = lax.stop_gradient(eigenvalues(product, root)[0])
        is_seen = jnp.abs(values) > null_share(root) * jnp.max(jnp.abs(values))
        is_defined = ~is_free | (jnp.sum(is_seen) >= rank * (values.size // design.shape[1]))
        # Multiplied by NaN, so that cotangents are NaN too.
        moved = jax.tree.map(
            lambda leaf: leaf * jnp.where(is_defined, 1, jnp.nan).astype(leaf.dtype), moved
        )
    return root, moved


def _moves(tangents: Any) -> bool:
    leaves = jax.tree.leaves(tangents, is_leaf=lambda leaf: isinstance(leaf, SymbolicZero))
    return not all(isinstance(leaf, SymbolicZero) for leaf in leaves)


@jax.custom_jvp
def _value_at_root(objective: Objective, root: Params, value: jax.Array) -> jax.Array:
    """The value; at a zero gradient its derivative is the partial one by the data at fixed params.

    This derivative is evaluated at the root as a function of the data, so that second derivatives
    are correct.
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


def _solve_symmetric(product: Callable[[Params], Params], rhs: Params, system: System) -> Params:
    """``H^+ rhs``."""
    return lax.custom_linear_solve(
        lambda direction: _tied(product(direction)),
        _tied(rhs),
        functools.partial(solve, system=system),
        symmetric=True,
    )


def _system(objective: Objective, params: Params, product: Callable[[Params], Params]) -> System:
    """The known properties of the Hessian, for the linear solver.

    The unit of each unknown is the root of one over its own curvature, which follows from the
    lengths of a regression's columns, or for few unknowns from one product with each unit vector.
    """
    regression = objective.linear_regression
    if regression is not None:
        return _system_of_regression(regression, params)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    data = sum(jnp.size(leaf) for leaf in jax.tree.leaves(objective))
    is_small = size * data <= MOST_NUMBERS
    if size > FEW:
        return System(is_small=is_small)
    flat, unravel = ravel_pytree(params)

    def own(unit: jax.Array) -> jax.Array:
        return jnp.sum(unit * ravel_pytree(product(unravel(unit)))[0])

    curvatures = jax.vmap(own)(jnp.eye(flat.size, dtype=flat.dtype))
    units = unravel(_inverse(jnp.sqrt(jnp.abs(curvatures))))
    return System(units, are_uneven=_are_uneven(curvatures), is_small=is_small)


def _are_uneven(curvatures: jax.Array) -> jax.Array:
    """Whether zero curvature can be told from rounding only in the unknowns' own units."""
    return is_uneven(jnp.sqrt(jnp.abs(curvatures)))


def _system_of_regression(regression: Any, params: Params) -> System:
    design, weight = as_design(regression.X), regression.sample_weight
    dtype, l2 = params["weights"].dtype, jnp.asarray(regression.l2)
    is_small = design.shape[0] * design.shape[1] ** 2 <= MOST_NUMBERS
    squared = design.column_lengths(weight, None)
    is_definite = jnp.min(l2) > 0
    if squared is None:
        return System(is_definite=is_definite, is_small=is_small)
    penalty = jnp.maximum(l2.astype(dtype), 0)
    lengths = jnp.hypot(squared.astype(dtype)[:, None], jnp.sqrt(penalty).reshape(1, -1))
    lengths = jnp.broadcast_to(lengths, (design.shape[1], params["weights"].size // len(lengths)))
    units = {"weights": _inverse(lengths).reshape(params["weights"].shape)}
    return System(units, is_uneven(squared), is_definite, is_small)


def _inverse(lengths: jax.Array) -> jax.Array:
    is_usable = (lengths > 0) & jnp.isfinite(lengths)
    return jnp.where(is_usable, 1 / jnp.where(is_usable, lengths, 1), 1)


def _tied(tree: Params) -> Params:
    """The leaves unchanged, each made to depend on all of them.

    The rules of the linear solve fail for a leaf whose tangent is a symbolic zero (such as the
    intercept's when differentiating by l2).
    """
    leaves, treedef = jax.tree.flatten(tree)
    zeros = [0 * leaf.ravel()[:1].sum().astype(leaves[0].dtype) for leaf in leaves]
    tie = sum(zeros, start=jnp.zeros((), leaves[0].dtype))
    return treedef.unflatten([leaf + tie.astype(leaf.dtype) for leaf in leaves])
