"""The descents of a fit: kept while they go on, followed, or at once."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent import processes
from jaxdescent.data import DataError
from jaxdescent.fit.checkpoint import DESCENT, FitCheckpoint
from jaxdescent.fit.job import Job
from jaxdescent.methods import Method, StepReport
from jaxdescent.minimize import minimize
from jaxdescent.objectives import Objective
from jaxdescent.result import Result
from jaxdescent.runs import run
from jaxdescent.runs.hooks import Hook, Record, Summary
from jaxdescent.status import Status

MOST_ITERATIONS = 1000

Tell = Callable[[int, float, float], None]
"""A function that gets the iteration, its value, and how far the value is above the minimum: NaN
where that is unknown."""

_listeners: list[Callable[[float, float], None]] = []
"""Functions that get the value and its suboptimality (NaN where unknown) at each check of a
:func:`reporting` method."""


def minimum(objective: Any, params: Any, method: Method) -> Result:
    """The minimum of an objective, by a descent from these params."""
    return minimize(objective, params, method, max_iterations=MOST_ITERATIONS)


def descend(
    job: Job,
    objective: Any,
    params: Any,
    method: Method,
    tell: Tell,
    *,
    name: str = DESCENT,
    filled: tuple[int, int] | None = None,
) -> Result:
    """The minimum, in a descent that is kept under this name while it goes on, where that is asked
    for; ``filled`` is that of :class:`jaxdescent.hooks.Checkpoint`.

    Raises:
      Interrupted: after a signal, when all that was found is kept.
      DataError: where the checkpoint is of another problem, or cannot be read.
    """
    keeping, is_looking = job.checkpoint, job.watch.is_looking
    if keeping is None:
        # All processes must run one program, even where only one of them shows progress.
        if not is_looking or not processes.is_alone():
            return minimum(objective, params, method)
        count = itertools.count(1)

        def listener(value: float, left: float) -> None:
            tell(next(count), value, left)

        _listeners.append(listener)
        try:
            result = minimum(objective, params, reporting(type(method))(**vars(method)))
            jax.effects_barrier()  # late callbacks must still find the listener
            return result
        finally:
            _listeners.remove(listener)  # a fit on another thread may have added its own since
    saving = keeping.saving(name, filled)
    try:
        result = run(
            objective,
            params,
            method,
            max_iterations=MOST_ITERATIONS,
            chunk=1 if is_looking else None,
            hooks=[Following(tell, keeping)],
            checkpoint=saving,
            resume=saving is not None,
        )
    except ValueError as error:
        raise DataError(f"{error}") from error
    except KeyboardInterrupt as error:  # at a second signal
        processes.leave_without_others()
        raise keeping.interrupted("what was found until a while ago") from error
    if int(result.status) == Status.INTERRUPTED:
        raise keeping.interrupted(f"iteration {int(result.iterations):,}")
    return result


class Following(Hook):
    """Tells of each chunk, and adds up the seconds of all descents, and those of their steps."""

    def __init__(self, tell: Tell, keeping: FitCheckpoint) -> None:
        self._keeping, self._tell = keeping, tell

    def begin(self, facts: Any) -> None:
        self._keeping.resumed_at = facts.iteration

    def report(self, record: Record) -> None:
        left = record.suboptimality if np.isfinite(record.suboptimality) else np.nan
        self._tell(record.iteration, record.value, left)

    def end(self, result: Result, summary: Summary) -> None:
        self._keeping.summary.seconds += summary.seconds
        self._keeping.summary.seconds_in_steps += summary.seconds_in_steps


@functools.cache
def reporting(kind: type[Method]) -> Any:
    """A subclass of the class of a method, which looks ahead, with reports of each check to the
    listeners, by a callback on the host that calls nothing of JAX.
    """

    def progress(self: Any, objective: Objective, params: Any, state: Any) -> StepReport:
        found = kind.progress(self, objective, params, state)
        left = jnp.nan if found.estimate is None else found.estimate.suboptimality
        jax.debug.callback(_tell, found.value, left)
        return found

    return jax.tree_util.register_dataclass(type(kind.__name__, (kind,), {"progress": progress}))


def _tell(value: Any, left: Any) -> None:
    """Call every listener; programs are compiled with this function, and not with a listener."""
    for listener in _listeners:
        listener(float(value), float(left))
