"""Rehearsals: what is said of runs on devices that are not here."""

import pytest

from jaxdescent.machine import Machine
from jaxdescent.scale import run
from jaxdescent.scale.experiment import Experiment, ScalingPoint
from jaxdescent.scale.figures import rehearsed
from tests.accelerators import MARKS

pytestmark = MARKS


@pytest.mark.parametrize(("target", "devices"), [("v5e:16x16", 256), ("8xh100", 8)])
def test_a_pod_is_rehearsed(target, devices):
    rows, features = 1 << 16, 8192
    point = ScalingPoint(
        "dense", rows * devices, features, "cg", "float32", "samples", devices, target
    )
    figures = rehearsed(point)
    part = 4 * rows * features
    assert part < figures["argument_bytes"] < 1.01 * part
    assert figures["temporary_bytes"] < 0.01 * part
    assert not figures["gathers_data"]
    assert 2 * part < figures["iteration_bytes"] < 2.1 * part
    vectors = [one for one in figures["collectives"] if one["bytes"] >= 4 * features]
    assert [(one["kind"], one["count"]) for one in vectors] == [("all-reduce", 1)]
    assert vectors[0]["bytes"] <= 4 * features + 64
    assert sum(one["count"] for one in figures["collectives"]) <= 4
    assert all(one["bytes"] < 64 for one in figures["collectives"] if one not in vectors)
    assert figures["efficiency"] > 0.9
    assert figures["kernels"] < 40


@pytest.mark.parametrize("target", ["v5e:2x4", "8xh100"])
def test_outputs_over_devices_are_rehearsed(target):
    """Each device has X and its own outputs. The branch that sends most, a look at a claim for one
    output after another, gathers residuals; an iteration as it usually is sends numbers.
    """
    rows, features, outputs = 1 << 14, 512, 64
    size = "dense", rows, features, "lsmr", "float32", "outputs", 8, target
    figures = rehearsed(ScalingPoint(*size, outputs))
    part = 4 * rows * (features + outputs // 8)
    assert part <= figures["argument_bytes"] < 1.01 * part
    assert not figures["gathers_data"]
    gathered = [one for one in figures["collectives"] if one["bytes"] > 4 * outputs]
    assert {one["kind"] for one in gathered} <= {"all-gather"}
    assert max((one["bytes"] for one in gathered), default=0) <= 4 * rows * outputs
    largest = max(one["bytes"] for one in figures["collectives"])
    assert largest > 4 * rows
    machine = Machine.published(target)
    assert figures["link_seconds"] < 5 * machine.all_reduce_seconds


def test_errors_of_a_cluster_are_said_in_words():
    grid = Experiment(
        rows=(1 << 24, 1000), features=(1 << 17,), devices=(), rehearse=("8xh100", "v5e:2x4")
    )
    lines = run(grid)
    for line in lines[:2]:
        error = line["figures"]["error"]
        assert error.startswith("a device needs 1.1 TB of data and params, and about ")
        assert error.endswith("take more devices, another layout or a smaller dtype.")
    assert "error" not in lines[2]["figures"]
    grid = Experiment(rows=(1001,), devices=(), rehearse=("v5e:2x4",))
    (line,) = run(grid)
    assert "X has 1,001 samples, which 8 devices cannot share evenly" in line["figures"]["error"]
