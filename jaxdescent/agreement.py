"""What several processes must decide alike, and an error in one of them that must end all.

All processes of a distributed run execute the same calls, and a program that they share starts only
when each of them has called it. So they must choose the same method, and if the checks of one
process raise, the others would wait for ever. :func:`among` opens a group of the processes that
hold some arrays; inside, :func:`least`, :func:`told_by_first` and the end of the group are the
points where each tells the others what it sees. Everywhere else, and in a run of one process, these
functions return what they are given.

What is larger than a message, :func:`added` sums and :func:`told_bytes_by_all` gathers.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
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

INTERRUPTED = 130
"""The exit code after Ctrl-C."""

CHUNK_BYTES = 1 << 22
"""Of what is larger, so much is sent at a time."""

MOST_SHOWN = 3
"""The most differences between calls that an error lists."""

_group: ContextVar[tuple[int, ...]] = ContextVar("processes that decide alike", default=())


_codes: list[int] = []
"""The exit codes of the reasons to end without the others."""

_patience: ContextVar[float] = ContextVar("seconds to wait for the others", default=math.inf)


class OtherProcessFailed(RuntimeError):
    """Raised where another process of the same run raised an error, with its message, was called
    with something else, or does not answer.
    """


class Stopped(KeyboardInterrupt):
    """Raised where all processes of a group end as they have agreed: none waits for another."""


@contextlib.contextmanager
def among(
    call: str, *trees: Any, alike: Callable[[], dict[str, str]] | None = None
) -> Iterator[None]:
    """Let the processes that hold these arrays decide alike; an error in one is raised in all.

    Args:
      call: what they do.
      trees: which hold the arrays.
      alike: names and texts of what all of them must give to the call.

    Raises:
      OtherProcessFailed: if another process of the group raised an error inside or called
        ``sys.exit``, or is in a group for another ``call``, or gave it something else.
    """
    if jax.process_count() == 1 or _group.get():
        yield
        return
    processes = processes_of(trees)
    if len(processes) < 2 or not tracing.is_top_level():
        yield
        return
    with _agreeing(call, processes, alike):
        yield


@contextlib.contextmanager
def among_all(call: str) -> Iterator[None]:
    """A group of all processes of the run, whatever arrays there are."""
    if jax.process_count() == 1 or _group.get():
        yield
        return
    with _agreeing(call, tuple(range(jax.process_count()))):
        yield


@contextlib.contextmanager
def _agreeing(
    call: str, processes: tuple[int, ...], alike: Callable[[], dict[str, str]] | None = None
) -> Iterator[None]:
    token = _group.set(processes)
    try:
        own = {} if alike is None else alike()
        text = json.dumps(own)
        digests = _exchange(call, hashlib.sha256(text.encode()).hexdigest())
        if any(digest != digests[0] for digest in digests):
            _refuse(call, [json.loads(each) for each in told_bytes_by_all(text.encode())])
        yield
        _exchange(f"end of {call}", None)
    except (OtherProcessFailed, Stopped):
        raise
    except (Exception, SystemExit) as error:
        # KeyboardInterrupt is not exchanged: who is told to stop must not wait.
        with contextlib.suppress(OtherProcessFailed):  # this one's own error is to be seen
            _send("error", f"{type(error).__name__}: {error}")
        raise
    except KeyboardInterrupt:
        leave_without_others()
        raise
    finally:
        _group.reset(token)


def _refuse(call: str, told: list[dict[str, str]]) -> None:
    """Raise, with what the processes of the group gave to a call otherwise."""
    differing: dict[str, str] = {}
    for name in dict.fromkeys(name for each in told for name in each):
        texts = [each.get(name, "absent") for each in told]
        if len(set(texts)) == 1 or name.startswith(tuple(differing)):
            continue
        differing[name] = " and ".join(
            f"{text[:200]} in process {', '.join(_with(text, texts))}"
            for text in dict.fromkeys(texts)
        )
    found = "; ".join(f"{name} is {text}" for name, text in list(differing.items())[:MOST_SHOWN])
    raise OtherProcessFailed(
        f"the processes must make the same call of {call}, and {found}: give all of them the same."
    )


def _with(text: str, texts: list[str]) -> list[str]:
    """The processes of the group that gave this text."""
    return [str(at) for at, each in zip(_group.get(), texts, strict=True) if each == text]


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


def told_bytes_by_all(content: bytes) -> list[bytes]:
    """The bytes of all processes of the group, of any length, in their order."""
    if is_alone():
        return [content]
    lengths = told_by_all(len(content))
    longest = max(lengths)
    parts = [bytearray() for _ in lengths]
    for first in range(0, longest, CHUNK_BYTES):
        # Of few sizes: each is a program to compile.
        size = min(1 << (longest - first - 1).bit_length(), CHUNK_BYTES)
        own = content[first : first + size].ljust(size, b"\0")
        for part, row in zip(parts, _gathered(np.frombuffer(own, np.uint8)), strict=True):
            part.extend(row.tobytes())
    return [bytes(part[:length]) for part, length in zip(parts, lengths, strict=True)]


def added(array: np.ndarray) -> np.ndarray:
    """The sum of the arrays of all processes of the group, which are of one shape and dtype.

    Each process adds up its own part of them, in the order of the processes, and tells the others:
    all get the same bits, whatever the dtype, and a process sends and holds little more than twice
    the array, however many there are.

    Raises:
      OtherProcessFailed: if shapes or dtypes differ.
    """
    if is_alone():
        return array
    told = told_by_all([list(array.shape), str(array.dtype)])
    if any(each != told[0] for each in told):
        raise OtherProcessFailed(f"arrays that are added up must be of one shape, got {told}.")
    count, flat = len(told), np.ascontiguousarray(array).reshape(-1)
    total = np.empty_like(flat)
    # In float64 even where JAX has no 64-bit numbers: only bytes are sent.
    step = max(CHUNK_BYTES // flat.itemsize // count, 1) * count
    for first in range(0, flat.size, step):
        own = flat[first : first + step]
        padded = np.zeros(-(-own.size // count) * count, flat.dtype)
        padded[: own.size] = own
        terms = [row.view(flat.dtype) for row in _parts_of_all(padded.view(np.uint8))]
        mine = terms[0].copy()
        for term in terms[1:]:
            mine += term
        rows = _gathered(mine.view(np.uint8))
        found = np.concatenate([row.view(flat.dtype) for row in rows])
        total[first : first + own.size] = found[: own.size]
    return total.reshape(array.shape)


def array_of_first(array: np.ndarray) -> np.ndarray:
    """The array of the group's first process; those of the others are of the same shape."""
    return added(array if is_first() else np.zeros_like(array))


