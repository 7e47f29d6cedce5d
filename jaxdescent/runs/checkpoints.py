"""Checkpoints of a run in a folder.

A checkpoint is a folder ``iteration-0000000123``. In ``loop`` each process writes the bytes of the
shards that it has, one after another, and a list of these shards; ``facts/metadata`` describes the
run. A checkpoint is written under another name and renamed at the end, so that one with this name
is complete.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
import threading
import zlib
from collections.abc import Callable
from typing import Any

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None

import jax
import numpy as np

from jaxdescent import processes
from jaxdescent.runs.shards import Unreadable, checksum, pieces_in, restored, without_keys

FORMAT = 4
"""The version of this layout; others are refused. Format 1 has its number in the same place."""

PART_BYTES = 1 << 26
"""Bytes that are written at a time, between two looks at whether the run has ended."""

NAME = re.compile(r"^iteration-(\d{10})$")
UNFINISHED = re.compile(r"^iteration-\d{10}\.(unfinished|removed)$")

NO_LOCKS = errno.ENOLCK, errno.ENOTSUP, errno.EINVAL
"""The errors of file systems without locks."""


class Folder:
    """The checkpoints in a folder, of which the newest ``keep`` are kept.

    The folder is locked until :meth:`close`, or until the process ends, in whatever way:
    ``is_ours`` is false where another run has locked it.
    """

    def __init__(self, path: pathlib.Path, keep: int) -> None:
        self.path = path.resolve()
        self.keep = keep
        self.is_ours = True
        self.newest = 0  # the iteration of the newest checkpoint; the start is none
        self._writer: threading.Thread | None = None
        self._is_written = self._is_over = False
        self._error: Exception | None = None
        self._descriptor: int | None = None
        self._process = jax.process_index()
        if self._process == 0:
            self._open()
        self._kept = self.iterations()[::-1]

    def close(self) -> None:
        """Give up an unfinished checkpoint, and unlock the folder for other runs."""
        self._is_over = True
        self.wait()
        self._error = None  # whose traceback holds the arrays
        if self._process == 0 and self.is_ours:
            shutil.rmtree(self._unfinished, ignore_errors=True)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def iterations(self) -> list[int]:
        """The iterations of all checkpoints with a final name, the newest first; none of a folder
        that is gone.
        """
        try:
            found = [NAME.match(name) for name in os.listdir(self.path)]
        except OSError:
            return []
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def at(self, iteration: int) -> pathlib.Path:
        """The folder of one checkpoint."""
        return self.path / f"iteration-{iteration:010d}"

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._writer is not None and self._writer.is_alive()

    def write(self, iteration: int, tree: Any, facts: dict[str, Any]) -> None:
        """Begin to write a checkpoint, unless it is the newest one; the arrays must stay as they
        are until :meth:`is_free`, which raises if it could not be written.
        """
        self.wait()
        if iteration == self.newest:
            return
        self.newest = iteration
        content = {"format": FORMAT, "iteration": iteration, **facts}
        content["checksum"] = checksum(content)
        leaves = [without_keys(leaf) for leaf in jax.tree.leaves(tree)]
        self._begin(self._write, leaves, content, processes.is_alone())

    def is_free(self) -> bool:
        """Whether no process writes any more; a checkpoint that all have written is finished.

        Raises:
          OSError: in all processes, if one of them could not write its part.
        """
        is_writing, failed = self.is_writing, None
        if not is_writing and self._error is not None:
            failed = f"process {self._process} failed with {_in_words(self._error)}"
        gathered = processes.told_by_all([is_writing, failed])
        if any(each for each, _ in gathered):
            return False
        for _, failure in gathered:
            if failure is not None:
                raise self._not_written(failure) from self._error
        is_written, self._is_written = self._is_written, False
        if is_written:
            self._begin(self._finish)
        return not is_written

    def wait(self, seconds: float | None = None) -> None:
        """Return when this process writes no checkpoint, or after ``seconds``."""
        if self._writer is not None:
            self._writer.join(seconds)

    def facts(self, iteration: int) -> dict[str, Any]:
        """The description of a checkpoint.

        Raises:
          Unreadable: if it is damaged, not of this package, or a copy under another name.
        """
        try:
            content = json.loads((self.at(iteration) / "facts" / "metadata").read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise Unreadable(f"its description cannot be read: {error}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise Unreadable(
                f"it is not of format {FORMAT} of jaxdescent's runs, got {str(found)[:60]}"
            )
        if content.pop("checksum", None) != checksum(content):
            raise Unreadable("its description has changed since it was written")
        if content.get("iteration") != iteration:
            found = str(content.get("iteration"))[:60]
            raise Unreadable(f"it is of iteration {found}, under another name")
        return content

    def read(self, iteration: int, like: Any, filled: int | None = None) -> Any:
        """The tree of a checkpoint, with the shapes, dtypes and shardings of ``like``.

        Arrays of length ``filled`` may have been written with another one: they are cut, or zeros
        follow.

        Raises:
          Unreadable: if its files are missing, truncated, have changed, or hold something else.
        """
        leaves, structure = jax.tree.flatten(like)
        try:
            pieces = list(pieces_in(self.at(iteration) / "loop"))
            return structure.unflatten(
                restored(
                    f"array {number}",
                    [each for at, each in pieces if at == number],
                    leaf,
                    is_free=leaf.shape[:1] == (filled,),
                )
                for number, leaf in enumerate(leaves)
            )
        except (MemoryError, Unreadable):
            raise
        except Exception as error:  # damaged files raise errors of many classes
            raise Unreadable(_in_words(error)) from error

    def set_aside(self, iteration: int) -> pathlib.Path:
        """Rename a checkpoint that cannot be read, so that it does not count as one."""
        place = self.at(iteration)
        aside = place.with_name(f"unreadable-{place.name}")
        if iteration in self._kept:
            self._kept.remove(iteration)
        if self._process == 0:
            shutil.rmtree(aside, ignore_errors=True)
            place.rename(aside)
        return aside

    @property
    def _unfinished(self) -> pathlib.Path:
        return self.path / f"{self.at(self.newest).name}.unfinished"

    def _not_written(self, failure: str) -> OSError:
        complete = [iteration for iteration in self.iterations() if iteration != self.newest]
        last = f"the last one is of iteration {complete[0]:,}" if complete else "there is none yet"
        return OSError(
            f"the checkpoint of iteration {self.newest:,} could not be written to {self.path} "
            f"({failure}); {last}: make room for it, and call run again with resume=True."
        )

    def _begin(self, work: Callable[..., None], *arguments: Any) -> None:
        """Start ``work`` on a thread; its error is kept for :meth:`is_free`."""

        def target() -> None:
            try:
                work(*arguments)
            except Exception as error:  # whatever the file system raises
                self._error = error

        self._writer = threading.Thread(target=target, name="checkpoint", daemon=True)
        self._writer.start()

    def _write(self, leaves: list[jax.Array], content: dict[str, Any], is_alone: bool) -> None:
        self._write_part(leaves)
        if self._process == 0:
            _write_json(self._unfinished / "facts" / "metadata", content)
        self._is_written = not is_alone
        if is_alone:
            self._finish()

    def _write_part(self, leaves: list[jax.Array]) -> None:
        """Write this process's shards, each of which one process alone writes."""
        place = self._unfinished / "loop" / str(self._process)
        place.parent.mkdir(parents=True, exist_ok=True)
        written = []
        with place.open("wb") as file:
            for number, leaf in enumerate(leaves):
                for shard in leaf.addressable_shards:
                    if shard.replica_id != 0:
                        continue
                    starts = [
                        at.indices(size)[0]
                        for at, size in zip(shard.index, leaf.shape, strict=True)
                    ]
                    content = np.ascontiguousarray(shard.data).reshape(-1).view(np.uint8)
                    entry = [number, str(leaf.dtype), leaf.shape, starts, shard.data.shape]
                    crc = checksum(entry)
                    for first in range(0, content.size, PART_BYTES):
                        if self._is_over:
                            raise RuntimeError("the run has ended before it was written")
                        part = content[first : first + PART_BYTES]
                        crc = zlib.crc32(part, crc)
                        file.write(part)
                    written.append([*entry, crc])
            file.flush()
            os.fsync(file.fileno())
        _write_json(place.with_suffix(".json"), written)

    def _finish(self) -> None:
        """Give the checkpoint its name, and remove the oldest ones beyond ``keep``."""
        self._kept.append(self.newest)
        oldest, self._kept = self._kept[: -self.keep], self._kept[-self.keep :]
        if self._process != 0:
            return
        self._unfinished.rename(self.at(self.newest))
        for iteration in oldest:
            removed = self.at(iteration).with_suffix(".removed")
            with contextlib.suppress(FileNotFoundError):  # someone else has removed it
                self.at(iteration).rename(removed)
                shutil.rmtree(removed)

    def _open(self) -> None:
        """Make and lock the folder, and remove what killed processes left unfinished."""
        self.path.mkdir(parents=True, exist_ok=True)
        # A folder that can only be read may have checkpoints to go on from.
        if not (os.access(self.path, os.W_OK | os.X_OK) or self.iterations()):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.path))
        if fcntl is not None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.is_ours = False
                return
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
        for name in filter(UNFINISHED.match, os.listdir(self.path)):
            shutil.rmtree(self.path / name, ignore_errors=True)


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}"


def _write_json(path: pathlib.Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
