"""The hook that keeps the numbers of all chunks in a file."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from typing import Any, TextIO

from jaxdescent.data.arrow import pa, pq
from jaxdescent.rows.errors import replacing
from jaxdescent.runs.hooks.protocol import Facts, Record, Telling, as_json


class History(Telling):
    """Write each chunk's :class:`jaxdescent.hooks.Record` to a file, by the file's name.

    ``.jsonl``: a line for each chunk, written at once, and appended to where the run resumes; the
    lines of a run that is repeated from a checkpoint are replaced. ``.parquet``: a table, written
    when the run is over (extra ``data``). Infinite numbers are null.

    Args:
      path: the file, ending in ``.jsonl`` or ``.parquet``. A run that begins anew replaces it.

    >>> import jaxdescent as jd
    >>> jd.hooks.History("build/run.jsonl")
    History('build/run.jsonl')
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)
        if self.path.suffix not in (".jsonl", ".parquet"):
            raise ValueError(f"History writes .jsonl or .parquet, got {str(path)!r}.")
        # An error says at once that pyarrow is not installed.
        self._write_table = pq.write_table if self.path.suffix == ".parquet" else None
        self._rows: list[dict[str, Any]] = []
        self._file: TextIO | None = None

    def __repr__(self) -> str:
        return f"History({str(self.path)!r})"

    def begin(self, facts: Facts) -> None:
        self._rows = []
        self.is_telling = facts.is_first_process
        if not self.is_telling:
            return
        if facts.iteration and self.path.exists():
            self._rows = [row for row in self._read() if row["iteration"] <= facts.iteration]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.suffix == ".jsonl":
            with replacing(self.path) as new:
                new.write_text("".join(f"{json.dumps(row)}\n" for row in self._rows))
            self._file = self.path.open("a")

    def report(self, record: Record) -> None:
        if not self.is_telling:
            return
        row = as_json(dataclasses.asdict(record))
        if self._file is None:
            self._rows.append(row)
            return
        with self.telling():
            self._file.write(f"{json.dumps(row)}\n")
            self._file.flush()

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with self.telling() if self.is_telling else contextlib.suppress(OSError):
                file.close()  # which writes again what could not be written
        elif self.is_telling and self._rows and self._write_table is not None:
            with self.telling(), replacing(self.path) as new:
                self._write_table(pa.Table.from_pylist(self._rows), new)
        self.is_telling = False

    def _read(self) -> list[dict[str, Any]]:
        if self.path.suffix == ".parquet":
            return pq.read_table(self.path).to_pylist()
        rows = []
        for line in self.path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break  # the last line of a process that was killed
        return rows
