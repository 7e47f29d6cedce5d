"""Which GPUs of its host a task uses, by the variables of Slurm and Open MPI."""

import json
import os
import subprocess
import sys

import pytest

from jaxdescent.processes.local_devices import UnevenShares, local_device_ids
from tests.distributed.processes import ROOT, free_port

ALL = "0,1,2,3,4,5,6,7"


def task(number, per_host, gpus=None, **more):
    found = {"SLURM_LOCALID": str(number), "SLURM_STEP_TASKS_PER_NODE": per_host, **more}
    return found | ({} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus})


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (task(0, "1(x4)", ALL, SLURM_GPUS_ON_NODE="8"), []),  # one task a host: all of its GPUs
        (task(0, "1(x4)"), []),
        (task(3, "8(x4)", ALL, SLURM_GPUS_ON_NODE="8"), [3]),  # one task a GPU
        (task(3, "8(x4)", None, SLURM_GPUS_ON_NODE="8"), [3]),
        (task(3, "8(x4)", "0", SLURM_GPUS_ON_NODE="8"), []),  # bound: each task sees its own
        (task(3, "8", "0", SLURM_GPUS_PER_TASK="1"), []),
        (task(3, "8", "0"), []),
        (task(3, "8", "0", SLURM_GPUS_PER_TASK="h100:1", SLURM_GPUS_ON_NODE="8"), []),
        (task(1, "2", "0,1,2,3", SLURM_GPUS_PER_TASK="4", SLURM_GPUS_ON_NODE="8"), []),
        (task(1, "2(x2)", "0,1,2,3", SLURM_GPUS_ON_NODE="4"), [2, 3]),  # two tasks share four
        (task(0, "4,1", "0,1,2,3", SLURM_GPUS_ON_NODE="4", SLURM_NODEID="1"), []),
        (task(2, "4,1", "0,1,2,3", SLURM_GPUS_ON_NODE="4", SLURM_NODEID="0"), [2]),
        (task(1, "2", ""), []),  # CPUs
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "0", "CUDA_VISIBLE_DEVICES": "0,1"}, []),
        (
            {"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
            | {"CUDA_VISIBLE_DEVICES": "4,5"},
            [1],
        ),
        ({}, []),
    ],
)
def test_tasks_use_their_share_of_the_gpus(environment, expected):
    assert local_device_ids(environment) == expected


def test_uneven_shares_are_refused():
    with pytest.raises(UnevenShares, match="3 tasks of this host cannot share its 8 GPUs evenly"):
        local_device_ids(task(0, "3", ALL, SLURM_GPUS_ON_NODE="8"))


PROGRAM = """
import json, jax
from jax._src.xla_bridge import CUDA_VISIBLE_DEVICES
from jaxdescent.processes import joining
joining.join()
print(json.dumps([CUDA_VISIBLE_DEVICES.value, jax.process_count(), jax.device_count()]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "expected"), [(1, ["all"]), (2, ["0", "1"])])
def test_simulated_slurm_tasks_join(tasks, expected):
    """JAX joins them by Slurm's variables, and is told the GPUs that each one uses."""
    common = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "JAX_PLATFORMS": "cpu"}
    common |= {"SLURM_NTASKS": str(tasks), "CUDA_VISIBLE_DEVICES": "0,1"}
    common |= {"SLURM_GPUS_ON_NODE": "2", "JAX_COORDINATOR_PORT": free_port()}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
            | common
            | task(number, str(tasks))
            | {"SLURM_PROCID": str(number)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(tasks)
    ]
    try:
        said = [process.communicate(timeout=100)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [json.loads(text) for text in said] == [[own, tasks, tasks] for own in expected]
