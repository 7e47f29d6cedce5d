"""Plans for devices that are not here: their figures, their prices, and what a compiler says."""

import importlib
import importlib.util
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdescent as jd
from jaxdescent.cost import work
from jaxdescent.kernels import host, memory
from jaxdescent.machine import Machine, store
from jaxdescent.planning import hardware as devices
from jaxdescent.planning import topologies
from tests.meshes import rows_over
from tests.shapes import logistic, named, shape
from tests.shapes import regression as shaped

ROWS, FEATURES = 1 << 22, 4096


def regression(rows=ROWS, features=FEATURES, outputs=1, **options):
    return shaped(rows, features, outputs, **options)


planning = importlib.import_module("jaxdescent.plan")  # jd.plan is its function


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch):
    """This host, without a calibration of some seconds."""
    machine = Machine.default("cpu", cores=2, memory_bytes=24 * 10**9)
    monkeypatch.setattr(Machine, "measured", lambda device: machine)
    return machine


# Names


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        ("h100", (1,), 1),
        ("8xh100", (8,), 8),
        (" 2xA100-80GB ", (2,), 2),
        ("rtx-4090", (1,), 1),
        ("v5e", (1, 1), 1),
        ("v5e:16x16", (16, 16), 256),
        ("v5p:2x2x4", (2, 2, 4), 16),
        ("tpu7x:2x2x1", (2, 2, 1), 8),  # two devices a chip
    ],
)
def test_names_are_understood(name, shape, count):
    mesh = devices.mesh_named(name)
    assert (mesh.shape, mesh.devices) == (shape, count)
    machine = Machine.published(name)
    assert machine.devices == count
    assert machine.platform == mesh.device.platform


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("h1000", "known are a100-40gb"),
        ("v5e:", "known are"),
        ("8x", "known are"),
        ("h100:8", "write 8xh100"),
        ("h100:2x4", "write 8xh100"),
        ("4xv5e", "write v5e:2x2"),
        ("v5e:16", "has 2 axes, got 'v5e:16': write v5e:2x2"),
        ("v5p:4x4", "has 3 axes"),
        ("0xh100", "from 1 to 8 h100 are linked"),
        ("16xh100", "from 1 to 8 h100 are linked"),
        ("v5e:32x16", "from 1 to 256 v5e are linked"),
        ("v5e:0x4", "from 1 to 256"),
    ],
)
def test_an_unknown_name_is_told_what_is_known(name, said):
    with pytest.raises(ValueError, match=said):
        jd.plan(regression(), device=name)


def test_every_device_has_a_source_and_ordered_rates():
    for name, device in devices.DEVICES.items():
        machine = Machine.published(name)
        assert len(device.source) > 20
        assert device.bfloat16 > device.float32 > 0
        assert 1e11 < device.bandwidth < 1e13
        assert machine.memory_bytes < device.memory
        assert not machine.is_measured
        planned = jd.plan(regression(10_000, 100), device=name)
        assert planned.chosen is not None
        assert device.source in str(planned)
        assert devices.ASSUMED in str(planned)


def test_platforms_devices_and_machines_go_on_working(unmeasured):
    for device in (None, "cpu", jax.devices()[3], unmeasured):
        planned = jd.plan(regression(1000, 10), device=device)
        assert planned.machine is unmeasured
        assert "links" not in planned.columns()
        assert devices.ASSUMED not in str(planned)


# Prices


@pytest.mark.parametrize(("name", "count"), [("h100", 1), ("8xh100", 8)])
def test_an_iteration_of_conjugate_gradients_is_its_bytes_over_their_ways(name, count):
    candidate = named(jd.plan(regression(), device=name))["ConjugateGradient()"]
    matrix = 4 * ROWS * FEATURES / count
    vectors = 10 * 4 * (ROWS / count + FEATURES + 1)
    sent = 2 * (count - 1) / count * 4 * (FEATURES + 1)  # X'r, and a norm
    small = work.ITERATION_KERNELS * Machine.published(name).operation_seconds
    waiting = 2 * Machine.published(name).all_reduce_seconds if count > 1 else 0
    seconds = (2 * matrix + vectors) / 3.35e12 + sent / 450e9 + small + waiting
    assert candidate.seconds_per_iteration == pytest.approx(seconds, rel=1e-6)
    assert candidate.seconds_per_iteration == pytest.approx(2 * matrix / 3.35e12, rel=0.1)
    assert candidate.link_bytes_per_iteration == pytest.approx(sent)
    assert candidate.data_bytes == pytest.approx(matrix + 4 * ROWS / count + 4 * (FEATURES + 1))


