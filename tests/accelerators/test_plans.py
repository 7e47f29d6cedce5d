"""Exact plans for GPUs and TPUs that are not here: what XLA's plugins for them say."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

import jaxdescent as jd
from jaxdescent.cost import candidates
from jaxdescent.machine import devices, topologies

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("jax_cuda13_plugin", "libtpu"))),
        reason="XLA's plugins for GPUs and TPUs are not installed",
    ),
]


@pytest.fixture
def only(monkeypatch):
    """Leaves out all candidates but those of these names: each takes seconds to compile."""

    whole = dict(candidates.TABLE)

    def leave(*names):
        for kind, entries in whole.items():
            kept = tuple(entry for entry in entries if entry.name in names)
            monkeypatch.setitem(candidates.TABLE, kind, kept)

    return leave


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, "float32")


def logistic(weights, X, y):
    return jnp.mean(jnp.logaddexp(0.0, -y * (X @ weights)))


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
    regression = jd.LinearRegression(shape(1 << 16, 512), shape(1 << 16))
    for name, methods in (("8xh100", ("DerivativeMethod()", "LBFGS()")), ("h100", ("LSMR()",))):
        only(*methods)
        for candidate in compiled_for(name, regression):
            assert candidate.compiled_bytes is not None
    only("LBFGS()")
    squares = compiled_for("8xa100-80gb", jd.SumOfSquares(), shape(1 << 24))
    assert all(c.compiled_bytes is not None for c in squares)
    args = (shape(100_000, 100), shape(100_000))
    structure = jd.plan(logistic, shape(100), args=args, device="l4", exact=True).structure
    assert structure.evaluation_bytes >= 4e7
    with pytest.raises(ValueError, match="no device is called"):
        topologies.topology("h1000")


def test_compiled_for_tpus(only):
    only("DerivativeMethod()", "LBFGS()")
    for name, device in devices.DEVICES.items():
        if device.platform == "tpu":
            assert len(topologies.topology(name)) == device.per_chip
    squares = compiled_for("v5e:2x4", jd.SumOfSquares(), shape(1 << 24))
    assert all(c.compiled_bytes is not None for c in squares)
    args = (shape(100_000, 128), shape(100_000))
    structure = jd.plan(logistic, shape(128), args=args, device="v6e", exact=True).structure
    assert structure.evaluation_bytes >= 5e7
    with pytest.raises(ValueError, match="XLA knows no 'v5e:3x3'"):
        topologies.topology("v5e:3x3")
