"""How the host ends a descent: a claim is looked at by a program of its own, or by NumPy.

Inside a caller's ``jit``, ``vmap`` or ``grad`` the looks at claims are part of the descent's
program. An eager call compiles less: its program ends with the first claim
(:func:`jaxdescent.descent.loop.descend_to_claim`), and what may refute the claim is compiled when
such a claim is made, with the rest of the descent if it was refuted. The functions are the same.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxdescent import placement
from jaxdescent.calls import programs
from jaxdescent.calls.problem import Problem
from jaxdescent.descent import dense_look, function_look
from jaxdescent.descent.loop import Descent
from jaxdescent.descent.loop_state import Loop
from jaxdescent.descent.refutation import (
    Asked,
    Refutation,
    decrease_of_quadratic,
    decrease_of_regression,
)
from jaxdescent.designs import as_design
from jaxdescent.objectives import Objective
from jaxdescent.result import RUNNING, Result, Status

Params = Any

CLAIMS = (Status.CONVERGED.value, Status.STAGNATED.value)
"""The statuses that a look may change, or whose suboptimality it may raise."""


def settled(made: Result | Loop, problem: Problem, limit: Any, flags: dict[str, Any]) -> Result:
    """The result of a descent whose program ended with its first claim.

    Args:
      made: what :func:`jaxdescent.descent.loop.descend_to_claim` returned.
      problem: of the descent.
      limit: the most iterations.
      flags: those of its program.
    """
    if isinstance(made, Result):
        return made
    loop, own = made, {name: flags[name] for name in ("check_every", "off")}
    descent = Descent(*problem, limit, **own, looks=False)
    while True:
        had_converged = int(loop.status) == Status.CONVERGED.value
        loop = _confirmed(descent.refutation, loop)
        if descent.may_go_on and had_converged and int(loop.status) != Status.CONVERGED.value:
            loop = _run(_by_another_way, loop, problem, limit, **own)
        if int(loop.status) != RUNNING:
            break
        loop = _run(_advanced, loop, problem, limit, **own)
    if descent.is_finished(loop):
        return descent.finish(loop)
    return _run(_finished, loop, problem, limit, **own)


def _run(function: Any, *inputs: Any, **flags: Any) -> Any:
    return programs.compiled(function, inputs, **flags)(*inputs)


def _advanced(loop: Loop, problem: Problem, limit: jax.Array, **flags: Any) -> Loop:
    return Descent(*problem, limit, **flags, looks=False).advance(loop)


def _by_another_way(loop: Loop, problem: Problem, limit: jax.Array, **flags: Any) -> Loop:
    return Descent(*problem, limit, **flags).by_another_way(loop, jax.numpy.array(True))


def _finished(loop: Loop, problem: Problem, limit: jax.Array, **flags: Any) -> Result:
    return Descent(*problem, limit, **flags).finish(loop)


def _confirmed(refutation: Refutation, loop: Loop) -> Loop:
    """The loop after a look at its claim; see :meth:`Refutation.unless_refuted`."""
    if loop.watch.looks is None or int(loop.status) not in CLAIMS:
        return loop
    judged = loop.status, loop.watch
    status, watch = jax.device_get(judged)
    value, norm, iteration = jax.device_get((loop.value, loop.norm, loop.iteration))
    seen = loop._replace(status=status, watch=watch, value=value, norm=norm, iteration=iteration)
    known = refutation.tolerance, refutation.off, refutation.max_iterations
    tolerance, off, most = jax.device_get(known)
    refutation = refutation._replace(tolerance=tolerance, off=off, max_iterations=most)
    with np.errstate(all="ignore"):
        asked = refutation.asked(seen, np)
        falls = np.zeros((), asked.allowed.dtype)
        if asked.is_looked_at and refutation.has_diagonal:
            falls = _certain_decrease(refutation, seen, asked).astype(asked.known.dtype)
        elif asked.is_looked_at:
            shown = _seen(refutation.objective, loop.params)
            if shown is not None:
                falls, allowed = refutation.measured_decrease(seen, asked, shown, np)
                asked = asked._replace(allowed=allowed)
        answer = refutation.answered(seen, asked, falls, np)

    def placed(old: jax.Array, before: Any, new: Any) -> jax.Array:
        new = np.asarray(new, before.dtype)
        is_same = np.array_equal(new, before, equal_nan=before.dtype.kind == "f")
        return old if is_same else jax.device_put(new, old.sharding)

    status, watch = jax.tree.map(placed, judged, (status, watch), answer)
    return loop._replace(status=status, watch=watch)


def _certain_decrease(refutation: Refutation, loop: Loop, asked: Asked) -> np.ndarray:
    """By how much the structure shows that the value is sure to fall."""
    inputs = refutation.looked_at(loop, asked, np)
    if len(inputs) == 3:
        return jax.device_get(_run(decrease_of_quadratic, *inputs))
    regression, params = inputs[:2]
    if not refutation.is_small or not _is_on_cpu((regression, params)):
        return jax.device_get(_run(decrease_of_regression, *inputs))
    weight = regression.sample_weight
    falls = dense_look.largest_decrease(
        np.asarray(as_design(regression.X).to_dense()),
        np.asarray(regression.y),
        np.asarray(params["weights"]),
        l2=np.asarray(regression.l2),
        sample_weight=None if weight is None else np.asarray(weight),
        intercept=regression.intercept,
        allowed=asked.known,
    )
    return np.asarray(falls)


def _is_on_cpu(tree: Any) -> bool:
    device = placement.device_of(tree)
    return device is None or device.platform == "cpu"


def _seen(objective: Objective, params: Params) -> function_look.Seen | None:
    """What the function shows; None where it cannot be differentiated twice."""
    try:
        return jax.device_get(_run(function_look.seen_at, objective, params))
    except (jax.errors.JaxRuntimeError, MemoryError):
        raise
    except Exception:  # a function may raise anything where it was not made to be differentiated
        return None
