"""Params in the host's memory, of which the device is given chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxdescent as jd
from jaxdescent.kernels import host_memory
from jaxdescent.methods.optax_method import is_elementwise
from tests.results import assert_same, assert_trees_close

ADAM = optax.adam(0.1)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(host_memory, "CHUNK_BYTES", 1024)
    with jax.numpy_dtype_promotion("standard"):  # which optax needs
        yield


WHOLE = PartitionSpec()


def on(kind, tree, spec=WHOLE, devices=1):
    mesh = jax.make_mesh((devices,), ("parts",), (AxisType.Auto,), devices=jax.devices()[:devices])
    place = NamedSharding(mesh, spec, memory_kind=kind)
    return jax.tree.map(lambda leaf: jax.device_put(jnp.asarray(leaf), place), tree)


def params(dtype="float32"):
    rng = np.random.default_rng(0)
    tree = {"a": rng.normal(size=(50, 100)), "b": rng.normal(size=7), "c": np.float64(0.5)}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def kinds(tree):
    return {leaf.sharding.memory_kind for leaf in jax.tree.leaves(tree)}


def both(start, method, objective=None, **options):
    """The results of the same descent in either memory."""
    objective = objective or jd.SumOfSquares()
    options = {"max_iterations": 11, "check_every": 4, "tolerance": 0} | options
    return [
        jd.minimize(objective, on(kind, start), method, **options)
        for kind in ("pinned_host", "device")
    ]


def test_steps_in_chunks_are_those_of_the_whole_bit_by_bit():
    center = {"a": np.linspace(0, 1, 100, dtype="f")[None], "b": np.float32(1), "c": np.float32(2)}
    host, device = both(params(), jd.GradientDescent(0.01), jd.SumOfSquares(center=center))
    assert kinds(host.params) == {"pinned_host"}
    assert host.iterations == device.iterations == 11
    assert (host.evaluations, host.status) == (device.evaluations, device.status)
    assert_same(host.params, device.params)
    np.testing.assert_allclose(host.value, device.value, rtol=1e-6)
    np.testing.assert_allclose(host.gradient_norm, device.gradient_norm, rtol=1e-6)


def test_the_state_of_an_optax_transformation_lies_and_goes_with_the_params():
    host, device = both(params(), ADAM)
    state = host.state[0]
    assert kinds((state.mu, state.nu)) == {"pinned_host"}
    assert state.count == device.state[0].count == 11
    assert_trees_close(host.params, device.params, rtol=1e-5, atol=1e-6)
    moments = ((each.state[0].mu, each.state[0].nu) for each in (host, device))
    assert_trees_close(*moments, rtol=1e-4, atol=1e-5)


@pytest.mark.first
@pytest.mark.parametrize("rounding", [jd.Nearest(), jd.StochasticRounding(3)])
def test_16_bit_params_are_rounded_once_in_each_pass(rounding):
    host, device = both(params("bfloat16"), jd.GradientDescent(0.01), rounding=rounding)
    spread = 2.0**-8
    for own, theirs in zip(
        jax.tree.leaves(host.params), jax.tree.leaves(device.params), strict=True
    ):
        assert own.dtype == jnp.bfloat16
        new, old = np.asarray(own, "f"), np.asarray(theirs, "f")
        if isinstance(rounding, jd.Nearest):
            np.testing.assert_array_equal(new, old)
        else:  # other random bits for each chunk
            np.testing.assert_allclose(new, old, rtol=6 * spread)
            assert abs(np.mean((new - old) / np.abs(old))) < 0.1 * spread + 3 * spread / new.size


def test_the_default_converges_in_one_step_and_says_so():
    center = on("pinned_host", np.full((60, 50), 3.0, "f"))
    result = jd.minimize(jd.SumOfSquares(2.0, center), on("pinned_host", np.zeros((60, 50), "f")))
    assert result.converged
    np.testing.assert_allclose(result.params, 3.0, rtol=1e-6)
    assert kinds(result.params) == {"pinned_host"}


@pytest.mark.slow
@pytest.mark.parametrize("spec", [PartitionSpec(None, "parts"), PartitionSpec("parts")])
def test_sharded_params_are_cut_along_an_axis_that_devices_have_whole(spec):
    start = np.random.default_rng(1).normal(size=(64, 96)).astype("f")
    whole = on("pinned_host", start, spec, devices=8)
    cut = host_memory.cut_of(whole)
    assert cut.axis == (0 if spec[0] is None else 1)
    options = {"max_iterations": 8, "check_every": 4, "tolerance": 0}
    result = jd.minimize(jd.SumOfSquares(), whole, ADAM, **options)
    alone = jd.minimize(jd.SumOfSquares(), on("device", start), ADAM, **options)
    np.testing.assert_allclose(result.params, alone.params, rtol=1e-5, atol=1e-6)
    assert result.params.sharding == whole.sharding
    assert result.state[0].mu.sharding.memory_kind == "pinned_host"


def test_a_donated_start_is_where_the_result_is():
    start = on("pinned_host", np.ones((64, 96), "f"))
    result = jd.minimize(jd.SumOfSquares(), start, jd.GradientDescent(0.1), donate=True)
    assert start.is_deleted()
    assert result.converged


@pytest.mark.slow
def test_a_learning_rate_that_is_too_large_is_told_from_nan():
    host, device = both(params(), jd.GradientDescent(1e30), tolerance=None)
    assert host.status == device.status == jd.Status.DIVERGED
    start = params() | {"b": jnp.full(7, jnp.nan)}
    host, device = both(start, jd.GradientDescent(0.1), tolerance=None)
    assert host.status == device.status == jd.Status.NON_FINITE


def test_under_jit_params_stay_in_the_host_s_memory():
    solve = jax.jit(lambda p: jd.minimize(jd.SumOfSquares(), p, jd.GradientDescent(0.1)).params)
    assert kinds(solve(on("pinned_host", np.ones((64, 96), "f")))) == {"pinned_host"}


def test_a_run_is_saved_and_goes_on(tmp_path):
    start = np.random.default_rng(2).normal(size=(64, 96)).astype("f")

    def run(limit, **options):
        return jd.run(
            jd.SumOfSquares(),
            on("pinned_host", start),
            ADAM,
            max_iterations=limit,
            tolerance=0,
            check_every=4,
            chunk=4,
            **options,
        )

    run(8, checkpoint=tmp_path / "run")
    resumed = run(12, checkpoint=tmp_path / "run", resume=True)
    straight = run(12)
    assert kinds(resumed.params) == {"pinned_host"}
    assert kinds(resumed.state[0].mu) == {"pinned_host"}
    np.testing.assert_array_equal(resumed.params, straight.params)


def test_a_plan_says_what_lies_on_the_host_and_what_a_device_is_given():
    place = on("pinned_host", np.ones(2, "f")).sharding
    planned = jd.plan(
        jd.SumOfSquares(), jax.ShapeDtypeStruct((100_000, 100_000), "float32", sharding=place)
    )
    assert planned.structure.host_bytes == 4 * 10**10
    assert planned.structure.chunk_bytes == 400_000  # a row of them is more than a chunk
    assert planned.chosen.name == "GradientDescent(InverseLipschitz())"
    assert planned.chosen.peak_bytes == 2 * 400_000
    assert "40 GB of them in the host's memory" in repr(planned)
    refused = [one.reason for one in planned.candidates if one is not planned.chosen]
    assert set(refused) == {"needs all params in the device's memory at once"}


@pytest.mark.parametrize(
    ("transformation", "answer"),
    [
        (optax.adamw(1e-3), True),
        (optax.sgd(0.1, momentum=0.9, nesterov=True), True),
        (optax.inject_hyperparams(optax.rmsprop)(0.1), True),
        (optax.chain(optax.clip(1.0), optax.lion(1e-3)), True),
        (optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)), False),
        (optax.lars(0.1), False),
        (optax.lbfgs(), False),
    ],
)
def test_what_an_optax_transformation_does_to_an_element_is_read(transformation, answer):
    assert is_elementwise(transformation) is answer


@pytest.mark.parametrize(
    ("objective", "method", "options", "message"),
    [
        (jd.SumOfSquares(), jd.LBFGS(), {}, r"treats each element by itself, got LBFGS\(\): take"),
        (jd.SumOfSquares(), optax.lbfgs(), {}, r"without norms and alike for all leaves"),
        (lambda p: jnp.sum(p["a"]), jd.GradientDescent(1.0), {}, r"a sum over elements, got Func"),
        (
            jd.SumOfSquares(),
            jd.GradientDescent(1.0),
            {"tolerance": jd.Tolerance(step=1e-3)},
            r"conditions on sums over them, got Tolerance\(.*step=0.001\): leave out step",
        ),
    ],
)
def test_what_needs_all_params_at_once_is_refused(objective, method, options, message):
    with pytest.raises(ValueError, match=message):
        jd.minimize(objective, on("pinned_host", params()), method, **options)


def test_what_is_computed_from_params_as_a_whole_is_refused():
    start = on("pinned_host", np.ones((64, 96), "f"))
    with pytest.raises(ValueError, match=r"jd.certify must have its arrays in the device's memory"):
        jd.certify(jd.SumOfSquares(), start)
    with pytest.raises(ValueError, match=r"SumOfSquares.scale, .* device's memory, got some in"):
        jd.minimize(jd.SumOfSquares(start), start)
    with pytest.raises(ValueError, match=r"no derivatives by the objective's data"):
        jax.grad(
            lambda c: jd.minimize(jd.SumOfSquares(center=c), start, jd.GradientDescent(0.1)).value
        )(1.0)
