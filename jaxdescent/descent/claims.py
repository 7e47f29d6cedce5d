"""How the host ends an eager descent: a claim to have converged is examined by a second program.

Inside a caller's ``jit``, ``vmap`` or ``grad`` the looks at claims are part of the descent's
program. An eager call compiles less: its program ends with the first claim, which it measures
(:func:`descend_to_claim`). The look at this claim is compiled when the claim is made, or of
a small function by another core meanwhile (:func:`compile_with_look`), and the rest of the descent
if the claim was refuted. Of a method that is made of several, the first alone is
compiled, and the next one where the first hands over. Both ways use the same functions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from jaxdescent.calls.problem import Problem
from jaxdescent.calls.programs import Program
from jaxdescent.descent import at_once
from jaxdescent.descent.loop import Descent, Params
from jaxdescent.descent.watch import Loop
from jaxdescent.kernels import loops
from jaxdescent.kernels.host_threads import usable_cores
from jaxdescent.result import Result
from jaxdescent.status import RUNNING


def descend_to_claim(
    params: Params,
    problem: Problem,
    max_iterations: jax.Array,
    *,
    check_every: int,
    history: int,
    starts_at_own: bool,
) -> Result | Loop:
    """A descent up to its first claim, without the looks that may refute the claim.

    It returns the loop at its end, of which :func:`settled` makes the result; or the result itself,
    if no claim of this descent can be refuted. The arguments are those of
    :func:`jaxdescent.descent.loop.descend`.
    """
    how = {"looks": False, "checks_in_loop": True}
    descent = Descent(*problem, max_iterations, check_every, **how)
    begin = functools.partial(descent.begin, params, history=history, starts_at_own=starts_at_own)
    loop = loops.one_turn_if_few(begin, (params, problem))  # of a small problem one kernel
    loop = _measured(descent, descent.advance(loop))
    return loop if descent.is_doubtful(loop) else descent.result(loop)


def compile_with_look(program: Program, params: Params, problem: Problem, limit: Any) -> None:
    """Compile a program of :func:`descend_to_claim` that is new and likely to end with a claim on a
    small function; another core compiles the look by the host at it meanwhile, for which any params
    will do.
    """
    is_function = problem.objective.linear_regression is None
    is_likely = is_function and problem.method.estimates(problem.objective)
    if not (is_likely and program.is_new and usable_cores() > 1):
        return
    lowered, descent = program.lower(params, problem, limit), Descent(*problem, limit, 1)
    with ThreadPoolExecutor(1) as pool:
        try:
            made = pool.submit(lowered.compile)
        except RuntimeError:  # no thread begins where Python ends: the call compiles
            return
        if descent.is_seen_by_host(params):
            from jaxdescent.descent.looks import few_unknowns

            few_unknowns.prepare(problem.objective, params)
    made.result()


def settled(
    program: Program, made: Result | Loop, problem: Problem, limit: Any, flags: dict[str, Any]
) -> Result:
    """The result of a descent whose program, with these flags, returned ``made`` at the first
    claim (:func:`descend_to_claim`).
    """
    if isinstance(made, Result):
        return made
    loop, own = made, {"check_every": flags["check_every"]}

    def run(function: Callable[..., Any], *inputs: Any) -> Any:
        return program.following(function, inputs, **own)(*inputs)

    descent = Descent(*problem, limit, **own)
    while int(loop.status) == RUNNING or descent.is_claimed(loop):
        if int(loop.status) == RUNNING:  # the claim was refuted, or another method continues
            following = problem.method.next_stage(loop.state)
            if following is not None and bool(following[1]):
                problem = problem._replace(method=following[0])
            loop = run(_advanced, loop, problem, limit)
            descent = Descent(*problem, limit, **own)
            continue
        loop = _examined(run, descent, loop, problem, limit)
        if int(loop.status) != RUNNING:
            break
    if loop.history:
        return run(_finished, loop, problem, limit)
    return at_once.solved_again(descent.result(loop), problem, limit, **flags)


def _examined(
    run: Callable[..., Any], descent: Descent, loop: Loop, problem: Problem, limit: Any
) -> Loop:
    """The loop after a look at its claim: by the host if it can, else by a program. A small program
    asks first whether the columns differ in length so much that a look takes a step, which is the
    larger part of the program and seldom needed.
    """
    if not descent.may_go_on and (answered := descent.answered_by_host(loop)) is not None:
        return answered
    if descent.is_seen_by_lengths(loop):
        measured, takes_a_step = run(_measured_before_step, loop, problem, limit)
        if not takes_a_step:
            return descent.confirmed_by_host(loop, measured)
    return run(_confirmed, loop, problem, limit)


def _measured(descent: Descent, loop: Loop) -> Loop:
    """The loop measured where it has ended; but not if the method may continue by another way where
    the measurement does not confirm its claim.
    """
    return loop if descent.may_go_on else descent.measured_at_end(loop)


def _confirmed(loop: Loop, problem: Problem, limit: jax.Array, **flags: Any) -> Loop:
    """The loop after a look at its claim."""
    descent = Descent(*problem, limit, **flags)
    return descent.confirmed(loop) if descent.may_go_on else descent.looked_at(loop)


def _measured_before_step(
    loop: Loop, problem: Problem, limit: jax.Array, **flags: Any
) -> tuple[Loop, jax.Array]:
    """The loop measured, and whether a look at its claim takes a step."""
    descent = Descent(*problem, limit, **flags)
    measured = descent.measured_at_end(loop) if descent.may_go_on else loop
    return measured, descent.takes_a_step(measured)


def _advanced(loop: Loop, problem: Problem, limit: jax.Array, **flags: Any) -> Loop:
    descent = Descent(*problem, limit, **flags, looks=False)
    return _measured(descent, descent.advance(loop))


def _finished(loop: Loop, problem: Problem, limit: jax.Array, **flags: Any) -> Result:
    """The result of a loop that has ended."""
    return Descent(*problem, limit, **flags).result(loop)
