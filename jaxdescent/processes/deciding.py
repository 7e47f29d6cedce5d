"""Decisions that several processes must make alike, and errors of one that must end all.

All processes of a distributed run execute the same calls, and a program that they share starts only
when each of them has called it. So they must choose the same method, and if the checks of one
process raise, the others would wait for ever. :func:`among` opens a group of the processes that
hold some arrays; inside, :func:`least`, :func:`told_by_first` and the end of the group are the
points where each tells the others what it sees. Everywhere else, and in a run of one process, these
functions return what they are given.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

import jax
from jax.core import Tracer

from jaxdescent.inputs import tracing
from jaxdescent.processes import messages
from jaxdescent.processes.ending import (
    ALONE,
    FOLLOWED,
    TOGETHER,
    early_end,
    follow_early_end,
    has_ended,
    has_waited,
    is_of_interrupt,
    leave_without_others,
)
from jaxdescent.processes.messages import OtherProcessFailed, in_words
from jaxdescent.processes.same_call import differing, texts
from jaxdescent.processes.signals import on_a_thread
from jaxdescent.rows.errors import DataError

LONGEST_ERROR = 1000
"""The most characters of an error that the others are told."""

PATIENCE = 30.0
"""Seconds for which a process that failed waits for the others in silence. After that, it assumes
of a shared program that they wait for it inside, and leaves; elsewhere they may compute for as long
as they need, and it says what it waits for."""

_group: ContextVar[tuple[int, ...]] = ContextVar("processes that decide alike", default=())

_patience: ContextVar[float] = ContextVar("seconds to wait for the others", default=math.inf)

_sent: dict[tuple[int, ...], int] = {}
"""How many messages the processes of each group have exchanged."""

Found = TypeVar("Found")


class Stopped(KeyboardInterrupt):
    """Raised where all processes of a group end as they have agreed: none waits for another."""


class FailedElsewhere(RuntimeError):
    """Raised where another process raised an error that was expected."""


def among(
    call: str, *trees: Any, alike: Mapping[str, Any] | None = None
) -> contextlib.AbstractContextManager[None]:
    """Let the processes that hold these arrays decide alike: an error or ``sys.exit`` in one is
    raised in all, and so is another ``call``, or another argument of those that must be ``alike``.
    """
    is_shared = jax.process_count() > 1 and tracing.is_top_level()
    return _agreeing(call, processes_of(trees) if is_shared else (), alike)


def among_all(call: str) -> contextlib.AbstractContextManager[None]:
    """A group of all processes of the run, wherever arrays are."""
    return _agreeing(call, tuple(range(jax.process_count())))


@contextlib.contextmanager
def _agreeing(
    call: str, processes: tuple[int, ...], alike: Mapping[str, Any] | None = None
) -> Iterator[None]:
    if len(processes) < 2 or _group.get():
        yield
        return
    token = _group.set(processes)
    try:
        own = texts(**(alike or {}))
        digests = told_by_all(_digest(own), call)
        if any(digest != digests[0] for digest in digests):
            raise OtherProcessFailed(differing(call, processes, told_by_all(own)))
        yield
        told_by_all(None, f"end of {call}")
    except (OtherProcessFailed, Stopped):
        raise
    except (Exception, SystemExit) as error:
        if not isinstance(error, SystemExit) and is_of_interrupt(error):
            leave_without_others()
            raise KeyboardInterrupt from error
        _tell_of(error)
        raise
    except KeyboardInterrupt:
        # It is not exchanged: a process that is told to stop must not wait.
        leave_without_others()
        raise
    finally:
        _group.reset(token)


def _tell_of(error: BaseException) -> None:
    """Tell the others an error, and wait until each of them asks for it.

    Raises:
      OtherProcessFailed: in the place of a program's error, if another process has ended.
    """
    said = f"{type(error).__name__}: {error}"[:LONGEST_ERROR]
    line = f"process {jax.process_index()} waits for the others to tell them that it failed with"
    late = threading.Timer(PATIENCE, print, (f"{line} {said}",), {"file": sys.stderr})
    late.daemon = True
    if _patience.get() > PATIENCE:
        late.start()
    try:
        _send("error", said)
    except OtherProcessFailed as other:
        # A program fails where a process that it needs numbers of has ended: that end is told.
        others = set(_group.get()) - {jax.process_index()}
        if isinstance(error, jax.errors.JaxRuntimeError) and any(map(early_end, others)):
            raise other from error
        # Else this process's own error must be raised.
    except KeyboardInterrupt as interrupt:
        # Who has heard of the error may wait for this process in JAX's shutdown already.
        if not _are_alone(ALONE):
            raise Stopped(*interrupt.args) from error
        leave_without_others()
        raise
    finally:
        late.cancel()


def _are_alone(how: str) -> bool:
    """Whether the processes end alone after the error in the group's last message, for one that
    would end as ``how`` says.
    """
    group = _group.get()
    try:
        name = f"group/{_digest(group)}/{_sent.get(group, 0)}/error"
        return messages.settled(name, how) == ALONE
    except OtherProcessFailed:  # none can be reached
        return True


def processes_of(tree: Any) -> tuple[int, ...]:
    """The indices of the processes whose devices hold a tree's arrays, in ascending order."""
    found: set[int] = set()
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer):
            found |= {device.process_index for device in leaf.sharding.device_set}
    return tuple(sorted(found))


