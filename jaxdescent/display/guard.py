"""Protection of the caller from errors while something is shown, and from long texts."""

from __future__ import annotations

from collections.abc import Callable

LONGEST = 60
"""The most characters that are shown of an object of a foreign class."""


def guarded(show: Callable[[], str], otherwise: str) -> str:
    """``show()``, or ``otherwise`` if that raises.

    Any error counts: reading an array whose computation failed raises, and an object that a caller
    puts into a pytree may raise anything. A traceback must still be able to show both.
    """
    try:
        return show()
    except Exception:
        return otherwise


def shortened(text: str, longest: int = LONGEST) -> str:
    """The text in one line of at most ``longest`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
