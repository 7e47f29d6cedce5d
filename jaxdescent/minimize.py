"""The entry point ``jd.minimize``: check the input, compile once, descend, return.

Here a problem is split into the parts that make a program (structure, functions, flags) and its
data (arrays, hyper-parameters). :mod:`jaxdescent.calls.programs` compiles and keeps the programs;
all modules below it are pure and not jitted.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Never

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxdescent import placement, processes
from jaxdescent.calls import programs, repeated
from jaxdescent.calls.problem import (
    FirstStage,
    Problem,
    check_params,
    is_small,
    known_of_descent,
    posed,
)
from jaxdescent.cost import ALLOWED_ITERATIONS
from jaxdescent.descent import eager, on_host
from jaxdescent.descent.fused_steps import fuses
from jaxdescent.descent.implicit import attach_derivatives
from jaxdescent.descent.loop import CHECK_EVERY, descend
from jaxdescent.inputs import functions, tracing
from jaxdescent.inputs.numbers import check_count
from jaxdescent.kernels.platform import known_of
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective, Params, as_objective
from jaxdescent.result import Result
from jaxdescent.status import Status
from jaxdescent.tolerance import Tolerance


def minimize(
    objective: Any = None,
    params: Params = None,
    method: Any = None,
    *,
    args: tuple[Any, ...] = (),
    max_iterations: int | jax.Array = 1000,
    tolerance: float | jax.Array | Tolerance | None = None,
    check_every: int | None = None,
    donate: bool = False,
    history: int = 0,
    rounding: precision.Rounding | None = None,
    **unknown: Never,
) -> Result:
    """Find params where the objective is smallest, and say why the search stopped.

    The function is pure: it works eagerly and under ``jit``, ``vmap`` (over starts, data,
    hyper-parameters) and ``grad``. Derivatives of the result's params and value with respect to
    ``args`` and data follow from the implicit function theorem; with respect to the start and the
    learning rate they are zero.

    A call with new data or hyper-parameters of the same shapes compiles nothing. A function or an
    optax transformation is compared by identity, so a new one compiles. Arrays that a plain
    function closes over are constants of its program, as in ``jax.jit``: pass data that may change
    as ``args``. A bound method or another callable of an object that may be changed is traced in
    each call, and compiled if it computes something new: to trace it once, register its class as a
    pytree, or pass the data as ``args``.

    Args:
      objective: a function ``objective(params, *args)`` to a floating-point scalar, or an
        objective such as ``jd.SumOfSquares()`` or ``jd.LinearRegression(X, y)``.
      params: the start: any pytree of floating-point arrays or Python floats, of any shapes, dtypes
        and shardings. None stands for the objective's own start (for a regression the best constant
        model). 16-bit params are stored in 16 bits and computed with in float32. NumPy float64
        becomes float32 unless ``jax_enable_x64`` is on.
      method: a jaxdescent method or any optax transformation. None stands for a method that suits
        the objective and needs no tuning: the derivative method if its solve fits in memory, hedged
        with LSMR or conjugate gradients where these may be faster; otherwise Levenberg-Marquardt or
        LBFGS (``docs/plan.md`` has the table, ``jd.plan`` the costs).
      args: extra arguments of the objective, which are data and not structure.
      max_iterations: the most steps.
      tolerance: t. The status is CONVERGED if the value is within the fraction t of its minimum, by
        an estimate or a bound (``Result.suboptimality``), and the gradient's norm is within the
        fraction t of its scale. The scales are the point's own, whatever the start was;
        :mod:`jaxdescent.descent.stopping` defines them. None stands for ``eps**(2/3)`` of the
        coarsest dtype; 0 runs every iteration. ``jd.Tolerance(...)`` sets gradient and
        suboptimality separately, leaf by leaf, or asks for a small change of the value or the
        params, or for a predicate.
      check_every: the number of steps between checks. None stands for 16 if the objective is
        separable and the method works element by element, so that 16 steps are one pass over
        memory, and for 1 otherwise.
      donate: whether to reuse the memory of ``params``, which the caller must not use again. It is
        needed if two copies do not fit, and has no effect under an outer ``jit``.
      history: how many of the last checked values to keep.
      rounding: how each pass rounds 16-bit params: ``jd.Nearest()`` (default) or
        ``jd.StochasticRounding(seed)``.
      **unknown: none are accepted: keywords of other libraries, such as ``x0``, are refused with
        the argument to use instead.

    Returns:
      A :class:`jaxdescent.Result`; its ``value`` and ``gradient_norm`` belong exactly to its
      ``params``.

    Raises:
      TypeError: if params, data or the method have a wrong type or dtype.
      ValueError: if shapes, signs or structures are wrong, or arrays are on different devices.
      ProblemTooLarge: if the derivative method was asked for and does not fit, or if no method was
        asked for and none fits.
      OtherProcessFailed: if another process that shares the arrays raised one of these, or was
        called with something else.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> result = jd.minimize(lambda p: (p["x"] - 3) ** 2 + p["y"] ** 2, {"x": 0.0, "y": 1.0})
    >>> print(result.message.split(":")[0], round(float(result.params["x"]), 3))
    CONVERGED 3.0
    """
    if unknown:
        from jaxdescent.inputs import keywords

        keywords.refuse(minimize, unknown)
    is_top_level = tracing.is_top_level()
    given = {"tolerance": tolerance, "check_every": check_every}
    given |= {"history": history, "rounding": rounding}
    call = None
    if is_top_level and not donate:
        settings = (method, max_iterations, *given.values())
        call = repeated.call_of(objective, (params, args), settings)
        again = call and repeated.run(call)
        if again is not None:
            return again[1] if isinstance(again[1], Result) else eager.settled(*again)
    setup = set_up(
        as_objective(objective, args),
        params,
        method,
        max_iterations=max_iterations,
        donate=donate,
        is_top_level=is_top_level,
        **given,
    )
    (params, problem, limit), flags = setup.inputs, setup.flags
    problem = problem if is_top_level else problem.hoisted(params)
    inputs = stopped = (params, problem, limit)
    if not is_top_level:
        # Under ``grad`` alone, the values of the descent's inputs are concrete after stop_gradient.
        stopped = jax.tree.map(lax.stop_gradient, inputs)
    is_there = is_top_level or tracing.is_there(stopped)
    if functions.is_fleeting(problem) and not is_top_level:
        # The problem's program could not be used again, and the problem may hold traced values.
        start, hoisted, most = stopped
        result = attach_derivatives(problem.objective, descend(start, hoisted, most, **flags))
        return as_given(result, problem.objective)
    can_be_on_host = is_there and on_host.is_possible(params, problem, flags)
    if can_be_on_host and on_host.lies_on_a_cpu(stopped):
        program = programs.on_host(on_host.solved, stopped, **flags)
        result = program(*stopped)
    elif is_there and setup.first is not None:
        program, result = _in_stages(setup.first, stopped, flags, donate=donate)
    elif is_there:
        program, result = _descended(stopped, flags, donate=donate)
    else:
        program = programs.compiled(descend, stopped, **flags)
        result = program(*stopped)
    if not is_top_level:
        solved = (problem.objective, result)
        known = known_of((stopped, result)) if is_there else None
        result = programs.compiled(attach_derivatives, solved, known=known)(*solved)
    elif (
        call is not None
        and program is not None
        and not setup.is_fleeting
        and is_small(problem.objective, params)
    ):
        repeated.remember(call, program, inputs)
    return as_given(result, problem.objective, placement.places_of(params))


class Setup(NamedTuple):
    """A call whose arguments have been checked, in the form that its program takes."""

    inputs: tuple[Params, Problem, Any]  # the start, the problem, the most iterations
    flags: dict[str, Any]  # on which the program depends besides the structure of its inputs
    is_fleeting: bool  # whether the problem holds a callable that may be changed
    first: FirstStage | None = None  # what an eager call tries before the problem's method


def set_up(
    objective: Objective,
    params: Params,
    method: Any,
    *,
    max_iterations: int | jax.Array,
    tolerance: Any,
    check_every: int | None,
    donate: bool,
    history: int,
    rounding: precision.Rounding | None,
    is_top_level: bool,
    call: str = "minimize",
) -> Setup:
    """The checked arguments of :func:`minimize`, with the errors that it documents.

    All processes that share the arrays must make the same ``call``; otherwise all of them raise.
    """
    given = {"objective": objective, "params": params, "method": method}
    given |= {"max_iterations": max_iterations, "tolerance": tolerance}
    given |= {"check_every": check_every, "history": history, "rounding": rounding}
    with processes.among(call, objective, params, alike=given):
        check_params(params)
        starts_at_own = params is None
        problem, params, first = posed(
            objective,
            params,
            method,
            tolerance,
            rounding,
            is_donated=donate,
            most_iterations=max_iterations
            if isinstance(max_iterations, int)
            else ALLOWED_ITERATIONS,
        )
        if check_every is None:
            is_fused = fuses(problem.objective, problem.method)
            check_every = CHECK_EVERY if is_fused else 1
        if not isinstance(max_iterations, Tracer):
            check_count("max_iterations", max_iterations)
        check_count("check_every", check_every)
        check_count("history", history, least=0)
        is_fleeting = functions.is_fleeting(problem)
        if is_top_level and is_fleeting:
            problem = problem.hoisted(params)
        if donate:
            _check_donation(params, problem.objective)
        flags = {
            "check_every": check_every,
            "history": history,
            "starts_at_own": starts_at_own,
        }
        # jnp.asarray is avoided: for a number it takes as long as all the checks together.
        is_number = not isinstance(max_iterations, jax.Array)
        limit = np.int32(max_iterations) if is_number else max_iterations.astype(jnp.int32)
        first = first if check_every == 1 and not history else None
        return Setup((params, problem, limit), flags, is_fleeting, first)


def _in_stages(
    first: FirstStage, inputs: tuple[Any, ...], flags: dict[str, Any], *, donate: bool
) -> tuple[programs.Program | None, Result]:
    """The result of an eager descent, by the first stage if it reaches the minimum in its budget,
    else by the problem's own method from where the first stage ended.
    """
    params, problem, limit = inputs
    before = None
    if int(limit) > first.budget:
        staged = problem._replace(method=first.method)
        given = params, staged, np.int32(first.budget)
        _, before = _descended(given, flags, donate=donate)
        if int(before.status) in (Status.CONVERGED, Status.NON_FINITE, Status.STOPPED):
            return None, before
        params, limit = before.params, np.int32(int(limit) - int(before.iterations))
        flags = flags | {"starts_at_own": False}
        if on_host.is_possible(params, problem, flags):
            return None, _added(on_host.solved(params, problem, limit, **flags), before)
    program, result = _descended((params, problem, limit), flags, donate=donate)
    if before is not None:
        return None, _added(result, before)
    return program, result


def _descended(
    inputs: tuple[Any, ...], flags: dict[str, Any], *, donate: bool
) -> tuple[programs.Program, Result]:
    of_program = {"donate": (0,) if donate else (), "known": known_of_descent(inputs)}
    program = programs.compiled(eager.descend_to_candidate, inputs, **of_program, **flags)
    eager.compile_with_gap(program, *inputs)
    loop, (_, problem, limit) = program(*inputs), inputs
    return program, eager.settled(program, loop, problem, limit, flags)


def _added(result: Result, before: Result) -> Result:
    """The result of a second stage with the counts of both."""
    names = "iterations", "evaluations"
    counts = {name: int(getattr(result, name)) + int(getattr(before, name)) for name in names}
    return result._replace(**{name: jnp.int32(count) for name, count in counts.items()})


def as_given(result: Result, objective: Objective, places: Any = None) -> Result:
    """The result with its params in the form of the caller's, and where ``places`` says."""
    params = result.params if places is None else placement.placed_like(result.params, places)
    params = objective.unpacked(params)
    return result if params is result.params else result._replace(params=params)


def _check_donation(params: Params, objective: Objective) -> None:
    """Raise if a donated array is used twice; XLA's own error does not name the arrays."""
    data = {id(leaf): path for path, leaf in jax.tree.leaves_with_path(objective)}
    for path, leaf in jax.tree.leaves_with_path(params):
        if id(leaf) in data:
            raise ValueError(
                f"params{jax.tree_util.keystr(path)} is donated and is also the objective's "
                f"{jax.tree_util.keystr(data[id(leaf)])}: pass a copy of one, or donate=False."
            )
    leaves = [id(leaf) for leaf in jax.tree.leaves(params)]
    if len(set(leaves)) < len(leaves):
        raise ValueError(
            "params holds the same array twice, which cannot be donated: copy one, or pass "
            "donate=False."
        )
