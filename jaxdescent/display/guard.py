"""Errors while something is shown, and texts of any length, kept away from who asked."""

from __future__ import annotations

from collections.abc import Callable

LONGEST = 60
"""Most characters of the text of an object of a class that is not ours."""


def guarded(show: Callable[[], str], otherwise: str) -> str:
    """``show()``, or ``otherwise`` where that raises.

    Any error counts: an array whose computation failed raises when it is read, and what a caller
    puts into a pytree may raise whatever it likes. A traceback must still be able to show both.
    """
    try:
        return show()
    except Exception:
        return otherwise


def shortened(text: str, longest: int = LONGEST) -> str:
    """One line of at most so many characters."""
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
