"""What a first call compiles, by counts of kernels: XLA for CPUs takes some milliseconds for each.

The numbers are those of jaxlib 0.12, and a tenth more: `python -m benchmarks.studies.compilation`
prints them beside seconds and peers.
"""

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest
import scipy.sparse
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxdescent as jd
from benchmarks.studies.compilation import CASES, kernels_of
from jaxdescent.calls import programs
from jaxdescent.descent import eager, on_host
from jaxdescent.designs import Design
from tests.compilations import compiled_by
from tests.references import closed_form
from tests.results import assert_same

MOST = {
    "regression 300 x 7, default": 0,
    "regression 5,000 x 40, l2, default": 0,
    "regression 20,000 x 100, default": 0,
    "regression 100,000 x 100, default": 213,
    "regression 900 x 6,000, l2, default": 215,
    "regression 300 x 7, LSMR": 183,
    "regression 300 x 7, ConjugateGradient": 119,
    "Rosenbrock, default": 110,
    "Rosenbrock, optax.adam": 106,  # with a candidate that the gap rejects
    "300 residuals, LevenbergMarquardt": 149,  # most of them in loops of one kernel
    "network, default": 530,
    "network, optax.adam": 400,
    "certify a network": 212,
    "gradient through a ridge": 0,
    "certify Rosenbrock": 15,
    "physics-informed, LevenbergMarquardt": 358,
    "physics-informed, LBFGS": 240,
}

is_counted = pytest.mark.skipif(
    tuple(map(int, jaxlib.__version__.split(".")[:2])) < (0, 12),
    reason="another version of XLA makes other kernels",
)


def test_every_row_of_the_study_has_its_count():
    assert set(MOST) == set(CASES)


EVERYDAY = "regression 300 x 7, default", "Rosenbrock, optax.adam"


@is_counted
@pytest.mark.parametrize(
    "name",
    [
        *EVERYDAY,
        *(pytest.param(n, marks=pytest.mark.slow) for n in sorted(set(MOST) - set(EVERYDAY))),
    ],
)
def test_no_first_call_compiles_more_kernels(name, relaxed_promotion):
    assert kernels_of(CASES[name][0]()) <= MOST[name]


def bowl(x):
    return jnp.sum(jnp.cosh(x))


@pytest.mark.parametrize(
    "method",
    [jd.LBFGS(), jd.LBFGS(memory=1)],
    ids=["LBFGS", "LBFGS with one pair"],
)
def test_the_function_stands_once_in_the_program_of_a_descent(method, monkeypatch):
    counts, plain = [], programs.Program.__call__

    def counted(program, *inputs):
        if program.key[0] is eager.descend_to_candidate:
            counts.append(program.lower(*inputs).as_text().count("stablehlo.tanh"))
        return plain(program, *inputs)

    monkeypatch.setattr(programs.Program, "__call__", counted)
    tolerance = jd.Tolerance(1e-5)
    result = jd.minimize(
        lambda x: jnp.sum(jnp.tanh(x - 1) ** 2), jnp.zeros(3), method, tolerance=tolerance
    )
    assert counts == [1]
    assert result.status == jd.Status.CONVERGED
    assert int(result.iterations) > 1
    np.testing.assert_allclose(result.params, 1, atol=1e-2)


@pytest.mark.parametrize("cores", [1, 2])
def test_the_gap_is_compiled_when_a_descent_may_end(cores, monkeypatch):
    """Or, by another core, while the first program is compiled."""
    monkeypatch.setattr(eager, "usable_cores", lambda: cores)
    programs._compiled.cache_clear()
    start = np.float32([1, -2])

    def descend(most):
        return jd.minimize(bowl, start, jd.LBFGS(), max_iterations=most)

    names = compiled_by(lambda: descend(100), monkeypatch)
    assert list(dict.fromkeys(names))[:3] == ["descend_to_candidate", "_expansion", "_values"]


def test_where_no_thread_begins_any_more_a_first_call_compiles_by_itself(monkeypatch):
    """As where Python ends."""
    monkeypatch.setattr(eager, "usable_cores", lambda: 2)
    asked = []

    def refuse(self, work):
        asked.append(work)
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(eager.ThreadPoolExecutor, "submit", refuse)
    result = jd.minimize(lambda x: bowl(x - 1), np.float32([1, -2]), jd.LBFGS())
    np.testing.assert_allclose(result.params, 1, atol=1e-2)
    assert len(asked) == 1


