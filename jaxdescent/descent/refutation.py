"""Whether a descent's claim to have converged stands, or is refuted.

A method knows the function only along its steps. Two kinds of directions can escape it. Features
far from zero couple a regression's weights and its intercept: the gradient in both is small
wherever the intercept is at its best, and a method that uses only this gradient moves slowly along
a valley so flat that its rate looks like convergence. And an unknown of little curvature, such as
the weight of a column in small units, has a gradient that is small compared with that of the
others, or with its own rounding, however far this unknown is from its best value.

Both show in the structure of a regression or a stored quadratic form
(:mod:`~jaxdescent.descent.looks.scaled_step`, or
:mod:`~jaxdescent.descent.looks.singular_values` where X is small), or in the function
(:mod:`~jaxdescent.descent.looks.newton_steps`, or
:mod:`~jaxdescent.descent.looks.few_unknowns` where the unknowns are few). This module decides when
a claim is examined ("looked at"), and how a refuted descent continues or ends.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent import placement
from jaxdescent.descent import at_once
from jaxdescent.descent.looks import (
    Asked,
    Look,
    newton_steps,
    scaled_step,
    singular_values,
    sketched,
)
from jaxdescent.descent.measured import Measured
from jaxdescent.descent.nearness import with_bound_alone
from jaxdescent.descent.watch import Looks, Loop, Watch
from jaxdescent.inputs.functions import MOST_IN_DOUBLE
from jaxdescent.kernels import loops
from jaxdescent.kernels.branches import seldom
from jaxdescent.kernels.platform import on_one_cpu
from jaxdescent.numerics import precision
from jaxdescent.objectives import Params
from jaxdescent.status import RUNNING, Evidence, Status

PAUSE = 4
"""After a refuted claim the next one is made after a quarter more iterations, so that few looks are
made for each doubling of the iterations."""

STANDING = 3
"""The number of refuted claims in succession, none nearer to the minimum than an earlier one, after
which a descent has stagnated: rounding that its estimate leaves out stops its progress."""


class Refutable(Measured):
    """A descent whose claims are looked at."""

    def is_refutable(self, params: Params, *, is_tried: bool = True) -> bool:
        """Whether a look can show more than the method knows.

        Of a function, or a quadratic form, with params stored in 16 bits a look would show only
        their rounding. Without ``is_tried`` a function is assumed to be twice differentiable.
        """
        if self.tolerance.off.suboptimality is True or self.tolerance.has_changes:
            return False
        if precision.is_rounded(params) and self.objective.linear_regression is None:
            return False
        if self.has_diagonal:
            return True
        if self.objective.is_quadratic or self.objective.is_separable:
            return False
        return newton_steps.is_possible(self.objective, params, is_tried=is_tried)

    @property
    def has_diagonal(self) -> bool:
        """Whether the structure is examined, by rows or a stored Hessian, and not the function."""
        has_rows = self.objective.linear_regression is not None
        return has_rows or self.objective.hessian_array is not None

    @property
    def is_small(self) -> bool:
        """Whether the objective is a regression so small that its singular values are computed."""
        if (regression := self.objective.linear_regression) is None:
            return False
        if singular_values.is_small(regression, self.method.estimates(self.objective)):
            return True
        is_direct = self.method.solves_at_once(self.objective)
        return is_direct and singular_values.is_worth_another_solve(regression)

    def is_seen_by_host(self, params: Params, *, is_blurred: bool = False) -> bool:
        """Whether the host can look at a claim that is made at these params, if all arrays are
        concrete; ``is_blurred`` if the rounding of the Hessian in the params' own dtype hides more
        of the value than is allowed, within the size of the params.
        """
        is_possible = self.is_refutable(params, is_tried=False)
        if not (is_possible and placement.is_at_hand((params, self.objective))):
            return False
        if self.objective.linear_regression is not None:
            return self.is_small
        if not at_once.lies_on_a_cpu((params, self.objective)):
            return False
        from jaxdescent.descent.looks import few_unknowns  # regressions go without it

        most = MOST_IN_DOUBLE if is_blurred else few_unknowns.MOST_ALWAYS
        return few_unknowns.is_possible(self.objective, params, most)

    def _seen_by_host(self, loop: Loop, asked: Asked) -> Look | None:
        """The host's look at the claim; None if a program must look instead."""
        if (regression := self.objective.linear_regression) is None:
            least = self.tolerance.allowed(np.asarray(loop.value), 0, np)
            is_blurred = bool(asked.is_looked_at) and float(loop.watch.floor) > float(least)
            if not self.is_seen_by_host(loop.params, is_blurred=is_blurred):
                return None
            from jaxdescent.descent.looks import few_unknowns  # regressions go without it

            return few_unknowns.at_hand(self.objective, self.tolerance, loop)
        if not placement.is_at_hand((loop.params, self.objective)):
            return None
        allowed = float(asked.allowed)
        if not self.is_small:
            iterations, is_claim = int(loop.iteration), bool(asked.is_claim)
            is_sketched = is_claim and sketched.is_possible(regression, iterations)
            is_seldom = is_sketched or not is_claim
            if not singular_values.is_worth_a_solve(regression, iterations, is_seldom=is_seldom):
                return None
            is_proven = not asked.is_looked_at
            if is_sketched:
                known = loop.params["weights"], float(loop.value), float(loop.norm), allowed
                is_proven = sketched.proves(regression, *known)
            if is_proven:
                return Look(np.zeros(()), *3 * [np.zeros((), bool)])
        return singular_values.at_hand(regression, loop.params, allowed)

    def looked_at(self, loop: Loop) -> Loop:
        """The loop after a look at its claim, which has been measured.

        A refuted descent runs again, or has stagnated if its method makes no more progress. For a
        descent that stagnated, the estimate is raised to the decrease that a step would bring, or
        the status becomes CONVERGED if a look proves it. The estimate for a small regression
        becomes the distance of its value from the minimum, at the last iteration too.
        """
        if loop.watch.looks is None or not self.is_refutable(loop.params):
            return loop

        def answer() -> tuple[jax.Array, Watch]:
            asked = self._asked(loop, self.method.overlooks(loop.state))
            look = self._look_at_structure if self.has_diagonal else self._look_at_function
            return self._answered(loop, asked, look(loop, asked))

        status, watch = loops.one_turn_if_few(answer, (loop.params, self.objective))
        return loop._replace(status=status, watch=watch)

    def answered_by_host(self, loop: Loop, seen: Look | None = None) -> Loop | None:
        """:meth:`looked_at` for a loop whose arrays are concrete, by the host, if another look has
        not ``seen`` the claim yet; None if a program must look instead.
        """
        if not self.is_refutable(loop.params, is_tried=False):
            return None
        numbers = loop._replace(params=(), state=(), history=())
        before, limit = jax.tree.map(np.asarray, (numbers, self.max_iterations))
        host = self._replace(max_iterations=limit)
        asked = host._asked(before, bool(self.method.overlooks(loop.state)), np)
        if seen is None and (seen := self._seen_by_host(loop, asked)) is None:
            return None
        status, watch = host._answered(before, asked, seen, np)

        def as_before(new: Any, seen: np.ndarray, old: jax.Array) -> jax.Array:
            is_same = new is seen or new == seen
            return old if is_same else jax.device_put(np.asarray(new, old.dtype), old.sharding)

        was, old = (before.status, before.watch), (loop.status, loop.watch)
        status, watch = jax.tree.map(as_before, (status, watch), was, old)
        return loop._replace(status=status, watch=watch)

    def _asked(self, loop: Loop, overlooks: Any, xp: Any = jnp) -> Asked:
        """Whether there is a claim, whether it is looked at, and the suboptimality it allows; a
        claim stands if its method ``overlooks`` nothing.
        """
        watch = loop.watch
        # A claim that rests on a bound is no estimate, but for the rounding of the gradient in it;
        # unless it is small beside the floor alone, which a flat unknown of large size may raise.
        # A claim by a method's own rules is not one by the tolerance. A factorisation may have
        # mistaken a short column for rounding.
        least = Evidence.BOUND if self.is_small else Evidence.FACTORISATION
        is_on = xp.logical_not(self.tolerance.off.suboptimality)
        allowed = self.tolerance.allowed(loop.value, watch.floor, xp)
        is_claim = (loop.status == Status.CONVERGED.value) & (watch.suboptimality <= allowed)
        is_by_floor = watch.suboptimality > self.tolerance.allowed(loop.value, 0, xp)
        is_claim = is_claim & (is_by_floor | (watch.evidence >= least.value)) & is_on & overlooks
        is_stuck = loop.status == Status.STAGNATED.value
        if self.is_small:
            is_stuck = is_stuck | (loop.status == Status.MAX_ITERATIONS.value)
        is_stuck = is_stuck & is_on
        return Asked(is_claim, is_claim | is_stuck, allowed)

    def _answered(
        self, loop: Loop, asked: Asked, look: Look, xp: Any = jnp
    ) -> tuple[jax.Array, Watch]:
        """The status and the watch after a look."""
        watch, looks = loop.watch, loop.watch.looks
        assert looks is not None
        falls = xp.where(asked.is_looked_at, look.falls, 0)
        seen = xp.where(asked.is_looked_at & xp.isfinite(falls), loop.value - falls, xp.inf)
        lowest = xp.minimum(looks.lowest, seen)
        # The difference of two values has the rounding of both, which an exact look has not.
        falls = xp.where(look.is_exact, falls, xp.maximum(falls, loop.value - lowest))
        was_lower = (loop.value - looks.lowest > asked.allowed) & xp.logical_not(look.is_exact)
        is_false = (asked.is_looked_at & look.is_false) | was_lower
        is_refuted = asked.is_claim & is_false
        stands = (falls >= looks.nearest) & xp.isfinite(falls)
        stands = xp.where(is_refuted & stands, looks.standing + 1, 0).astype(xp.int32)
        pause = xp.maximum(loop.iteration // PAUSE, 1)
        looks = Looks(
            xp.where(is_refuted, loop.iteration + pause, looks.next),
            lowest,
            xp.where(is_refuted, xp.fmin(looks.nearest, falls), looks.nearest),
            xp.where(is_refuted, stands, looks.standing),
        )
        is_last = loop.iteration >= self.max_iterations
        is_stuck = loop.watch.checks_without_progress >= self.method.patience
        is_stuck = is_stuck | (looks.standing >= STANDING)
        instead = xp.where(is_last, Status.MAX_ITERATIONS.value, RUNNING)
        instead = xp.where(is_stuck, Status.STAGNATED.value, instead).astype(xp.int32)
        status = xp.where(is_refuted, instead, loop.status)
        # The known decrease is reported however the descent ends; it is no upper bound.
        is_low = (status != RUNNING) & (falls > watch.suboptimality)
        has_rows = self.objective.linear_regression is not None
        known = Evidence.FACTORISATION if has_rows else Evidence.NEWTON_DECREMENT
        # A claim with stronger evidence than the look keeps its own.
        is_stronger = (status == Status.CONVERGED.value) & (watch.evidence < known.value)
        is_exact = look.is_exact & asked.is_looked_at & ~is_stronger & (status != RUNNING)
        # Where the start is the minimum, its gradient is rounding, and no scale for a gradient: a
        # bound proves it.
        is_bounded = asked.is_looked_at & (loop.status == Status.STAGNATED.value)
        is_bounded &= (watch.evidence <= Evidence.BOUND.value) & xp.logical_not(is_false)
        is_bounded &= watch.suboptimality <= asked.allowed
        is_near = is_bounded | (look.falls <= asked.allowed)
        is_level = self.tolerance.is_level(loop.norm, loop.watch.scale, is_near, xp)
        is_enough = look.is_minimum & (status == Status.STAGNATED.value)
        is_true = xp.logical_not(look.is_false) | is_enough
        is_proven = is_exact & is_true & (status != Status.MAX_ITERATIONS.value)
        is_proven = (is_proven | is_bounded) & is_level
        status = xp.where(is_proven, np.int32(Status.CONVERGED.value), status)
        above = xp.where(is_low, falls, watch.suboptimality)
        above = xp.where(is_exact, look.falls, above)
        evidence = xp.where(is_low | is_exact, np.int32(known.value), watch.evidence)
        evidence = xp.where(above < xp.inf, evidence, np.int32(Evidence.NONE.value))
        watch = watch._replace(suboptimality=above, evidence=evidence, looks=looks)
        is_lost = (status == Status.STAGNATED.value) & look.is_false & xp.logical_not(is_exact)
        if not self.has_diagonal and (xp is jnp or is_lost):
            # Where a function's own method does not get further, its expansion does not lead on.
            watch = with_bound_alone(watch, self.objective, loop.value, loop.norm, is_lost)
        return status, watch

    def _look_at_function(self, loop: Loop, asked: Asked) -> Look:
        """The look at the claim by the function: in float64 where its unknowns are few."""
        from jaxdescent.descent.looks import few_unknowns

        # The branches take arrays alone: JAX would keep the objective's function beyond the
        # program, and a function of a batch's member may still close over the member's arrays.
        objective = self.objective.hoisted(loop.params)
        parts = objective, self.tolerance, loop._replace(state=(), history=()), asked
        numbers, structure = jax.tree.flatten(parts)
        members, dtype = few_unknowns.members_at_once(objective, loop.params), loop.value.dtype

        def by(look: Any, members: int = 1) -> Look:
            return seldom(
                asked.is_looked_at,
                lambda *numbers: look(*structure.unflatten(numbers)),
                lambda *_: Look.nothing(dtype),
                *numbers,
                at_once=members,
            )

        if not members:
            return by(newton_steps.look)
        return on_one_cpu(
            lambda: by(few_unknowns.in_program, members), lambda: by(newton_steps.look)
        )

    def _look_at_structure(self, loop: Loop, asked: Asked) -> Look:
        """The look at the claim by the structure. Under ``vmap`` a plain branch would copy X for
        every member.
        """
        params, allowed = precision.widen(loop.params), asked.allowed
        known = self._known(loop, asked)
        regression = self.objective.linear_regression
        look = functools.partial(scaled_step.look_at_regression, is_small=self.is_small)
        of = regression
        if regression is None:
            look, of = scaled_step.look_at_quadratic, self.objective
        inputs = of, params, known, allowed.astype(jnp.result_type(*jax.tree.leaves(params)))
        dtype = inputs[-1].dtype
        return seldom(asked.is_looked_at, look, lambda *inputs: Look.nothing(dtype), *inputs)

    def is_seen_by_lengths(self, loop: Loop) -> bool:
        """Whether the lengths of the columns may show that a look by a program finds nothing."""
        is_by_step = self.has_diagonal and not self.is_small
        return loop.watch.looks is not None and is_by_step and self.method.estimates(self.objective)

    def takes_a_step(self, loop: Loop) -> jax.Array:
        """Whether a look by a program at this claim would take a step of the weights."""
        asked = self._asked(loop, self.method.overlooks(loop.state))
        params, known = precision.widen(loop.params), self._known(loop, asked)
        return asked.is_looked_at & scaled_step.is_needed(self.objective, params, known)

    def _known(self, loop: Loop, asked: Asked) -> scaled_step.Resolved | None:
        """What the method knows of the curvatures; None if it has no estimate."""
        if not self.method.estimates(self.objective):
            return None
        reached = loop.norm / jnp.sqrt(2 * asked.allowed).astype(loop.norm.dtype)
        # The estimate of a descent that stagnated may rest on few directions.
        return scaled_step.Resolved(jnp.where(asked.is_claim, reached, jnp.inf), loop.iteration)
