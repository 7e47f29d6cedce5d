"""What several processes must decide alike, and an error in one of them that must end all.

All processes of a distributed run execute the same calls, and a program that they share starts only
when each of them has called it. So they must choose the same method, and if the checks of one
process raise, the others would wait for ever. :func:`among` opens a group of the processes that
hold some arrays; inside, :func:`least`, :func:`told_by_first` and the end of the group are the
points where each tells the others what it sees. Everywhere else, and in a run of one process, these
functions return what they are given.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdescent.inputs import tracing

MESSAGE_BYTES = 4096
"""The size of every message: one program serves them all."""

_group: ContextVar[tuple[int, ...]] = ContextVar("processes that decide alike", default=())


_patience: ContextVar[float] = ContextVar("seconds to wait for the others", default=math.inf)


class OtherProcessFailed(RuntimeError):
    """Raised where another process of the same run raised an error, with its message, or where it
    does not answer.
    """


@contextlib.contextmanager
def among(call: str, *trees: Any) -> Iterator[None]:
    """Let the processes that hold these arrays decide alike; an error in one is raised in all.

    Raises:
      OtherProcessFailed: if another process of the group raised an error inside, or is in a group
        for another ``call``.
    """
    if jax.process_count() == 1 or _group.get():
        yield
        return
    processes = processes_of(trees)
    if len(processes) < 2 or not tracing.is_top_level():
        yield
        return
    token = _group.set(processes)
    try:
        _exchange(call, None)
        yield
        _exchange(f"end of {call}", None)
    except OtherProcessFailed:
        raise
    except Exception as error:
        # KeyboardInterrupt and SystemExit are not exchanged: who is told to stop must not wait.
        _send("error", f"{type(error).__name__}: {error}")
        raise
    finally:
        _group.reset(token)


def processes_of(tree: Any) -> tuple[int, ...]:
    """The indices of the processes whose devices hold a tree's arrays, in ascending order."""
    found: set[int] = set()
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer):
            found |= {device.process_index for device in leaf.sharding.device_set}
    return tuple(sorted(found))


def least(number: float) -> float:
    """The least of the numbers that the processes of the group give."""
    return min(_exchange("least", number))


def told_by_first(value: Any) -> Any:
    """The value of the group's first process; JSON must be able to hold it."""
    return _exchange("first", value)[0]


def told_by_all(value: Any) -> list[Any]:
    """The values of all processes of the group, in their order; JSON must be able to hold them."""
    return _exchange("all", value)


def clock() -> float:
    """Seconds by the clock of the group's first process."""
    return told_by_first(time.perf_counter())


def is_alone() -> bool:
    """Whether no group is open, so that this process decides for itself."""
    return not _group.get()


@contextlib.contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Wait for an answer of the others for so long, inside. Without it a process waits for ever:
    another one may be reading its data.
    """
    token = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(token)


def wait_for(work: Callable[[], Any], seconds: float = math.inf) -> Any:
    """What ``work`` returns; it runs on a thread, so that this one can be interrupted.

    Raises:
      OtherProcessFailed: if it takes longer, because it waits for another process.
      BaseException: what ``work`` raises.
    """
    is_done = threading.Event()
    answers: list[Any] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            answers.append(work())
        except BaseException as error:  # raised below, in the waiting thread
            errors.append(error)
        finally:
            is_done.set()

    threading.Thread(target=target, daemon=True).start()
    if not is_done.wait(None if math.isinf(seconds) else seconds):
        atexit.register(_leave_at_once)
        raise OtherProcessFailed(
            f"process {jax.process_index()} has waited {seconds:.0f} s for another one, which "
            "hangs, or does in a hook what takes longer: see the other processes, and allow more "
            "by patience=."
        )
    if errors:
        raise errors[0]
    return answers[0]


def _leave_at_once() -> None:
    """End this process without the others: a program that waits for them cannot be given up, and
    JAX's own end would wait for them too.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _exchange(kind: str, value: Any) -> list[Any]:
    """What each process of the group gives, in their order."""
    if is_alone():
        return [value]
    messages = _send(kind, value)
    for process, (other, content) in zip(_group.get(), messages, strict=True):
        if other == "error":
            raise OtherProcessFailed(f"process {process} failed with {content}")
    if any(other != kind for other, _ in messages):
        calls = {process: other for process, (other, _) in zip(_group.get(), messages, strict=True)}
        raise OtherProcessFailed(
            f"the processes must make the same calls in the same order, got {calls}."
        )
    return [content for _, content in messages]


def _send(kind: str, value: Any) -> list[tuple[str, Any]]:
    """Tell the group's other processes, and return what each of them tells."""
    group = _group.get()
    text = json.dumps([kind, value]).encode()
    if len(text) > MESSAGE_BYTES:
        # Half of it: a character may be escaped as six bytes.
        text = json.dumps([kind, str(value)[: MESSAGE_BYTES // 12] + " ..."]).encode()
    own = np.frombuffer(text.ljust(MESSAGE_BYTES), np.uint8)[None, :]
    everywhere, gather = _program(group)

    def gathered() -> np.ndarray:
        parts = jax.make_array_from_process_local_data(everywhere, own, (len(group), MESSAGE_BYTES))
        return np.asarray(gather(parts).addressable_data(0))

    seconds = _patience.get()
    rows = gathered() if math.isinf(seconds) else wait_for(gathered, seconds)
    return [tuple(json.loads(row.tobytes())) for row in rows]


@functools.cache
def _program(group: tuple[int, ...]) -> tuple[NamedSharding, Any]:
    """Where each process's message lies, and the program that gives all messages to all of them."""
    first = {}
    for device in jax.devices():
        first.setdefault(device.process_index, device)
    mesh = Mesh(np.array([first[process] for process in group]), ("processes",))
    replicated = NamedSharding(mesh, PartitionSpec())
    gather = jax.jit(lambda parts: parts, out_shardings=replicated)
    return NamedSharding(mesh, PartitionSpec("processes")), gather
