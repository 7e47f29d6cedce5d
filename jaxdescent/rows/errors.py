"""Errors about the data, each in one sentence that a person can act on, and files that are written
whole.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import pathlib
import re
import tokenize
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

CONTROLS = re.compile(
    r"[\x00-\t\v-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters but line feeds, and characters that turn the direction of writing."""


DAMAGED = (ValueError, EOFError, SyntaxError, tokenize.TokenError, zlib.error)
"""The errors that readers raise for damaged files, NumPy's for damaged headers included."""


class DataError(ValueError):
    """The data, or what was asked of it, cannot be used; the message is one line."""


def path_of(given: Any) -> pathlib.Path:
    """A path that a caller names.

    Raises:
      DataError: for an empty text, which as a Path is the current folder.
    """
    if not os.fspath(given):
        raise DataError("a path is empty: name a file or a folder.")
    return pathlib.Path(os.fsdecode(given))


@contextlib.contextmanager
def reading(name: Any) -> Iterator[None]:
    """A context that turns errors of reading a file into a :class:`DataError` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{name}: there is no such file or folder.") from error
    except PermissionError as error:
        raise DataError(f"{name}: no permission to read it.") from error
    except OSError as error:
        raise DataError(f"{name} cannot be read: {one_line(error)}.") from error
    except (DataError, UnicodeError):
        raise
    except (*DAMAGED, NotImplementedError) as error:
        raise DataError(f"{name} cannot be read: {one_line(error)}.") from error


@contextlib.contextmanager
def writing(name: Any) -> Iterator[None]:
    """A context that turns errors of writing a file into a :class:`DataError` that names it."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{name} cannot be written: {error.strerror or error}.") from error


def check_room(path: pathlib.Path) -> None:
    """Refuse a path to write to whose folder is not there, or cannot be written in."""
    if not path.parent.is_dir():
        raise DataError(f"{path.parent}: there is no such folder to write {path.name} in.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise DataError(f"{path.parent}: no permission to write in it.")


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary path to write to, which is renamed to ``path`` at the end."""
    path = path.resolve()  # what a link points to is replaced
    new = path.with_name(f".{path.name}")
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def save_picture(figure: Any, path: pathlib.Path) -> None:
    """Write a figure of matplotlib, as a PNG where the name of the file has no ending."""
    with writing(path), replacing(path) as new:
        figure.savefig(new, format=path.suffix[1:] or "png")


def one_line(error: object, longest: int = 300) -> str:
    """An error's message in one line, without its full stop."""
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def printable(text: str) -> str:
    r"""A text with control characters escaped, which names in data may contain.

    >>> print(printable("a" + chr(27) + "[31m"))
    a\u001b[31m
    """
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names in one text, the first few of many."""
    names = list(names)
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def check_columns(wanted: Iterable[str], known: Iterable[str], *, who: str = "the data") -> None:
    """Refuse columns that are not there, and suggest columns of similar names."""
    known = list(known)
    there = set(known)
    missing = [name for name in wanted if name not in there]
    if not missing:
        return
    close = difflib.get_close_matches(missing[0], known, n=3, cutoff=0.6)
    if not close:
        lowered = {name.lower(): name for name in known}
        close = [lowered[missing[0].lower()]] if missing[0].lower() in lowered else []
    hint = f"it has {listed(map(repr, known))}."
    if close:
        hint = f"did you mean {listed(map(repr, close))}?"
    raise DataError(
        f"{who} has no column{'s' * (len(missing) > 1)} {listed(map(repr, missing))}: {hint}"
    )
