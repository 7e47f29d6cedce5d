"""How a process joins the others of a distributed run."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from jaxdescent.processes import ending
from jaxdescent.processes.ending import CODES, FAILED, FAILURE, FOLLOWED, INTERRUPTED, End
from jaxdescent.processes.local_devices import UnevenShares, local_device_ids
from jaxdescent.processes.messages import OtherProcessFailed
from jaxdescent.processes.signals import on_a_thread

HEARTBEAT_SECONDS = 45
"""Seconds without a heartbeat of a process after which the others end, within a minute of its
death. Processes send two heartbeats in this time: half of it may be over when one dies."""


class NoCluster(ValueError):
    """The processes of a run could not be found, with what to give."""


def join(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Join the processes of this run, before JAX initialises a device.

    Without arguments (``host:port`` of the first process, their number, the index of this one) JAX
    looks for Slurm, Open MPI, Kubernetes and cloud TPUs by itself. On CPUs they talk by gloo.

    Raises:
      NoCluster: if only some arguments are given, or none and JAX finds no cluster; or if the tasks
        of a host cannot share its GPUs evenly.
      OtherProcessFailed: if another process has ended meanwhile.
    """
    given = (coordinator, processes, process)
    if any(value is None for value in given) and any(value is not None for value in given):
        raise NoCluster(
            "coordinator, number of processes and index must be given together, got "
            f"{coordinator}, {processes} and {process}."
        )
    try:  # a list in JAX's own variable is preferred to what Slurm's tell
        own = None if os.environ.get("JAX_LOCAL_DEVICE_IDS") else local_device_ids(os.environ)
    except UnevenShares as error:
        raise NoCluster(str(error)) from error
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    have_met = False
    try:
        # On threads, so that Ctrl-C works while others are waited for.
        on_a_thread(
            lambda: jax.distributed.initialize(
                *(coordinator, processes, process, own),
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            )
        )
        have_met = True
        with _standard_output_as_error():
            on_a_thread(
                lambda: multihost_utils.sync_global_devices("all have joined"),
                look=ending.raise_early_end,
            )
        if jax.local_devices()[0].platform == "cpu":
            let_threads_finish()
    except KeyboardInterrupt:
        _leave(End(INTERRUPTED), have_met)
        raise
    except OtherProcessFailed:
        _leave(End(FOLLOWED), have_met)
        raise
    except (ValueError, RuntimeError) as error:
        if jax.distributed.is_initialized():
            _leave(End(FAILED), have_met)
        raise NoCluster(
            f"the other processes were not found ({str(error).splitlines()[0]}): start this under "
            "Slurm, Open MPI or Kubernetes, or say who they are by --coordinator HOST:PORT "
            "--processes N --process I."
        ) from error


def _leave(end: End, have_met: bool) -> None:
    """Exit this process at its end without JAX's shutdown, which would wait for the others, which
    wait for this process to join them. They are told its end if they have met: JAX aborts a process
    that leaves a message before.
    """
    from jax._src import distributed  # JAX's own function would wait for its devices

    process = distributed.global_state.process_id
    atexit.register(ending.leave_now, CODES.get(end.kind, FAILURE), have_met and process == 0)
    if have_met:
        with contextlib.suppress(OtherProcessFailed):
            ending.tell(end, process)


@contextlib.contextmanager
def _standard_output_as_error() -> Iterator[None]:
    """A context in which the standard output goes to the error output: gloo writes there which
    processes it has reached, where others expect JSON.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def let_threads_finish() -> None:
    """Make threads of this process that wake up wait until others pause (Linux's SCHED_BATCH).

    Gloo's thread, when it is woken, tries in a loop to take a lock which the thread that computes
    holds. On the same core it would keep that thread from going on until the scheduler's next tick:
    4 ms instead of 0.1 for each sum over processes. The process's share of the cores is the same.
    """
    if not hasattr(os, "SCHED_BATCH"):
        return
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # the thread has ended, or a container forbids it
            if os.sched_getscheduler(int(thread)) == os.SCHED_OTHER:
                os.sched_setscheduler(int(thread), os.SCHED_BATCH, os.sched_param(0))
