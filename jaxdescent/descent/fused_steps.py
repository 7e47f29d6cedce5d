"""The steps between two checks, in as few passes over the params as possible.

Elementwise steps on separable unknowns are unrolled, so that XLA fuses them into one in-place pass.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.descent.checking import Checked
from jaxdescent.descent.state import Loop
from jaxdescent.kernels import loops
from jaxdescent.kernels.branches import where
from jaxdescent.methods import Method
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective, Params

FUSED_STEPS = 32
"""The most elementwise steps on separable unknowns that are fused into one pass over the params."""


class Steps(NamedTuple):
    """The values that steps change."""

    params: Params
    state: Any
    evaluations: jax.Array
    verdict: jax.Array


def fuses(objective: Objective, method: Method) -> bool:
    """Whether consecutive steps can be fused, because they work element by element."""
    return objective.is_separable and method.is_elementwise


def stepped(descent: Checked, loop: Loop, count: jax.Array) -> Loop:
    """The loop after ``count`` steps, by passes each of which reads and writes the params once."""
    objective, fused = descent.objective, 1
    if fuses(objective, descent.method):
        fused = min(FUSED_STEPS, descent.check_every)
    whole, rest = count // fused, count % fused

    def by_pass(index: Any, steps: Steps, rest: jax.Array | None = None) -> Steps:
        return over_params(descent, steps, loop.iteration + index * fused, rest, fused=fused)

    steps = Steps(loop.params, loop.state, loop.evaluations, loop.status)
    turn_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(loop.params))
    fori_loop = functools.partial(loops.fori_loop, turn_bytes=turn_bytes)
    steps = fori_loop(whole, by_pass, steps)
    if fused > 1:
        steps = lax.cond(
            rest > 0, lambda steps: by_pass(whole, steps, rest), lambda steps: steps, steps
        )
    return loop._replace(
        params=steps.params,
        state=steps.state,
        iteration=loop.iteration + count,
        evaluations=steps.evaluations,
        status=steps.verdict,
    )


def over_params(
    descent: Checked, steps: Steps, iteration: jax.Array, rest: jax.Array | None, *, fused: int
) -> Steps:
    """The result of ``fused`` steps, of which only the first ``rest`` count if it is given."""
    shared = (descent.method, descent.rounding, iteration, rest)
    by_leaf = descent.method.is_elementwise
    terms = descent.objective.blocks(steps.params) if by_leaf else None
    if terms is None:
        return fused_steps(steps, descent.objective, 0, shared, fused=fused)
    # Leaves of one shape share one trace. Each leaf has a branch whose predicate XLA cannot know:
    # in one loop body for all, XLA would compute every new leaf before it writes any.
    of_leaf = jax.jit(functools.partial(fused_steps, fused=fused))
    leaves, treedef = jax.tree.flatten(steps.params)
    passes = [
        lax.cond(
            iteration >= 0,
            of_leaf,
            lambda steps, *_: steps,
            steps._replace(params=leaf),
            term,
            index,
            shared,
        )
        for index, (term, leaf) in enumerate(zip(terms, leaves, strict=True))
    ]
    return passes[-1]._replace(params=treedef.unflatten([p.params for p in passes]))


def fused_steps(
    steps: Steps, objective: Objective, first_leaf: Any, shared: Any, *, fused: int
) -> Steps:
    """Widen, step ``fused`` times (steps after ``rest`` have no effect), and write back."""
    method, rounding, iteration, rest = shared

    def step(index: jax.Array, steps: Steps) -> Steps:
        if method.is_elementwise:
            params, state = method.blind_step(objective, steps.params, steps.state)
            stepped = Steps(params, state, steps.evaluations + 1, steps.verdict)
        else:
            params, state, progress = method.step(objective, steps.params, steps.state)
            stepped = Steps(
                params,
                state,
                steps.evaluations + jnp.asarray(progress.evaluations, jnp.int32),
                jnp.maximum(steps.verdict, jnp.asarray(progress.verdict, jnp.int32)),
            )
        if rest is None:
            return stepped
        return where(index < rest, stepped, steps)

    wide = steps._replace(params=precision.widen(steps.params))
    stepped = lax.fori_loop(0, fused, step, wide, unroll=True)
    narrow = precision.narrow(stepped.params, steps.params, rounding, iteration, first_leaf)
    return stepped._replace(params=narrow)
