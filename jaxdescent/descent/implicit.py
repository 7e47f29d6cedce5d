"""Derivatives of a minimiser with respect to the objective's data, by the implicit function
theorem.

At a minimiser ``g(x, data) = 0``. Differentiating gives ``H dx = -dg``, where ``dg`` is the change
of the gradient at fixed x; no iteration of the descent is differentiated. For a regression that is
not too large the system is solved by the singular values of X
(:mod:`jaxdescent.regression.solve.pseudo_inverse`); otherwise, and where penalties would need a
factor in units of the columns that there is not, with Hessian-vector products. There the unknowns
are scaled by their own curvatures where these are known: otherwise an unknown in small units would
have a small share of the residual however wrong it is.

Where H is singular there are many minimisers, and ``dx = -H^+ dg``: the minimiser that was returned
does not move along a flat direction. A regression's weights are those of least norm, also with an
intercept, which follows from the weights. With fewer rows than features ``dx`` has another term,
``(I - H^+ H) dH H^+ x``, because the null space turns with X. Where the rank is lower than the
shape of X allows, the weights jump as X moves, and their derivatives by X are NaN (with
Hessian-vector products the derivatives are those at a constant rank).
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
from jaxdescent.numerics.linear_systems import System, solve
from jaxdescent.objectives import Objective
from jaxdescent.regression.linear_model import scaled_rows
from jaxdescent.regression.solve.centred import columns
from jaxdescent.regression.solve.factor import is_uneven
from jaxdescent.regression.solve.pseudo_inverse import is_possible, lengths_of, pseudo_inverse
from jaxdescent.result import Result

Params = Any

FEW = 32
"""The most unknowns of a function whose own curvatures are computed, with a product each."""

MOST_NUMBERS = 1 << 26
"""The most numbers that the products for all unknowns may read."""


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
    # Not the params, so that second derivatives see the root.
    root = _root(is_definite, objective, params)
    regression = objective.linear_regression
    if regression is not None and regression.intercept:
        # If there are several solutions, the weights have least norm, and determine the intercept.
        def with_intercept(objective: Any) -> Params:
            weights_alone, means = objective.eliminated()
            weights = _root(is_definite, weights_alone, {"weights": params["weights"]})
            return means.with_intercept(weights["weights"])

        return root, _change(with_intercept, objective, tangents[0])

    def by_products() -> Params:
        return _moved(objective, root, tangents[0], is_definite)

    def by_singular_values() -> Params:
        return _moved_regression(regression, root, tangents[0], is_definite)

    if regression is None or not is_possible(regression):
        return root, by_products()
    # A penalty cannot be told in units of the columns of a wide X, and in their own units short
    # columns are lost beside long ones.
    design, is_free = as_design(regression.X), is_definite is False and jnp.ndim(regression.l2) == 0
    lengths = lengths_of(design, regression.sample_weight)
    if is_free or design.shape[0] >= design.shape[1] or lengths is None:
        return root, by_singular_values()
    are_uneven = lax.stop_gradient(is_uneven(lengths) & (jnp.max(jnp.asarray(regression.l2)) > 0))
    return root, lax.cond(are_uneven, by_products, by_singular_values)


def _moved(objective: Objective, root: Params, tangents: Any, is_definite: bool | None) -> Params:
    """The change of the root by products with the Hessian."""
    regression = objective.linear_regression

    def product(direction: Params) -> Params:
        return jax.jvp(objective.gradient, (root,), (direction,))[1]

    known = _system(objective, root, product)
    system = known._replace(units=lax.stop_gradient(known.units))
    if is_definite is not None:
        system = system._replace(is_definite=is_definite)

    def solved(rhs: Params) -> Params:
        return _solve_symmetric(product, rhs, system)

    of_data = objective, tangents
    change = _change(lambda objective: objective.gradient(root), *of_data)
    moved = jax.tree.map(jnp.negative, solved(change))
    if regression is None or is_definite or not _moves(tangents.X):
        return moved
    design, is_free = as_design(regression.X), jnp.asarray(regression.l2) <= 0
    is_free = is_free[None] if is_free.ndim else is_free  # each output by itself
    if design.largest_rank < design.shape[1]:
        turned = _change(lambda objective: objective.hessian_product(root, solved(root)), *of_data)
        within = solved(product(turned))
        moved = jax.tree.map(
            lambda own, turned, within: (
                own + jnp.where(is_free, turned - within, 0).astype(own.dtype)
            ),
            moved,
            turned,
            within,
        )
    return moved


def _moved_regression(
    regression: Any, root: Params, tangents: Any, is_definite: bool | None
) -> Params:
    """The change of the weights w of a regression without an intercept, by the singular values of
    X.

    With ``S = diag(s)`` the change solves ``S q + S X dw = S a, X'S q - l2 dw = -b``, where
    ``a = d(y - X w)`` at fixed w, and b is the rest of the gradient's change, by which X' and s
    weigh the residuals and l2 the weights. Hence ``dw = H^+ (X'S a + b)``: no rounding takes
    ``X'S a`` out of the range of X'S, where it would be divided by a small penalty. Roots of s
    have no derivative at zero.
    """
    shape, weights = root["weights"].shape, columns(root["weights"])
    dtype, design = weights.dtype, as_design(regression.X)
    inverse = pseudo_inverse(lax.stop_gradient(regression), dtype, is_definite=is_definite)
    weight = regression.sample_weight

    def penalty(regression: Any) -> jax.Array:
        return jnp.atleast_1d(jnp.asarray(regression.l2, dtype))[None]

    # A design multiplies weights of the shape that the params have.
    def product(regression: Any, weights: jax.Array) -> jax.Array:
        return columns(as_design(regression.X).product(weights.reshape(-1, *shape[1:])))

    def pulled(regression: Any, residual: jax.Array) -> jax.Array:
        design, residual = as_design(regression.X), residual.reshape(-1, *shape[1:])
        return columns(design.transposed_product(residual))

    def residuals(regression: Any) -> jax.Array:
        targets = columns(jnp.asarray(regression.y)).astype(dtype)
        return targets - product(regression, weights)

    def slope(regression: Any, residual: jax.Array) -> jax.Array:
        weighted = scaled_rows(residual, regression.sample_weight)
        return pulled(regression, weighted) - penalty(regression) * weights

    def both(change: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        residual, weights = change
        slope = _along(pulled, regression, scaled_rows(residual, weight))
        weighted = scaled_rows(residual + _along(product, regression, weights), weight)
        return _tied((weighted, slope - penalty(regression) * weights))

    def solve(_: Any, known: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        moved, image = inverse.solve(known[0], -known[1])
        # Of a row without weight any residual is a solution.
        own = known[0] if weight is None else scaled_rows(known[0], _inverse(weight))
        return own - image, moved

    def solved(of_rows: jax.Array, of_features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """``q = S^+ u - X w`` and ``w = H^+ (X'u + v)``."""
        known = _tied((of_rows, -of_features))
        return lax.custom_linear_solve(both, known, solve, symmetric=True)

    residual = residuals(regression)
    exact = inverse.residual(columns(jnp.asarray(regression.y)).astype(dtype))
    if exact is not None:  # its derivatives are those of the difference
        residual = residual + lax.stop_gradient(jnp.where(jnp.isfinite(exact), exact - residual, 0))
    of_rows = scaled_rows(_change(residuals, regression, tangents), weight)
    of_features = _change(lambda moved: slope(moved, residual), regression, tangents)
    moved = solved(of_rows, of_features)[1]
    if _moves(tangents.X) and not is_definite:
        is_free = penalty(regression) <= 0
        rank = design.largest_rank
        if rank < design.shape[1]:
            # The null space turns as X moves: (I - H^+ H) dX' z with X'z = w.
            dual = -scaled_rows(solved(jnp.zeros_like(residual), weights)[0], weight)
            turned = _change(lambda moved: pulled(moved, dual), regression, tangents)
            image = scaled_rows(_along(product, regression, turned), weight)
            within = solved(image, jnp.zeros_like(turned))[1]
            moved = moved + jnp.where(is_free, turned - within, 0).astype(dtype)
        # If the rank is lower than the shape allows, the solution jumps as X moves. A product with
        # NaN makes cotangents NaN too.
        moved = moved * jnp.where(~is_free | (inverse.rank >= rank), 1, jnp.nan).astype(dtype)
    return {"weights": moved.reshape(shape)}


def _along(product: Callable[..., jax.Array], regression: Any, operand: jax.Array) -> jax.Array:
    """``product(regression, operand)`` as a derivative, which can be transposed: the product itself
    may tie other arrays to the operand by a barrier.
    """
    of = functools.partial(product, regression)
    return jax.jvp(of, (jnp.zeros_like(operand),), (operand,))[1]


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


def _change(function: Callable[[Any], Any], objective: Objective, tangents: Any) -> Any:
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
    roots = jnp.sqrt(jnp.abs(curvatures))
    return System(unravel(_inverse(roots)), are_uneven=is_uneven(roots), is_small=is_small)


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
