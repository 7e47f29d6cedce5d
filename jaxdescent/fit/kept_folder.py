"""The file that says which fit a folder keeps."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from jaxdescent.data import DataError

DESCRIPTION = "fit.json"

FORMAT, SCHEMA = "jaxdescent fit", 1


def described(folder: pathlib.Path, *, resume: bool) -> dict[str, Any]:
    """What a folder says of a fit that is gone on with; nothing of a new one.

    Raises:
      DataError: where the folder holds a fit and is not to be gone on with, or other things.
    """
    content = os.listdir(_checked(folder)) if folder.exists() else []
    if DESCRIPTION in content:
        if not resume:
            raise DataError(
                f"{folder} keeps a fit: say --resume to go on with it, or name another folder."
            )
        return read_description(folder / DESCRIPTION)
    if any(not name.startswith(".") for name in content):
        raise DataError(f"{folder} holds other things than a fit: name another folder.")
    return {}


def _checked(folder: pathlib.Path) -> pathlib.Path:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: name another.")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise DataError(f"{folder}: no permission to write in it.")
    return folder


def read_description(path: pathlib.Path) -> dict[str, Any]:
    """The description in a file, checked.

    Raises:
      DataError: where it cannot be read, or is of another version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} does not describe a fit that is kept: name another folder.")
    if content.get("schema") != SCHEMA or not isinstance(content.get("facts"), dict):
        raise DataError(
            f"{path} has schema {content.get('schema')!r}, and this version goes on with {SCHEMA}: "
            "use the version that wrote it, or name another folder."
        )
    return content
