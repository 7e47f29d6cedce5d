"""The description file of a folder that keeps unfinished work, checked before work goes on."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxdescent.rows import DataError
from jaxdescent.rows.errors import replacing


class KeptFolder(NamedTuple):
    """A kind of folder, and what its description file says."""

    thing: str  # what the folder keeps, such as "a fit"
    name: str  # the name of the description file
    form: str  # the format that it names
    part: str  # the part of it that is never left out
    schema: int = 1  # the format's version

    def content(self, folder: pathlib.Path, *, resume: bool) -> dict[str, Any]:
        """The description of the work that is resumed; empty where the folder is new."""
        if not folder.exists():
            return {}
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder: name another.")
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise DataError(f"{folder}: no permission to write in it.")
        content = os.listdir(folder)
        if self.name in content:
            if not resume:
                raise DataError(
                    f"{folder} keeps {self.thing}: say --resume to go on with it, or name another "
                    "folder."
                )
            return self.read(folder)
        if any(not name.startswith(".") for name in content):
            raise DataError(f"{folder} holds other things than {self.thing}: name another folder.")
        return {}

    def read(self, folder: pathlib.Path) -> dict[str, Any]:
        """The description in a folder, checked."""
        path = folder / self.name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read: {error}.") from error
        is_ours = isinstance(content, dict) and content.get("format") == self.form
        if is_ours and content.get("schema") != self.schema:
            raise DataError(
                f"{path} has schema {content.get('schema')!r}, and this version goes on with "
                f"{self.schema}: use the version that wrote it, or name another folder."
            )
        if not is_ours or not isinstance(content.get(self.part), dict):
            raise DataError(
                f"{path} does not describe {self.thing} that is kept: name another folder."
            )
        return content

    def write(self, folder: pathlib.Path, content: Mapping[str, Any]) -> dict[str, Any]:
        """Write the description, and return it."""
        told = {"format": self.form, "schema": self.schema, **content}
        with replacing(folder / self.name) as path:
            text = json.dumps(told, indent=2, ensure_ascii=False)
            path.write_text(text + "\n", encoding="utf-8")
        return told
