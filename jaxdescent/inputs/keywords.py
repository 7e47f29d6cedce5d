"""Keywords of other libraries, and their names in this package."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from inspect import signature
from typing import Any, NoReturn

_OURS = {
    "write objective, the first argument": "fun f func fn function loss",
    "write params, the second argument": "x0 y0 init init_params params_init initial_guess",
    "write tolerance=": "tol rtol ftol eps",
    "write tolerance=jd.Tolerance(absolute_gradient=...)": "gtol atol",
    "write max_iterations=": (
        "maxiter max_iter maxit max_steps num_steps steps nit iterations niter"
    ),
    "write max_iterations=, tolerance=, or arguments of the method": "options",
    "write jd.run(..., hooks=[...]), which calls hooks between chunks of steps": "callback",
    "write jd.run(..., hooks=[jd.hooks.Progress()])": "disp verbose",
    "leave it out, JAX differentiates the objective": (
        "jac hess hessp grad fprime value_and_grad has_aux implicit_diff"
    ),
    "minimise over other params that meet the conditions, such as p with x = jax.nn.softplus(p)": (
        "bounds constraints lower upper projection"
    ),
    "write method=, such as jd.LBFGS() or an optax transformation": (
        "solver optimizer optimiser optim opt algorithm"
    ),
    "write method=jd.GradientDescent(learning_rate)": "learning_rate stepsize step_size lr",
}
"""The advice for a keyword, and the names that SciPy, JAXopt, optax and optimistix give to it."""


def refuse(call: Callable[..., Any], keywords: Iterable[str]) -> NoReturn:
    """Raise for keywords that a function does not have.

    Raises:
      TypeError: saying what to write for the first of them.

    >>> refuse(refuse, ["x0"])
    Traceback (most recent call last):
    TypeError: refuse has no keyword 'x0': write params, the second argument.
    """
    name = next(iter(keywords))
    start = f"{call.__name__} has no keyword {name!r}"
    for ours, theirs in _OURS.items():
        if name in theirs.split():
            raise TypeError(f"{start}: {ours}.")
    own = [key for key, each in signature(call).parameters.items() if each.kind != each.VAR_KEYWORD]
    close = difflib.get_close_matches(name, own, n=1)
    hint = f"did you mean {close[0]}=?" if close else f"it has {', '.join(own)}."
    raise TypeError(f"{start}: {hint}")
