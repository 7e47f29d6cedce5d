"""Small messages that the processes of a run leave for each other, without any program.

JAX's coordination service keeps the messages, in the first process: leaving one and looking for
some computes nothing, and needs no other thread to be idle.
"""

# jax.experimental.multihost_utils would send them by programs, which all processes must compile and
# run, in the order of their other programs. A process that waits in one cannot be interrupted or
# stop waiting, nobody learns who is missing, and one that runs another program hears nothing. Large
# data go by programs all the same (`arrays`), because all messages pass through one process.

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from jaxdescent.display.numbers import shortened

ROOM = "jaxdescent"
"""The prefix of the names of all texts, since others may use the service too."""

LOOK_SECONDS = 0.5
"""Seconds between two looks of a waiting process for other events, such as the end of another."""


class OtherProcessFailed(RuntimeError):
    """Raised where another process of the same run raised an error, with its message, was called
    with something else, or does not answer.

    >>> issubclass(OtherProcessFailed, RuntimeError)
    True
    """


def leave(name: str, text: str) -> None:
    """Leave a text for all processes, in the place of an earlier one of this name."""
    with _reaching() as service:
        service.key_value_set(f"{ROOM}/{name}", text, allow_overwrite=True)


def settled(name: str, text: str) -> str:
    """The text of this name that was left first, in any process: this one, if there is none yet."""
    with _reaching() as service:
        try:
            service.key_value_set(f"{ROOM}/{name}", text, allow_overwrite=False)
        except jax.errors.JaxRuntimeError as error:
            if not str(error).startswith("ALREADY_EXISTS"):
                raise
            return service.blocking_key_value_get(f"{ROOM}/{name}", int(1000 * LOOK_SECONDS))
    return text


def remove(name: str) -> None:
    """Remove a text that no process looks for any more."""
    with _reaching() as service:
        service.key_value_delete(f"{ROOM}/{name}")


def found(folder: str) -> dict[str, str]:
    """The texts so far whose names begin with ``folder/``, by the rest of their names."""
    whole = f"{ROOM}/{folder}/"
    with _reaching() as service:
        return {key.removeprefix(whole): text for key, text in service.key_value_dir_get(whole)}


def awaited(name: str) -> str | None:
    """The text of this name, as soon as it has been left; None after :data:`LOOK_SECONDS`."""
    with _reaching() as service:
        try:
            return service.blocking_key_value_get(f"{ROOM}/{name}", int(1000 * LOOK_SECONDS))
        except jax.errors.JaxRuntimeError as error:
            if not str(error).startswith("DEADLINE_EXCEEDED"):
                raise
    return None


@functools.cache
def introduce() -> None:
    """Leave word of where this process runs, once."""
    leave(f"runs/{jax.process_index()}", f"{_namespace()} {os.getpid()}")


def is_gone(process: int) -> bool:
    """Whether another process of this machine has ended without a word, as after ``kill -9``.

    JAX notices the end of any process by its heartbeat, but takes most of a minute for it.
    """
    text = found("runs").get(str(process))
    namespace, _, number = (text or "").rpartition(" ")
    if not namespace or namespace != _namespace():
        return False
    try:
        state = pathlib.Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"  # it waits for its parent to read its exit code


@functools.cache
def _namespace() -> str:
    """The machine, as it was started, and the space of its process numbers; empty if unknown."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


@contextlib.contextmanager
def _reaching() -> Iterator[Any]:
    """The coordination service, for which JAX has no public name."""
    from jax._src import distributed

    if (service := distributed.global_state.client) is None:
        raise OtherProcessFailed(
            f"JAX has {jax.process_count()} processes but no coordination service: let each call "
            "jax.distributed.initialize before anything else."
        )
    try:
        yield service
    except jax.errors.JaxRuntimeError as error:
        raise OtherProcessFailed(
            f"process 0 has ended, or cannot be reached ({in_words(error)})."
        ) from error


def in_words(error: BaseException) -> str:
    """An error in one line."""
    return shortened(str(error), 1000)
