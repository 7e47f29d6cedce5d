"""A certain lower bound on the decrease of a regression, or of a quadratic form whose Hessian is
stored, by a step in units of the columns.

The problem is the one without the intercept (:mod:`jaxdescent.objectives.elimination`). With its
gradient g and its Hessian H, the best step along any direction d lowers the value by ``a^2 / 2``
with

    ``a = g.d / sqrt(d.H d)``

so that the minimum is at least that much lower. As a lower bound on the possible decrease it can
refute a claim, but not confirm one. The direction comes from a few steps of conjugate gradients, in
the units of D: the squared lengths of the columns as they are, means included, plus the penalty.
They see a flat valley in which the gradient is small, such as that along the weights and the
intercept of a wide X. Outputs are separate problems, whose bounds add up.

The bound is computed with rounding, which must not refute a true claim: that of the residual, of
the products with A', where ``A'A = H``, and of A d is subtracted from a. ``docs/stopping.md``
derives the three errors, whatever the condition of H and however the direction was rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.descent.looks import Look, singular_values
from jaxdescent.designs import as_design
from jaxdescent.kernels.branches import seldom
from jaxdescent.kernels.platform import on_cpu
from jaxdescent.numerics.ritz import caution
from jaxdescent.objectives import Objective, Params
from jaxdescent.regression import LinearRegression
from jaxdescent.regression.solve.lapack_factor import ULPS

STEPS = 8
"""The most steps of conjugate gradients."""


def look_at_regression(
    regression: LinearRegression,
    params: Params,
    known: Resolved | None = None,
    allowed: Any = 0.0,
    *,
    is_small: bool = False,
) -> Look:
    """A look at a claim on a regression whose X and y are known, of which the value may be above
    the minimum by ``allowed``: by LAPACK if X ``is_small`` and on a CPU, else by the certain
    decrease of one step of the weights.

    The step takes a pass over X for the lengths of its columns, two for the gradient at the best
    intercept, and one for the curvature. If the design cannot give the lengths, the step goes along
    the gradient.

    If a method with its own estimate resolves all unknowns' own curvatures by what is ``known`` of
    it, the decrease counts as zero after the first pass, or the second where its steps were fewer
    than the unknowns.
    """

    def by_one_step() -> Look:
        lengths = _lengths_of(regression)
        may_fall = _may_fall(lengths, known, _hessian_of_regression, regression)
        falls = seldom(may_fall, _fall_of_regression, _nothing, regression, params, lengths)
        return Look.refuting(falls, allowed)

    if is_small:
        look = on_cpu(lambda: singular_values.in_program(regression, params, allowed), by_one_step)
    else:
        look = by_one_step()
    # Traced penalties and weights may be negative, and then no term may be left out.
    is_convex = regression.is_convex
    return jax.tree.map(lambda leaf: jnp.where(is_convex, leaf, jnp.zeros_like(leaf)), look)


def _lengths_of(regression: LinearRegression) -> jax.Array | None:
    """The lengths of the columns with the penalty's rows below them, (features, 1) or (features,
    outputs); None if the design cannot give them.
    """
    design = as_design(regression.X)
    lengths = design.column_lengths(regression.sample_weight, None)
    if lengths is None:
        return None
    return jnp.hypot(lengths[:, None], _root_of_penalty(regression, design.dtype))


def _fall_of_regression(
    regression: LinearRegression, params: Params, lengths: jax.Array | None
) -> jax.Array:
    design, weight = as_design(regression.X), regression.sample_weight
    weights = params["weights"].reshape(design.shape[1], -1)
    dtype, penalty = weights.dtype, _root_of_penalty(regression, weights.dtype)
    targets = jnp.asarray(regression.y).astype(dtype).reshape(design.shape[0], -1)
    share = jnp.ones((design.shape[0], 1), dtype)
    if weight is not None:
        share = jnp.maximum(weight, 0).astype(dtype)[:, None]
    root, total = jnp.sqrt(share), jnp.sum(share)

    def at_best_intercept(rows: jax.Array) -> jax.Array:
        # Twice: X' would multiply the rounding that the first subtraction leaves by X's means.
        for _ in range(2 * regression.intercept):
            rows = rows - _sums(share * rows) / total
        return rows

    def of_outputs(product: Any, columns: jax.Array) -> jax.Array:
        # A single output is passed as a vector, the only form that every design accepts.
        is_one = jnp.ndim(regression.y) == 1
        return product(columns[:, 0])[:, None] if is_one else product(columns)

    def image_of(step: jax.Array) -> jax.Array:
        return at_best_intercept(of_outputs(design.product, step))

    def pulled(rows: jax.Array, weights: jax.Array) -> jax.Array:
        back = of_outputs(design.transposed_product, share * rows)
        return back + jnp.square(penalty) * weights

    residual = at_best_intercept(of_outputs(design.product, weights) - targets)
    units = _Units.of(pulled(residual, weights), lengths)
    step = units.step(lambda step: pulled(image_of(step), step))
    bent, missed, aimed = _norms_of(root * image_of(step), root * residual, root * targets)
    shortened, shrunk = _norms_of(penalty * step, penalty * weights)
    along, left = jnp.hypot(bent, shortened), missed + shrunk
    moved = left + 2 * aimed
    if lengths is not None:
        moved = _sums(lengths * jnp.abs(weights)) + aimed
    return units.certain_fall(step, along, moved, left)


def _root_of_penalty(regression: LinearRegression, dtype: Any) -> jax.Array:
    """The root of ``l2``, (1, 1) or (1, outputs)."""
    return jnp.sqrt(jnp.maximum(jnp.asarray(regression.l2, dtype), 0)).reshape(1, -1)


def look_at_quadratic(
    objective: Objective, params: Params, known: Resolved | None = None, allowed: Any = 0.0
) -> Look:
    """A look by one step on a quadratic form whose Hessian is stored: two products with it."""
    lengths = _lengths_of_hessian(objective, params)
    may_fall = _may_fall(lengths, known, _hessian_as_stored, objective)
    falls = seldom(may_fall, _fall_of_quadratic, _nothing, objective, params, lengths)
    return Look.refuting(falls, allowed)


def _lengths_of_hessian(objective: Objective, params: Params) -> jax.Array:
    """The roots of the diagonal, which are the lengths of a root's columns, (unknowns, 1)."""
    matrix = objective.hessian_array
    assert matrix is not None  # a look is possible only then
    diagonal = jnp.diagonal(matrix).astype(jax.tree.leaves(params)[0].dtype)
    return jnp.sqrt(jnp.maximum(diagonal, 0))[:, None]


