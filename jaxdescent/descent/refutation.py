"""Whether a descent that says it has converged can be refuted by what the structure shows.

What a method knows of the minimum it knows from where its steps have led. Two things can hide from
it. Features far from zero couple a regression's weights and its intercept: the gradient in both is
small wherever the intercept is at its best, and a method that sees nothing else creeps along a
valley so flat that its rate looks like an end. And an unknown of little curvature, such as the
weight of a column in small units, has a gradient that is small beside that of the others, or beside
its rounding, wherever that unknown stands.

Neither hides from the problem without the intercept (:mod:`jaxdescent.objectives.elimination`) in
units in which every unknown has the curvature one. With its gradient g, its Hessian H and D the
diagonal of H, the best step along ``d = D^-1 g`` lowers the value by ``a^2 / 2`` with

    ``a = g.D^-1 g / sqrt(d.H d)``

so that the minimum is at least so much lower. It is a bound from below: it refutes, and confirms
nothing. Outputs are problems of their own, whose bounds add up.

The bound is computed with rounding, which must not refute what is true. Let ``A'A = H``, with
columns of the lengths ``l_j = sqrt(D_jj)``. An error e of the residual changes g.d by ``e.A d``,
which is no more than ``|e| |A d|``: it changes a by no more than ``|e|``, whatever the condition of
H. An error of ``eps l_j |r|`` in each entry of g, which is what the products with A' make, changes
``g.d`` by no more than ``eps |r| sqrt(n) |D^-1/2 g|``. Both are taken off a.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.descent.loop_state import Loop
from jaxdescent.methods import Method
from jaxdescent.numerics import precision
from jaxdescent.numerics.ritz import caution
from jaxdescent.objectives import Objective
from jaxdescent.preconditioners import CentredRegression
from jaxdescent.preconditioners.hessians import ShiftedHessian, shifted_hessian
from jaxdescent.result import RUNNING, Evidence, Status
from jaxdescent.tolerance import Off, Tolerance

Params = Any

REFUTED = 10.0
"""How many times more than the tolerance allows the value must fall: the estimate that it is to
refute is one."""

ULPS = 4.0
"""How many roundings each term of a product is allowed."""

PAUSE = 4
"""A descent that has been refuted goes on for a quarter of its iterations before its next claim is
looked at, so that all looks together cost a few passes for each doubling of the iterations."""


class Refutation(NamedTuple):
    """What is needed to look at a claim, the constants of a descent."""

    objective: Objective
    method: Method
    tolerance: Tolerance
    off: Off
    max_iterations: jax.Array

    def is_possible(self, params: Params) -> bool:
        """Whether the structure can show more than the method knows.

        Of params stored in 16 bits their own rounding is all that it would show. A factorisation
        knows what the structure knows.
        """
        if self.off.suboptimality is True or self.tolerance.has_changes:
            return False
        if precision.is_rounded(params) or self.method.solves_at_once(self.objective):
            return False
        has_rows = self.objective.linear_regression is not None
        return has_rows or self.objective.hessian_array is not None

    def unless_refuted(self, loop: Loop) -> Loop:
        """The loop at its end; running again where one step would lower the value by far more than
        the tolerance allows, or stagnated where the method finds none.
        """
        watch = loop.watch
        assert watch.next_look is not None  # there is one where a refutation is possible
        is_last = loop.iteration >= self.max_iterations
        # What rests on a bound or a factorisation is no estimate; and what a method claims by
        # rules of its own is not claimed by the tolerance.
        is_estimate = watch.evidence >= Evidence.RITZ_VALUES.value
        allowed = jnp.asarray(self.tolerance.suboptimality, loop.value.dtype)
        allowed = allowed * jnp.maximum(jnp.abs(loop.value), watch.floor)
        is_claim = (loop.status == Status.CONVERGED.value) & (watch.suboptimality <= allowed)
        is_claim &= is_estimate & jnp.logical_not(self.off.suboptimality)
        is_early = (loop.iteration < watch.next_look) & ~is_last

        def looked_at(loop: Loop) -> Loop:
            falls = self._certain_decrease(loop).astype(loop.value.dtype)
            is_refuted = falls > REFUTED * allowed
            least = jnp.maximum(loop.watch.suboptimality, falls)
            pause = jnp.maximum(loop.iteration // PAUSE, 1)
            next_look = jnp.where(is_refuted, loop.iteration + pause, loop.watch.next_look)
            watch = loop.watch._replace(suboptimality=least, next_look=next_look)
            status = jnp.where(is_refuted, self._instead(loop), loop.status)
            return loop._replace(status=status, watch=watch)

        def gone_on(loop: Loop) -> Loop:
            status = jnp.where(is_claim, self._instead(loop), loop.status)
            return loop._replace(status=status)

        return lax.cond(is_claim & ~is_early, looked_at, gone_on, loop)

    def _instead(self, loop: Loop) -> jax.Array:
        """The status of a descent whose claim does not stand."""
        is_last = loop.iteration >= self.max_iterations
        is_stuck = loop.watch.checks_without_progress >= self.method.patience
        again = jnp.where(is_last, Status.MAX_ITERATIONS.value, RUNNING)
        return jnp.where(is_stuck, Status.STAGNATED.value, again).astype(jnp.int32)

    def _certain_decrease(self, loop: Loop) -> jax.Array:
        params = precision.widen(loop.params)
        dtype = jnp.result_type(*jax.tree.leaves(params))
        seen = caution(dtype) if self.method.estimates(self.objective) else None
        means = self.method.means(loop.state)
        hessian = shifted_hessian(self.objective, params, means)
        if hessian.regression is None:
            return decrease_of_quadratic(hessian, self.objective, params, seen)
        return decrease_of_regression(hessian.regression, params["weights"], seen)


def decrease_of_regression(
    regression: CentredRegression, weights: jax.Array, seen: float | None = None
) -> jax.Array:
    """The decrease of the value that one step of the weights is sure to bring.

    It takes a pass over X for the lengths of its columns, two for the gradient (one if X goes there
    and back at once), and one for the curvature. Where X does not know its columns, the step is one
    along the gradient.

    Args:
      regression: with the means of its data.
      weights: (features,) or (features, outputs).
      seen: by how much the smallest curvature may be below the largest for the method to see it
        (:func:`jaxdescent.numerics.ritz.caution`). Where no unknown's own curvature is below, the
        answer is zero after the first pass. None for a method that sees none.
    """
    weights = weights.reshape(regression.size, -1)
    lengths = regression.lengths()

    def look() -> jax.Array:
        targets, root = regression.targets(), jnp.sqrt(regression.shift)

        def residual(image: jax.Array, targets: jax.Array) -> jax.Array:
            return image - targets

        rows, pulled = regression.there_and_back(weights, residual, (targets,))
        gradient = pulled + regression.shift * weights
        scaled, step = _scaled_step(gradient, lengths)
        along = jnp.hypot(_norms(regression.forward(step)), _norms(root * step))
        of_rows, of_penalty = _norms(rows), _norms(root * weights)
        moved = of_rows + 2 * _norms(targets)
        if lengths is not None:
            moved = _sums(lengths * jnp.abs(weights)) + _norms(targets)
        if regression.means is not None:
            features, y_bar, total = regression.means
            away = _sums(jnp.abs(features.mean)[:, None] * jnp.abs(weights))
            away = away + jnp.abs(y_bar).reshape(1, -1)
            moved = moved + jnp.sqrt(total) * away
        return _certain(scaled, along, moved, of_rows + of_penalty, regression.size)

    return _unless_even(lengths, seen, look)


def decrease_of_quadratic(
    hessian: ShiftedHessian, objective: Objective, params: Params, seen: float | None = None
) -> jax.Array:
    """The same for a quadratic form whose Hessian is stored: two products with it."""
    lengths = hessian.lengths()
    assert lengths is not None  # because the Hessian is stored

    def column(tree: Params) -> jax.Array:
        (leaf,) = jax.tree.leaves(tree)
        return leaf.reshape(-1, 1)

    def look() -> jax.Array:
        scaled, step = _scaled_step(column(objective.gradient(params)), lengths)
        along = jnp.sqrt(jnp.maximum(_sums(step * hessian.product(step)), 0))
        # Of a positive semidefinite H no term of H x exceeds this, in its row's length; the linear
        # terms are H x - g.
        size = 2 * _sums(lengths * jnp.abs(column(params))) + scaled
        return _certain(scaled, along, jnp.zeros_like(size), size, hessian.size)

    return _unless_even(lengths, seen, look)


def _scaled_step(gradient: jax.Array, lengths: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """``|D^-1/2 g|`` of each output, and ``D^-1 g`` over it, without unknowns of no curvature."""
    if lengths is None:
        lengths = jnp.ones_like(gradient)
    is_there = (lengths > 0) & jnp.isfinite(lengths)
    lengths = jnp.where(is_there, lengths, 1)
    scaled = jnp.where(is_there, gradient / lengths, 0)
    norm = _norms(scaled)
    step = scaled / jnp.where(norm > 0, norm, 1) / lengths
    return norm, jnp.where(jnp.isfinite(step), step, 0)


def _certain(
    scaled: jax.Array, along: jax.Array, moved: jax.Array, size: jax.Array, unknowns: int
) -> jax.Array:
    """``a^2 / 2`` less what rounding may have made of it, summed over the outputs.

    Args:
      scaled: ``|D^-1/2 g|``.
      along: ``sqrt(d.H d)`` for ``d = D^-1 g / |D^-1/2 g|``.
      moved: the size of the terms in the residual.
      size: the size of the residual itself.
      unknowns: how many there are.
    """
    is_known = (along > 0) & jnp.isfinite(along) & jnp.isfinite(scaled)
    along = jnp.where(is_known, along, 1)
    eps = ULPS * jnp.finfo(scaled.dtype).eps
    rounding = eps * (moved + size * unknowns**0.5 / along)
    falls = jnp.maximum(scaled / along - rounding, 0)
    return 0.5 * jnp.sum(jnp.where(is_known, jnp.square(falls), 0))


def _unless_even(
    lengths: jax.Array | None, seen: float | None, look: Callable[[], jax.Array]
) -> jax.Array:
    """``look()``, or zero where no length is so small that the method might not have seen it."""
    if lengths is None or seen is None:
        return look()
    longest = jnp.max(lengths)
    shares = lengths / jnp.where(longest > 0, longest, 1)
    shortest = jnp.min(jnp.where(shares > 0, shares, 1))
    is_even = jnp.sum(jnp.square(shares)) <= seen * jnp.square(shortest)
    zero = jnp.zeros((), lengths.dtype)
    return lax.cond(is_even, lambda: zero, look)


def _norms(columns: jax.Array) -> jax.Array:
    """The norm of each column, (1, outputs), also where its square would overflow or underflow."""
    peak = jnp.max(jnp.abs(columns), axis=0, keepdims=True)
    peak = jnp.where(peak > 0, peak, 1)
    return peak * jnp.sqrt(_sums(jnp.square(columns / peak)))


def _sums(columns: jax.Array) -> jax.Array:
    return jnp.sum(columns, axis=0, keepdims=True)
