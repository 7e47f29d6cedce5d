"""What the processes of an experiment do together: it succeeds in all of them, or fails in all.

A process that fails alone would leave the others in the next program that they share. So each step
of a point ends with a message of each process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import jax

from jaxdescent import agreement
from jaxdescent.scale.problems import NotDivisible, TooFewDevices

EXPECTED = (NotDivisible, TooFewDevices, ImportError, MemoryError, jax.errors.JaxRuntimeError)
"""What is wrong with one point, and no reason not to go on with the next."""

PATIENCE = 30.0
"""Seconds for which a process that failed in a shared program waits for the others, which may have
failed too; after that they are taken to wait for it inside."""

Found = TypeVar("Found")


class FailedElsewhere(RuntimeError):
    """One of :data:`EXPECTED`, in another process."""


def in_words(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(str(error).split())


def attempted(work: Callable[[], Found], *, is_shared: bool = False) -> Found:
    """What ``work`` returns, if it returns in all processes.

    Args:
      work: a step that all processes take.
      is_shared: whether it is a program in which the processes wait for each other: one that
        fails there alone cannot be heard by them. It leaves after :data:`PATIENCE`, and JAX ends
        the others.

    Raises:
      Exception: what ``work`` raises here.
      FailedElsewhere: if one of :data:`EXPECTED` was raised in another process.
      OtherProcessFailed: if another error was, or if the others are inside a program that this
        process has failed in.

    >>> attempted(lambda: 3)
    3
    """
    if jax.process_count() == 1:
        return work()
    call = "a step of a point"
    try:
        # On a thread: Ctrl-C is heard while a program waits for a process that hangs.
        found, failed = agreement.wait_for(work) if is_shared else work(), None
    except EXPECTED as error:
        found, failed = None, error
    except Exception:
        with agreement.patience(PATIENCE), agreement.among_all(call):
            raise
    said = None if failed is None else in_words(failed)
    try:
        if is_shared and failed is not None:
            # The others' network may end this process before it can raise.
            print(f"process {jax.process_index()}: {said}", file=sys.stderr, flush=True)
            with agreement.patience(PATIENCE):
                told = _told(call, said)
        else:
            told = _told(call, said)
    except agreement.OtherProcessFailed as error:
        if failed is None:
            raise
        raise agreement.OtherProcessFailed(
            f"process {jax.process_index()} failed in a program that all share: {said}"
        ) from error
    if failed is not None:
        raise failed
    for process, message in enumerate(told):
        if message is not None:
            raise FailedElsewhere(f"process {process}: {message}")
    return found  # pyright: ignore[reportReturnType] -- nothing failed


def _told(call: str, said: str | None) -> list[str | None]:
    with agreement.among_all(call):
        return agreement.told_by_all(said)