def _fall_of_quadratic(objective: Objective, params: Params, lengths: jax.Array) -> jax.Array:
    (x,), treedef = jax.tree.flatten(params)
    gradient = jax.tree.leaves(objective.gradient(params))[0][:, None]
    units = _Units.of(gradient, lengths)

    def product(step: jax.Array) -> jax.Array:
        image = objective.hessian_product(params, treedef.unflatten([step[:, 0]]))
        return jax.tree.leaves(image)[0][:, None]

    step = units.step(product)
    curvature = objective.curvature(params, treedef.unflatten([step[:, 0]]))
    # For a positive semidefinite H no term of H x exceeds this, in units of its row's length; the
    # linear terms are H x - g.
    size = 2 * _sums(lengths * jnp.abs(x[:, None])) + units.norm
    along = jnp.sqrt(jnp.maximum(curvature, 0))
    return units.certain_fall(step, along, jnp.zeros_like(size), size)


def _nothing(objective: Objective, params: Params, *rest: Any) -> jax.Array:
    return jnp.zeros((), jnp.result_type(*jax.tree.leaves(params)))


def is_needed(objective: Objective, params: Params, known: Resolved | None) -> jax.Array:
    """Whether a look by one step takes the step: otherwise it refutes nothing."""
    if (regression := objective.linear_regression) is not None:
        return _may_fall(_lengths_of(regression), known, _hessian_of_regression, regression)
    return _may_fall(_lengths_of_hessian(objective, params), known, _hessian_as_stored, objective)