@pytest.mark.parametrize("shape", [(300, 7), (20_000, 100), (60, 3000)])
def test_a_stored_regression_of_some_megabytes_compiles_nothing(shape, rng, monkeypatch):
    X, y = (rng.normal(size=size).astype(np.float32) for size in (shape, shape[0]))
    objective, found = jd.LinearRegression(X, y, l2=0.1), []
    names = compiled_by(lambda: found.append(jd.minimize(objective)), monkeypatch)
    assert names == ["solved"]
    weights, _, value = closed_form(X, y, 0.1)
    np.testing.assert_allclose(found[0].params["weights"], weights, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[0].value, value, rtol=1e-6)


def entries_and_numbers(rng):
    """Designs that are no arrays, and what they are written out."""
    entries = scipy.sparse.random(300, 40, 0.1, random_state=0, dtype=np.float32)
    codes, numbers = rng.integers(0, 9, 300), rng.normal(size=(300, 4)).astype(np.float32)
    levels = np.eye(9)[codes]
    factor = jd.Categorical(codes, 9)
    both = jd.Concatenated({"numbers": numbers, "factor": factor})
    return {
        "sparse": (jd.Sparse(entries), entries.toarray()),
        "categorical": (factor, levels),
        "side by side": (both, np.hstack([numbers, levels])),
    }


@pytest.mark.parametrize("kind", ["sparse", "categorical", "side by side"])
@pytest.mark.usefixtures("one_cpu", "whole")
def test_of_a_small_design_that_is_no_array_a_program_writes_out_the_entries(
    kind, rng, monkeypatch
):
    monkeypatch.setattr(Design, "is_whole", True)
    X, dense = entries_and_numbers(rng)[kind]
    y, l2 = rng.normal(size=300).astype(np.float32) + 30, np.float32(0.3)
    objective, found = jd.LinearRegression(X, y, l2=l2), []
    names = compiled_by(lambda: found.append(jd.minimize(objective)), monkeypatch)
    assert names == ["solved", "_to_dense"]
    weights, intercept, value = closed_form(dense, y, l2)
    traced = jax.jit(lambda y: jd.minimize(jd.LinearRegression(X, y, l2=l2)))(y)
    for result in (found[0], traced):
        assert result.status == jd.Status.CONVERGED
        packed = X.packed(result.params["weights"])
        np.testing.assert_allclose(packed, weights, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(result.params["intercept"], intercept, rtol=1e-6)
        np.testing.assert_allclose(result.value, value, rtol=1e-6)


@pytest.mark.usefixtures("one_cpu", "whole")
def test_few_regressions_in_minimize_batch_are_solved_by_the_host(rng, monkeypatch):
    solved, plain = [], on_host._computed

    def counted(*given, **how):
        solved.append(1)
        return plain(*given, **how)

    monkeypatch.setattr(on_host, "_computed", counted)
    X, y = rng.normal(size=(30, 4)).astype(np.float32), rng.normal(size=30).astype(np.float32)
    penalties = np.float32([0.1, 1, 10])
    found = jd.minimize_batch(lambda l2: jd.LinearRegression(X, y, l2=l2), (penalties,))
    assert len(solved) == 3
    expected = [closed_form(X, y, each)[0] for each in penalties]
    np.testing.assert_allclose(found.params["weights"], expected, rtol=1e-5, atol=1e-6)


def test_a_repeated_call_compiles_nothing(caplog):
    start = jnp.float32([1, -2])
    assert jd.minimize(bowl, start).status == jd.Status.CONVERGED
    with jax.log_compiles():
        jd.minimize(bowl, start)
        assert not [each for each in caplog.messages if "Compiling" in each]
        jax.jit(lambda x: x + 1)(start)  # the log would tell of a compilation
        assert [each for each in caplog.messages if "Compiling" in each]


@pytest.mark.slow
def test_a_refuted_claim_goes_on_in_a_program_of_its_own(rng, monkeypatch):
    x, z = rng.normal(size=(2, 100))
    X = np.float32(np.stack([1e7 * x, z], axis=1))  # LSMR overlooks the short column
    y = np.float32(x + 3 * z + 0.2 * rng.normal(size=100))
    results = []

    def call():
        results.append(jd.minimize(jd.LinearRegression(X, y), method=jd.LSMR()))

    names = compiled_by(call, monkeypatch)
    assert names[0] == "descend_to_candidate"
    assert set(names[1:]) <= {"_ruled", "_advanced", "_verified"}
    *_, least = closed_form(X, y, in_lengths=True)
    (result,) = results
    left = float(result.value) - least
    if result.converged:
        assert left <= 2.5e-5 * least
    else:
        assert left < 2 * float(result.suboptimality)


@pytest.mark.slow
def test_a_derivative_of_an_eager_call_is_solved_as_the_call_is(rng, monkeypatch):
    X, y = rng.normal(size=(30, 3)).astype(np.float32), rng.normal(size=30).astype(np.float32)

    def norm(l2):
        fitted = jd.minimize(jd.LinearRegression(X, y, l2=l2, intercept=False)).params
        return jnp.sum(fitted["weights"] ** 2)

    names = compiled_by(lambda: jax.grad(norm)(2.0), monkeypatch)
    assert names == ["solved", "attach_derivatives"]
    exact = [np.linalg.solve(X.T @ X + l2 * np.eye(3), X.T @ y) for l2 in (2.0 - 1e-3, 2.0 + 1e-3)]
    slope = (np.sum(exact[1] ** 2) - np.sum(exact[0] ** 2)) / 2e-3
    np.testing.assert_allclose(jax.grad(norm)(2.0), slope, rtol=2e-2)
    np.testing.assert_allclose(jax.jit(jax.grad(norm))(2.0), slope, rtol=2e-2)


@pytest.mark.slow
def test_a_call_inside_a_trace_that_takes_no_traced_number_is_traced_too(rng):
    X, y = rng.normal(size=(30, 3)).astype(np.float32), rng.normal(size=30).astype(np.float32)
    value = float(jd.minimize(jd.LinearRegression(X, y)).value)

    def shifted(a):
        return jd.minimize(jd.LinearRegression(X, y)).value + a

    np.testing.assert_allclose(jax.jit(shifted)(1.0), value + 1, rtol=1e-6)
    np.testing.assert_allclose(
        jax.vmap(shifted)(np.arange(3, dtype=np.float32)), value + np.arange(3), rtol=1e-6
    )

    def least(a):
        return jd.minimize(bowl, np.ones(2, np.float32), jd.LBFGS()).value + a

    np.testing.assert_allclose(jax.jit(least)(1.0), 3.0, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(6, 9), (30, 5)], ids=["wide", "tall"])
