"""The files in examples/cluster: what their linters say, and that our command has their options."""

import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import typer.main

from jaxdescent.cli.commands import app
from jaxdescent.planning.hardware import mesh_named
from jaxdescent.scale.experiment import Experiment

FOLDER = pathlib.Path(__file__).parents[1] / "examples" / "cluster"
JOBSET, SLURM, POD = (FOLDER / name for name in ("jobset.yaml", "slurm.sh", "pod.toml"))


def commands(text):
    """Every call of our command in a shell script."""
    joined = text.replace("\\\n", " ")
    return [shlex.split(call) for call in re.findall(r"jaxdescent (scale .*)", joined)]


def assert_parses(words):
    command = typer.main.get_command(app).commands[words[0]]
    context = command.make_context(words[0], words[1:], resilient_parsing=False)
    given = {name: value for name, value in context.params.items() if value is not None}
    sizes = {"problems": "problem", "rows": "rows", "features": "features", "methods": "method"}
    values = {field: given[name] for field, name in sizes.items()}
    values = {
        field: [part for one in value for part in one.split(",")] for field, value in values.items()
    }
    for name in ("rows", "features"):
        values[name] = [float(value) for value in values[name]]
    assert Experiment.of(values, "the file").points()
    return given


def containers():
    yaml = pytest.importorskip("yaml")
    jobset = yaml.safe_load(JOBSET.read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    return jobset, [job["template"]["spec"] for job in jobset["spec"]["replicatedJobs"]]


def test_the_options_in_the_files_are_those_of_the_command():
    (slurm,) = commands(SLURM.read_text())
    given = assert_parses([word.replace("${SLURM_JOB_ID:?}", "1") for word in slurm])
    assert given["distributed"]
    assert given["weak"]
    _, jobs = containers()
    (container,) = jobs[0]["template"]["spec"]["containers"]
    (call,) = commands(container["args"][0])
    given = assert_parses(call)
    assert given["distributed"]
    # The results lie where a volume is mounted.
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"] for volume in jobs[0]["template"]["spec"]["volumes"]}
    assert set(mounts) == volumes
    assert str(given["output"].parent) in mounts.values()


def test_the_job_set_asks_for_every_chip_of_its_slice_once():
    _, (job,) = containers()
    pod = job["template"]["spec"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"]
    assert chips * job["parallelism"] == mesh_named(f"v5e:{topology}").devices
    # JobSet restarts all pods when one fails, so that none is restarted alone.
    assert job["backoffLimit"] == 0
    assert pod["restartPolicy"] == "Never"


def test_slurm_is_asked_for_a_process_for_each_gpu():
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", SLURM.read_text(), re.MULTILINE))
    assert asked["gpus-per-task"] == "1"
    assert int(asked["ntasks-per-node"]) > 1
    assert re.fullmatch(r"\d\d:\d\d:\d\d", asked["time"])


def test_the_experiment_of_the_pod_has_the_points_that_are_promised():
    points = Experiment.from_toml(POD).points()
    sizes = {(point.problem, point.rows, point.target) for point in points if point.target}
    assert ("dense", 1 << 24, "v5e:16x16") in sizes
    assert ("hashed", 1 << 24, "v5e:16x16") in sizes
    assert ("llama3-8b", 0, "v5e:16x16") in sizes


def test_yamllint_finds_nothing():
    pytest.importorskip("yamllint")
    rules = "{extends: default, rules: {line-length: {max: 100}, document-start: disable}}"
    ended = subprocess.run(
        [sys.executable, "-m", "yamllint", "--strict", "-d", rules, str(JOBSET)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout


def test_shellcheck_finds_nothing(tmp_path):
    folder = pathlib.Path(sys.executable).parent
    program = shutil.which("shellcheck", path=str(folder)) or shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed")
    # What a container runs is a script too.
    _, jobs = containers()
    inner = tmp_path / "args.sh"
    inner.write_text(f"#!/bin/bash\n{jobs[0]['template']['spec']['containers'][0]['args'][0]}")
    ended = subprocess.run(
        [program, "--enable=all", "--severity=style", str(SLURM), str(inner)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
