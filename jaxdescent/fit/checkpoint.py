"""A fit that is kept while it goes on, so that another process can go on with it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import shutil
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxdescent import processes
from jaxdescent.data import DataError
from jaxdescent.fit import shared_rows
from jaxdescent.fit.kept_folder import KeptFolder
from jaxdescent.processes.signals import Interruption
from jaxdescent.rows.errors import path_of, reading, replacing, writing
from jaxdescent.runs import checkpoints
from jaxdescent.runs.hooks import Checkpoint, Summary

KEPT = KeptFolder("a fit", "fit.json", "jaxdescent fit", "facts")

SEARCH, UNITS = "search.npz", "units.npz"

DESCENT = "descent"
"""The folder of the final descent, at the chosen penalty."""

EVERY = 60.0
"""Seconds between two checkpoints of a descent."""

ROW_BYTES, FEATURE_BYTES = 16, 80
"""Bytes of memory for a row and a feature: a copy of a method's vectors, and write buffers."""

PROCESSES = "the number of processes"
"""The name of a fact of a fit: a descent can go on in another number of processes, but one process
reads its rows in another way than several."""


class Interrupted(processes.Stopped):
    """A signal ended a fit, which is kept: the message says where, and how to go on."""


class FitCheckpoint:
    """The state of a fit in a folder: its options and data, the search for a penalty so far, and
    checkpoints of descents. Of several processes the first one reads and writes, but for the
    checkpoints, of which each writes its part.

    The folder is made when a descent begins; ``resume`` goes on with the fit that it keeps.
    """

    def __init__(self, folder: Any, *, resume: bool) -> None:
        self.folder = pathlib.Path(os.path.abspath(path_of(folder)))
        self.summary = Summary()  # of all descents
        self.resumed_at = 0
        self._processes: tuple[int, int] = (1, 1)
        self._facts: dict[str, Any] = {}
        self._lock: checkpoints.Folder | None = None
        self._interruption: Interruption | None = None
        own = KEPT.content(self.folder, resume=resume) if processes.is_first() else {}
        # The description of the fit that is resumed, with its way and how many penalties it tries
        # at a time; empty where a new one begins.
        self.kept: dict[str, Any] = processes.told_by_first(own)

    def compare(self, facts: Mapping[str, Any]) -> None:
        """Refuse to go on with a fit of which something differs. The number of several processes
        may differ, as long as :meth:`check_rows` finds nothing.
        """
        self._facts = json.loads(json.dumps(dict(facts)))
        if not self.kept:
            return
        then = {PROCESSES: 1} | self.kept["facts"]
        counts = then[PROCESSES], self._facts.get(PROCESSES, 1)
        if min(counts) > 1:
            self._processes = counts
            then[PROCESSES] = counts[1]
        differing = [
            f"{name} was {json.dumps(then.get(name))} and is {json.dumps(now)}"
            for name, now in self._facts.items()
            if then.get(name) != now
        ]
        if differing:
            raise DataError(
                f"{self.folder} keeps another fit: {'; '.join(differing)}. Give the options and "
                "the data of then, or name another folder."
            )

    def check_rows(self, rows: int, dropped: int) -> None:
        """Refuse another number of processes where the shares do not have the rows, of which some
        were dropped, in one order without gaps.
        """
        then, now = self._processes
        if then == now:
            return
        if dropped or not all(shared_rows.are_full(rows, count) for count in self._processes):
            why = "shares from which rows were dropped" if dropped else f"so few rows ({rows:,})"
            raise DataError(
                f"{self.folder} keeps a fit of {then} processes, and {why} cannot be cut anew: "
                "start as many as then, or begin anew in another folder."
            )

    def compare_rows(self, digest: str) -> None:
        """Refuse to go on with a fit of other rows, which have been read anew: the facts know both
        ends of the files alone.
        """
        then = self.units().get("rows")
        if then is None:
            self.keep_units({"rows": digest})
        elif str(then) != digest:
            raise DataError(
                f"{self.folder} keeps a fit of other rows: the data have changed. Give the data of "
                "then, or name another folder."
            )

    def units(self) -> dict[str, np.ndarray]:
        """The digest of the rows, and the numbers by which the first processes of this fit shifted
        and scaled them; empty where none are kept yet.
        """
        return self._kept(UNITS, "begin anew")

    def keep_units(self, found: Mapping[str, Any]) -> None:
        """Keep the units: another number of processes would find units that differ by rounding."""
        known = self.units()  # all processes ask
        if processes.is_first():
            with writing(self.folder):
                self._write(UNITS, known | dict(found))

    def begin(self, way: str, width: int) -> None:
        """Write the description of the fit, and lock the folder until :meth:`close`."""
        if processes.is_first():
            with writing(self.folder):
                self._lock = checkpoints.Folder(self.folder, 1)
                if not self._lock.is_ours:
                    raise DataError(
                        f"another process keeps its fit in {self.folder}: wait for its end, or "
                        "name another folder."
                    )
                if not self.kept:
                    content = {"facts": self._facts, "way": way, "width": width}
                    self.kept = KEPT.write(self.folder, content)
        self.kept = processes.told_by_first(self.kept)
        is_there = (self.folder / KEPT.name).exists()
        if not processes.is_first() and (not is_there or KEPT.read(self.folder) != self.kept):
            raise DataError(
                f"process {jax.process_index()} does not see the fit that the first one keeps in "
                f"{self.folder}: name a folder that all processes share."
            )

    def close(self) -> None:
        """Unlock the folder for other processes."""
        if self._lock is not None:
            self._lock.close()

    def saving(self, name: str, filled: tuple[int, int] | None) -> Checkpoint | None:
        """The checkpoints of a descent of this name, if all processes could make their folder.
        Where one could not, a warning says so and the descent goes on without checkpoints.
        ``filled`` is that of :class:`jaxdescent.hooks.Checkpoint`.
        """
        place, failed = self.folder / name, None
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            failed = f"{error.strerror or error}"
        told = [each for each in processes.told_by_all(failed) if each is not None]
        if told:
            self._warn("descent", told[0])
        return None if told else Checkpoint(place, every=EVERY, filled=filled)

    def _warn(self, what: str, why: str) -> None:
        text = f"the {what} cannot be kept in {self.folder}, and goes on without: {why}"
        warnings.warn(text, RuntimeWarning, stacklevel=3)

    def interrupted(self, what: str) -> Interrupted:
        """The exception that says that ``what`` is kept in the folder."""
        return Interrupted(
            f"{what} is kept in {self.folder}; the same command with --resume goes on."
        )

    # The search for a penalty.

    @contextlib.contextmanager
    def searching(self) -> Iterator[None]:
        """A context in which the first signal is noted, for :meth:`stop_if_asked`."""
        try:
            with Interruption() as self._interruption:
                yield
        except Interrupted:
            raise
        except KeyboardInterrupt as error:  # at a second signal
            raise self.interrupted("the search until a while ago") from error
        finally:
            self._interruption = None

    def stop_if_asked(self, what: str) -> None:
        """End the search after a signal, with an error that says that ``what`` is kept."""
        if self._interruption is not None and self._interruption.signal is not None:
            raise self.interrupted(what)

    def keep_search(self, found: Mapping[str, Any]) -> None:
        """Keep the search so far; a disk that is full is warned about, and the search goes on."""
        try:
            self._write(SEARCH, found)
            for old in self.folder.glob("search-*"):  # descents that ended before
                shutil.rmtree(old)
        except OSError as error:
            self._warn("search", f"{error.strerror or error}")

    def kept_search(self) -> dict[str, np.ndarray]:
        """The search as it was kept, as arrays by name; empty where none is kept yet."""
        return self._kept(SEARCH, "remove it to search anew")

    def _kept(self, name: str, advice: str) -> dict[str, np.ndarray]:
        """The arrays of a file by name, in all processes; empty where there is no such file."""
        path, content = self.folder / name, b""
        if processes.is_first() and self.kept and path.exists():
            with reading(path):
                content = path.read_bytes()
        content = processes.told_bytes_by_all(content)[0]
        if not content:
            return {}
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as found:
                return dict(found)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is damaged ({error}): {advice}.") from error

    def _write(self, name: str, found: Mapping[str, Any]) -> None:
        with replacing(self.folder / name) as new, new.open("wb") as file:
            np.savez(file, **found)
