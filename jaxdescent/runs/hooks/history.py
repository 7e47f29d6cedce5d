"""The hook that keeps the numbers of all chunks in a file."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from typing import Any, TextIO

from jaxdescent.rows.errors import replacing
from jaxdescent.runs.hooks.protocol import Facts, Record, Telling, as_json


class History(Telling):
    """Write each chunk's :class:`jaxdescent.hooks.Record` to a file, a line of JSON for each.

    A line is written as soon as its chunk is done, and appended where the run resumes; the lines of
    chunks that are repeated from a checkpoint are replaced. Infinite numbers are null.

    Args:
      path: the file, ending in ``.jsonl``. A run that begins anew replaces it.

    Raises:
      ValueError: if the name does not end in ``.jsonl``.

    >>> import jaxdescent as jd
    >>> jd.hooks.History("build/run.jsonl")
    History('build/run.jsonl')
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)
        if self.path.suffix != ".jsonl":
            raise ValueError(
                f"History writes lines of JSON, got {str(path)!r}: name a file that ends in .jsonl."
            )
        self._file: TextIO | None = None

    def __repr__(self) -> str:
        return f"History({str(self.path)!r})"

    def begin(self, facts: Facts) -> None:
        self.is_telling = facts.is_first_process
        if not self.is_telling:
            return
        is_resumed = facts.iteration > 0 and self.path.exists()
        rows = self._read() if is_resumed else []
        kept = [json.dumps(row) for row in rows if row["iteration"] <= facts.iteration]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as new:
            new.write_text("".join(f"{line}\n" for line in kept))
        self._file = self.path.open("a")

    def report(self, record: Record) -> None:
        if self._file is not None and self.is_telling:
            with self.telling():
                self._file.write(f"{json.dumps(as_json(dataclasses.asdict(record)))}\n")
                self._file.flush()

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with self.telling() if self.is_telling else contextlib.suppress(OSError):
                file.close()  # which writes again what could not be written
        self.is_telling = False

    def _read(self) -> list[dict[str, Any]]:
        rows = []
        for line in self.path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break  # the last line of a process that was killed
        return rows
