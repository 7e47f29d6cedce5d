"""Eight virtual devices: what is sharded gives the same numbers and stays sharded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxdescent as jd
from jaxdescent.placement import automatic_mesh, with_automatic_axes


def mesh(axis_type=AxisType.Auto):
    return jax.make_mesh((4, 2), ("samples", "features"), axis_types=(axis_type,) * 2)


AXIS_TYPES = pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
LAYOUTS = {
    "rows": (P("samples"), P("samples"), P()),
    "features": (P(None, "features"), P(), P("features")),
    "both": (P("samples", "features"), P("samples"), P("features")),
}
METHODS = {
    "constant": jd.GradientDescent(1e-2),
    "exact": jd.GradientDescent(jd.ExactLineSearch()),
    "derivative": jd.DerivativeMethod(),
}


@pytest.fixture(scope="module")
def unsharded():
    """A regression's data, and what the methods find on one device."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(16, 4)).astype(np.float32), rng.normal(size=16).astype(np.float32)

    @functools.cache
    def found(method):
        regression = jd.LinearRegression(X, y, l2=0.1)
        return jd.minimize(regression, method=METHODS[method], max_iterations=30)

    return X, y, found


@pytest.mark.first
@pytest.mark.parametrize(
    ("method", "layout", "axis_type"),
    [
        ("constant", "features", AxisType.Auto),
        ("constant", "both", AxisType.Explicit),
        ("exact", "rows", AxisType.Explicit),
        ("exact", "both", AxisType.Auto),
        ("derivative", "features", AxisType.Explicit),
        ("derivative", "rows", AxisType.Auto),
    ],
    ids=str,
)
def test_a_sharded_regression_equals_the_unsharded(unsharded, axis_type, layout, method):
    X, y, found = unsharded
    axes = mesh(axis_type)
    x_spec, y_spec, w_spec = LAYOUTS[layout]
    sharded_X = jax.device_put(X, NamedSharding(axes, x_spec))
    sharded_y = jax.device_put(y, NamedSharding(axes, y_spec))
    start = {
        "weights": jax.device_put(np.zeros(4, np.float32), NamedSharding(axes, w_spec)),
        "intercept": jax.device_put(np.mean(y), NamedSharding(axes, P())),
    }
    plain = found(method)
    sharded = jd.minimize(
        jd.LinearRegression(sharded_X, sharded_y, l2=0.1), start, METHODS[method], max_iterations=30
    )
    assert int(sharded.status) == int(plain.status)
    np.testing.assert_allclose(
        sharded.params["weights"], plain.params["weights"], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(sharded.value, plain.value, rtol=1e-5)


@AXIS_TYPES
def test_sharded_params_of_a_sum_of_squares_stay_sharded(axis_type):
    sharding = NamedSharding(mesh(axis_type), P("samples", "features"))
    values = np.arange(64, dtype=np.float32).reshape(8, 8)
    start = jax.device_put(values, sharding)
    result = jd.minimize(
        jd.SumOfSquares(), start, jd.GradientDescent(1e-2), max_iterations=50, tolerance=0
    )
    np.testing.assert_allclose(result.params, values * 0.98**50, rtol=1e-4)
    assert result.params.sharding.spec == P("samples", "features")
    assert {shard.data.shape for shard in result.params.addressable_shards} == {(2, 4)}


@pytest.mark.parametrize("descend", [jd.minimize, jd.run])
def test_params_end_where_they_were_placed_whatever_the_data_lie_over(descend):
    center = np.arange(8, dtype=np.float32)
    spread = jax.device_put(center, NamedSharding(mesh(), P(("samples", "features"))))
    start = jax.device_put(np.zeros_like(center), NamedSharding(mesh(), P()))
    rate = jd.GradientDescent(0.25)
    result = descend(jd.SumOfSquares(center=spread), start, rate, max_iterations=3, tolerance=0)
    np.testing.assert_allclose(result.params, center * 7 / 8)
    assert result.params.sharding.is_equivalent_to(start.sharding, 1)


def test_sharded_params_can_be_donated():
    start = jax.device_put(jnp.ones((8, 8)), NamedSharding(mesh(), P("samples")))
    result = jd.minimize(jd.SumOfSquares(), start, jd.GradientDescent(0.1), donate=True)
    assert start.is_deleted()
    assert result.params.sharding.spec == P("samples")


def test_devices_in_another_order_are_refused_by_name():
    two = jax.devices()[:2]
    meshes = (automatic_mesh(devices, ("samples",)) for devices in (two, two[::-1]))
    one, other = (NamedSharding(each, P()) for each in meshes)
    center, start = jax.device_put(jnp.ones(2), one), jax.device_put(jnp.zeros(2), other)
    with pytest.raises(ValueError, match=r"same order, got params on.*objective\.center on"):
        jd.minimize(jd.SumOfSquares(center=center), start)


def test_relabelling_axes_moves_no_data():
    array = jax.device_put(jnp.ones((8, 2)), NamedSharding(mesh(AxisType.Explicit), P("samples")))
    relabelled = with_automatic_axes(array)
    assert relabelled.sharding.mesh.axis_types == (AxisType.Auto, AxisType.Auto)
    assert relabelled.sharding.spec == P("samples")
    before = [shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards]
    after = [shard.data.unsafe_buffer_pointer() for shard in relabelled.addressable_shards]
    assert before == after


def test_explicit_axes_under_jit_are_refused_with_the_way_out():
    start = jax.device_put(jnp.ones(8), NamedSharding(mesh(AxisType.Explicit), P("samples")))
    with pytest.raises(ValueError, match=r"Auto axes.*axis_types"):
        jax.jit(lambda x: jd.minimize(jd.SumOfSquares(), x, jd.GradientDescent(0.1)).params)(start)


def test_automatic_axes_work_under_jit():
    start = jax.device_put(jnp.ones(8), NamedSharding(mesh(), P("samples")))
    params = jax.jit(lambda x: jd.minimize(jd.SumOfSquares(), x, jd.GradientDescent(0.1)).params)(
        start
    )
    np.testing.assert_allclose(params, 0, atol=1e-3)


@pytest.mark.slow
def test_a_stochastic_descent_does_not_depend_on_the_sharding():
    values = jnp.linspace(-3, 3, 64).reshape(8, 8).astype(jnp.bfloat16)
    placed = jax.device_put(values, NamedSharding(mesh(), P("samples", "features")))
    plain, sharded = (
        jd.minimize(
            jd.SumOfSquares(),
            start,
            jd.GradientDescent(1e-3),
            max_iterations=32,
            tolerance=0,
            rounding=jd.StochasticRounding(5),
        )
        for start in (values, placed)
    )
    np.testing.assert_array_equal(sharded.params, plain.params)
