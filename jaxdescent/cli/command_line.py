"""Helpers that the commands share: lists of names, joining processes, and errors in one line."""

from __future__ import annotations

import _thread
import contextlib
import importlib
import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Container, Iterator, Sequence
from typing import Any

import typer

from jaxdescent.cli import INTERRUPTED, end_at_once, is_of_the_extra, leave
from jaxdescent.cli.options import require

LONGEST = 1.5
"""Seconds from a signal to the end of the process where Python has not handled the signal."""

LOOK = 0.2
"""Seconds between two looks at whether a signal is on its way to the end of the process."""


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


RAISES_AGAIN = "raise_again"
"""The function that tells of errors which Python drops, and interrupts the main thread itself."""

LOST = b"\0"
"""What the thread that watches for signals is told where an interrupt was lost."""


def _is_on_its_way(handled: BaseException | None) -> bool:
    """Whether an interrupt is, by the error being handled: it closes generators that it passes."""
    from jaxdescent.processes.ending import came_of_interrupt

    return isinstance(handled, GeneratorExit) or came_of_interrupt(handled)


def _interrupt_where_lost(number: signal.Signals) -> None:
    """Interrupt the main thread again where it has raised an interrupt, and neither cleans up after
    it nor tells of it: pyarrow goes on without pandas where an interrupt made that import fail.
    """
    from jaxdescent.processes.ending import was_interrupted

    handled: Any = sys._current_exceptions().get(threading.main_thread().ident or 0)
    if isinstance(handled, tuple):  # before Python 3.12
        handled = handled[1]
    if was_interrupted.is_set() and not _is_on_its_way(handled):
        _thread.interrupt_main(number)


@contextlib.contextmanager
def _ended_by_signals(line: str, *, in_time: bool) -> Iterator[None]:
    """A context in which SIGTERM ends a command as Ctrl-C does, so that nothing half-written stays;
    a run of one process ends :data:`LONGEST` later at the latest, with this line, and is
    interrupted again where the interrupt was lost.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    from jaxdescent.processes.ending import is_of_interrupt, was_interrupted
    from jaxdescent.processes.signals import handled_by

    # Ctrl-C called :func:`leave` until now; a caller's own handler is left in place.
    is_left = leave in map(signal.getsignal, (signal.SIGINT, signal.SIGTERM))
    taken = [signal.SIGTERM, *[signal.SIGINT] * (signal.getsignal(signal.SIGINT) is leave)]
    in_time = in_time and is_left
    hook, is_over, (reader, writer) = sys.unraisablehook, threading.Event(), os.pipe()
    os.set_blocking(writer, False)
    was_interrupted.clear()

    def interrupt(number: int, frame: Any) -> None:
        # Another interrupt would cut off the cleaning up after one that is on its way: the process
        # ends in time without it.
        is_again = was_interrupted.is_set() and _is_on_its_way(sys.exc_info()[1])
        is_enough = in_time and is_again and not is_one_of_several()
        was_interrupted.set()
        while frame is not None and frame.f_code.co_name != RAISES_AGAIN:
            frame = frame.f_back
        if frame is None and not is_enough:  # Python would drop an error of that function
            raise KeyboardInterrupt

    def raise_again(lost: Any) -> None:
        # An error in a callback of the garbage collector, such as JAX has, is printed and dropped
        # by Python. The other thread interrupts the main one when that is out of the callback.
        if not is_of_interrupt(lost.exc_value):
            hook(lost)
        if is_of_interrupt(lost.exc_value):  # a signal may have come meanwhile
            was_interrupted.set()
            if not is_over.is_set():  # else another file can have the number of the pipe
                os.write(writer, LOST)

    def watch() -> None:
        # The system tells this thread of a signal, since Python handles none while its main thread
        # compiles or waits for a program.
        while told := os.read(reader, 1):
            if told == LOST and not is_over.wait(LOOK):
                _interrupt_where_lost(signal.SIGTERM)
            # A fit with checkpoints has its own handler, which saves its state.
            is_ours = told != LOST and in_time and signal.getsignal(told[0]) is interrupt
            end = time.monotonic() + LONGEST
            while is_ours and not is_over.wait(LOOK) and not is_one_of_several():
                if time.monotonic() >= end:
                    end_at_once(line, INTERRUPTED)
                _interrupt_where_lost(signal.Signals(told[0]))
        os.close(reader)

    sys.unraisablehook = raise_again
    threading.Thread(target=watch, name="jaxdescent-signals", daemon=True).start()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False) if in_time else None
    try:
        with handled_by(interrupt, taken):
            yield
    finally:
        is_over.set()
        if before is not None:
            signal.set_wakeup_fd(before)
        sys.unraisablehook = hook
        os.close(writer)


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
def failing_in_one_line(
    works_with: str, written: str = "nothing was written", *, in_time: bool = True
) -> Iterator[None]:
    """A context that turns errors that a user can act on into a line and exit code 2, Ctrl-C and
    SIGTERM into exit code 130, and warnings into a line.

    Args:
      works_with: a module that is imported first, while Ctrl-C still ends the process at once.
      written: what is written after Ctrl-C, in words.
      in_time: whether to end at once where Python handles a signal later than :data:`LONGEST`.
    """
    line = f"Interrupted: {written}."
    try:
        importlib.import_module(works_with)
        with _ended_by_signals(line, in_time=in_time), _warning_in_one_line():
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