class Resolved(NamedTuple):
    """What a method with its own estimate knows of the curvatures when it makes a claim."""

    reached: jax.Array
    """The root of the largest curvature along which a gradient of the final norm could lower the
    value by more than is allowed, infinite where the estimate may rest on few directions."""

    steps: jax.Array
    """The number of steps, each of which shows one direction at most."""


def _may_fall(
    lengths: jax.Array | None, known: Resolved | None, hessian: Callable[..., jax.Array], of: Any
) -> jax.Array:
    """Whether the curvature of a direction is so little that the method may not have resolved it:
    that of a column, or of any direction where the unknowns are few and the steps fewer. Columns of
    even lengths may be nearly equal.
    """
    if lengths is None or known is None:
        # Without lengths the step goes along the gradient, which an estimate has used already.
        return jnp.array(known is None)
    is_uneven = _is_uneven(lengths, known.reached)
    if len(lengths) > STEPS:
        return is_uneven

    is_blind, inputs = ~is_uneven & (known.steps < len(lengths)), (of, lengths, known.reached)
    is_flat, is_known = lambda of, *at: _is_flat(hessian(of), *at), lambda *_: jnp.zeros((), bool)
    return is_uneven | seldom(is_blind, is_flat, is_known, *inputs)


def _is_uneven(lengths: jax.Array, reached: jax.Array) -> jax.Array:
    """Whether a column is so short that the method may not have resolved its curvature."""
    longest = jnp.max(lengths)
    shares = lengths / jnp.where(longest > 0, longest, 1)
    shortest = jnp.min(jnp.where(shares > 0, shares, 1))
    is_even = jnp.sum(jnp.square(shares)) <= caution(reached.dtype) * jnp.square(shortest)
    return ~is_even | (reached > shortest * longest)


def _hessian_of_regression(regression: LinearRegression) -> jax.Array:
    """The Hessian in the weights at the best intercept, of each penalty, (1 or outputs, unknowns,
    unknowns): one pass over X. Means far from zero leave it the digits of its lengths.
    """
    design, weight = as_design(regression.X), regression.sample_weight
    rows, unknowns = design.shape
    share = jnp.ones(rows, design.dtype) if weight is None else jnp.maximum(weight, 0)
    share = share.astype(design.dtype)[:, None]
    identity = jnp.eye(unknowns, unknowns + 1, dtype=design.dtype)
    ones = jnp.eye(1, unknowns + 1, unknowns, dtype=design.dtype)

    def weighted(image: jax.Array, share: jax.Array) -> tuple[jax.Array, jax.Array]:
        return share, share * (image + ones)  # the image of the last column is zero

    _, sums = design.there_and_back(identity, weighted, share)
    moments, sums = sums[:, :-1], sums[:, -1]
    if regression.intercept:
        moments = moments - jnp.outer(sums, sums / jnp.sum(share))
    penalties = jnp.square(_root_of_penalty(regression, design.dtype)).reshape(-1, 1, 1)
    return moments[None] + penalties * identity[None, :, :-1]


def _hessian_as_stored(objective: Objective) -> jax.Array:
    matrix = objective.hessian_array
    assert matrix is not None  # a look is possible only then
    return matrix[None]


def _is_flat(hessians: jax.Array, lengths: jax.Array, reached: jax.Array) -> jax.Array:
    """Whether a direction may curve less than the square of what was ``reached``, in units of the
    columns; beside the root of eps the rounding of sums over rows is small.
    """
    lengths = lengths.T.astype(hessians.dtype)
    is_none = lengths == 0  # of a column of zeros: no weight of it lowers the value
    units = jnp.where(is_none, 1, lengths)
    scaled = hessians / units[:, None] / units[:, :, None]
    scaled = jnp.where(is_none[:, None], jnp.eye(len(lengths.T), dtype=units.dtype)[None], scaled)
    least = jnp.linalg.eigvalsh(scaled)[:, 0] - jnp.sqrt(jnp.finfo(scaled.dtype).eps)
    shortest = jnp.min(lengths, axis=1, where=~is_none, initial=jnp.inf)
    roots = jnp.sqrt(jnp.maximum(least, 0)) * shortest
    return ~jnp.all(roots > reached)  # of NaN, too


