"""Checkpoints of a run in a folder, by Orbax: the only module that knows Orbax.

A checkpoint is a folder ``iteration-0000000123`` with the arrays of the loop, each shard written by
the process that has it, and a JSON file of what they belong to. It is written under another name
and renamed at the end, so that one with this name is complete.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import os
import pathlib
import re
import shutil
import threading
import time
from typing import Any

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None

import jax
import jax.numpy as jnp

from jaxdescent import agreement

FORMAT = 1
"""The number of this layout; another one is refused."""

LEAST_GB = 1
"""The gigabytes of arrays that are read or written at a time, if none is larger."""

NAME = re.compile(r"^iteration-(\d{10})$")
TRIES = 10
"""How often what is unfinished is removed, while something still writes to it."""

UNFINISHED = re.compile(r"^iteration-\d{10}\.orbax-checkpoint-tmp.*$")


FREE, WRITING, WRITTEN, FAILED = "free", "writing", "written", "failed"
"""What a process says of its part of a checkpoint."""

BUSY = WRITING, WRITTEN


class Unreadable(Exception):
    """A checkpoint that is not whole, or not of this package."""


class OtherPartFailed(Exception):
    """Another process could not write its part of a checkpoint, of which nothing is kept then."""


class CommonEnd:
    """Where Orbax's thread waits, when this process has written its part, for the parts of others.

    Orbax's own wait is for processes that arrive: one that fails never does, and the others would
    wait for twenty minutes. Here they are told by :meth:`tell`.
    """

    def __init__(self) -> None:
        self._is_told = threading.Event()
        self._failure = ""
        self.is_reached = False

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        """Orbax's thread: return when all have written, and raise if one of them has failed."""
        self.is_reached = True
        if not self._is_told.wait(timeout_ms / 1000):
            raise TimeoutError(
                f"no other process has answered in {timeout_ms / 1000:.0f} s ({key})"
            )
        if self._failure:
            raise OtherPartFailed(self._failure)

    def tell(self, failure: str = "") -> None:
        """Let the thread go on, or end with what has failed; the first word counts."""
        if not self.is_told:
            self._failure = failure
            self._is_told.set()

    @property
    def is_told(self) -> bool:
        """Whether it is known what has become of the others' parts."""
        return self._is_told.is_set()


def require_extra() -> Any:
    """Orbax's module.

    Raises:
      ImportError: if it is not installed.
    """
    try:
        return importlib.import_module("orbax.checkpoint")
    except ImportError as error:
        raise ImportError(
            "checkpoints need Orbax, which is not installed: pip install 'jaxdescent[checkpoint]', "
            f"or run without checkpoint= ({error})."
        ) from error


