"""Exact plans for GPUs and TPUs that are not here: what XLA's plugins for them say."""

import pytest

import jaxdescent as jd
from jaxdescent.planning import hardware as devices
from jaxdescent.planning import topologies
from tests.accelerators import MARKS
from tests.shapes import logistic, regression, shape

pytestmark = MARKS


def compiled_for(name, objective, params=None):
    planned = jd.plan(objective, params, device=name, exact=True)
    assert planned.machine.devices == len(topologies.topology(name))
    return planned.candidates


def test_compiled_for_gpus(only):
    assert all(
        len(topologies.topology(name)) == 1
        for name, device in devices.DEVICES.items()
        if device.platform == "gpu"
    )
    only("ConjugateGradient()")
    (candidate,) = compiled_for("8xh100", regression(1 << 16, 512))
    assert candidate.compiled_bytes is not None
    args = (shape(100_000, 100), shape(100_000))
    structure = jd.plan(logistic, shape(100), args=args, device="l4", exact=True).structure
    assert structure.evaluation_bytes >= 4e7
    with pytest.raises(ValueError, match="no device is called"):
        topologies.topology("h1000")


def test_compiled_for_tpus(only):
    only("GradientDescent(Backtracking())")
    for name, device in devices.DEVICES.items():
        if device.platform == "tpu":
            assert len(topologies.topology(name)) == device.per_chip
    (candidate,) = compiled_for("v5e:2x4", jd.SumOfSquares(), shape(1 << 24))
    assert candidate.compiled_bytes is not None
    args = (shape(100_000, 128), shape(100_000))
    structure = jd.plan(logistic, shape(128), args=args, device="v6e", exact=True).structure
    assert structure.evaluation_bytes >= 5e7
    with pytest.raises(ValueError, match="XLA knows no 'v5e:3x3'"):
        topologies.topology("v5e:3x3")
