"""The hook that ends a run where a function of its numbers says so."""

from __future__ import annotations

from collections.abc import Callable

from jaxdescent.runs.hooks.protocol import Hook, Record


class StopWhen(Hook):
    """End the run, with the status STOPPED, after a chunk for whose numbers a function is true.

    The device is a chunk ahead of the numbers, so one more is computed. To stop at the very check
    where something holds give ``Tolerance(predicate=...)``, which is part of the program.

    Args:
      function: from a :class:`jaxdescent.hooks.Record` to a bool.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> stop = jd.hooks.StopWhen(lambda record: record.value < 3.0)
    >>> result = jd.run(lambda x: jnp.sum(jnp.cosh(x)), jnp.array([2.0, -1.0]),
    ...                 jd.GradientDescent(0.1), chunk=3, hooks=[stop])
    >>> result.message.split(":")[0], float(result.value) < 3
    ('STOPPED', True)
    """

    def __init__(self, function: Callable[[Record], bool]) -> None:
        if not callable(function):
            raise TypeError(f"StopWhen needs a function of a record, got {function!r}.")
        self.function = function

    def __repr__(self) -> str:
        return f"StopWhen({self.function!r})"

    def report(self, record: Record) -> bool:
        return bool(self.function(record))
