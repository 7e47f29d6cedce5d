"""A method whose progress is told while its program runs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.methods import Method, Progress
from jaxdescent.objectives import Objective

Listener = Callable[[float, float], None]

_listeners: list[Listener] = []


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """A context in which ``listener`` gets the value and its suboptimality (NaN where unknown) at
    each check of a :class:`ReportingMethod`.
    """
    _listeners.append(listener)
    try:
        yield
        jax.effects_barrier()  # late callbacks must still find the listener
    finally:
        _listeners.remove(listener)


def _tell(value: Any, left: Any) -> None:
    """Call every listener; programs are compiled with this function, and not with a listener."""
    for listener in _listeners:
        listener(float(value), float(left))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ReportingMethod(Method):
    """A method that takes exactly the steps of ``inner``, and reports each check to the listeners.

    Reports go to a callback on the host, which calls nothing of JAX.
    """

    inner: Method

    def init(self, objective: Objective, params: Any) -> Any:
        return self.inner.init(objective, params)

    def step(self, objective: Objective, params: Any, state: Any) -> tuple[Any, Any, Progress]:
        params, state, progress = self.inner.step(objective, params, state)
        return params, state, _told(progress)

    def blind_step(self, objective: Objective, params: Any, state: Any) -> tuple[Any, Any]:
        return self.inner.blind_step(objective, params, state)

    def progress(self, objective: Objective, params: Any, state: Any) -> Progress:
        return _told(self.inner.progress(objective, params, state))

    def after_rounding(self, objective: Objective, params: Any, state: Any) -> Any:
        return self.inner.after_rounding(objective, params, state)

    def check(self) -> None:
        self.inner.check()

    def hoisted(self) -> ReportingMethod:
        return ReportingMethod(self.inner.hoisted())

    def estimates(self, objective: Objective) -> bool:
        return self.inner.estimates(objective)

    def needed_bytes(self, objective: Objective, params: Any) -> int | None:
        return self.inner.needed_bytes(objective, params)

    @property
    def looks_ahead(self) -> bool:
        return self.inner.looks_ahead

    def is_estimate(self, state: Any) -> Any:
        return self.inner.is_estimate(state)

    def measured(self, objective: Objective, params: Any, state: Any, always: Any) -> Progress:
        return self.inner.measured(objective, params, state, always)

    def ended_by(self, state: Any) -> Any:
        return self.inner.ended_by(state)

    @property
    def patience(self) -> int:
        return self.inner.patience


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ReportingRefutable(ReportingMethod):
    """A reporting method that can go on where a measurement disproves its end. The loop looks for
    :meth:`disproved` in the class, so only this class overrides it.
    """

    def hoisted(self) -> ReportingRefutable:
        return ReportingRefutable(self.inner.hoisted())

    def disproved(self, state: Any) -> Any:
        return self.inner.disproved(state)


def reporting(method: Method) -> ReportingMethod:
    """The method, which reports each check to the listeners."""
    goes_on = type(method).disproved is not Method.disproved
    return ReportingRefutable(method) if goes_on else ReportingMethod(method)


def _told(progress: Progress) -> Progress:
    left = jnp.nan if progress.estimate is None else progress.estimate.suboptimality
    jax.debug.callback(_tell, progress.value, left)
    return progress
