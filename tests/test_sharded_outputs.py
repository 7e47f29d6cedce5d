"""Several outputs over a mesh axis of their own, beside rows and columns."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxdescent as jd
from jaxdescent.scale.compiled import Compiled
from tests.references import closed_form

ROWS, FEATURES, OUTPUTS = 96, 8, 6

AXES = {
    "rows and outputs": {"samples": "hosts", "outputs": "chips"},
    "columns and outputs": {"features": "hosts", "outputs": "chips"},
    "outputs alone": {"outputs": ("hosts", "chips")},
}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, FEATURES)).astype("f") + 3
    y = X @ rng.normal(size=(FEATURES, OUTPUTS)).astype("f") + 5
    return X, (y + rng.normal(size=y.shape)).astype("f")


def solved(data, method, axes, shape=(4, 2)):
    count = int(np.prod(shape))
    devices = jax.devices()[:count]
    mesh = jax.make_mesh(shape, ("hosts", "chips"), (AxisType.Auto,) * 2, devices=devices)

    def placed(array, *names):
        spec = PartitionSpec(*(axes.get(name) for name in names))
        return jax.device_put(array, NamedSharding(mesh, spec))

    X = placed(data[0], "samples", "features")
    y = placed(data[1], "samples", "outputs")
    return jd.minimize(jd.LinearRegression(X, y, l2=0.5), method=method), y


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "layout"),
    [
        (None, "outputs alone"),
        (jd.ConjugateGradient(), "columns and outputs"),
        (jd.LSMR(), "rows and outputs"),
    ],
    ids=repr,
)
def test_outputs_over_devices_are_solved_as_on_one(data, method, layout):
    X, y = data
    # Of six outputs two or three devices have as many each.
    shape = (1, 2) if layout == "outputs alone" else (4, 2)
    result, targets = solved(data, method, AXES[layout], shape)
    assert len({shard.index for shard in targets.addressable_shards}) > 1
    assert result.converged
    weights, intercept, _ = closed_form(X, y, 0.5)
    np.testing.assert_allclose(result.params["weights"], weights, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(result.params["intercept"], intercept, rtol=1e-2, atol=2e-2)


@pytest.mark.slow
def test_what_is_sent_is_of_the_size_of_targets_and_weights(data):
    """No row of X leaves its device; XLA does gather outputs of rows for one of CG's branches."""
    mesh = jax.make_mesh((4, 2), ("hosts", "chips"), (AxisType.Auto,) * 2)

    def shape(sizes, *spec):
        place = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(sizes, "float32", sharding=place)

    def solve(X, y):
        return jd.minimize(jd.LinearRegression(X, y), method=jd.ConjugateGradient()).params

    program = Compiled(
        solve, shape((ROWS, FEATURES), "hosts"), shape((ROWS, OUTPUTS), "hosts", "chips")
    )
    sent = program.sent_in_an_iteration
    assert sent
    assert max(one.size for one in sent) <= 4 * (ROWS // 4) * OUTPUTS < 4 * (ROWS // 4) * FEATURES
