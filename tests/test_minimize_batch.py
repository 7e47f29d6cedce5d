"""Batches: the same as vmap and as a loop, member by member."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdescent as jd
from jaxdescent import _minimize_batch as batches
from jaxdescent.kernels.branches import seldom
from tests.references import closed_form
from tests.results import assert_trees_close

pytestmark = pytest.mark.slow  # most tests compile a few solvers: the core is for every day

RNG = np.random.default_rng(0)
STARTS = jnp.array(RNG.uniform(1, 2, (40, 2)), jnp.float32)
STEEPNESS = jnp.array(np.where(RNG.random(40) < 0.15, 300, 2), jnp.float32)
"""A few members are ill-conditioned and need many iterations."""

METHOD = jd.GradientDescent(jd.Backtracking())


def valley(p, steepness):
    return p[0] ** 2 + p[0] ** 4 + steepness * p[1] ** 2


def from_start(start, steepness=STEEPNESS[0]):
    return lambda p: valley(p, steepness), start


def assert_same(got, expected, **tolerances):
    np.testing.assert_array_equal(got.status, expected.status)
    np.testing.assert_array_equal(got.iterations, expected.iterations)
    # The gaps of a call and of a program take different products.
    apart = np.abs(np.subtract(got.evaluations, expected.evaluations))
    assert np.max(apart) <= 8 + np.max(expected.evaluations) // 4
    for name in ("params", "value", "gradient_norm", "scale"):
        assert_trees_close(getattr(got, name), getattr(expected, name), **tolerances)


@pytest.fixture(scope="module")
def expected():
    def solve(start, steepness):
        return jd.minimize(valley, start, METHOD, args=(steepness,), tolerance=1e-4)

    return jax.jit(jax.vmap(solve))(STARTS, STEEPNESS)


@pytest.fixture(scope="module")
def one_by_one():
    return jd.minimize_batch(from_start, (STARTS, STEEPNESS), METHOD, tolerance=1e-4)


def test_members_one_by_one_give_what_vmap_gives(one_by_one, expected):
    assert_same(one_by_one, expected, rtol=1e-4, atol=1e-6)


def test_a_part_for_each_core_gives_the_same(one_by_one, monkeypatch):
    monkeypatch.setattr(batches, "LEAST_SHARE", 8)
    monkeypatch.setattr(batches, "usable_cores", lambda: 5)
    with jax.enable_x64(True):  # a thread of its own knows nothing of this
        members = STARTS[:16].astype("float64"), STEEPNESS[:16].astype("float64")
        wide = jd.minimize_batch(from_start, members, METHOD, tolerance=1e-4)
    assert wide.params.dtype == "float64"
    parts = jd.minimize_batch(from_start, (STARTS, STEEPNESS), METHOD, tolerance=1e-4)
    assert_same(parts, one_by_one, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(wide.status, parts.status[:16])


def test_a_batch_runs_where_its_members_are(monkeypatch):
    monkeypatch.setattr(batches, "LEAST_SHARE", 8)
    monkeypatch.setattr(batches, "usable_cores", lambda: 2)
    for device in jax.devices()[:2]:
        members = jax.device_put((STARTS[:16], STEEPNESS[:16]), device)
        result = jd.minimize_batch(from_start, members, METHOD, max_iterations=2)
        assert result.params.devices() == {device}


@pytest.mark.core
def test_parts_lie_in_the_members_own_memory(monkeypatch):
    monkeypatch.setattr(batches, "LEAST_SHARE", 32)
    monkeypatch.setattr(batches, "usable_cores", lambda: 2)
    members = {
        "X": jnp.asarray(np.arange(384.0, dtype=np.float32).reshape(128, 3)),
        "key": jax.random.split(jax.random.key(0), 128),
    }
    parts, twice = batches._shares(members, 128)
    assert [part["X"].shape[0] for part in parts] == [64, 64]
    assert twice == 0
    assert parts[1]["X"].unsafe_buffer_pointer() == members["X"].unsafe_buffer_pointer() + 64 * 12


@pytest.mark.core
@pytest.mark.parametrize(("size", "cores"), [(100, 2), (128, 2), (129, 3), (97, 12), (17, 2)])
def test_parts_of_one_length_hold_every_member(size, cores, monkeypatch):
    monkeypatch.setattr(batches, "LEAST_SHARE", 8)
    monkeypatch.setattr(batches, "usable_cores", lambda: cores)
    members = {"x": jnp.arange(size), "key": jax.random.split(jax.random.key(0), size)}
    parts, twice = batches._shares(members, size)
    assert len(parts) > 1
    assert len({part["x"].shape for part in parts}) == 1
    joined = batches._joined(parts, twice)
    np.testing.assert_array_equal(joined["x"], members["x"])
    np.testing.assert_array_equal(*map(jax.random.key_data, (joined["key"], members["key"])))


def test_every_member_has_its_own_status():
    def problem(scale, start):
        return lambda x: scale * jnp.log(x) ** 2, start

    scales = jnp.array([1.0, jnp.nan, 1.0, 1.0])
    starts = jnp.array([2.0, 2.0, -1.0, 1.0])
    result = jd.minimize_batch(problem, (scales, starts))
    names = [jd.Status(int(code)).name for code in result.status]
    assert names == ["CONVERGED", "NON_FINITE", "NON_FINITE", "CONVERGED"]
    assert int(result.iterations[3]) == 0


def test_a_second_batch_of_the_same_shapes_traces_nothing():
    traces = []

    def problem(center, start):
        traces.append(None)
        return lambda x: jnp.sum((x - center) ** 2), start

    def solve(center):
        centers = np.full(3, center, np.float32)
        return jd.minimize_batch(problem, (centers, STARTS[:3]), jd.GradientDescent(0.1))

    solve(1.0)
    count = len(traces)
    np.testing.assert_allclose(solve(2.0).params, 2.0, rtol=1e-3)
    assert len(traces) == count + 1  # the first member, looked at before the batch


def test_the_limit_of_iterations_is_each_members():
    result = jd.minimize_batch(
        from_start, (STARTS[:5],), jd.GradientDescent(1e-5), max_iterations=21
    )
    np.testing.assert_array_equal(result.iterations, 21)
    np.testing.assert_array_equal(result.status, jd.Status.MAX_ITERATIONS)


@pytest.mark.core
def test_a_batch_cannot_be_traced():
    with pytest.raises(TypeError, match=r"cannot be traced.*jax\.vmap\(minimize\)"):
        jax.jit(lambda starts: jd.minimize_batch(from_start, (starts,)).params)(STARTS)


@pytest.mark.core
@pytest.mark.parametrize("members", [(), (jnp.zeros((2, 2)), jnp.zeros(3)), (1.0,)])
def test_members_of_different_lengths_are_refused(members):
    with pytest.raises(ValueError, match="one leading axis over the members"):
        jd.minimize_batch(from_start, members)


@pytest.mark.core
@pytest.mark.parametrize("limit", [0, 1.5])
def test_limits_that_are_none_are_refused(limit):
    with pytest.raises((TypeError, ValueError), match="max_iterations"):
        jd.minimize_batch(from_start, (STARTS,), max_iterations=limit)


def test_a_solve_by_blocks_is_that_of_each_member(rng):
    count = 2 * batches.SOLVES + 11  # the last block begins within the one before
    X = rng.normal(size=(count, 12, 3)).astype(np.float32)
    X[70, :, 2] = X[70, :, 0]  # one member, and its block, need more than the others
    y = rng.normal(size=(count, 12)).astype(np.float32)
    result = jd.minimize_batch(jd.LinearRegression, (X, y))
    expected = [closed_form(own, target) for own, target in zip(X, y, strict=True)]
    for name, exact in zip(("weights", "intercept"), zip(*expected, strict=True), strict=False):
        np.testing.assert_allclose(result.params[name], exact, rtol=1e-3, atol=1e-5)
    assert np.all(result.converged)


def decay(p, y):
    return jnp.sum(jnp.square(p[0] * jnp.exp(-(p[1] ** 2) * T) + p[2] - y))


T = jnp.linspace(0, 3, 30)


@pytest.mark.parametrize("far", [np.inf, 1e30])
def test_a_member_that_fails_leaves_the_others_alone(far, one_cpu):
    """NumPy would warn of its numbers, and warnings are errors here."""
    starts = np.ones((4, 3), np.float32)
    starts[2] = far
    ys = np.exp(-np.arange(1, 5, dtype=np.float32)[:, None] * np.asarray(T)[None])
    batch = jd.minimize_batch(lambda start, y: (lambda p: decay(p, y), start), (starts, ys))
    mapped = jax.vmap(lambda start, y: jd.minimize(lambda p: decay(p, y), start))(starts, ys)
    for result in (batch, mapped):
        assert np.asarray(result.converged)[[0, 1, 3]].all()
        assert not result.converged[2]


def test_members_that_draw_from_typed_keys_are_solved(one_cpu):
    """JAX cannot lower such a function beside another precision."""
    keys = jax.random.split(jax.random.key(0), 3)

    def squares(p, key):
        return jnp.sum(jnp.square(p - jax.random.normal(key, (3,))))

    start, expected = jnp.zeros(3), jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
    mapped = jax.vmap(lambda key: jd.minimize(lambda p: squares(p, key), start))(keys)
    batch = jd.minimize_batch(lambda key: (lambda p: squares(p, key), start), (keys,))
    for result in (mapped, batch):
        assert np.all(result.converged)
        np.testing.assert_allclose(result.params, expected, atol=1e-5)
    assert jd.minimize(lambda p: squares(p, keys[0]), start).converged


@pytest.mark.parametrize(("at_once", "expected_calls"), [(1, 2), (4, 5), (7, 8), (100, 10)])
def test_costly_branches_are_taken_for_those_who_need_them(at_once, expected_calls):
    numbers, calls = jnp.arange(10.0), []

    def cubed(x):
        calls.append(1)
        return np.asarray(x) ** 3

    def costly(x):
        like = jax.ShapeDtypeStruct((), x.dtype)
        return jax.pure_callback(cubed, like, x, vmap_method="sequential")

    def one(x):
        return seldom(x < 2, costly, lambda x: -x, x, at_once=at_once)

    expected = np.where(numbers < 2, numbers**3, -numbers)
    got = jax.jit(jax.vmap(one))(numbers)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    # Blocks without a member that needs the branch do not take it.
    assert len(calls) <= expected_calls
    np.testing.assert_allclose(one(numbers[1]), expected[1], rtol=1e-6)


@pytest.mark.parametrize("method", [jd.DerivativeMethod(), jd.LBFGS()], ids=str)
def test_quadratics_with_hessians_of_their_own_are_solved(method, rng):
    roots, linear = rng.normal(size=(3, 4, 4)).astype(np.float32), np.ones(4, np.float32)
    hessians = roots @ np.swapaxes(roots, 1, 2) + np.eye(4, dtype=np.float32)

    def solve(hessian):
        return jd.minimize(jd.Quadratic(hessian, linear), method=method)

    expected = np.linalg.solve(hessians.astype(float), np.ones((3, 4, 1)))[..., 0]
    batch = jd.minimize_batch(lambda hessian: jd.Quadratic(hessian, linear), (hessians,), method)
    for result in (jax.jit(jax.vmap(solve))(hessians), batch):
        assert np.all(np.asarray(result.status) == jd.Status.CONVERGED)
        np.testing.assert_allclose(result.params, expected, rtol=2e-3, atol=1e-4)