def test_a_gram_matrix_is_its_operations_and_one_sum_over_the_devices():
    one, eight = (
        named(jd.plan(regression(), device=name))["Gram()"] for name in ("h200", "8xh200")
    )
    whole = 2 * ROWS * FEATURES**2
    # Half of the rate is reached at 500 columns.
    assert one.setup_seconds == pytest.approx(whole / 67e12 * (1 + 500 / FEATURES), rel=0.05)
    assert one.link_bytes == 0
    sent = 2 * 7 / 8 * 4 * FEATURES**2
    assert eight.link_bytes == pytest.approx(sent, rel=0.01)
    assert eight.setup_seconds == pytest.approx(one.setup_seconds / 8 + sent / 450e9, rel=0.02)


def test_float32_on_a_tpu_is_six_products_of_bfloat16():
    machine = Machine.published("v6e")
    assert machine.product("float32") == pytest.approx(918e12 / 6)
    stored = {
        dtype: named(jd.plan(regression(dtype=dtype), device="v6e:8x8"))["LSMR()"]
        for dtype in ("float32", "bfloat16")
    }
    ratio = stored["float32"].data_bytes / stored["bfloat16"].data_bytes
    assert ratio == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize(
    ("objective", "params"),
    [
        (regression(), None),
        (regression(FEATURES, ROWS), None),
        (regression(ROWS, 256, 16, l2=1.0), None),
        (jd.SumOfSquares(), shape(10**9)),
    ],
    ids=["tall", "wide", "many outputs", "separable"],
)
def test_more_devices_hold_less_each_and_iterate_faster(objective, params):
    plans = [jd.plan(objective, params, device=f"{count}xb200") for count in (1, 2, 4, 8)]
    for fewer, more in itertools.pairwise(plans):
        same = [named(planned) for planned in (fewer, more)]
        shared = [name for name in same[0] if not name.startswith("Hedge(")]
        assert shared == [name for name in same[1] if not name.startswith("Hedge(")]
        for before, after in ([each[name] for each in same] for name in shared):
            assert after.iterations == before.iterations
            assert after.data_bytes < 0.6 * before.data_bytes
            assert after.link_bytes_per_iteration >= before.link_bytes_per_iteration
            if before.name not in ("DerivativeMethod()", "Gram()", "LSMR(Sketch())"):
                assert after.seconds_per_iteration < before.seconds_per_iteration
                assert after.working_bytes <= before.working_bytes


def test_wide_data_are_sharded_by_features():
    rows, features = 1000, 1 << 20
    candidate = named(jd.plan(regression(rows, features), device="4xh100"))["ConjugateGradient()"]
    # X w is a sum over devices.
    assert candidate.link_bytes_per_iteration == pytest.approx(2 * 3 / 4 * 4 * (rows + work.NORMS))
    assert candidate.data_bytes == pytest.approx(
        4 * rows * features / 4 + 4 * rows + 4 * features / 4, rel=1e-6
    )


def test_a_hessian_is_sharded_by_rows():
    size = 40_000
    objective = jd.Quadratic(shape(size, size), shape(size))
    candidate = named(jd.plan(objective, shape(size), device="8xh100"))["ConjugateGradient()"]
    assert candidate.link_bytes_per_iteration == pytest.approx(7 / 8 * 4 * size)
    assert candidate.data_bytes == pytest.approx(4 * size**2 / 8 + 2 * 4 * size, rel=1e-6)


@pytest.mark.parametrize(
    ("objective", "params", "said"),
    [
        (regression(), None, "sharded by rows, the params are on each"),
        (regression(1000, 10**6), None, "sharded by features, y is on each"),
        (jd.Quadratic(shape(99, 99), shape(99)), shape(99), "H is sharded by rows"),
        (jd.SumOfSquares(), shape(100), "params and data are sharded alike"),
        (lambda x: jnp.sum(jnp.cos(x)), shape(100), "all on each, which saves nothing"),
    ],
)
def test_a_plan_says_what_each_device_has(objective, params, said):
    planned = jd.plan(objective, params, device="8xh100")
    for text in (str(planned), repr(planned), planned._repr_html_()):
        assert said in text
        assert "8 x NVIDIA H100" in text
    assert said not in str(jd.plan(objective, params, device="h100"))


def test_links_are_in_the_table_and_in_the_json():
    planned = jd.plan(regression(), device="8xh100")
    row = dict(zip(planned.columns(), planned.rows()[1], strict=True))
    assert row["links"] == "28.7 kB"
    assert row["links in all"] == memory.readable_bytes(planned.candidates[1].link_bytes)
    content = json.loads(planned.to_json())
    assert content["machine"]["devices"] == content["problem"]["devices"] == 8
    assert content["candidates"][1]["link_bytes_per_iteration"] == pytest.approx(28_679)
    assert "compiled" not in planned.columns()
    single = jd.plan(regression(), device="h100")
    assert "links" not in single.columns()
    assert "over its links" in repr(planned)
    assert "over its links" not in repr(single)


