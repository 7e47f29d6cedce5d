"""The accelerators of its host that a process uses, where Slurm or Open MPI started it."""

from __future__ import annotations

import re
from collections.abc import Mapping

VISIBLE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
"""The variables that list the GPUs which a process can see."""


class UnevenShares(ValueError):
    """Tasks of a host that cannot share its GPUs evenly."""


def local_device_ids(environment: Mapping[str, str]) -> list[int]:
    """The indices, among the GPUs that this process sees, of those it uses; empty for all of them.

    JAX itself takes the GPU whose number is that of the task on its host: with one task for each
    host it uses one GPU of many, and where each task sees its own GPU alone, only the first task
    finds its index. Here a task that is alone on its host, or whose GPUs are bound to it, uses all
    that it sees; tasks that see the same GPUs share them evenly.

    Args:
      environment: the variables of a task.

    Raises:
      UnevenShares: if the number of GPUs is not a multiple of the tasks that see them.

    >>> slurm = {"SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x4)"}
    >>> local_device_ids(slurm | {"SLURM_GPUS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": "0,1,2,3"})
    [2, 3]
    """
    task, tasks = _place(environment)
    seen = next((_count(environment[name]) for name in VISIBLE if name in environment), None)
    on_host = int(environment.get("SLURM_GPUS_ON_NODE") or seen or 0)
    seen = on_host if seen is None else seen
    of_a_task = re.search(r"\d+$", environment.get("SLURM_GPUS_PER_TASK", ""))
    is_bound = seen < (on_host if "SLURM_GPUS_ON_NODE" in environment else tasks)
    is_bound |= of_a_task is not None and seen <= int(of_a_task[0])
    if tasks < 2 or seen == 0 or is_bound:
        return []
    if seen % tasks:
        raise UnevenShares(
            f"{tasks} tasks of this host cannot share its {seen} GPUs evenly: start one task for "
            "each host, one for each GPU, or bind GPUs to tasks."
        )
    share = seen // tasks
    return list(range(task * share, (task + 1) * share))


def _place(environment: Mapping[str, str]) -> tuple[int, int]:
    """The number of a task on its host, and how many tasks the host has."""
    if "OMPI_COMM_WORLD_LOCAL_RANK" in environment:
        sizes = environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1")
        return int(environment["OMPI_COMM_WORLD_LOCAL_RANK"]), int(sizes)
    per_host = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get(
        "SLURM_TASKS_PER_NODE", "1"
    )
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", per_host):
        counts += [int(count)] * int(times or 1)
    host = int(environment.get("SLURM_NODEID", "0"))
    return int(environment.get("SLURM_LOCALID", "0")), counts[min(host, len(counts) - 1)]


def _count(listed: str) -> int:
    """How many devices a list of visible ones names."""
    return len([name for name in listed.split(",") if name.strip() not in ("", "-1")])