def is_first() -> bool:
    """Whether this process is the first of the group, or decides for itself."""
    return is_alone() or _group.get()[0] == jax.process_index()


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
        _leave_at_the_end()
        raise OtherProcessFailed(
            f"process {jax.process_index()} has waited {seconds:.0f} s for another one, which "
            "hangs, or does in a hook what takes longer: see the other processes, and allow more "
            "by patience=."
        )
    if errors:
        raise errors[0]
    return answers[0]


def leave_without_others(code: int = INTERRUPTED) -> None:
    """End this process at its end, with Ctrl-C's exit code or another: the others of its run may
    wait for it, and JAX's common end would wait for them.
    """
    if jax.process_count() > 1:
        _leave_at_the_end(code)


def _leave_at_the_end(code: int = 1) -> None:
    """End this process where a program that waits for the others cannot be given up. Of several
    reasons the first gives the code: the others follow from it.
    """
    if not _codes:
        atexit.register(_leave_at_once)
    _codes.append(code)


def _leave_at_once() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_codes[0])


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
    text = json.dumps([kind, value]).encode()
    if len(text) > MESSAGE_BYTES:
        # Half of it: a character may be escaped as six bytes.
        text = json.dumps([kind, str(value)[: MESSAGE_BYTES // 12] + " ..."]).encode()
    rows = _gathered(np.frombuffer(text.ljust(MESSAGE_BYTES), np.uint8))
    return [tuple(json.loads(row.tobytes())) for row in rows]


def _gathered(own: np.ndarray) -> np.ndarray:
    """The bytes of each process of the group, of as many in all of them: (processes, bytes)."""
    gather, _ = _programs(_group.get())
    return _run(gather, own)


def _parts_of_all(own: np.ndarray) -> np.ndarray:
    """This process's part of the bytes of each of them, (processes, bytes / processes)."""
    _, scatter = _programs(_group.get())
    return _run(scatter, own)


def _run(program: Any, own: np.ndarray) -> np.ndarray:
    """What a program of the group gives here for rows of bytes, of which this process has one."""
    group = _group.get()

    def found() -> np.ndarray:
        rows = jax.make_array_from_process_local_data(
            _everywhere(group), own[None, :], (len(group), own.size)
        )
        try:
            return np.asarray(program(rows).addressable_data(0))
        except (ValueError, jax.errors.JaxRuntimeError) as error:
            _leave_at_the_end()
            raise OtherProcessFailed(
                "another process has ended, or cannot be reached: see what it said "
                f"({str(error).splitlines()[0]})."
            ) from error

    seconds = _patience.get()
    return found() if math.isinf(seconds) else wait_for(found, seconds)


@functools.cache
def _everywhere(group: tuple[int, ...]) -> NamedSharding:
    """A row on the first device of each process."""
    first = {}
    for device in jax.devices():
        first.setdefault(device.process_index, device)
    mesh = Mesh(np.array([first[process] for process in group]), ("processes",))
    return NamedSharding(mesh, PartitionSpec("processes"))


@functools.cache
def _programs(group: tuple[int, ...]) -> tuple[Any, Any]:
    """Programs that give all rows to all processes, or to each of them its part of all rows."""
    mesh = _everywhere(group).mesh
    gather = jax.jit(lambda rows: rows, out_shardings=NamedSharding(mesh, PartitionSpec()))
    columns = NamedSharding(mesh, PartitionSpec(None, "processes"))
    return gather, jax.jit(lambda rows: rows, out_shardings=columns)