def test_what_fits_nowhere_is_refused_in_words():
    planned = jd.plan(regression(8_000_000_000, 1_000_000), device="v5e:16x16")
    assert planned.chosen is None
    with pytest.raises(jd.ProblemTooLarge, match="each of the 256 devices"):
        planned.require()


@pytest.mark.parametrize("name", ["h100", "8xh100", "v5e:4x4"])
@pytest.mark.parametrize(
    ("objective", "params"),
    [
        (regression(), None),
        (jd.SumOfSquares(), shape(10**7)),
        (jd.LeastSquares(lambda x: jnp.exp(x) - 2), shape(10**6)),
        (logistic, shape(64)),
    ],
    ids=["regression", "separable", "residuals", "function"],
)
def test_a_plan_for_another_machine_depends_on_nothing_of_this_one(
    name, objective, params, monkeypatch
):
    args = (shape(10_000, 64), shape(10_000)) if objective is logistic else ()
    before = jd.plan(objective, params, args=args, device=name).to_json()

    def asked(*_, **__):
        raise AssertionError("this host was asked")

    monkeypatch.setattr(host, "usable_cores", asked)
    monkeypatch.setattr(store, "stored", asked)
    monkeypatch.setattr(memory, "available_bytes", asked)
    for backend, count in (("cpu", 1), ("gpu", 1), ("tpu", 4)):
        with monkeypatch.context() as patch:
            patch.setattr(jax, "device_count", lambda count=count: count)
            if params is None or params.size > 10**6:  # lowering a function asks JAX itself
                patch.setattr(jax, "default_backend", lambda backend=backend: backend)
            assert jd.plan(objective, params, args=args, device=name).to_json() == before


def test_arrays_that_are_here_are_not_there(rng):
    X = jnp.asarray(rng.normal(size=(1000, 10)), jnp.float32)
    planned = jd.plan(jd.LinearRegression(X, X[:, 0]), device="h100")
    assert all(c.allocated_bytes == c.peak_bytes for c in planned.candidates)


# Functions


def test_a_function_moves_its_data_at_least_once():
    X, y = shape(100_000, 1000), shape(100_000)
    structure = jd.plan(logistic, shape(1000), args=(X, y), device="h100").structure
    assert structure.evaluation_flops == pytest.approx(4e8, rel=0.05)
    assert 4e8 <= structure.evaluation_bytes <= 9e8


@pytest.mark.slow
def test_a_compiled_function_is_priced_by_its_compiler(only):
    only("GradientDescent(Backtracking())")
    X, y = shape(20_000, 50), shape(20_000)
    planned = jd.plan(logistic, shape(50), args=(X, y), device=jax.devices()[0], exact=True)
    program = jax.jit(jax.value_and_grad(logistic)).lower(shape(50), X, y).compile()
    counted, structure = program.cost_analysis(), planned.structure
    assert structure.evaluation_flops == pytest.approx(counted["flops"], rel=0.05)
    assert structure.evaluation_bytes == pytest.approx(counted["bytes accessed"], rel=0.05)
    assert structure.evaluation_reserved == pytest.approx(
        program.memory_analysis().temp_size_in_bytes, rel=0.05
    )
    assert all(c.compiled_bytes for c in planned.candidates if c.feasible)
    assert "the compiler's count" in str(planned)
    assert "is not counted" not in str(planned)


# What a compiler says


@pytest.mark.slow
def test_compiled_bytes_are_those_of_the_program_itself(only):
    only("ConjugateGradient()")
    objective = regression(5_000, 40)
    planned = jd.plan(objective, device=jax.devices()[0], exact=True)
    (candidate,), (row,) = planned.candidates, planned.rows()

    def descend(objective):
        return jd.minimize(objective, method=candidate.method)

    analysis = jax.jit(descend).lower(objective).compile().memory_analysis()
    reserved = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
    assert candidate.compiled_bytes == pytest.approx(reserved, rel=0.02)
    shown = dict(zip(planned.columns(), row, strict=True))["compiled"]
    assert shown == memory.readable_bytes(candidate.compiled_bytes)
    assert "compiled:" in repr(planned)
    assert json.loads(planned.to_json())["candidates"][0]["compiled_bytes"] > 0