def least(number: float) -> float:
    """The least of the numbers that the processes of the group give."""
    return min(told_by_all(number, "least"))


def told_by_first(value: Any) -> Any:
    """The value of the group's first process; JSON must be able to hold it."""
    return told_by_all(value, "first")[0]


def told_by_all(value: Any, kind: str = "all") -> list[Any]:
    """The values of all processes of the group, in their order; JSON must be able to hold them.

    Raises:
      OtherProcessFailed: if another process has failed, or makes a call of another ``kind``.
    """
    if is_alone():
        return [value]
    told = _send(kind, value)
    for process, (other, content) in told.items():
        if other == "error":
            if _are_alone(TOGETHER):
                leave_without_others(1, FOLLOWED)
            raise OtherProcessFailed(f"process {process} failed with {content}")
    if any(other != kind for other, _ in told.values()):
        calls = {process: other for process, (other, _) in told.items()}
        raise OtherProcessFailed(
            f"the processes must make the same calls in the same order, got {calls}."
        )
    return [content for _, content in told.values()]


def is_first() -> bool:
    """Whether this process is the first of the group, or decides for itself."""
    # Alone, JAX is not asked: it would start its backend.
    return is_alone() or members()[0] == jax.process_index()


def members() -> tuple[int, ...]:
    """The indices of the group's processes; of this one where it decides for itself."""
    return _group.get() or (jax.process_index(),)


def clock() -> float:
    """Seconds by the clock of the group's first process."""
    return told_by_first(time.perf_counter())


def is_alone() -> bool:
    """Whether no group is open, so that this process decides for itself."""
    return not _group.get()


@contextlib.contextmanager
def patience(seconds: float) -> Iterator[None]:
    """A context in which a process waits ``seconds`` for answers of the others. Elsewhere it waits
    for ever, since another one may be reading its data.
    """
    token = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(token)


def attempted(
    work: Callable[[], Found],
    expected: tuple[type[Exception], ...] = (),
    *,
    is_shared: bool = False,
) -> Found:
    """The value of ``work``, a step that all processes take, if it returns in all of them. After an
    error that is ``expected`` all go on together, those that had none with a
    :class:`FailedElsewhere`.

    Each process waits for the others without limit, since a step may take any time, but for those
    that are inside a program that all share: a process that fails there alone cannot reach them. It
    leaves after :data:`PATIENCE`, and JAX ends the others.

    >>> attempted(lambda: 3)
    3
    """
    if jax.process_count() == 1:
        return work()
    found, failed = None, None
    try:
        # On a thread, so that Ctrl-C works while a program waits for a process that hangs.
        found = on_a_thread(work, look=follow_early_end) if is_shared else work()
    except Exception as error:
        if is_shared and isinstance(error, OtherProcessFailed):
            raise  # another process has ended, and this one leaves
        if is_of_interrupt(error):
            leave_without_others()
            raise KeyboardInterrupt from error
        failed = error
    said = failed and in_words(failed)
    is_inside = is_shared and failed is not None
    if is_inside:
        # The others' network may end this process before it can raise.
        print(f"process {jax.process_index()}: {said}", file=sys.stderr, flush=True)
    try:
        with patience(PATIENCE if is_inside else math.inf), among_all("a step of a point"):
            if failed is not None and not isinstance(failed, expected):
                raise failed
            told = told_by_all(said)
    except OtherProcessFailed as error:
        if failed in (None, error):
            raise
        raise OtherProcessFailed(
            f"process {jax.process_index()} failed in a program that all share: {said}"
        ) from error
    if failed is not None:
        raise failed
    for process, message in enumerate(told):
        if message is not None:
            raise FailedElsewhere(f"process {process}: {message}")
    return found  # pyright: ignore[reportReturnType] -- nothing failed


def check_alike(facts: dict[str, Any]) -> None:
    """Refuse processes that were not asked for the same work on the same data.

    Raises:
      DataError: naming what differs.
    """
    told = told_by_all({name: _digest(fact) for name, fact in facts.items()})
    for name in facts:
        if any(each[name] != told[0][name] for each in told):
            raise DataError(
                f"{name} are not the same in all processes: start each by the same command, where "
                "it sees the same files."
            )


def _digest(fact: Any) -> str:
    return hashlib.sha256(json.dumps(fact, default=str).encode()).hexdigest()


def _send(kind: str, value: Any) -> dict[int, tuple[str, Any]]:
    """Send a value to the group's other processes, and return the kinds and values of all."""
    messages.introduce()
    group, own = _group.get(), jax.process_index()
    number = _sent[group] = _sent.get(group, 0) + 1
    folder = f"group/{_digest(group)}"
    messages.leave(f"{folder}/{number}/{own}", json.dumps([kind, value]))
    texts = {process: _heard(f"{folder}/{number}/{process}", process) for process in group}
    # A process that has left this message does not look for earlier ones.
    messages.remove(f"{folder}/{number - 1}/{own}")
    return {process: tuple(json.loads(text)) for process, text in texts.items()}


def _heard(name: str, process: int) -> str:
    """The message of another process, as soon as that has left it."""
    seconds, end = _patience.get(), None
    deadline = time.monotonic() + seconds
    while (text := messages.awaited(name)) is None:
        if end is not None:  # a message that was left before the end would be there
            leave_without_others(1, FOLLOWED)
            raise has_ended(end)
        if time.monotonic() > deadline:
            raise has_waited(seconds)
        end = early_end(process)
    return text
