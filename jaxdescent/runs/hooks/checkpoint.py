"""The hook that saves a run, so that it can go on after its process has ended."""

from __future__ import annotations

import os
import pathlib
import time
import warnings
from typing import Any

import jax

from jaxdescent import processes
from jaxdescent.descent.state import Loop
from jaxdescent.inputs.numbers import check_count, check_number
from jaxdescent.kernels import memory
from jaxdescent.minimize import Setup
from jaxdescent.runs import checkpoints
from jaxdescent.runs.fingerprint import computation, differences, fingerprint
from jaxdescent.runs.hooks.protocol import Hook, Pause, Record

POLL_SECONDS = 0.05
"""Seconds after which processes that wait for a checkpoint ask each other again about it."""

ROOM = 1.2
"""The least ratio of available memory to a copy's bytes for a copy to be made."""


class Checkpoint(Hook):
    """Save everything that a run goes on with, at times and at its end.

    Params, method state, the state of stopping rules, counts, and a fingerprint of the problem
    are written from a copy while the device goes on: the run waits for the copy alone, whose memory
    is kept for the next one. Where memory has no room for a copy the run waits until the checkpoint
    is written. One that cannot be written (the disk is full, the folder has become read-only) ends
    the run with an ``OSError``, and the checkpoints before it stand.

    Args:
      folder: where checkpoints are kept, each in a folder ``iteration-...`` of its own.
      every: the seconds between two checkpoints, at least 0. One that is due while another is being
        written waits for it.
      keep: how many checkpoints are kept, at least 1.
      filled: for rows that are cut over processes, how many there are, and how many with those of
        weight zero that fill the last share. Another number of processes, whose arrays are of
        another length, can then go on.

    >>> import jaxdescent as jd
    >>> jd.hooks.Checkpoint("build/run", every=600.0, keep=2)
    Checkpoint('build/run', every=600.0, keep=2)
    """

    _folder: checkpoints.Folder  # from `open` on, which is the first call

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every: float = 60.0,
        keep: int = 3,
        filled: tuple[int, int] | None = None,
    ) -> None:
        if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
            raise TypeError(f"Checkpoint needs the path of a folder, got {folder!r}.")
        check_number("every", every, "at least 0 seconds", lambda seconds: seconds >= 0)
        check_count("keep", keep)
        self.folder = str(folder)
        self.every = every
        self.keep = keep
        self.filled = filled
        self._facts: dict[str, Any] = {}
        self._copy: Loop | None = None
        self._spare: Loop | None = None  # the copy before, written or being written
        self._at = 0.0

    def __repr__(self) -> str:
        return f"Checkpoint({self.folder!r}, every={self.every}, keep={self.keep})"

    def open(self, setup: Setup, jaxpr: Any, *, resume: bool) -> list[int]:
        """Open the folder for a run of this problem, and check it; the iterations of the
        checkpoints to resume from, the newest first.

        Raises:
          ValueError: if the folder cannot be made or written to, if it has checkpoints and the run
            is not to resume, if another run writes there, if not all processes see the same, or if
            some have no part in the run.
        """
        members = list(processes.members())
        if len(members) < jax.process_count():
            raise ValueError(
                f"checkpoints need a run of all {jax.process_count()} processes, got one of "
                f"{members}: lay its params over all devices, or run it in a program without "
                "jax.distributed."
            )
        try:
            self._folder = checkpoints.Folder(pathlib.Path(self.folder), self.keep)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"checkpoints cannot be kept in {self.folder!r} ({error}): name a folder that can "
                "be made and written to."
            ) from error
        if not all(processes.told_by_all(bool(self._folder.is_ours))):
            raise ValueError(
                f"another run writes its checkpoints to {self.folder}: wait for its end, or choose "
                "another folder."
            )
        facts = {
            "fingerprint": fingerprint(setup, self.filled),
            "computation": computation(setup, jaxpr),
        }
        self._facts = {name: _of_all(own) for name, own in facts.items()}
        self._at = time.perf_counter()
        if not self._folder.path.is_dir():
            raise ValueError(
                f"process {jax.process_index()} does not see {self._folder.path}: name a folder "
                "that all processes share."
            )
        found, *others = processes.told_by_all(self._folder.iterations())
        if any(each != found for each in others):
            raise ValueError(
                f"the processes see different checkpoints in {self.folder}: name a folder that all "
                "of them share."
            )
        if found and not resume:
            raise ValueError(
                f"{self.folder} has a checkpoint of iteration {found[0]:,}: pass resume=True to go "
                "on from it, or choose another folder."
            )
        return found

    def restore(self, found: list[int], like: Loop) -> Loop:
        """The loop of the newest of the checkpoints of these iterations that can be read.

        Raises:
          ValueError: if the checkpoint is of another problem, with the differences; or if none can
          be read.
        """
        folder = self._folder
        for iteration in found:
            loop: Any = None
            unreadable = None
            try:
                facts = folder.facts(iteration)
                differing = differences(facts, self._facts)
                if differing:
                    raise ValueError(
                        f"{folder.at(iteration)} is of another run: {'; '.join(differing)}. Call "
                        "run as it was called then, with the same version of jaxdescent, or choose "
                        "another folder."
                    )
                loop = folder.read(iteration, like, self.filled and self.filled[1])
            except checkpoints.Unreadable as error:
                unreadable = str(error)
            told = [each for each in processes.told_by_all(unreadable) if each is not None]
            if told:
                del loop  # which this process may have read
                aside = folder.set_aside(iteration)
                warnings.warn(
                    f"the checkpoint of iteration {iteration:,} cannot be read and is now "
                    f"{aside.name}; the one before is used ({told[0]})",
                    RuntimeWarning,
                    stacklevel=2,
                )
                continue
            folder.newest = iteration
            return loop
        raise ValueError(
            f"none of the {len(found)} checkpoints in {self.folder} can be read: to begin anew "
            "choose another folder, or call without resume=True."
        )

    def pause(self, pause: Pause) -> None:
        is_free = self._folder.is_free() and self._copy is None
        is_due = time.perf_counter() - self._at >= self.every
        is_new = pause.iteration != self._folder.newest
        if not all(processes.told_by_all(is_free and is_due and is_new)):
            return
        self._at = time.perf_counter()
        # All processes write together, now or after the chunk.
        spare, self._spare = self._spare, None
        if spare is not None or all(processes.told_by_all(_has_room(pause.loop))):
            self._copy = pause.copied(spare)
        else:
            self._write(pause.loop)
            self._wait()

    def report(self, record: Record) -> None:
        if self._copy is not None:
            self._spare, self._copy = self._copy, None
            self._write(self._spare)

    def save_last(self, loop: Loop) -> None:
        """Save where the run ended, and wait until it is written."""
        self._wait()
        self._copy = self._spare = None  # their memory is free
        self._write(loop)
        self._wait()

    def close(self) -> None:
        self._copy = self._spare = None
        if hasattr(self, "_folder"):
            self._folder.close()

    def _write(self, loop: Loop) -> None:
        self._folder.write(int(loop.iteration), loop, self._facts)

    def _wait(self) -> None:
        """Return when no process writes any more."""
        while not self._folder.is_free():
            self._folder.wait(POLL_SECONDS)


def _of_all(own: dict[str, str]) -> dict[str, str]:
    """The facts of a run, with all processes' texts joined where these differ."""
    told = processes.told_by_all(own)
    names = dict.fromkeys(name for each in told for name in each)
    found = {name: dict.fromkeys(each[name] for each in told if name in each) for name in names}
    return {name: " | ".join(texts) for name, texts in found.items()}


def _has_room(loop: Loop) -> bool:
    """Whether the devices of this process have room for a copy."""
    shards = [shard.data for leaf in jax.tree.leaves(loop) for shard in leaf.addressable_shards]
    (first, *_) = shards[0].devices()
    held = sum(
        shard.nbytes for shard in shards if first.platform == "cpu" or first in shard.devices()
    )
    return memory.available_bytes(first) >= ROOM * held
