"""Whether a descent that says it has converged can be refuted by what the structure shows, or the
function itself where there is none (:mod:`jaxdescent.descent.function_look`).

What a method knows of the minimum it knows from where its steps have led. Two things can hide from
it. Features far from zero couple a regression's weights and its intercept: the gradient in both is
small wherever the intercept is at its best, and a method that sees nothing else creeps along a
valley so flat that its rate looks like an end. And an unknown of little curvature, such as the
weight of a column in small units, has a gradient that is small beside that of the others, or beside
its rounding, wherever that unknown stands.

Neither hides from the problem without the intercept (:mod:`jaxdescent.objectives.elimination`) in
units of the columns' own lengths. With its gradient g, its Hessian H and any positive diagonal D,
the best step along ``d = D^-1 g`` lowers the value by ``a^2 / 2`` with

    ``a = g.D^-1 g / sqrt(d.H d)``

so that the minimum is at least so much lower. It is a bound from below: it refutes, and confirms
nothing. D has the squared lengths of the columns as they are, means included, and the penalty.
Outputs are problems of their own, whose bounds add up.

The bound is computed with rounding, which must not refute what is true. Let ``A'A = H``. An error e
of the residual changes g.d by ``e.A d``, which is no more than ``|e| |A d|``: it changes a by no
more than ``|e|``, whatever the condition of H. What the products with A' make of rounding, ``eps
|r|`` times the length of each column, changes g.d by no more than ``eps |r| sqrt(n) |D^-1/2 g|``.
Both are taken off a.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent.descent import at_once, dense_look, function_look
from jaxdescent.descent.dense_look import Look
from jaxdescent.descent.loop_state import Loop
from jaxdescent.descent.suboptimality import NOISE_ULPS
from jaxdescent.descent.watch import Looks, Watch
from jaxdescent.designs import as_design
from jaxdescent.kernels import loops
from jaxdescent.kernels.branches import seldom
from jaxdescent.kernels.platform import on_cpu, on_one_cpu
from jaxdescent.methods import Method
from jaxdescent.numerics import precision
from jaxdescent.numerics.ritz import caution
from jaxdescent.objectives import Objective
from jaxdescent.regression import LinearRegression
from jaxdescent.result import RUNNING, Evidence, Status
from jaxdescent.tolerance import Off, Tolerance

if TYPE_CHECKING:
    from jaxdescent.second_order import few_unknowns

Params = Any

STEEP = 10.0
"""How many times more than its tolerance allows the gradient must be to refute a claim."""

ULPS = 4.0
"""How many roundings each term of a product is allowed."""

PAUSE = 4
"""A descent that has been refuted goes on for a quarter of its iterations before its next claim, so
that all looks together cost a few passes for each doubling of the iterations."""

STANDING = 3
"""A descent stagnates if so many of its refuted claims in succession were no nearer to the minimum
than an earlier one: rounding that its estimate does not know of holds it back."""


class _Asked(NamedTuple):
    """What is asked where a descent ends; each is ().

    Attributes:
      is_claim: whether it claims to have converged by what it estimates.
      is_looked_at: whether it is held against the structure or the function.
      allowed: by how much the value may be above the minimum.
      known: a decrease below this says nothing new.
    """

    is_claim: jax.Array
    is_looked_at: jax.Array
    allowed: jax.Array
    known: jax.Array


class Refutation(NamedTuple):
    """What is needed to look at a claim, the constants of a descent."""

    objective: Objective
    method: Method
    tolerance: Tolerance
    off: Off
    max_iterations: jax.Array

    def is_possible(self, params: Params, *, is_tried: bool = True) -> bool:
        """Whether the structure can show more than the method knows.

        Of params stored in 16 bits their own rounding is all that it would show. Without
        ``is_tried`` a function is taken to be one that can be differentiated twice.
        """
        if self.off.suboptimality is True or self.tolerance.has_changes:
            return False
        if precision.is_rounded(params) or self.objective.cuts is not None:
            return False
        if self._has_diagonal:
            return True
        if self.objective.is_quadratic or self.objective.is_separable:
            return False
        is_small = function_look.is_small(params)
        return is_small and (not is_tried or function_look.is_possible(self.objective, params))

    @property
    def _has_diagonal(self) -> bool:
        """Whether the objective's structure is what shows something, and not its function."""
        has_rows = self.objective.linear_regression is not None
        return has_rows or self.objective.hessian_array is not None

    @property
    def _is_small(self) -> bool:
        """Whether the objective is a regression that is taken apart by its singular vectors."""
        regression = self.objective.linear_regression
        estimates = self.method.estimates(self.objective)
        return regression is not None and dense_look.is_small(regression, estimates)

    def is_seen_by_host(self, loop: Loop) -> bool:
        """Whether the host can look at a claim whose numbers are there."""
        if not self.is_possible(loop.params, is_tried=False):
            return False
        if not at_once.is_at_hand((loop.params, self.objective)):
            return False
        if self.objective.linear_regression is not None:
            return self._is_small
        from jaxdescent.second_order import few_unknowns  # regressions go without it

        return few_unknowns.is_possible(self.objective, loop.params)

    def seen_by_host(self, loop: Loop) -> Look | None:
        """What the host sees; None where a program must look."""
        tolerance, value = float(self.tolerance.suboptimality), float(loop.value)
        if self._is_small:
            regression = self.objective.linear_regression
            allowed = tolerance * max(abs(value), float(loop.watch.floor))
            return dense_look.at_hand(regression, loop.params, allowed)
        from jaxdescent.second_order import few_unknowns  # regressions go without it

        found = few_unknowns.found_at(
            self.objective,
            loop.params,
            value=value,
            size=float(loop.watch.size.scale),
            tolerance=tolerance,
        )
        if found is None or not found.is_known:
            return None
        look = _look_of(found, np)
        return look._replace(falls=np.asarray(look.falls, loop.value.dtype))

    def unless_refuted(self, loop: Loop) -> Loop:
        """The loop at its end; running again where one step would lower the value by far more than
        the tolerance allows, or stagnated where the method finds none. Where a descent stagnated,
        its estimate is raised to what a step would lower the value by, or it has converged after
        all where the host can prove it.
        """

        def answer() -> tuple[jax.Array, Watch]:
            asked = self._asked(loop)
            has_structure = self._has_diagonal
            look = self._look_at_structure if has_structure else self._look_at_function
            return self._answered(loop, asked, look(loop, asked))

        is_one = loops.are_few((loop.params, self.objective))
        status, watch = loops.one_turn(answer) if is_one else answer()
        return loop._replace(status=status, watch=watch)

    def answered_by_host(self, loop: Loop, seen: Look) -> Loop:
        """:meth:`unless_refuted` without a program, for a loop whose numbers are there."""

        def own(loop: Loop) -> tuple[Any, ...]:
            watch = loop.watch
            return loop.status, watch.suboptimality, watch.evidence, watch.looks

        watch = loop.watch
        scales = watch.floor, watch.scale, watch.checks_without_progress
        read = loop.iteration, loop.value, loop.norm, scales
        before, (iteration, value, norm, scales) = jax.device_get((own(loop), read))
        status, left, evidence, looks = before
        floor, scale, checks = scales
        watch = watch._replace(suboptimality=left, evidence=evidence, looks=looks, floor=floor)
        watch = watch._replace(scale=scale, checks_without_progress=checks)
        there = loop._replace(
            status=status, iteration=iteration, value=value, norm=norm, watch=watch
        )
        asked = self._asked(there, np)
        status, watch = self._answered(there, asked, seen, np)

        def as_before(new: Any, number: Any, old: Any) -> Any:
            new = np.asarray(new, number.dtype)
            return old if new == number else jax.device_put(new, old.sharding)

        after = own(there._replace(status=status, watch=watch))
        status, left, evidence, looks = jax.tree.map(as_before, after, before, own(loop))
        watch = loop.watch._replace(suboptimality=left, evidence=evidence, looks=looks)
        return loop._replace(status=status, watch=watch)

    def _asked(self, loop: Loop, xp: Any = jnp) -> _Asked:
        """Whether there is a claim, whether it is looked at, and what it allows."""
        watch = loop.watch
        # What rests on a bound is no estimate, but for the rounding of the gradient in it; and what
        # a method claims by rules of its own is not claimed by the tolerance. A factorisation may
        # have taken a short column for rounding.
        least = Evidence.BOUND if self._is_small else Evidence.FACTORISATION
        is_estimate = watch.evidence >= least.value
        allowed = xp.asarray(self.tolerance.suboptimality, loop.value.dtype)
        allowed = allowed * xp.maximum(xp.abs(loop.value), watch.floor)
        is_claim = (loop.status == Status.CONVERGED.value) & (watch.suboptimality <= allowed)
        is_claim = is_claim & is_estimate & xp.logical_not(self.off.suboptimality)
        is_stuck = (loop.status == Status.STAGNATED.value) & (watch.suboptimality < xp.inf)
        is_stuck = is_stuck & is_estimate & xp.logical_not(self.off.suboptimality)
        known = xp.maximum(allowed, xp.where(is_stuck, watch.suboptimality, allowed))
        return _Asked(is_claim, is_claim | is_stuck, allowed, known)

    def _answered(
        self, loop: Loop, asked: _Asked, look: Look, xp: Any = jnp
    ) -> tuple[jax.Array, Watch]:
        """The status and what the rules remember after a look."""
        watch, looks = loop.watch, loop.watch.looks
        assert looks is not None
        falls = xp.where(asked.is_looked_at, look.falls, 0)
        seen = xp.where(asked.is_looked_at & xp.isfinite(falls), loop.value - falls, xp.inf)
        lowest = xp.minimum(looks.lowest, seen)
        falls = xp.maximum(falls, loop.value - lowest)
        was_lower = (loop.value - looks.lowest > asked.allowed) & xp.logical_not(look.is_proven)
        is_false = (asked.is_looked_at & look.is_false) | was_lower
        is_refuted = asked.is_claim & is_false
        stands = (falls >= looks.nearest) & xp.isfinite(falls)
        stands = xp.where(is_refuted & stands, looks.standing + 1, 0).astype(xp.int32)
        pause = xp.maximum(loop.iteration // PAUSE, 1)
        looks = Looks(
            xp.where(is_refuted, loop.iteration + pause, looks.next),
            lowest,
            xp.where(is_refuted, xp.minimum(looks.nearest, falls), looks.nearest),
            xp.where(is_refuted, stands, looks.standing),
        )
        instead = self._instead(loop, looks.standing, xp)
        status = xp.where(is_refuted, instead, loop.status)
        # What is known is said however the descent ends, and is no bound from above.
        is_low = (status != RUNNING) & (falls > watch.suboptimality)
        is_ended = asked.is_claim | (loop.status == Status.STAGNATED.value)
        is_proven = look.is_proven & is_ended & xp.logical_not(self.off.suboptimality)
        has_rows = self.objective.linear_regression is not None
        known = Evidence.FACTORISATION if has_rows else Evidence.NEWTON_DECREMENT
        # A claim that rests on more than the look does keeps its own evidence.
        is_weaker = (status == Status.CONVERGED.value) & (watch.evidence < known.value)
        is_proven = is_proven & self._is_level(loop, xp) & xp.logical_not(is_weaker)
        status = xp.where(is_proven, np.int32(Status.CONVERGED.value), status)
        above = xp.where(is_low, falls, watch.suboptimality)
        above = xp.where(is_proven, look.falls, above)
        evidence = xp.where(is_low | is_proven, np.int32(known.value), watch.evidence)
        evidence = xp.where(above < xp.inf, evidence, np.int32(Evidence.NONE.value))
        return status, watch._replace(suboptimality=above, evidence=evidence, looks=looks)

    def _is_level(self, loop: Loop, xp: Any) -> Any:
        """Whether the gradient is small by its own tolerance, which a proof leaves as it is."""
        if self.off.gradient is True:
            return True
        if self.tolerance.is_by_leaf:
            return False
        scale = loop.watch.scale
        is_small = loop.norm <= xp.asarray(self.tolerance.gradient, scale.dtype) * scale
        return is_small | self.off.gradient

    def _instead(self, loop: Loop, standing: jax.Array, xp: Any) -> jax.Array:
        """The status of a descent whose claim has been refuted."""
        is_last = loop.iteration >= self.max_iterations
        is_stuck = loop.watch.checks_without_progress >= self.method.patience
        is_stuck = is_stuck | (standing >= STANDING)
        again = xp.where(is_last, Status.MAX_ITERATIONS.value, RUNNING)
        return xp.where(is_stuck, Status.STAGNATED.value, again).astype(xp.int32)

    def _look_at_function(self, loop: Loop, asked: _Asked) -> Look:
        """What the function shows, if it is looked at."""
        from jaxdescent.second_order import few_unknowns

        # Of numbers alone: JAX would keep the structure of what it is given, and with it the
        # objective's function, beyond the program.
        # A function of a batch's member may still close over the member's arrays.
        objective = self.objective.hoisted(loop.params)
        numbers, structure = jax.tree.flatten((objective, loop.params))

        def in_own_dtype() -> Look:
            def look(*numbers: jax.Array) -> function_look.Seen:
                return function_look.seen_at(*structure.unflatten(numbers))

            def no_look(*numbers: jax.Array) -> function_look.Seen:
                return function_look.nothing_seen(*structure.unflatten(numbers))

            seen = seldom(asked.is_looked_at, look, no_look, *numbers)
            falls, allowed = self._measured_decrease(loop, asked, seen)
            return Look.refuting(falls, allowed)

        def in_double() -> Look:
            def look(value: Any, size: Any, tolerance: Any, *numbers: jax.Array) -> Look:
                at = structure.unflatten(numbers)
                how = {"value": value, "size": size, "tolerance": tolerance}
                found = few_unknowns.found_in_program(*at, **how)
                return _look_of(found, jnp)

            def no_look(value: Any, *rest: Any) -> Look:
                del rest
                return Look.refuting(jnp.zeros_like(value), jnp.zeros_like(value))

            watch, tolerance = loop.watch, jnp.asarray(self.tolerance.suboptimality)
            is_asked = asked.is_claim | (loop.status == Status.STAGNATED.value)
            given = loop.value, watch.size.scale, tolerance, *numbers
            return seldom(is_asked, look, no_look, *given)

        is_small = few_unknowns.is_possible(objective, loop.params)
        if not is_small or not few_unknowns.is_traceable(objective, loop.params):
            return in_own_dtype()
        return on_one_cpu(in_double, in_own_dtype)

    def _measured_decrease(
        self, loop: Loop, asked: _Asked, seen: function_look.Seen
    ) -> tuple[jax.Array, jax.Array]:
        """By how much a step was seen to lower the value, and what is allowed by a curvature that
        is none of a kink's. The decrease is infinite where the gradient is not small by that.
        """
        watch, t = loop.watch, self.tolerance
        size, height = watch.size.scale, jnp.abs(loop.value)
        worth = (0.5 * seen.curvature * size * size).astype(height.dtype)
        least = jnp.asarray(t.suboptimality, height.dtype)
        floor = jnp.minimum(watch.floor, precision.epsilon(loop.params) * worth)
        allowed = jnp.minimum(asked.allowed, least * jnp.maximum(height, floor))
        # A difference of two values has their rounding.
        noise = NOISE_ULPS * float(jnp.finfo(height.dtype).eps) * height
        falls = loop.value - seen.lowest
        falls = jnp.where(falls > noise, falls, 0)
        if self.off.gradient is not True and not t.is_by_leaf:
            own = height.astype(size.dtype) / jnp.where(size > 0, size, 1)
            own = jnp.maximum(own, seen.curvature * size)
            scale = STEEP * jnp.maximum(watch.reference, own)
            is_small = loop.norm <= jnp.asarray(t.gradient, scale.dtype) * scale
            is_steep = jnp.logical_not(is_small | self.off.gradient)
            is_steep = is_steep & (loop.status != Status.STAGNATED.value)
            falls = jnp.where(is_steep, jnp.inf, falls)
        return jnp.where(asked.is_looked_at & (falls > 0), falls, 0), allowed

    def _look_at_structure(self, loop: Loop, asked: _Asked) -> Look:
        """What the structure shows, nothing where nobody asks. Under ``vmap`` a plain branch would
        copy X for every member.
        """
        params, seen = precision.widen(loop.params), None
        if self.method.estimates(self.objective):
            reached = loop.norm / jnp.sqrt(2 * asked.known).astype(loop.norm.dtype)
            seen = Seen(caution(loop.norm.dtype), reached)
        regression, allowed = self.objective.linear_regression, asked.allowed
        look, of = look_at_regression, regression
        if regression is None:
            look, of = look_at_quadratic, self.objective
        inputs = of, params, seen, allowed.astype(jnp.result_type(*jax.tree.leaves(params)))
        return seldom(asked.is_looked_at, look, _no_look, *inputs)


class Seen(NamedTuple):
    """What a method with an estimate of its own has seen; no other need look.

    Attributes:
      ratio: by how much the smallest curvature may be below the largest for the method to see it
        (:func:`jaxdescent.numerics.ritz.caution`).
      reached: the root of the curvature along which the gradient that was reached would still
        lower the value by more than is allowed.
    """

    ratio: float
    reached: jax.Array


def look_at_regression(
    regression: LinearRegression,
    params: Params,
    seen: Seen | None = None,
    allowed: Any = 0.0,
) -> Look:
    """What LAPACK shows where X is small on a CPU; else what one step of the weights is sure to
    bring.

    The step takes a pass over X for the lengths of its columns, two for the gradient at the best
    intercept, and one for the curvature. Where X does not know its columns, the step is one along
    the gradient.

    Args:
      regression: whose X and y are known.
      params: where the claim was made.
      seen: where no unknown's own curvature is below this, the answer is zero after the first pass.
        None for a method that sees none.
      allowed: by how much the value may be above the minimum.
    """

    def by_one_step() -> Look:
        lengths = _lengths_of(regression)
        is_needed = _is_uneven(lengths, seen)
        falls = seldom(is_needed, _fall_of_regression, _nothing, regression, params, lengths)
        return Look.refuting(falls, allowed)

    if dense_look.is_small(regression, seen is not None):
        look = on_cpu(lambda: dense_look.in_program(regression, params, allowed), by_one_step)
    else:
        look = by_one_step()
    # Traced penalties and weights may be negative, and then no term may be left out.
    is_convex = jnp.all(jnp.asarray(regression.l2) >= 0)
    if regression.sample_weight is not None:
        is_convex &= jnp.all(regression.sample_weight >= 0)
    return jax.tree.map(lambda leaf: jnp.where(is_convex, leaf, jnp.zeros_like(leaf)), look)


def _lengths_of(regression: LinearRegression) -> jax.Array | None:
    """The lengths of the columns with the penalty's rows below them, (features, 1) or (features,
    outputs); None where X does not know them.
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
        # Twice: X' would multiply what the first subtraction leaves of the mean by X's own means.
        for _ in range(2 * regression.intercept):
            rows = rows - _sums(share * rows) / total
        return rows

    def of_outputs(product: Any, columns: jax.Array) -> jax.Array:
        # One output is a vector, as everywhere: a design may know no other.
        is_one = jnp.ndim(regression.y) == 1
        return product(columns[:, 0])[:, None] if is_one else product(columns)

    residual = at_best_intercept(of_outputs(design.product, weights) - targets)
    pulled = of_outputs(design.transposed_product, share * residual)
    pulled = pulled + jnp.square(penalty) * weights
    scaled, step = _scaled_step(pulled, lengths)
    image = at_best_intercept(of_outputs(design.product, step))
    bent, missed, aimed = _norms_of(root * image, root * residual, root * targets)
    shortened, shrunk = _norms_of(penalty * step, penalty * weights)
    along, left = jnp.hypot(bent, shortened), missed + shrunk
    moved = left + 2 * aimed
    if lengths is not None:
        moved = _sums(lengths * jnp.abs(weights)) + aimed
    return _certain(scaled, along, moved, left, design.shape[1])


def _root_of_penalty(regression: LinearRegression, dtype: Any) -> jax.Array:
    """The root of ``l2``, (1, 1) or (1, outputs)."""
    return jnp.sqrt(jnp.maximum(jnp.asarray(regression.l2, dtype), 0)).reshape(1, -1)


def look_at_quadratic(
    objective: Objective, params: Params, seen: Seen | None = None, allowed: Any = 0.0
) -> Look:
    """What one step shows of a quadratic form whose Hessian is stored: two products with it."""
    matrix = objective.hessian_array
    assert matrix is not None  # or nothing can be refuted
    diagonal = jnp.diagonal(matrix).astype(jax.tree.leaves(params)[0].dtype)
    lengths = jnp.sqrt(jnp.maximum(diagonal, 0))[:, None]
    is_needed = _is_uneven(lengths, seen)
    falls = seldom(is_needed, _fall_of_quadratic, _nothing, objective, params, lengths)
    return Look.refuting(falls, allowed)


def _fall_of_quadratic(objective: Objective, params: Params, lengths: jax.Array) -> jax.Array:
    (x,), treedef = jax.tree.flatten(params)
    gradient = jax.tree.leaves(objective.gradient(params))[0][:, None]
    scaled, step = _scaled_step(gradient, lengths)
    curvature = objective.curvature(params, treedef.unflatten([step[:, 0]]))
    # Of a positive semidefinite H no term of H x exceeds this, in its row's length; the linear
    # terms are H x - g.
    size = 2 * _sums(lengths * jnp.abs(x[:, None])) + scaled
    along = jnp.sqrt(jnp.maximum(curvature, 0))
    return _certain(scaled, along, jnp.zeros_like(size), size, x.size)


def _nothing(objective: Objective, params: Params, *rest: Any) -> jax.Array:
    del objective, rest
    return jnp.zeros((), jnp.result_type(*jax.tree.leaves(params)))


def _look_of(found: few_unknowns.Found, xp: Any) -> Look:
    is_false = found.is_known & xp.logical_not(found.is_stationary)
    return Look(found.falls, is_false, found.is_stationary & found.is_convex)


def _no_look(of: Any, params: Params, *rest: Any) -> Look:
    nothing = _nothing(of, params, *rest)
    return Look.refuting(nothing, nothing)


def _is_uneven(lengths: jax.Array | None, seen: Seen | None) -> jax.Array:
    """Whether a length is so small that the method may not have seen it."""
    if lengths is None or seen is None:
        return jnp.array(seen is None)  # along the gradient a method with an estimate has looked
    longest = jnp.max(lengths)
    shares = lengths / jnp.where(longest > 0, longest, 1)
    shortest = jnp.min(jnp.where(shares > 0, shares, 1))
    is_even = jnp.sum(jnp.square(shares)) <= seen.ratio * jnp.square(shortest)
    return ~is_even | (seen.reached > shortest * longest)


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
      size: that of the terms in each entry of ``D^-1/2 g``.
      unknowns: how many there are.
    """
    is_known = (along > 0) & jnp.isfinite(along) & jnp.isfinite(scaled)
    eps, root = ULPS * float(jnp.finfo(scaled.dtype).eps), float(unknowns) ** 0.5
    along = jnp.where(is_known, along, 1) + eps * root  # its own rounding
    rounding = eps * (moved + size * root / along)
    falls = jnp.maximum(scaled / along - rounding, 0)
    return 0.5 * jnp.sum(jnp.where(is_known, jnp.square(falls), 0))


def _norms_of(*parts: jax.Array) -> list[jax.Array]:
    """The norms of the columns of each; side by side they are fewer kernels to compile."""
    return jnp.split(_norms(jnp.concatenate(parts, axis=1)), len(parts), axis=1)


def _norms(columns: jax.Array) -> jax.Array:
    """The norm of each column, (1, outputs), also where its square would overflow or underflow."""
    peak = jnp.max(jnp.abs(columns), axis=0, keepdims=True)
    peak = jnp.where(peak > 0, peak, 1)
    return peak * jnp.sqrt(_sums(jnp.square(columns / peak)))


def _sums(columns: jax.Array) -> jax.Array:
    return jnp.sum(columns, axis=0, keepdims=True)
