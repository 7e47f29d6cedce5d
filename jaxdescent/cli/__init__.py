"""The command line: ``jaxdescent fit``, ``predict``, ``inspect``, ``plan``, ``breakdown``, ...

The modules of this package import typer and the standard library alone, so that help and what is
wrong with the options are shown at once; a command imports what it works with when it is called.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # type checkers take it for true; what is left out takes 10 ms to import
if TYPE_CHECKING:
    import signal
    from typing import Any, NoReturn
else:
    import _signal as signal

INTERRUPTED = 130


def main() -> None:
    """The entry point of the script ``jaxdescent``."""
    # Not of a shell's background jobs, which ignore Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, leave)
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
    except SystemExit as end:
        from jaxdescent.cli.command_line import is_one_of_several

        if end.code == INTERRUPTED and not is_one_of_several():
            # Programs may still run, for which the interpreter would wait.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(INTERRUPTED)
        raise


def is_of_the_extra(error: Exception) -> bool:
    """Whether a module is missing that the extra ``cli`` installs."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    return (name or "").partition(".")[0] in ("matplotlib", "rich", "sklearn", "typer")


def leave(number: int, frame: Any) -> NoReturn:
    """End the process at Ctrl-C or SIGTERM, while there is nothing to keep or to clean up.

    A KeyboardInterrupt could get lost among the imports, in a callback of the garbage collector.
    """
    del number, frame
    os.write(2, b"Interrupted.\n")
    os._exit(INTERRUPTED)
