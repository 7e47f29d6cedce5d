"""What the commands have in common: sizes, lists of names, how processes join, and errors in one
line.
"""

from __future__ import annotations

import contextlib
import decimal
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from jaxdescent import cluster
from jaxdescent.agreement import OtherProcessFailed

INTERRUPTED = 130

Distributed = Annotated[
    bool,
    typer.Option("--distributed", help="This is one of several processes that do this together."),
]
Coordinator = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", help="Of the first process, if none is found.", show_default=False
    ),
]
Processes = Annotated[
    int | None, typer.Option(min=1, help="How many they are.", show_default=False)
]
Process = Annotated[
    int | None, typer.Option(min=0, help="Which one this is, from 0.", show_default=False)
]

UNITS = {
    unit + end: base**power
    for base, end in ((1000, "b"), (1024, "ib"))
    for power, unit in enumerate(["k", "m", "g", "t"], start=1)
} | {"b": 1, "": 1}

MOST_BYTES = 2**63 - 1
"""More are no number of bytes of a machine."""


def byte_count(text: str) -> int:
    """A number of bytes, written as 600MB, 4GB, 1.5GiB or 4000000000."""
    word = text.strip().lower().replace("_", "").replace(" ", "")
    digits = word.rstrip("kmgtib")
    try:
        number = decimal.Decimal(digits)
        unit = UNITS[word[len(digits) :]]
        if not number.is_finite() or number <= 0:
            raise ValueError
    except (decimal.InvalidOperation, KeyError, ValueError):
        raise typer.BadParameter(f"must be such as 600MB, 4GB or 1.5GiB, got {text!r}.") from None
    return min(int(min(number, MOST_BYTES) * unit), MOST_BYTES)


def penalty(text: str) -> float | str:
    """A penalty as a number, or the word that was given instead."""
    try:
        return float(text)
    except ValueError:
        return text


def split_names(given: Sequence[str] | None, known: Mapping[str, Any] | None = None) -> list[str]:
    """Names from options that were repeated or hold several with commas between them.

    >>> split_names(["a, b", "c"])
    ['a', 'b', 'c']
    """
    found = (name.strip() for name in split_at_commas(given, known))
    return list(dict.fromkeys(name for name in found if name))


def split_at_commas(
    given: Sequence[str] | None, known: Mapping[str, Any] | None = None
) -> list[str]:
    """The same with the spaces around them, which can belong to the name of a column.

    >>> split_at_commas(["a, b", "c"])
    ['a', ' b', 'c']
    """
    found: list[str] = []
    for text in given or ():
        found.extend([text] if known and text in known else text.split(","))
    return list(dict.fromkeys(name for name in found if name))


def join(
    distributed: bool, coordinator: str | None, processes: int | None, process: int | None
) -> None:
    """Join the other processes if ``--distributed`` is given, before JAX has devices."""
    if not distributed and (coordinator, processes, process) != (None, None, None):
        raise typer.BadParameter("is missing.", param_hint="--distributed")
    if distributed:
        try:
            cluster.join(coordinator, processes, process)
        except cluster.NoCluster as error:
            raise typer.BadParameter(str(error), param_hint="--distributed") from error


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Within it SIGTERM ends a command as Ctrl-C does, so that nothing half-written stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _warning_in_one_line() -> Iterator[None]:
    def show(message: Warning | str, *rest: Any, **others: Any) -> None:
        del rest, others
        typer.echo(f"Warning: {' '.join(str(message).split())}.", err=True)

    before, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = before


@contextlib.contextmanager
def failing_in_one_line(written: str = "nothing was written") -> Iterator[None]:
    """Errors that a user can act on as a line and exit code 2; Ctrl-C and SIGTERM as 130; warnings
    as a line.
    """
    from jaxdescent.data import DataError

    try:
        with _ended_by_sigterm(), _warning_in_one_line():
            yield
    except KeyboardInterrupt as error:
        from jaxdescent.fit.keeping import Interrupted

        kept = str(error) if isinstance(error, Interrupted) else f"{written}."
        typer.echo(f"Interrupted: {kept}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except (DataError, ImportError, MemoryError, OtherProcessFailed) as error:
        message = " ".join(str(error).split()) or "there is not enough memory"
        typer.echo(f"Error: {message}", err=True)
        raise typer.Exit(2) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(f"Error: {where}{error.strerror or error}.", err=True)
        raise typer.Exit(2) from error
