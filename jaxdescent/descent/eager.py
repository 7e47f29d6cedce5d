"""How an eager call ends a descent: the gap is a program of its own, or the host's.

Inside a caller's ``jit``, ``vmap`` or ``grad`` the gap is part of the descent's program. An eager
call compiles less: its program ends with the first candidate (:func:`descend_to_candidate`). The
host then answers for a small problem by NumPy (:mod:`jaxdescent.gap.dense`); otherwise a program
does, which is compiled when it is first asked. The descent goes on in a third one where the
candidate is rejected. All use the same functions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jaxdescent.calls.problem import Problem
from jaxdescent.calls.programs import Program
from jaxdescent.descent.loop import Descent, Params
from jaxdescent.descent.state import Loop
from jaxdescent.gap import Gap, dense
from jaxdescent.kernels import loops, memory
from jaxdescent.kernels.host_threads import usable_cores
from jaxdescent.placement import device_of, is_at_hand
from jaxdescent.result import Result
from jaxdescent.status import RUNNING

VECTORS = 8
"""The vectors of the params' size that a gap's program needs about."""


def descend_to_candidate(
    params: Params,
    problem: Problem,
    max_iterations: jax.Array,
    *,
    check_every: int,
    history: int,
    starts_at_own: bool,
) -> Loop:
    """A descent up to its end, or to its first candidate for one.

    The arguments are those of :func:`jaxdescent.descent.loop.descend`.
    """
    descent = Descent(*problem, max_iterations, check_every, has_gap=False, checks_in_loop=True)
    begin = functools.partial(descent.begin, params, history=history, starts_at_own=starts_at_own)
    loop = loops.one_turn_if_few(begin, (params, problem))  # of a small problem one kernel
    return descent.advance(loop)


def compile_with_gap(program: Program, params: Params, problem: Problem, limit: Any) -> None:
    """Compile a program of :func:`descend_to_candidate` that is new and likely to end with a
    candidate on a function of few unknowns; another core compiles what its gap begins with.
    """
    is_function = problem.objective.linear_regression is None
    is_likely = is_function and Descent(*problem, limit, 1).verifies
    if not (is_likely and program.is_new and usable_cores() > 1):
        return
    if not (dense.is_few(problem.objective, params, 0) and is_at_hand((problem, params))):
        return
    lowered = program.lower(params, problem, limit)
    with ThreadPoolExecutor(1) as pool:
        try:
            made = pool.submit(lowered.compile)
        except RuntimeError:  # no thread begins where Python ends: the call compiles
            return
        dense.prepare(problem.objective, params)
    made.result()


def settled(
    program: Program, loop: Loop, problem: Problem, limit: Any, flags: dict[str, Any]
) -> Result:
    """The result of a descent whose program, with these flags, ended with ``loop``."""
    loop = verified(program, loop, problem, limit, flags["check_every"])
    if loop.history:
        return _runner(program, flags["check_every"])(_finished, loop, problem, limit)
    return _placed(Descent(*problem, limit, flags["check_every"]).result(loop, np), loop)


def verified(program: Program, loop: Loop, problem: Problem, limit: Any, check_every: int) -> Loop:
    """The loop, whose arrays are concrete, after its candidates have been verified and the descent
    has gone on where these are rejected.
    """
    run = _runner(program, check_every)
    while (status := int(loop.status)) <= RUNNING:
        if status == RUNNING:
            loop = run(_advanced, loop, problem, limit)
        else:
            loop = answered(program, loop, problem, limit, check_every)
    return loop


def answered(program: Program, loop: Loop, problem: Problem, limit: Any, check_every: int) -> Loop:
    """The loop of a candidate after the gap's answer."""
    run, objective = _runner(program, check_every), problem.objective
    descent = Descent(*problem, jax.device_get(limit), check_every)
    # JAX would run each of these operations on scalars as a program of its own.
    numbers = jax.device_get(loop._replace(params=None, state=None))
    query = descent.query(numbers._replace(params=loop.params), np)
    answer = dense.gap(objective, loop.params, query, int(numbers.evaluations))
    if answer is not None:
        ended, is_accepted = descent.ended(numbers, answer, np)
        if descent.may_go_on(numbers, is_accepted):
            return run(_ruled, loop, answer, problem, limit)
    elif _fits(loop.params):
        return run(_verified, loop, problem, limit)
    else:
        ended = descent.unanswered(numbers, np)
    return _placed(ended._replace(params=loop.params, state=loop.state), loop)


def _placed(tree: Any, loop: Loop) -> Any:
    """The tree with the host's numbers as arrays, where the loop's own are."""
    where = loop.value.sharding if getattr(loop.value, "committed", False) else None
    return jax.tree.map(
        lambda leaf: leaf if isinstance(leaf, jax.Array) else jax.device_put(leaf, where), tree
    )


def _fits(params: Params) -> bool:
    """Whether the vectors of a gap fit in the memory that there is."""
    needed = VECTORS * sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return needed <= memory.SMALL_BYTES or needed <= memory.available_bytes(device_of(params))


def _runner(program: Program, check_every: int) -> Callable[..., Any]:
    def run(function: Callable[..., Any], *inputs: Any) -> Any:
        return program.following(function, inputs, check_every=check_every)(*inputs)

    return run


def _ruled(loop: Loop, answer: Gap, problem: Problem, limit: jax.Array, **flags: Any) -> Loop:
    return Descent(*problem, limit, **flags).ruled(loop, answer)


def _verified(loop: Loop, problem: Problem, limit: jax.Array, **flags: Any) -> Loop:
    return Descent(*problem, limit, **flags).verified(loop)


def _advanced(loop: Loop, problem: Problem, limit: jax.Array, **flags: Any) -> Loop:
    return Descent(*problem, limit, **flags, has_gap=False).advance(loop)


def _finished(loop: Loop, problem: Problem, limit: jax.Array, **flags: Any) -> Result:
    return Descent(*problem, limit, **flags).result(loop)
