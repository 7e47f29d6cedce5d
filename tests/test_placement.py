"""Eight virtual devices: what is sharded gives the same numbers and stays sharded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxdescent as jd
from jaxdescent.placement import automatic_mesh, with_automatic_axes
from tests.references import closed_form


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


@pytest.mark.first
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


BOTH = ("a", "b")
PLACES = {
    "rows go with X": (P("a"), P(None, "a"), P(BOTH), P("a"), P("a")),
    "outputs keep their own axis": (P("a"), P("a", "b"), P("a"), P("a", "b"), P("a")),
    "columns keep theirs": (P(None, BOTH), P("a", "b"), P("a"), P(), P()),
    "an axis is left for rows": (P(None, "a"), P(BOTH), P("a"), P("b"), P("b")),
    "X is whole": (P(), P(None, "a"), P(BOTH), P(None, "a"), P("b")),
    "sparse": ("sparse", P(None, BOTH), P("a"), P("b", "a"), P("b")),
}


def on_six(array, spec):
    """The array in float32 on a mesh of 2 x 3 devices."""
    six = automatic_mesh(np.array(jax.devices()[:6]).reshape(2, 3), ("a", "b"))
    return jax.device_put(jnp.asarray(array, jnp.float32), NamedSharding(six, spec))


@pytest.mark.parametrize("layout", PLACES)
def test_a_mesh_axis_cuts_one_axis_of_a_regression_alone(layout, rng):
    of_X, *given, targets, weights = PLACES[layout]
    X, y, weight = rng.normal(size=(12, 6)), rng.normal(size=(12, 6)), rng.uniform(1, 2, 12)
    y, weight = map(on_six, (y, weight), given)
    if of_X == "sparse":
        rows = on_six(np.zeros(12), P("b")).sharding
        X = jd.Sparse(scipy.sparse.csr_array(X, dtype="f"), sharding=rows)
    else:
        X = on_six(X, of_X)
    checked = jd.LinearRegression(X, y, sample_weight=weight).checked()
    for array, spec, own in (checked.y, targets, y), (checked.sample_weight, weights, weight):
        np.testing.assert_array_equal(array, own)
        assert array.sharding.is_equivalent_to(on_six(own, spec).sharding, own.ndim)
        assert (array is own) == own.sharding.is_equivalent_to(array.sharding, own.ndim)


@pytest.mark.slow
@pytest.mark.parametrize("is_differentiated", [False, True])
def test_targets_cut_by_the_axis_of_the_rows_are_solved(is_differentiated, rng):
    """XLA aborted the process."""
    X, y = rng.normal(size=(66, 2)), rng.normal(size=(66, 6))
    weight = rng.uniform(0.5, 1, 66)
    given = list(map(on_six, (X, y, weight), (P("a"), P(None, "a"), P(BOTH))))

    def weights(y):
        regression = jd.LinearRegression(given[0], y, l2=1.0, sample_weight=given[2])
        return jd.minimize(regression, method=jd.ConjugateGradient()).params["weights"]

    if not is_differentiated:
        expected, _, _ = closed_form(X, y, 1.0, weight)
        np.testing.assert_allclose(weights(given[1]), expected, atol=1e-5)
        return
    slope = jax.grad(lambda y: jnp.sum(weights(y)))(given[1])
    center = X - np.average(X, axis=0, weights=weight)
    inverse = np.linalg.inv(center.T @ (weight[:, None] * center) + np.eye(2))
    expected = weight * (center @ inverse.sum(axis=0))
    np.testing.assert_allclose(slope, np.tile(expected[:, None], 6), atol=1e-5)


def test_relabelling_axes_moves_no_data():
    array = jax.device_put(jnp.ones((8, 2)), NamedSharding(mesh(AxisType.Explicit), P("samples")))
    relabelled = with_automatic_axes(array)
    assert relabelled.sharding.mesh.axis_types == (AxisType.Auto, AxisType.Auto)
    assert relabelled.sharding.spec == P("samples")
    before = [shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards]
    after = [shard.data.unsafe_buffer_pointer() for shard in relabelled.addressable_shards]
    assert before == after


@pytest.mark.slow
def test_explicit_axes_are_taken_by_calls_for_many_starts_and_by_plans(rng):
    """Those are the axes that ``jax.make_mesh`` makes by default."""

    def placed(array, *axes, on=AxisType.Explicit):
        return jax.device_put(jnp.asarray(array, jnp.float32), NamedSharding(mesh(on), P(*axes)))

    starts = placed(rng.uniform(-2, 2, (8, 2)), "samples", "features")
    center = placed(np.ones(2), "features")
    problem = jd.SumOfSquares(center=center)
    batch = jd.minimize_batch(lambda start: (problem, start), (starts,), jd.DerivativeMethod())
    np.testing.assert_allclose(batch.params, 1, atol=1e-4)
    (point,) = jd.critical_points(lambda p, c: jnp.sum(jnp.cosh(p - c)), starts, args=(center,))
    np.testing.assert_allclose(point.params, 1, atol=1e-4)

    def planned(on, over):
        X = placed(np.ones((16, 4)), "samples", "features", on=on)
        return str(jd.plan(jd.LinearRegression(X, placed(np.ones(16), over, on=on))))

    assert planned(AxisType.Auto, "samples") == planned(AxisType.Explicit, "features")


def test_under_jit_automatic_axes_work_and_explicit_ones_are_refused_with_the_way_out():
    @jax.jit
    def solve(start):
        return jd.minimize(jd.SumOfSquares(), start, jd.GradientDescent(0.1)).params

    def on(axis_type):
        return jax.device_put(jnp.ones(8), NamedSharding(mesh(axis_type), P("samples")))

    np.testing.assert_allclose(solve(on(AxisType.Auto)), 0, atol=1e-3)
    with pytest.raises(ValueError, match=r"Auto axes.*axis_types"):
        solve(on(AxisType.Explicit))


def in_shard_map(function, **options):
    """The function of an array whose rows one device each has, by ``jax.shard_map``."""
    return jax.jit(
        jax.shard_map(
            function, mesh=mesh(), in_specs=P("samples"), out_specs=P("samples"), **options
        )
    )


@pytest.mark.first
@pytest.mark.parametrize("method", [None, jd.LSMR(), jd.GradientDescent(jd.ExactLineSearch())])
def test_each_device_fits_its_own_in_a_shard_map(method):
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(4, 20, 3)), rng.normal(size=(4, 20))
    data = jnp.asarray(np.concatenate([X, y[..., None]], axis=2))

    def weights(data, l2=0.5):
        regression = jd.LinearRegression(data[0, :, :3], data[0, :, 3], l2=l2)
        return jd.minimize(regression, method=method).params["weights"][None]

    def by_penalty(data):
        return jax.jacrev(lambda l2: weights(data, l2))(0.5)

    want = [closed_form(X[i], y[i], 0.5)[0] for i in range(4)]
    found = in_shard_map(weights, check_vma=False)(data)
    np.testing.assert_allclose(found, want, atol=1e-2)
    moved = [closed_form(X[i], y[i], 0.5 + 1e-4)[0] for i in range(4)]
    slopes = (np.array(moved) - np.array(want)) / 1e-4
    found = in_shard_map(by_penalty, check_vma=False)(data)
    np.testing.assert_allclose(found, slopes, rtol=2e-3, atol=1e-5)
    with pytest.raises(ValueError, match=r"varies over \['samples'\]: write .*check_vma=False"):
        in_shard_map(weights)(data)
