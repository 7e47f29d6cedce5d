"""The interface of hooks, which a run calls between its chunks of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxdescent.descent.loop import Loop
from jaxdescent.display import Displayed
from jaxdescent.result import Result
from jaxdescent.runs.record import Facts, Record, Summary


class Pause(NamedTuple):
    """A moment between two chunks, before the next one is dispatched.

    Attributes:
      chunk: the number of the chunk that comes next.
      iteration: where the last chunk was told to end; the descent may have ended before.
      loop: the state of the descent, as arrays that the device may still be computing. The next
        chunk takes their memory: arrays to be kept must be copied before :meth:`Hook.pause`
        returns.
      copied: makes such a copy on the devices, without waiting for the chunk; it reuses the memory
        of an earlier copy that is passed to it, which is lost then.
    """

    chunk: int
    iteration: int
    loop: Loop
    copied: Callable[..., Loop]


class Hook(Displayed):
    """A hook overrides what it needs; by itself it does nothing.

    ``begin`` is called once; then ``pause`` before each chunk is dispatched, and ``report`` with
    each chunk's numbers while the device works on the next; ``end`` with the result; and ``close``
    always, after an error too. An error in a hook ends the run.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> class Count(jd.hooks.Hook):
    ...     def begin(self, facts):
    ...         self.chunks = 0
    ...     def report(self, record):
    ...         self.chunks += 1
    >>> count = Count()
    >>> result = jd.run(lambda x: jnp.sum(jnp.cosh(x)), jnp.array([2.0, -1.0]),
    ...                 jd.GradientDescent(0.01), max_iterations=6, chunk=2, hooks=[count])
    >>> count.chunks
    3
    """

    def begin(self, facts: Facts) -> None:
        """The run begins."""

    def pause(self, pause: Pause) -> None:
        """The next chunk is about to be dispatched; the device waits for nothing yet."""

    def report(self, record: Record) -> bool | None:
        """A chunk's numbers. True asks for the end, with ``STOPPED``, after the chunk that the
        device is working on.
        """

    def end(self, result: Result, summary: Summary) -> None:
        """The run has ended, with this result."""

    def close(self) -> None:
        """The run is over; open files and displays are closed, after an error too."""


def check_hooks(hooks: Any) -> tuple[Hook, ...]:
    """The hooks as a tuple.

    Raises:
      TypeError: if one of them is not a hook.
    """
    if isinstance(hooks, Hook) or not isinstance(hooks, list | tuple):
        raise TypeError(f"hooks must be a list of hooks, got {hooks!r}: write hooks=[...].")
    for hook in hooks:
        if isinstance(hook, Hook):
            continue
        hint = " Call it first, for example jd.hooks.Progress()." if isinstance(hook, type) else ""
        raise TypeError(
            "hooks must be instances of jd.hooks.Hook, such as jd.hooks.Progress(), got "
            f"{hook!r}.{hint}"
        )
    return tuple(hooks)
