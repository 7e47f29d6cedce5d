"""The result of a descent that its caller ends at a pause of the loop."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.descent.loop import Descent
from jaxdescent.descent.nearness import said_without_claim
from jaxdescent.descent.watch import Loop
from jaxdescent.methods import Progress
from jaxdescent.result import Result
from jaxdescent.status import RUNNING


def ended(descent: Descent, loop: Loop, status: jax.Array) -> Result:
    """The result of a loop that is ended with ``status``.

    A loop that a rule has ended keeps its own status. Otherwise value and gradient norm are
    measured at the loop's params: where the next step checks these, they have not been checked yet.
    An estimate of the suboptimality is said if it has been steady.
    """
    is_running = loop.status == RUNNING
    is_behind: Any = descent.method.is_estimate(loop.state)
    if not descent.is_by_passes and not descent.looks_ahead:
        is_behind = True
    if is_behind is not False:

        def caught_up(loop: Loop) -> Loop:
            loop = descent.measured(loop)
            return loop._replace(evaluations=loop.evaluations + 1)

        loop = lax.cond(is_running & is_behind, caught_up, lambda loop: loop, loop)
    progress = Progress(loop.value, loop.norm)
    watch = said_without_claim(loop.watch, descent.objective, progress, is_running)
    result = descent.ended(loop._replace(watch=watch))
    return result._replace(status=jnp.where(is_running, status, result.status))