class Folder:
    """The checkpoints in a folder, of which the newest ``keep`` are kept.

    Args:
      path: the folder, made where it does not exist.
      keep: how many complete checkpoints stay.
    """

    def __init__(self, path: pathlib.Path, keep: int) -> None:
        self._orbax = require_extra()
        self.path = path.resolve()
        self.keep = keep
        self._writer: Any = None
        self._end = CommonEnd()
        self._finisher: threading.Thread | None = None
        self._error: BaseException | None = None
        self._at: int | None = None
        self._descriptor: int | None = None
        self._is_left = False  # something unfinished
        self._is_first = jax.process_index() == 0
        self.is_ours = True  # and no other run's
        logging.getLogger("absl").addFilter(_is_not_orbax)
        if self._is_first:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock()
            if self.is_ours:
                self._remove_unfinished()  # of a process that was killed while it wrote

    def close(self) -> None:
        """Let another run have the folder, and what is not written by all processes be given up."""
        self._end.tell("the run ended before all processes had written their parts")
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def iterations(self) -> list[int]:
        """The iterations of all checkpoints with a final name, the newest first.

        Raises:
          ValueError: if this process does not see the folder that the first one has made.
        """
        if not self.path.is_dir():
            raise ValueError(
                f"process {jax.process_index()} does not see {self.path}: name a folder that all "
                "processes share."
            )
        found = [NAME.match(entry.name) for entry in self.path.iterdir()]
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def at(self, iteration: int) -> pathlib.Path:
        """The folder of one checkpoint."""
        return self.path / f"iteration-{iteration:010d}"

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._finisher is not None and self._finisher.is_alive()

    def write(self, iteration: int, tree: Any, facts: dict[str, Any]) -> None:
        """Begin to write a checkpoint; the arrays must stay as they are until it is done.

        An error, of the disk for example, is kept for :meth:`error`.
        """
        self.wait()
        leaves = {name: leaf for name, leaf in _named(tree) if leaf.size}
        content = {"format": FORMAT, "iteration": iteration, **facts}
        self._at = iteration
        self._end = CommonEnd()
        try:
            if self._writer is None:
                options = self._orbax.options.AsyncOptions(barrier_sync_fn=self._at_the_end)
                handler = self._handler(leaves)
                self._writer = self._orbax.AsyncCheckpointer(handler, async_options=options)
            self._writer.save(
                self.at(iteration),
                args=self._orbax.args.Composite(
                    loop=self._orbax.args.PyTreeSave(leaves),
                    facts=self._orbax.args.JsonSave(content),
                ),
            )
        except Exception as error:  # whatever the file system raises; the run goes on
            self._failed(error)
            return
        self._finisher = threading.Thread(target=self._finish, daemon=True)
        self._finisher.start()

    def state(self) -> tuple[str, str]:
        """What has become of this process's part, and its error if it has failed."""
        if self.is_writing:
            is_waiting = self._end.is_reached and not self._end.is_told
            return (WRITTEN if is_waiting else WRITING), ""
        if self._error is not None and not isinstance(self._error, OtherPartFailed):
            said = f"{type(self._error).__name__}: {str(self._error)[:300]}"
            where = f"process {jax.process_index()} failed with "
            return FAILED, said if agreement.is_alone() else where + said
        return FREE, ""

    def conclude(self, states: list[tuple[str, str]]) -> None:
        """Finish what is being written if all processes have written their parts, and give it up if
        one of them has failed.

        Args:
          states: of all processes, in their order.
        """
        failed = [said for state, said in states if state == FAILED]
        if failed and self.is_writing:
            self._end.tell(failed[0])
        elif failed and self._error is None:
            self._error = OtherPartFailed(failed[0])
        elif all(state == WRITTEN for state, _ in states):
            self._end.tell()
        self._is_left |= bool(failed)
        if self._is_first and self._is_left and not any(state in BUSY for state, _ in states):
            self._remove_unfinished()  # not before: Orbax would wait for ever in who still writes
            self._is_left = False

    def wait(self, seconds: float | None = None) -> None:
        """Return when nothing is being written here, or after so many seconds."""
        if self._finisher is not None:
            self._finisher.join(seconds)

    def error(self) -> tuple[int, BaseException] | None:
        """The iteration and the error of a checkpoint that could not be written, told once."""
        if self._error is None or self.is_writing or self._at is None:
            return None
        error, self._error = self._error, None
        return self._at, error

    def facts(self, iteration: int) -> dict[str, Any]:
        """What a checkpoint says of itself.

        Raises:
          Unreadable: if it is not whole, or not of this package.
        """
        try:
            # Orbax's reader wants the arrays' part to be whole too; this is a plain JSON file.
            content = json.loads((self.at(iteration) / "facts" / "metadata").read_text())
        except (OSError, ValueError) as error:
            raise Unreadable(f"its description cannot be read: {error}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise Unreadable(f"it is not of format {FORMAT} of jaxdescent's runs, got {found}")
        return content

    def read(self, iteration: int, like: Any, filled: int | None = None) -> Any:
        """The tree of a checkpoint, with the shapes, dtypes and shardings of ``like``.

        Arrays that are ``filled`` long here may have been of another length: they are cut, or zeros
        follow.

        Raises:
          Unreadable: if its files are missing, truncated, or hold something else.
        """
        named = _named(like)
        wanted = {name: leaf for name, leaf in named if leaf.size}
        # By itself: a process that fails would leave the others in Orbax's common end.
        here = self._orbax.options.MultiprocessingOptions(
            primary_host=jax.process_index(), active_processes={jax.process_index()}
        )
        # On another number of devices arrays need their shapes and shardings.
        arguments = self._orbax.checkpoint_utils.construct_restore_args(wanted)
        if filled is not None:
            arguments = {
                name: dataclasses.replace(each, strict=False)
                if wanted[name].shape[:1] == (filled,)
                else each
                for name, each in arguments.items()
            }
        reader = self._orbax.Checkpointer(self._handler(wanted), multiprocessing_options=here)
        try:
            found = reader.restore(
                self.at(iteration),
                args=self._orbax.args.Composite(
                    loop=self._orbax.args.PyTreeRestore(wanted, restore_args=arguments)
                ),
            )["loop"]
        except MemoryError:
            raise
        except Exception as error:  # of many classes, by what is wrong with which file
            first = str(error).strip().splitlines()
            said = first[0][:300] if first else ""
            raise Unreadable(f"{type(error).__name__}: {said}") from error
        finally:
            reader.close()
        for name, leaf in wanted.items():
            got = found[name]
            if (got.shape, got.dtype) != (leaf.shape, leaf.dtype):
                raise Unreadable(
                    f"array {name} is {got.dtype}{list(got.shape)}, expected "
                    f"{leaf.dtype}{list(leaf.shape)}"
                )
        leaves = [
            found[name] if leaf.size else jax.device_put(jnp.zeros(leaf.shape, leaf.dtype))
            for name, leaf in named
        ]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def set_aside(self, iteration: int) -> pathlib.Path:
        """Rename a checkpoint that cannot be read, so that it does not count as one."""
        place = self.at(iteration)
        aside = place.with_name(f"unreadable-{place.name}")
        if self._is_first:
            shutil.rmtree(aside, ignore_errors=True)
            place.rename(aside)
        return aside

    def _handler(self, leaves: dict[str, Any]) -> Any:
        """Orbax's reader and writer, with about two arrays under way at a time: by itself it
        takes on 96 GB.
        """
        largest = max(leaf.size * leaf.dtype.itemsize for leaf in leaves.values())
        most = max(LEAST_GB, -(-2 * largest // 10**9))
        return self._orbax.CompositeCheckpointHandler(
            loop=self._orbax.PyTreeCheckpointHandler(
                save_concurrent_gb=most,
                restore_concurrent_gb=most,
                use_compression=False,  # floating-point numbers hardly shrink, and it takes longer
            ),
            facts=self._orbax.JsonCheckpointHandler(),
        )

    def _lock(self) -> None:
        """Keep other runs out: they would write into the same unfinished folders, and checkpoints
        would be mixtures. The system unlocks the folder when the process ends, however it does.
        """
        if fcntl is None:
            return
        self._descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.is_ours = False
        except OSError:
            return  # some file systems of clusters have no locks

    def _at_the_end(self, *, key: str, timeout_ms: int) -> None:
        self._end(key=key, timeout_ms=timeout_ms)

    def _finish(self) -> None:
        try:
            self._writer.wait_until_finished()
            if self._is_first:
                for old in self.iterations()[self.keep :]:
                    shutil.rmtree(self.at(old))
        except Exception as error:  # as in `write`; it is on another thread
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._error, self._writer = error, None

    def _remove_unfinished(self) -> None:
        """Free the space of what will never be complete."""
        for _ in range(TRIES):
            left = [entry for entry in self.path.iterdir() if UNFINISHED.match(entry.name)]
            if not left:
                return
            for entry in left:
                shutil.rmtree(entry, ignore_errors=True)
            if any(entry.exists() for entry in left):
                time.sleep(0.1)  # after an error other writers of Orbax's go on for a moment


def _is_not_orbax(record: logging.LogRecord) -> bool:
    """Orbax logs each file, and pages for each error, which is told in one sentence here."""
    return "orbax" not in record.pathname


def _named(tree: Any) -> list[tuple[str, Any]]:
    """The leaves, numbered in their order: names of params may hold what a file name may not."""
    return [(f"{number:05d}", leaf) for number, leaf in enumerate(jax.tree.leaves(tree))]
