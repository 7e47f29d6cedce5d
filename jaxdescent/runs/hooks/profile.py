"""The hook that records what the device does in a chunk."""

from __future__ import annotations

import os

import jax

from jaxdescent.inputs.numbers import check_count
from jaxdescent.runs.hooks.protocol import Pause, Record, Telling


class Profile(Telling):
    """Write a trace of one chunk by ``jax.profiler``, for TensorBoard, XProf or Perfetto.

    The trace begins before the chunk is dispatched, and ends when its numbers are read: it shows
    the chunk, the end of the one before, and the beginning of the one after.

    Args:
      folder: where the trace is written.
      chunk: the number of the chunk, from 0. The first ones are short, where their length is
        chosen by time. A run that ends before has no trace.

    >>> import jaxdescent as jd
    >>> jd.hooks.Profile("build/trace", chunk=8)
    Profile('build/trace', chunk=8)
    """

    def __init__(self, folder: str | os.PathLike[str], *, chunk: int = 8) -> None:
        if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
            raise TypeError(f"Profile needs the path of a folder, got {folder!r}.")
        check_count("chunk", chunk, least=0)
        self.folder = str(folder)
        self.chunk = chunk

    def __repr__(self) -> str:
        return f"Profile({self.folder!r}, chunk={self.chunk})"

    def pause(self, pause: Pause) -> None:
        if pause.chunk == self.chunk:
            with self.telling():
                jax.profiler.start_trace(self.folder)
                self.is_telling = True

    def report(self, record: Record) -> None:
        if record.chunk >= self.chunk:
            self.close()

    def close(self) -> None:
        if self.is_telling:
            self.is_telling = False
            with self.telling():
                jax.profiler.stop_trace()