def test_a_penalty_is_not_lost_beside_columns_of_uneven_lengths(rng, shape, dtype, x64):
    for _ in range(20):
        X = (rng.normal(size=shape) * 10 ** rng.uniform(-4, 8, shape[1])).astype(dtype)
        y = rng.normal(size=shape[0]).astype(dtype)
        result = jd.minimize(jd.LinearRegression(X, y, l2=1.0, intercept=False))
        *_, least = closed_form(X, y, 1.0, intercept=False, in_lengths=True)
        above = float(result.value) / least - 1
        assert above < 1e-4 or not result.converged
        assert above * least < 1.1 * float(result.suboptimality) + 1e-5 * least


@pytest.mark.slow
def test_programs_call_the_host_where_their_arrays_are_whole(rng, whole):
    X, y = rng.normal(size=(50, 4)).astype(np.float32), rng.normal(size=50).astype(np.float32)
    inside = jax.jit(lambda X, y: jd.minimize(jd.LinearRegression(X, y)))
    traced, eager = inside(X, y), jd.minimize(jd.LinearRegression(X, y))
    assert_same(traced, eager)
    batch = jax.vmap(inside, in_axes=(None, 0))(X, np.stack([y, 2 * y]))
    np.testing.assert_allclose(batch.value, [eager.value, 4 * eager.value], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "is_by_host"), [((16,), True), ((17,), False), ((4, 4), True), ((4, 5), False)]
)
def test_few_members_of_a_batch_are_solved_by_the_host(rng, sizes, is_by_host, whole):
    X, Y = (rng.normal(size=size).astype(np.float32) for size in ((50, 4), (*sizes, 50)))

    def solve(y):
        return jd.minimize(jd.LinearRegression(X, y, intercept=False)).params["weights"]

    for _ in sizes:
        solve = jax.vmap(solve)
    lowered = jax.jit(solve).lower(Y)
    assert ("lapack" in lowered.as_text()) == (not is_by_host)
    if is_by_host:  # what LAPACK's branch gives, tests of batches ask
        expected = np.linalg.lstsq(X, Y.reshape(-1, 50).T, rcond=None)[0].T
        found = lowered.compile()(Y).reshape(-1, 4)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", [P("rows", "columns"), P(None, "columns"), P()])
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_arrays_on_a_mesh_of_one_device_are_solved_there(rng, spec, axis_type):
    """Scalars of the result have no axis to which a specification of X could belong."""
    X, y = rng.normal(size=(30, 4)), rng.normal(size=(30, 2))
    devices = jax.devices()[:1]
    mesh = jax.make_mesh((1, 1), ("rows", "columns"), axis_types=(axis_type,) * 2, devices=devices)
    placed = [jax.device_put(np.float32(array), NamedSharding(mesh, spec)) for array in (X, y)]
    result = jd.minimize(jd.LinearRegression(*placed, intercept=False))
    np.testing.assert_allclose(
        result.params["weights"], np.linalg.lstsq(X, y, rcond=None)[0], rtol=1e-5, atol=1e-6
    )
    for leaf in jax.tree.leaves(result):
        assert leaf.sharding.device_set == set(devices)


