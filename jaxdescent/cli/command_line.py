"""Helpers that the commands share: lists of names, joining processes, and errors in one line."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Container, Iterator, Sequence
from typing import Any

import typer

from jaxdescent.cli import INTERRUPTED, is_of_the_extra, leave
from jaxdescent.cli.options import require

CLEANING = 1.0
"""Seconds after a signal for which another one is passed over, and after which an interrupt that
Python has dropped comes again."""


def echo_json(content: dict[str, Any]) -> None:
    """Print one JSON object."""
    from jaxdescent.rows.errors import printable

    typer.echo(printable(json.dumps(content, ensure_ascii=False, default=str)))


def penalty(text: str) -> float | str:
    """A penalty as a number, or the word that was given instead."""
    try:
        return float(text)
    except ValueError:
        return text


def split_names(
    given: Sequence[str] | None, known: Container[str] = (), *, stripped: bool = True
) -> tuple[str, ...]:
    """Names from options that were repeated or hold several with commas between them, without the
    spaces around names that are not ``known``; with all spaces where they are not ``stripped``.

    >>> split_names(["a, b", "c"]), split_names(["a, b"], stripped=False)
    (('a', 'b', 'c'), ('a', ' b'))
    """
    found = [
        name for text in given or () for name in ([text] if text in known else text.split(","))
    ]
    found = [name if name in known else name.strip() for name in found] if stripped else found
    return tuple(dict.fromkeys(filter(None, found)))


def join(
    distributed: bool,
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    *,
    has_notices: bool = True,
) -> None:
    """Join the other processes if ``--distributed`` is given, before JAX has devices. Unless
    ``has_notices``, SIGTERM ends a process as Ctrl-C does: JAX would take it for a notice of
    preemption, which all processes have to ask for.
    """
    is_named = (coordinator, processes, process) != (None, None, None)
    require(distributed or not is_named, "--distributed", "is missing.")
    if distributed:
        import jax

        from jaxdescent.processes import joining

        if not has_notices:
            jax.config.update("jax_enable_preemption_service", False)
        try:
            joining.join(coordinator, processes, process)
        except joining.NoCluster as error:
            raise typer.BadParameter(str(error), param_hint="--distributed") from error


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A context in which SIGTERM ends a command as Ctrl-C does, by a KeyboardInterrupt, so that
    nothing half-written stays.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    from jaxdescent.processes.ending import is_of_interrupt, was_interrupted
    from jaxdescent.processes.signals import handled_by

    # Ctrl-C called :func:`leave` until now; a caller's own handler is left in place.
    taken = [signal.SIGTERM, *[signal.SIGINT] * (signal.getsignal(signal.SIGINT) is leave)]
    alarm = [signal.SIGALRM] if hasattr(signal, "SIGALRM") else []  # none on Windows
    hook, last = sys.unraisablehook, [-math.inf]
    was_interrupted.clear()

    def interrupt(number: int, frame: Any) -> None:
        now = time.monotonic()
        is_again, last[0] = now - last[0] < CLEANING, now
        if not is_again:  # else the cleaning up after the first one goes on
            was_interrupted.set()
            raise KeyboardInterrupt

    def interrupt_later(lost: Any) -> None:
        # Python drops an error in a callback of the garbage collector, such as JAX has.
        if is_of_interrupt(lost.exc_value) and alarm:
            signal.setitimer(signal.ITIMER_REAL, CLEANING)
        else:
            hook(lost)

    sys.unraisablehook = interrupt_later
    try:
        with handled_by(interrupt, [*taken, *alarm]):
            yield
    finally:
        if alarm:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        sys.unraisablehook = hook


def is_one_of_several() -> bool:
    """Whether this process is part of a distributed run, and must tell the others its end."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


@contextlib.contextmanager
def _warning_in_one_line() -> Iterator[None]:
    def show(message: Warning | str, *rest: Any, **others: Any) -> None:
        from jaxdescent.rows.errors import printable

        typer.echo(f"Warning: {printable(' '.join(str(message).split()))}.", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextlib.contextmanager
def failing_in_one_line(works_with: str, written: str = "nothing was written") -> Iterator[None]:
    """A context that turns errors that a user can act on into a line and exit code 2, Ctrl-C and
    SIGTERM into exit code 130, and warnings into a line.

    Args:
      works_with: a module that is imported first, while Ctrl-C still ends the process at once.
      written: what is written after Ctrl-C, in words.
    """
    line = f"Interrupted: {written}."
    try:
        importlib.import_module(works_with)
        with _ended_by_signals(), _warning_in_one_line():
            yield
    except KeyboardInterrupt as error:
        from jaxdescent.fit.iterations import Interrupted

        typer.echo(f"Interrupted: {error}" if isinstance(error, Interrupted) else line, err=True)
        raise typer.Exit(INTERRUPTED) from None
    except typer.Exit:  # the command has said how it ends
        raise
    except Exception as error:
        from jaxdescent.processes import OtherProcessFailed
        from jaxdescent.processes.ending import is_of_interrupt

        # The end of another process reaches this one by a signal, and is told as what it is.
        if is_of_interrupt(error) and not isinstance(error, OtherProcessFailed):
            typer.echo(line, err=True)
            raise typer.Exit(INTERRUPTED) from None
        line = _line_of(error)
        if line is None:
            raise
        typer.echo(f"Error: {line}", err=True)
        raise typer.Exit(2) from error


def _line_of(error: Exception) -> str | None:
    """An error that a user can act on, in one line; None for a fault of this package."""
    from jaxdescent.processes import OtherProcessFailed
    from jaxdescent.rows import DataError
    from jaxdescent.rows.errors import printable

    if is_of_the_extra(error):
        return None  # the entry point says what to install
    if isinstance(error, DataError | ImportError | MemoryError | OtherProcessFailed):
        return printable(" ".join(str(error).split())) or "there is not enough memory"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return printable(f"{where}{error.strerror or error}.")
    return None
