"""LSMR against SciPy's and against exact solves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg

import jaxdescent as jd
from benchmarks.harness.passes import Counted, passes
from jaxdescent.numerics.linear_systems import hypotenuse
from jaxdescent.status import Status
from tests import references
from tests.references import closed_form
from tests.results import assert_progress_is_true, assert_trees_close

pytestmark = pytest.mark.slow  # most tests compile a few solvers: the core is for every day

PRECONDITIONERS = [None, jd.Jacobi(), jd.Nystrom(4), jd.Sketch()]


def data(rng, rows=80, features=6, outputs=()):
    X = rng.normal(size=(rows, features)) * np.logspace(0, 1, features) + 2
    return X, rng.normal(size=(rows, *outputs)) + 3


@pytest.mark.parametrize(
    ("preconditioner", "l2", "intercept", "outputs"),
    [
        (None, 0.0, True, ()),
        (jd.Jacobi(), 0.7, False, ()),
        (jd.Jacobi(), np.array([0.0, 1.0, 100.0]), True, (3,)),
        (jd.Nystrom(4), 0.7, True, (3,)),
        (jd.Sketch(), np.geomspace(0.1, 100, 9), True, (9,)),  # more outputs than features
    ],
    ids=repr,
)
def test_the_solution_is_the_exact_one(preconditioner, l2, intercept, outputs, rng, x64):
    X, y = data(rng, outputs=outputs)
    objective = jd.LinearRegression(X, y, l2=l2, intercept=intercept, sample_weight=rng.random(80))
    exact = references.least_squares(objective)
    result = jd.minimize(objective, method=jd.LSMR(preconditioner), tolerance=1e-11)
    assert bool(result.converged)
    assert_trees_close(result.params, exact, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(result.value, references.value(objective, exact), rtol=1e-9)


@pytest.mark.core
def test_iterates_are_those_of_scipy(rng, x64):
    X, y = data(rng)
    objective = jd.LinearRegression(X, y, l2=0.5, intercept=False)
    for steps in (1, 2, 4):
        expected = scipy.sparse.linalg.lsmr(
            X, y, damp=np.sqrt(0.5), maxiter=steps, atol=0, btol=0, conlim=0
        )
        result = jd.minimize(
            objective, method=jd.LSMR(atol=0, btol=0), tolerance=0, max_iterations=steps
        )
        np.testing.assert_allclose(result.params["weights"], expected[0], rtol=1e-9)
        np.testing.assert_allclose(result.value, 0.5 * expected[3] ** 2, rtol=1e-9)
        np.testing.assert_allclose(result.gradient_norm, expected[4], rtol=1e-6)


@pytest.mark.parametrize("preconditioner", [None, jd.Sketch()], ids=repr)
def test_estimated_progress_is_the_truth_of_the_params_it_began_from(preconditioner, rng, x64):
    X, y = data(rng, outputs=(2,))
    objective = jd.LinearRegression(X, y, l2=jnp.array([0.1, 2.0])).checked()
    params = {"weights": jnp.asarray(rng.normal(size=(6, 2))), "intercept": jnp.ones(2)}
    norm_error = {"rtol": 1e-5, "atol": 1e-10}
    assert_progress_is_true(jd.LSMR(preconditioner), objective, params, 4, 1e-8, norm_error)


def test_a_warm_start_is_corrected_and_a_wrong_intercept_alone_is_not_an_optimum(rng, x64):
    X, y = data(rng)
    objective = jd.LinearRegression(X, y, l2=0.1)
    exact = jax.tree.map(jnp.asarray, references.least_squares(objective))
    for start in (exact, exact | {"intercept": exact["intercept"] + 1e7}):
        result = jd.minimize(objective, start, jd.LSMR(jd.Sketch()), tolerance=1e-12)
        assert bool(result.converged)
        assert_trees_close(result.params, exact, rtol=1e-5)


def test_the_backward_error_ends_it_where_the_gradient_is_not_asked(rng, x64):
    X, y = data(rng)
    objective = jd.LinearRegression(X, y, l2=0.0, intercept=False)
    result = jd.minimize(objective, method=jd.LSMR(atol=1e-4, btol=0), tolerance=0)
    assert int(result.status) == Status.CONVERGED
    assert int(result.iterations) < 30
    residual = y - X @ np.asarray(result.params["weights"])
    error = np.linalg.norm(X.T @ residual) / np.linalg.norm(residual)
    # |A| is estimated, by less than the Frobenius norm of all that was bidiagonalised.
    assert error <= 1e-4 * np.linalg.norm(X, 2) * np.sqrt(20)
    consistent = jd.LinearRegression(X, X @ np.ones(6), l2=0.0, intercept=False)
    result = jd.minimize(consistent, method=jd.LSMR(atol=0, btol=1e-6), tolerance=0)
    assert bool(result.converged)
    np.testing.assert_allclose(result.params["weights"], 1, rtol=1e-4)


def test_beyond_conlim_the_descent_ends_and_the_gap_decides(rng, x64):
    X = rng.normal(size=(80, 6)) * np.logspace(0, -6, 6)
    objective = jd.LinearRegression(X, rng.normal(size=80), l2=0.0, intercept=False)
    result = jd.minimize(objective, method=jd.LSMR(conlim=1e3), tolerance=1e-14)
    best = references.value(objective, references.least_squares(objective))
    height = references.height(objective, result.params)
    if int(result.status) == Status.CONVERGED:
        assert height <= 1e-14 * best
    else:
        assert int(result.status) == Status.STAGNATED
        np.testing.assert_allclose(result.suboptimality, height, rtol=0.1)


def test_a_fat_regression_from_zeros_has_the_least_norm_whatever_the_intercept(rng, x64):
    X, y = data(rng, rows=10, features=30)
    for intercept in (True, False):
        objective = jd.LinearRegression(X, y, intercept=intercept)
        exact = references.least_squares(objective)
        result = jd.minimize(objective, method=jd.LSMR(), tolerance=1e-12)
        np.testing.assert_allclose(result.params["weights"], exact["weights"], atol=1e-7)


@pytest.mark.parametrize("preconditioner", PRECONDITIONERS, ids=repr)
def test_deficient_ranks_and_zero_columns_reach_the_least_residual(preconditioner, rng):
    X = rng.normal(size=(400, 6)).astype(np.float32)
    X = np.concatenate([X, X[:, :2] + X[:, 2:4], np.zeros((400, 1), np.float32)], axis=1)
    y = rng.normal(size=400).astype(np.float32)
    result = jd.minimize(jd.LinearRegression(X, y), method=jd.LSMR(preconditioner))
    A, t = X - X.mean(axis=0, dtype=float), y - y.mean(dtype=float)
    weights, *_ = np.linalg.lstsq(A, t, rcond=1e-6)
    least = 0.5 * np.sum((A @ weights - t) ** 2)
    assert np.isfinite(np.asarray(result.params["weights"])).all()
    assert bool(result.converged)
    np.testing.assert_allclose(result.value, least, rtol=2.5e-5)
    # The minimum is flat along the weights by as much as the tolerance allows.
    if not isinstance(preconditioner, jd.Jacobi):  # which has another norm
        np.testing.assert_allclose(result.params["weights"], weights, atol=5e-3)


def test_matrix_free_and_16_bit_designs(rng):
    X, y = (array.astype(np.float32) for array in data(rng))
    dense = references.least_squares(jd.LinearRegression(X, y))["weights"]
    free = jd.MatrixFree(lambda w: jnp.asarray(X) @ w, rows=80, features=6)
    result = jd.minimize(jd.LinearRegression(free, y), method=jd.LSMR(jd.Nystrom(3)))
    np.testing.assert_allclose(result.params["weights"], dense, atol=1e-4)
    half = jnp.asarray(X, jnp.bfloat16)
    wide = references.least_squares(jd.LinearRegression(half, y))["weights"]
    result = jd.minimize(jd.LinearRegression(half, y), method=jd.LSMR(jd.Sketch()))
    assert result.params["weights"].dtype == jnp.float32
    np.testing.assert_allclose(result.params["weights"], wide, atol=1e-3)


def test_under_jit_and_vmap_each_has_its_exact_solution(rng, x64):
    """Of one X for all members, far from zero."""
    X, ys = rng.normal(size=(80, 6)) + 1e3, rng.normal(size=(3, 80))
    penalties = jnp.array([0.0, 0.1, 10.0])

    def solve(y, l2):
        objective = jd.LinearRegression(X, y, l2=l2)
        return jd.minimize(objective, method=jd.LSMR(jd.Sketch())).params["weights"]

    exact = [
        references.least_squares(jd.LinearRegression(X, y, l2=l2))["weights"]
        for y, l2 in zip(ys, penalties, strict=True)
    ]
    np.testing.assert_allclose(jax.jit(jax.vmap(solve))(ys, penalties), exact, rtol=1e-6, atol=1e-8)


@pytest.mark.core
def test_it_keeps_as_many_vectors_as_it_says():
    objective = jd.LinearRegression(jnp.ones((50, 7)), jnp.ones(50), intercept=False)
    params = {"weights": jnp.zeros(7)}
    for preconditioner, vectors in ((None, 4), (jd.Jacobi(), 7)):
        state = jax.eval_shape(jd.LSMR(preconditioner).init, objective, params)
        leaves = jax.tree.leaves(state._replace(factor=None))
        assert sum(leaf.size == 7 for leaf in leaves) == vectors
        assert sum(leaf.size == 50 for leaf in leaves) == 1


def test_it_reads_x_twice_an_iteration_and_once_to_begin(rng, x64):
    X, y = data(rng, 400, 20)
    objective = jd.LinearRegression(Counted(jnp.asarray(X)), y, intercept=False)
    method = jd.LSMR(atol=4e-16, btol=4e-16)
    count, result = passes(lambda: jd.minimize(objective, method=method, tolerance=0))
    assert result.converged
    # Where the last iteration computed the residual anew, nothing is measured again at the end.
    assert count == 2 * int(result.iterations) + 1 + 2 * int(result.state.is_estimate)
    truth = objective.value_and_gradient(result.params)
    np.testing.assert_allclose(result.value, truth[0], rtol=1e-12)
    # From a start that is not zero one more.
    start, from_zeros = {"weights": jnp.ones(20)}, result.params["weights"]
    count, result = passes(lambda: jd.minimize(objective, start, method, tolerance=0))
    np.testing.assert_allclose(result.params["weights"], from_zeros, rtol=1e-9)
    at_zeros, at_the_end = 1, 2 * int(result.state.is_estimate)
    assert count == 2 * int(result.iterations) + 2 + at_zeros + at_the_end


@pytest.mark.parametrize("method", [jd.LSMR(), jd.ConjugateGradient(jd.Jacobi())], ids=repr)
def test_the_members_of_a_batch_share_one_matrix(method, rng, x64):
    """40 penalties: one pass serves all; where a descent begins again after its gap, X is centred
    for each.
    """
    X, ys = rng.normal(size=(600, 50)), rng.normal(size=(40, 600))
    penalties = jnp.linspace(0, 50, 40)

    def solve(y, l2):
        regression = jd.LinearRegression(X, y, l2=l2)
        return jd.minimize(regression, method=method, tolerance=1e-13).params["weights"]

    compiled = jax.jit(jax.vmap(solve)).lower(ys, penalties).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2.5 * len(ys) * X.nbytes
    found = compiled(ys, penalties)
    for index in range(0, 40, 13):
        exact, *_ = references.closed_form(X, ys[index], float(penalties[index]))
        np.testing.assert_allclose(found[index], exact, rtol=1e-6, atol=1e-8)


def test_a_claim_that_rounding_refutes_again_and_again_ends_the_descent(rng):
    """The weights' rounding alone moves the value by more than is allowed."""
    for _ in range(5):
        X = (rng.normal(size=(400, 9)) + 3000).astype(np.float32)
        y = (
            (X.astype(float) - 3000) @ rng.normal(size=9) + 0.03 * rng.normal(size=400) + 5
        ).astype(np.float32)
        result = jd.minimize(jd.LinearRegression(X, y), method=jd.LSMR())
        assert int(result.iterations) <= 120
        if not bool(result.converged):
            assert Status(int(result.status)) is Status.STAGNATED
            assert float(result.suboptimality) > 2e-5 * float(result.value)