@pytest.mark.slow
def test_arrays_are_compiled_for_where_they_lie(rng):
    X = rng.normal(size=(4096, 8)).astype(np.float32)
    X, y = jax.device_put((X, X[:, 0]), rows_over(8))
    objective = jd.LinearRegression(X, y)
    compiler = planning._Compiler(None, (), jax.devices()[0])
    program = planning._program(jd.GradientDescent(), jd.Tolerance())
    text = compiler.compiled(program, objective, None).as_text()
    assert "all-reduce" in text


def test_what_the_compiler_finds_no_room_for_does_not_fit(monkeypatch):
    def full(*_):
        raise jd.ProblemTooLarge("ran out of memory")

    monkeypatch.setattr(planning._Compiler, "reserved", full)
    planned = jd.plan(regression(1000, 10), device=jax.devices()[0], exact=True)
    assert planned.chosen is None
    assert {c.reason for c in planned.candidates} == {
        "the compiler finds no room, and says: ran out of memory"
    }
    assert planned.rows()[0][-1] == "no: the compiler finds no room"

    monkeypatch.setattr(planning._Compiler, "reserved", lambda *_: 10**15)
    planned = jd.plan(regression(1000, 10), device=jax.devices()[0], exact=True)
    assert planned.chosen is None
    assert all(c.reason.startswith("needs 1 PB") for c in planned.candidates)


def test_large_factorisations_are_not_offered_on_tpus(monkeypatch, only):
    planned = jd.plan(regression(1 << 16, 1024), device="v5e:2x4")
    assert planned.chosen.name == "LSMR()"
    assert not named(planned)["DerivativeMethod()"].feasible
    said = "DerivativeMethod(), LSMR(Sketch()) compiles for minutes, because XLA unrolls"
    assert said in " ".join(str(planned).split())
    assert named(jd.plan(regression(1 << 16, 64), device="v5e:2x4"))["DerivativeMethod()"].feasible
    only("DerivativeMethod()", "GradientDescent(BarzilaiBorwein())")
    monkeypatch.setattr(topologies, "topology", lambda name: jax.devices())
    monkeypatch.setattr(planning._Compiler, "reserved", lambda *_: 1000)
    planned = jd.plan(regression(1 << 16, 1024), device="v5e:2x4", exact=True)
    assert [c.compiled_bytes for c in planned.candidates] == [None, 1000]
    planned = jd.plan(regression(1 << 16, 1024), device="8xh100", exact=True)
    assert [c.compiled_bytes for c in planned.candidates] == [1000, 1000]


def test_a_machine_of_numbers_alone_cannot_be_compiled_for():
    machine = Machine.default("gpu", memory_bytes=10**9)
    with pytest.raises(ValueError, match="needs a device to compile for"):
        jd.plan(regression(1000, 10), device=machine, exact=True)


@pytest.mark.parametrize(("name", "package"), [("8xh100", "jax-cuda13-pjrt=="), ("v5e", "libtpu")])
def test_a_missing_plugin_is_named(name, package, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=f"pip install .*{package}"):
        jd.plan(regression(1000, 10), device=name, exact=True)


def test_rows_that_cannot_be_divided_are_told_to_be_padded(monkeypatch):
    monkeypatch.setattr(topologies, "topology", lambda name: jax.devices())
    with pytest.raises(ValueError, match=r"got 1,001 over 8 devices: plan for 1,008"):
        jd.plan(regression(1001, 10), device="8xh100", exact=True)


@pytest.mark.slow
def test_programs_for_a_mesh_gather_no_data(monkeypatch, only):
    only("DerivativeMethod()", "GradientDescent(BarzilaiBorwein())")
    # The virtual devices of this host in place of a topology.
    monkeypatch.setattr(topologies, "topology", lambda name: jax.devices())
    separable = jd.plan(jd.SumOfSquares(), shape(1 << 20), device="8xh100", exact=True)
    assert separable.chosen.compiled_bytes < (4 << 20) / 2
    only("GradientDescent(BarzilaiBorwein())")
    rows, features = 1 << 15, 64
    for sizes in ((rows, features), (features, rows)):
        (candidate,) = jd.plan(regression(*sizes), device="8xh100", exact=True).candidates
        assert candidate.compiled_bytes < rows * features * 4 / 8


def test_a_gpu_is_told_to_xla_by_its_figures():
    text = topologies.target_config(devices.DEVICES["h100"])
    for line in (
        "core_count: 132",
        "fpus_per_core: 128",
        "shared_memory_per_core: 233472",
        "shared_memory_per_block_optin: 232448",
        "l2_cache_size: 52428800",
        "memory_bandwidth: 3350000000000",
        "cuda_compute_capability { major: 9 minor: 0 }",
    ):
        assert line in text