class _Units(NamedTuple):
    """A gradient in units of the columns, ``D^-1/2 g``."""

    # ``D^1/2``, (unknowns, 1 or outputs); ones where a column has no length, or none is known.
    lengths: jax.Array
    norm: jax.Array  # the norm of ``D^-1/2 g``, (1, outputs)
    downhill: jax.Array  # ``D^-1/2 g`` over its norm, (unknowns, outputs)
    steps: int  # the number of steps of conjugate gradients

    @classmethod
    def of(cls, gradient: jax.Array, lengths: jax.Array | None) -> _Units:
        known = jnp.ones_like(gradient) if lengths is None else lengths
        is_there = (known > 0) & jnp.isfinite(known)
        known = jnp.where(is_there, known, 1)
        scaled = jnp.where(is_there, gradient / known, 0)
        norm = _norms(scaled)
        return cls(
            known, norm, scaled / jnp.where(norm > 0, norm, 1), STEPS * (lengths is not None)
        )

    def step(self, product: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """The step by conjugate gradients, of norm one in these units; along the gradient where the
        lengths are not known, because the rounding of other steps is not known either.
        """

        def goes_on(state: tuple[jax.Array, ...]) -> jax.Array:
            count, *_, squared = state
            return (count < self.steps) & jnp.any(squared > jnp.finfo(squared.dtype).eps)

        def advanced(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            count, found, rest, direction, squared = state
            image = product(direction / self.lengths) / self.lengths
            curvature = _sums(direction * image)
            rate = jnp.where(curvature > 0, squared / jnp.where(curvature > 0, curvature, 1), 0)
            found, rest = found + rate * direction, rest - rate * image
            left = _sums(jnp.square(rest))
            share = left / jnp.where(squared > 0, squared, 1)
            return count + 1, found, rest, rest + share * direction, left

        found = self.downhill
        if self.steps:
            start = (
                jnp.zeros((), jnp.int32),
                jnp.zeros_like(found),
                found,
                found,
                jnp.ones_like(self.norm),
            )
            found = lax.while_loop(goes_on, advanced, start)[1]
            norm = _norms(found)
            found = found / jnp.where(norm > 0, norm, 1)
        step = found / self.lengths
        return jnp.where(jnp.isfinite(step), step, 0)

    def certain_fall(
        self, step: jax.Array, along: jax.Array, moved: jax.Array, size: jax.Array
    ) -> jax.Array:
        """``a^2 / 2`` for a step d, (unknowns, outputs), after a bound on the rounding of a is
        subtracted from a, summed over the outputs; ``along`` is ``sqrt(d.H d)``, ``moved`` the size
        of the terms in the residual, and ``size`` that in each entry of ``D^-1/2 g``.
        """
        own = self.lengths * step
        slope, terms = self.norm * _sums(self.downhill * own), _sums(jnp.abs(own))
        is_known = (along > 0) & jnp.isfinite(along) & jnp.isfinite(slope)
        rounding = ULPS * float(jnp.finfo(slope.dtype).eps) * terms
        along = jnp.where(is_known, along, 1) + rounding
        fall = (slope - rounding * size) / along - ULPS * float(jnp.finfo(slope.dtype).eps) * moved
        return 0.5 * jnp.sum(jnp.where(is_known, jnp.square(jnp.maximum(fall, 0)), 0))


def _norms_of(*parts: jax.Array) -> list[jax.Array]:
    """The norms of each array's columns; computed side by side, they take fewer kernels."""
    return jnp.split(_norms(jnp.concatenate(parts, axis=1)), len(parts), axis=1)


def _norms(columns: jax.Array) -> jax.Array:
    """The norm of each column, (1, outputs), also where its square would overflow or underflow."""
    peak = jnp.max(jnp.abs(columns), axis=0, keepdims=True)
    peak = jnp.where(peak > 0, peak, 1)
    return peak * jnp.sqrt(_sums(jnp.square(columns / peak)))


def _sums(columns: jax.Array) -> jax.Array:
    return jnp.sum(columns, axis=0, keepdims=True)