@pytest.mark.parametrize("preconditioner", [None, jd.Jacobi()], ids=repr)
@pytest.mark.parametrize("features", [0, 2])
def test_rounding_moves_no_weight_of_a_constant_column(preconditioner, features):
    """A factor of one level beside the intercept: the solution is that without the factor."""
    rows, eps = 400, float(np.finfo(np.float32).eps)
    factor = jd.Categorical(np.zeros(rows, np.int32), 1)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(rows, features)).astype(np.float32)
        y = 10 ** rng.uniform(-1, 2) + X.sum(axis=1) + rng.normal(size=rows)
        y, weight = y.astype(np.float32), rng.uniform(0.5, 2, rows).astype(np.float32)
        design = jd.Concatenated({"factor": factor, "X": X}) if features else factor
        objective = jd.LinearRegression(design, y, sample_weight=weight)
        params = jd.minimize(objective, method=jd.LSMR(preconditioner)).params
        own, y = np.asarray(objective.predict(params, design), float), y.astype(float)
        least = 2 * closed_form(X, y, sample_weight=weight)[2]
        of_mean = weight @ np.square(y - np.average(y, weights=weight))
        assert weight @ np.square(own - y) - least <= 10 * eps ** (2 / 3) * of_mean
        weights = params["weights"]["factor"] if features else params["weights"]
        assert np.abs(np.asarray(weights)).max() <= 10 * np.abs(y).max()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_hypotenuse_has_the_digits_of_its_dtype_at_every_scale(dtype, x64):
    rng = np.random.default_rng(0)
    most = np.log10(np.finfo(dtype).max) - 1
    scales = 10 ** rng.uniform(16 - most, most, 2000)  # below, the smaller square underflows
    a, b = (dtype(scales * 10 ** rng.uniform(-6, 0, 2000) * (-1) ** k) for k in range(2))
    exact = np.hypot(np.longdouble(a), np.longdouble(b))
    found = jax.jit(hypotenuse)(jnp.asarray(a), jnp.asarray(b))
    assert found.dtype == dtype
    error = (np.longdouble(found) - exact) / exact / np.finfo(dtype).eps
    assert np.max(np.abs(error)) <= 1
    assert abs(np.mean(error)) <= 0.02  # it is not systematically too short
    assert hypotenuse(jnp.zeros((), dtype), jnp.zeros((), dtype)) == 0


def test_an_output_that_is_done_stays_where_it_is(rng):
    """Its direction goes on while another output takes thousands of steps, and overflows."""
    U, V = (np.linalg.qr(rng.normal(size=(side, 60)))[0] for side in (2000, 60))
    values = 50 * np.geomspace(1, 1e-3, 60)
    X = (U * values @ V.T).astype(np.float32)
    hard = 10 * X @ (V @ (rng.normal(size=60) / values)) + rng.normal(size=2000)
    Y = np.stack([hard, rng.normal(size=2000)], axis=1).astype(np.float32)
    result = jd.minimize(jd.LinearRegression(X, Y), method=jd.LSMR(), max_iterations=4000)
    assert result.iterations > 300
    weights, _, value = closed_form(X, Y)
    np.testing.assert_allclose(result.value, value, rtol=1e-3)
    np.testing.assert_allclose(X @ result.params["weights"][:, 1], X @ weights[:, 1], atol=1e-2)