@pytest.mark.parametrize("penalty", [-1e4, -30.0])
def test_a_traced_penalty_under_which_nothing_is_least_diverges(penalty, rng, whole):
    X = rng.normal(size=(30, 3)).astype(np.float32)
    assert np.linalg.eigvalsh(X.T @ X)[0] < 30
    solve = jax.jit(lambda l2: jd.minimize(jd.LinearRegression(X, X[:, 0], l2=l2)))
    assert jd.Status(int(solve(penalty).status)) == jd.Status.DIVERGED
    assert solve(0.0).converged


def test_an_estimate_does_not_vanish_with_a_gradient_that_underflows():
    X = np.full((5, 2), 1e-30, np.float32)
    y = np.array([1.0, 2.0, 3.0, 4.0, 5.5], np.float32)
    result = jd.minimize(jd.LinearRegression(X, y, intercept=False))
    residual = X.astype(np.float64) @ np.asarray(result.params["weights"], np.float64) - y
    above = 0.5 * (residual @ residual - np.sum(np.square(y - y.mean(dtype=np.float64))))
    assert result.converged
    assert above <= 1.01 * float(result.suboptimality) + 1e-12


@pytest.mark.parametrize(
    "options",
    [
        {"history": 3},
        {"tolerance": 0},
        {"tolerance": jd.Tolerance(absolute_gradient=1e-3)},
        {"tolerance": jd.Tolerance(predicate=bowl)},
        {"check_every": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_only_a_loop_has_is_left_to_it(options):
    from jaxdescent.minimize import set_up
    from jaxdescent.objectives import as_objective

    common = {"max_iterations": 9, "donate": False, "rounding": None, "is_top_level": True}
    plain = {"tolerance": None, "check_every": None, "history": 0}
    regression = as_objective(
        jd.LinearRegression(np.ones((9, 2), np.float32), np.arange(9, dtype=np.float32))
    )
    for given, expected in ((plain, True), (plain | options, False)):
        setup = set_up(regression, None, None, **common, **given)
        assert on_host.is_possible(*setup.inputs[:2], setup.flags) == expected


@pytest.mark.slow
def test_the_rules_of_a_solve_at_once_are_those_of_the_loop(rng):
    """With a history the loop solves: status, iterations, evaluations and scales agree."""
    X = rng.normal(size=(60, 5)).astype(np.float32)
    y = (X @ np.arange(5.0) + rng.normal(size=60)).astype(np.float32)
    for most in (1, 50):
        for start in (None, {"weights": np.ones(5, np.float32), "intercept": np.float32(3)}):
            regression = jd.LinearRegression(X, y)
            once = jd.minimize(regression, start, jd.DerivativeMethod(), max_iterations=most)
            loop = jd.minimize(
                regression, start, jd.DerivativeMethod(), max_iterations=most, history=1
            )
            for name in ("status", "iterations"):
                assert int(getattr(once, name)) == int(getattr(loop, name)), (most, name)
            np.testing.assert_allclose(once.value, loop.value, rtol=1e-5)
            np.testing.assert_allclose(once.params["weights"], loop.params["weights"], atol=1e-5)
    again = jd.minimize(jd.LinearRegression(X, y), once.params)
    assert int(again.iterations) == 0
    assert again.converged
    y[3] = np.nan
    for history in (0, 1):
        broken = jd.minimize(jd.LinearRegression(X, y), history=history)
        assert jd.Status(int(broken.status)) == jd.Status.NON_FINITE
        assert int(broken.iterations) == 0
