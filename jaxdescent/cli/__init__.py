"""The command line: ``jaxdescent fit``, ``predict``, ``inspect``, ``plan``, ``breakdown``, ...

The modules of this package import typer and the standard library alone, so that help and errors in
the options are shown at once; a command imports the modules that it needs when it is called.
"""

from __future__ import annotations

import atexit
import io
import os
import sys

TYPE_CHECKING = False  # True for type checkers; the imports that it saves take 10 ms
if TYPE_CHECKING:
    import signal
    from typing import Any, NoReturn
else:
    import _signal as signal

INTERRUPTED = 130


def main() -> None:
    """The entry point of the script ``jaxdescent``."""
    # Background jobs of a shell ignore Ctrl-C, and go on doing so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, leave)
    atexit.register(end_in_peace)  # the first one is called last
    # Polars holds as many row groups of Parquet ahead of the reader: with one, the limit of memory
    # has room for larger ones, and reading is as fast.
    os.environ.setdefault("POLARS_ROW_GROUP_PREFETCH_SIZE", "1")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Characters that the terminal's encoding lacks are escaped, as on the error output.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        from jaxdescent.cli.commands import app

        app()
    except ModuleNotFoundError as error:
        if not is_of_the_extra(error):
            raise
        missing = str(error.name).partition(".")[0]
        print(
            f"Error: the command line needs {missing}, which is not installed: pip install "
            "'jaxdescent[cli]'",
            file=sys.stderr,
        )
        sys.exit(2)
    except OSError as error:
        if error.filename is not None:
            raise
        # The output's disk is full, and the interpreter would try to write the rest at its exit.
        end_at_once(f"Error: the output cannot be written: {error.strerror}.", 2)
    except SystemExit as end:
        from jaxdescent.cli.command_line import is_one_of_several

        if is_one_of_several():
            # This process has told its end: the others wait for it in JAX's shutdown, or leave.
            end_in_peace()
        elif end.code == INTERRUPTED:
            # The interpreter would wait for programs that still run.
            try:
                for stream in filter(None, (sys.stdout, sys.stderr)):  # None where it is closed
                    stream.flush()
            finally:  # nobody may read it
                os._exit(INTERRUPTED)
        raise


def is_of_the_extra(error: Exception) -> bool:
    """Whether an error is that of a missing module that the extra ``cli`` installs."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    return (name or "").partition(".")[0] in ("matplotlib", "rich", "sklearn", "typer")


def end_in_peace() -> None:
    """Ignore Ctrl-C and SIGTERM from now on, where Python would give them the system's default."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is leave:
            signal.signal(number, signal.SIG_IGN)


def leave(number: int, frame: Any) -> NoReturn:
    """End the process at Ctrl-C or SIGTERM, while there is nothing to keep or to clean up.

    A KeyboardInterrupt could get lost among the imports, in a callback of the garbage collector.
    """
    end_at_once("Interrupted.", INTERRUPTED)


def end_at_once(line: str, code: int) -> NoReturn:
    """End the process with a line on the error output, which may be closed, or read by nobody."""
    try:
        if sys.stderr is not None:  # else another file can have its number
            os.write(2, f"{line}\n".encode())
    finally:
        os._exit(code)
