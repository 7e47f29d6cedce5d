"""How a process joins the others of a distributed run, and what it leaves for them to find."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

from jaxdescent.machine import attached
from jaxdescent.machine.host import let_threads_finish

HEARTBEAT_SECONDS = 45
"""After so long without a sign of a process the others end, within a minute of its death. Processes
give a sign twice in this time, so that half of it may be over when one stops."""


class NoCluster(ValueError):
    """The processes of a run could not be found, with what to give."""


def join(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Join the processes of this run, before JAX initialises a device.

    Without arguments JAX looks for Slurm, Open MPI, Kubernetes and cloud TPUs by itself
    (``jax.distributed.initialize``). On CPUs the processes talk by gloo.

    Args:
      coordinator: ``host:port`` of the first process.
      processes: their number.
      process: this one's index, from 0.

    Raises:
      NoCluster: if only some arguments are given, or none and JAX finds no cluster.
    """
    given = (coordinator, processes, process)
    if any(value is None for value in given) and any(value is not None for value in given):
        raise NoCluster(
            "coordinator, number of processes and index must be given together, got "
            f"{coordinator}, {processes} and {process}."
        )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator, processes, process, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
        with _standard_output_as_error():
            multihost_utils.sync_global_devices("all have joined")
        if attached.are_cpus():
            let_threads_finish()
    except (ValueError, RuntimeError) as error:
        raise NoCluster(
            f"the other processes were not found ({str(error).splitlines()[0]}): start this under "
            "Slurm, Open MPI or Kubernetes, or say who they are by --coordinator HOST:PORT "
            "--processes N --process I."
        ) from error


class Notes:
    """Texts by name, which the processes leave for each other beside their programs.

    JAX's coordination service keeps them, in the first process: leaving one and looking for some
    computes nothing, waits for nobody, and needs no other thread to be idle. JAX has no public name
    for it.
    """

    def __init__(self, prefix: str) -> None:
        from jax._src import distributed

        self._client: Any = distributed.global_state.client
        self._prefix = prefix

    def leave(self, name: str, text: str) -> None:
        """Leave a text for all, in the place of an earlier one of this name."""
        self._client.key_value_set(f"{self._prefix}/{name}", text, allow_overwrite=True)

    def found(self, folder: str) -> dict[str, str]:
        """The texts so far whose names begin with ``folder/``, by the rest of their names."""
        whole = f"{self._prefix}/{folder}/"
        return {
            key.removeprefix(whole): text for key, text in self._client.key_value_dir_get(whole)
        }


@contextlib.contextmanager
def _standard_output_as_error() -> Iterator[None]:
    """Within it what is written to the standard output goes to the error output: gloo tells there
    whom it has reached, where others expect JSON.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
