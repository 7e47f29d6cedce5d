"""The derivative method: every form of the solve against NumPy in double precision."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

import jaxdescent as jd
from benchmarks.harness.passes import Counted, passes
from jaxdescent.designs import as_design
from jaxdescent.kernels.branches import of_any
from jaxdescent.regression.solve import by_lapack, refinement, stored_regression
from jaxdescent.regression.solve.by_gram import factor_by_gram
from tests.references import closed_form, height, least_squares, of_condition, value
from tests.results import status

METHOD = jd.DerivativeMethod()


def solve(X, y, **options):
    return jd.minimize(jd.LinearRegression(X, y, **options), method=METHOD)


DRAWN = [(40, 6), (6, 40), (30, 30), (200, 1), (2, 3), (1, 1), (1, 5)]


@pytest.mark.parametrize(
    ("dtype", "block"), [(np.float32, stored_regression.BLOCK), (np.float32, 7), (np.float64, 7)]
)
def test_the_host_solves_what_numpy_does(rng, dtype, block, x64, monkeypatch):
    """Drawn at random: weights, penalties, outputs, intercepts, lengths and means of columns."""
    monkeypatch.setattr(stored_regression, "BLOCK", block)
    for rows, features in DRAWN:
        for outputs, l2, is_weighted, intercept in (
            (0, 0.0, False, True),
            (0, 0.3, True, True),
            (0, 0.0, True, False),
            (2, 0.1, False, False),
            (3, 0.0, True, True),
        ):
            X = rng.normal(size=(rows, features)) * 10 ** rng.uniform(-1, 1, features)
            X = (X + rng.normal(size=features)).astype(dtype)
            y = rng.normal(size=(rows, outputs) if outputs else rows).astype(dtype)
            weight = rng.uniform(0.5, 2, rows).astype(dtype) if is_weighted else None
            result = solve(X, y, l2=l2, sample_weight=weight, intercept=intercept)
            weights, offset, least = closed_form(X, y, l2, weight, intercept)
            atol = 300 * np.finfo(dtype).eps * (np.abs(weights).max() + 1e-3)
            where = str((rows, features, outputs, l2, is_weighted, intercept))
            found = np.asarray(result.params["weights"], float)
            np.testing.assert_allclose(found, weights, atol=atol, err_msg=where)
            if intercept:
                found = result.params["intercept"]
                np.testing.assert_allclose(found, offset, atol=10 * atol, err_msg=where)
            # Thirty columns of thirty centred rows have no full rank, which float32 cannot tell.
            assert result.converged or dtype == np.float32, where
            np.testing.assert_allclose(result.value, least, rtol=1e-3, atol=1e-9, err_msg=where)


@pytest.mark.parametrize("shape", [(20, 4), (6, 6), (5, 12)], ids=["tall", "square", "wide"])
def test_a_rank_deficient_design_gets_the_minimum_norm_solution(rng, x64, shape):
    X = rng.normal(size=(shape[0], 2)) @ rng.normal(size=(2, shape[1]))
    y = rng.normal(size=(shape[0], 3))
    result = solve(X, y)
    weights, offset, _ = closed_form(X, y)
    np.testing.assert_allclose(result.params["weights"], weights, atol=1e-8)
    np.testing.assert_allclose(result.params["intercept"], offset, atol=1e-8)


@pytest.mark.slow
def test_as_many_columns_as_rows_and_an_intercept_have_no_full_rank(rng):
    # Rounding in float32 leaves more of the last pivot than it leaves of one of a few columns.
    X, y = rng.normal(size=(1000, 1000)), rng.normal(size=1000)
    X, y = X.astype(np.float32), y.astype(np.float32)
    result = jd.minimize(jd.LinearRegression(X, y), method=jd.DerivativeMethod())
    # Of minimum norm: nothing lies along the direction that centring has left without rows.
    null = np.linalg.svd(X - X.mean(axis=0, dtype=float))[2][-1]
    weights = np.asarray(result.params["weights"], float)
    assert abs(null @ weights) < 0.02 * np.linalg.norm(weights)


@pytest.mark.parametrize("constant", [0.0, 4.0])
def test_a_constant_column_is_left_to_the_intercept(constant, rng):
    X = rng.normal(size=(40, 3)).astype(np.float32)
    X[:, 1] = constant
    y = (X[:, 0] - 2 * X[:, 2] + 3).astype(np.float32)
    result = solve(X, y)
    np.testing.assert_allclose(result.params["weights"], [1.0, 0.0, -2.0], atol=1e-4)
    np.testing.assert_allclose(result.params["intercept"], 3.0, atol=1e-4)


@pytest.mark.parametrize("factor", ["numpy", refinement.orthogonal_factor, factor_by_gram])
@pytest.mark.parametrize(("l2", "counts"), [(1.0, False), (1e10, True)])
def test_a_penalty_does_not_make_a_weight_of_rounding(l2, counts, factor, rng):
    """A time in seconds, whose spread is an eps of its size, unless the penalty is more."""
    time, z, noise = 1.7e9 + 128 * rng.integers(0, 4, 200), *rng.normal(size=(2, 200))
    X, y = np.float32(np.stack([time, z], axis=1)), z + noise + (time - time.mean()) / 10
    y = np.float32(y - y.mean())
    mean = np.mean(X, axis=0, dtype=float)
    if factor == "numpy":
        weights = solve(X, y, l2=l2).params["weights"]
    else:
        given = X, np.ones((200, 1)), mean, np.linalg.norm(X, axis=0), l2
        found = jax.jit(factor)(*(np.float32(each) for each in given))
        weights = found.apply(((X - np.float32(mean)).T @ y)[:, None])[:, 0]
    A = (np.float64(X) - mean) * np.array([counts, True])
    exact = np.linalg.solve(A.T @ A + l2 * np.eye(2), A.T @ y)
    np.testing.assert_allclose(weights, exact, rtol=1e-2)


@pytest.mark.parametrize("condition", [1e2, 1e4, 1e5])
def test_float32_solves_stay_accurate_where_the_normal_equations_do_not(rng, condition):
    X = of_condition(condition, rng, 60, 8).astype(np.float32)
    true = rng.normal(size=8)
    y = (X.astype(np.float64) @ true).astype(np.float32)
    result = solve(X, y, intercept=False)
    exact, *_ = closed_form(X, y, intercept=False)
    error = np.linalg.norm(result.params["weights"] - exact) / np.linalg.norm(exact)
    # A backward stable solve of a consistent system: a modest multiple of condition * eps.
    assert error < 20 * condition * np.finfo(np.float32).eps


@pytest.mark.parametrize("intercept", [True, False])
def test_beyond_the_size_of_double_length_a_solution_is_as_accurate_as_qr(
    rng, monkeypatch, intercept
):
    monkeypatch.setattr(refinement, "DOUBLE_ENTRIES", 0)
    X = of_condition(1e4, rng, 67, 9).astype(np.float32)
    y = (X.astype(np.float64) @ rng.normal(size=9)).astype(np.float32)
    y += 0.1 * np.linalg.norm(y) / np.sqrt(67) * rng.normal(size=67).astype(np.float32)
    result = solve(X, y, intercept=intercept)
    whole = np.c_[X, np.ones(67, np.float32)] if intercept else X
    exact = np.linalg.lstsq(whole.astype(np.float64), y.astype(np.float64))[0]
    Q, R = scipy.linalg.qr(whole, mode="economic")  # in float32, where NumPy's is in double
    by_qr = scipy.linalg.solve_triangular(R, Q.T @ y)
    assert by_qr.dtype == np.float32
    got = np.append(result.params["weights"], result.params.get("intercept", []))
    assert np.linalg.norm(got - exact) < 10 * np.linalg.norm(by_qr - exact)


@pytest.mark.parametrize("outputs", [1, 6])
def test_beyond_the_size_of_double_length_numpy_is_as_accurate_as_qr_too(
    rng, x64, monkeypatch, outputs
):
    monkeypatch.setattr(by_lapack, "DOUBLE_ENTRIES", 0)
    X = of_condition(1e9, rng, 67, 9)
    y = X @ rng.normal(size=(9, outputs)) + 1e-3 * rng.normal(size=(67, outputs))
    s = rng.uniform(0.2, 2, size=67)
    result = solve(X, y, sample_weight=s)
    root = np.sqrt(s)[:, None]
    whole, right = root * np.c_[X, np.ones(67)], root * y
    long = whole.astype(np.longdouble)
    Q, R = scipy.linalg.qr(whole, mode="economic")
    by_qr = exact = scipy.linalg.solve_triangular(R, Q.T @ right)
    for _ in range(5):  # refined with residuals in long doubles
        slope = (long.T @ (right - long @ exact)).astype(float)
        exact = exact + scipy.linalg.cho_solve((R, False), slope)
    got = np.r_[result.params["weights"], result.params["intercept"][None]]
    error = np.linalg.norm(got - exact, axis=0)
    assert np.all(error < 10 * np.linalg.norm(by_qr - exact, axis=0).max())


@pytest.mark.parametrize(
    ("shape", "outputs", "condition"),
    [((2200, 8), 60, 1e9), ((1100, 30), 33, 1e9), ((90, 30), 2, 5)],
)
def test_double_length_is_not_used_where_it_takes_long_or_is_not_needed(
    rng, x64, monkeypatch, shape, outputs, condition
):
    def refuse(*args, **rest):
        raise AssertionError("a residual in double length")

    monkeypatch.setattr(by_lapack, "slope_in_double_length", refuse)
    l2 = 10.0 ** rng.uniform(-9, 0, size=outputs)
    X, y = of_condition(condition, rng, *shape), rng.normal(size=(shape[0], outputs))
    result = solve(X, y, l2=l2)
    weights, _, _ = closed_form(X, y, l2=l2)
    np.testing.assert_allclose(X @ result.params["weights"], X @ weights, atol=1e-6)


@pytest.mark.parametrize("shape", [(50, 7), (7, 50)])
@pytest.mark.parametrize(("block", "cores"), [(30, 1), (30, 3), (30, 64), (1 << 17, 3)])
def test_sums_by_blocks_are_those_of_the_whole(rng, monkeypatch, shape, block, cores):
    monkeypatch.setattr(stored_regression, "BLOCK", block)
    monkeypatch.setattr(stored_regression, "usable_cores", lambda: cores)
    X, y = (rng.normal(size=size).astype(np.float32) for size in (shape, (shape[0], 2)))
    weight, units = rng.uniform(0, 2, shape[0]), rng.uniform(0.5, 2, shape[1])
    stored = stored_regression.StoredRegression.of(X + 5, y, 0.1, weight, intercept=True)
    whole = (X + 5).astype(float)
    A = np.sqrt(weight)[:, None] * (whole - np.average(whole, axis=0, weights=weight))
    w, r, b = (rng.normal(size=(size, 2)) for size in (shape[1], shape[0], 1))
    residual = y - whole @ w - b
    slope = whole.T @ (weight[:, None] * residual)
    for found, expected in (
        (stored.centred, A),
        (stored.squares, np.sum(A * A, axis=0)),
        (stored.gram, A.T @ A),
        (stored.product(w), whole @ w),
        (stored.product(w, is_centred=True), A @ w),
        (stored.transposed_product(r, is_centred=True), A.T @ r),
        (stored.residual(w, b[0])[0], residual),
        (stored.residual(w, b[0])[1], slope),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)
    if shape[0] < shape[1]:
        np.testing.assert_allclose(stored.kernel(units), (A / units**2) @ A.T, rtol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "shape", "apart", "share"),
    [
        ("host", (3000, 70), 4.5e-6, 0.2),
        ("host", (20_000, 90), 4.5e-6, 0.2),
        ("host", (70_000, 80), 4.5e-6, 0.2),
        ("host", (3000, 70), 2e-6, 0.2),
        ("program", (3000, 70), 2e-6, 0.2),
        ("jit", (3000, 70), 2e-6, 0.2),
    ],
)
def test_a_direction_that_is_taken_for_rounding_is_told_of(
    where, shape, apart, share, rng, one_cpu, monkeypatch, request
):
    """The difference of two columns, millionths of their lengths, explains nearly all of y."""
    if where != "host":
        monkeypatch.setattr(by_lapack, "MOST_PRODUCTS", 0)
        request.getfixturevalue("whole")
    X = rng.normal(size=shape)
    X[:, 1] = X[:, 0] + apart * rng.normal(size=len(X))
    X = X.astype(np.float32)
    y = X[:, 1].astype(float) - X[:, 0]
    y = (y / y.std() + 0.1 * rng.normal(size=len(X))).astype(np.float32)
    least = 0.5 * np.linalg.lstsq(X - X.mean(axis=0, dtype=float), y - y.mean(dtype=float))[1][0]
    result = jax.jit(solve)(X, y) if where == "jit" else solve(X, y)
    assert result.value > 90 * least
    assert status(result) == "STAGNATED"
    most = 1.001 * (result.value - least) if where == "host" else result.value
    assert share * result.value < result.suboptimality <= most


@pytest.mark.parametrize("l2", [[1e-8], [1e-3], [1e-8, 1e-6]])
@pytest.mark.parametrize("shape", [(20, 100), (5, 250)])
def test_a_penalty_is_not_lost_beside_columns_of_a_wide_matrix_in_other_units(l2, shape):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=shape) * 10.0 ** rng.uniform(-2, 2, shape[1])
        X, y = np.float32(X), np.float32(rng.normal(size=(shape[0], len(l2))))
        result = solve(X, y, l2=np.float32(l2), intercept=False)
        *_, least = closed_form(X, y, np.float32(l2), intercept=False)
        assert status(result) == "CONVERGED"
        assert result.value < 1.005 * least  # float32 weights are no nearer
        np.testing.assert_allclose(
            result.suboptimality, result.value - least, rtol=0.01, atol=1e-7 * least
        )


@pytest.mark.parametrize("l2", [(10.0, 1000.0), (1000.0, 10.0), (1.0, 100.0)])
def test_a_direction_that_is_taken_for_rounding_is_penalised_in_each_output_by_its_own(l2, rng):
    X = rng.normal(size=(200, 4)).astype(np.float32)
    X[:, 1] = X[:, 0] * (1 + 1e-6 * rng.normal(size=200)).astype(np.float32)
    y = rng.normal(size=(200, 2)).astype(np.float32)
    result = solve(X, y, l2=np.float32(l2))
    _, _, least = closed_form(X, y, l2)
    assert result.value < (1 + 1e-5) * least
    assert status(result) == "CONVERGED"


@pytest.mark.parametrize(
    ("shape", "outputs", "dtype", "is_possible"),
    [
        ((100_000, 1), 1, np.float32, True),
        ((100_000, 1), 64, np.float32, False),
        ((1000, 10), 64, np.float32, True),
        ((1 << 16, 127), 1, np.float32, True),
        ((1 << 16, 129), 1, np.float32, False),
        ((1 << 16, 129), 1, jnp.bfloat16, False),
        ((1 << 13, 128), 1, np.float64, True),
        ((1 << 13, 129), 1, np.float64, False),
        ((1 << 14, 250), 1, np.float32, True),
        ((1 << 14, 260), 1, np.float32, False),
        ((100, 10_000), 1, np.float32, True),
        ((200, 10_000), 1, np.float32, False),
        ((640, 640), 1, np.float32, True),
        ((700, 700), 1, np.float32, False),
    ],
)
def test_what_takes_long_is_not_left_to_numpy(shape, outputs, dtype, is_possible, x64):
    design = as_design(jnp.zeros(shape, dtype))
    assert by_lapack.is_possible(design, outputs) == is_possible


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_columns_of_a_wide_matrix_are_no_directions(x64, seed, dtype):
    """Centring leaves their rounding, which must not be divided by its own length."""
    rng = np.random.default_rng(seed)
    rows, constants = int(rng.integers(2, 7)), int(rng.integers(1, 5))
    X = np.c_[rng.normal(size=(rows, 40)), np.tile(rng.normal(size=constants), (rows, 1))]
    X, y = X.astype(dtype), (rng.normal(size=rows) + rng.normal()).astype(dtype)
    s = rng.uniform(0.1, 2, size=rows).astype(dtype)
    s[:1] *= rng.choice([0, 1])
    result = solve(X, y, sample_weight=s)
    weights, _, _ = closed_form(X[:, :40], y, sample_weight=s)
    tolerance = 1e3 * np.finfo(dtype).eps
    np.testing.assert_allclose(result.params["weights"][:40], weights, atol=tolerance)
    np.testing.assert_allclose(result.params["weights"][40:], 0, atol=1e-30)


def test_the_rank_of_a_wide_matrix_is_less_than_its_rows(x64):
    """Nearly constant columns in units of their lengths have rounding as large as a direction."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(int(rng.integers(2, 4)), 2000))
        X[:, :50] = rng.normal(size=50) + 10.0 ** rng.uniform(-10, -6, 50) * X[:, :50]
        y, s = rng.normal(size=len(X)) + 100, rng.uniform(0.1, 2, len(X))
        constant = 0.5 * np.sum(s * (y - np.average(y, weights=s)) ** 2)
        assert float(solve(X, y, sample_weight=s).value) < 1e-9 * constant, seed


@pytest.mark.parametrize("ratio", [1e3, 1e5, 1e7, 1e12])
@pytest.mark.parametrize("likeness", [0.0, 2e-6], ids=["the same", "nearly the same"])
@pytest.mark.parametrize("factor", [refinement.orthogonal_factor, factor_by_gram])
def test_long_dependent_columns_do_not_hide_short_ones(rng, ratio, likeness, factor):
    """Both factorisations: one CPU takes the first, and rows on several devices the second."""
    X = rng.normal(size=(400, 9))
    X[:, 0] *= ratio
    X[:, 1] = X[:, 0] * (1 + likeness * rng.normal(size=400))
    X[:, 8] = X[:, 6] + X[:, 7]
    X = (X - X.mean(axis=0)).astype(np.float32)
    y = (X.astype(np.float64) @ np.append([1 / ratio] * 2, np.ones(7))).astype(np.float32)
    length = np.linalg.norm(X, axis=0)
    found = jax.jit(factor)(X, np.ones((400, 1), np.float32), np.zeros(9, np.float32), length, 0.0)
    assert found.is_deficient
    weights = np.asarray(found.apply((X.T @ y)[:, None]), np.float64)[:, 0]
    missed = np.linalg.norm(X.astype(np.float64) @ weights - y) / np.linalg.norm(y)
    assert missed < 1e-3  # one solve by the normal equations: condition^2 eps
    np.testing.assert_allclose(weights[2:6], 1, atol=1e-2)
    # The weights are the least ones in units of the lengths.
    in_lengths = weights * length
    np.testing.assert_allclose(in_lengths[0], in_lengths[1], rtol=1e-2)


@pytest.mark.first
@pytest.mark.parametrize(
    ("shape", "method"),
    [
        ((60, 8), METHOD),
        ((1500, 100), METHOD),
        ((20, 60), METHOD),
        ((60, 8), jd.LSMR(jd.Sketch())),
        ((20, 60), jd.LSMR(jd.Sketch())),
    ],
    ids=str,
)
@pytest.mark.parametrize("ratio", [1e5, 1e7, 1e12])
def test_a_dummy_for_each_level_beside_a_long_column_is_solved(rng, shape, ratio, method):
    rows, features = shape
    X = rng.normal(size=shape)
    X[:, 0] *= ratio
    X[:, -4:] = np.eye(4)[rng.integers(4, size=rows)]  # their sum is the intercept's column
    true = rng.normal(size=features) / np.append(ratio, np.ones(features - 1))
    X = X.astype(np.float32)
    y = (X.astype(np.float64) @ true).astype(np.float32)
    result = jd.minimize(jd.LinearRegression(X, y), method=method)
    assert result.converged, result.message
    weights = np.asarray(result.params["weights"], np.float64)
    missed = X.astype(np.float64) @ weights + float(result.params["intercept"]) - y
    assert np.linalg.norm(missed) < 1e-5 * np.linalg.norm(y - y.mean())
    if rows > features:
        np.testing.assert_allclose(weights[1:-4], true[1:-4], atol=1e-4)


@pytest.mark.parametrize("shape", [(40, 3), (6, 9)], ids=["tall", "wide"])
@pytest.mark.parametrize("offset", [1e2, 1e3, 1e4])
def test_features_far_from_zero_are_solved_as_well_as_their_float32_allow(rng, shape, offset):
    X = (rng.normal(size=shape) + offset).astype(np.float32)
    y = rng.normal(size=shape[0]).astype(np.float32)
    result = solve(X, y)
    weights, *_ = closed_form(X, y)
    # Centring rounds each entry by eps * offset.
    bound = 100 * offset * np.finfo(np.float32).eps
    np.testing.assert_allclose(result.params["weights"], weights, atol=bound)


@pytest.mark.parametrize("intercept", [False, True])
def test_features_that_meet_all_targets_meet_those_of_light_rows(intercept):
    rng = np.random.default_rng(7)
    for _ in range(8):
        X, y = rng.normal(size=(24, 40)).astype(np.float32), rng.normal(size=24).astype(np.float32)
        share = (10.0 ** rng.uniform(-6, 6, size=24)).astype(np.float32)
        objective = jd.LinearRegression(X, y, sample_weight=share, intercept=intercept)
        result = jd.minimize(objective, method=METHOD)
        assert status(result) == "CONVERGED"
        weights = np.asarray(result.params["weights"], np.float64)
        residuals = X.astype(np.float64) @ weights + float(result.params.get("intercept", 0)) - y
        assert np.max(np.abs(residuals)) < 1e-5
        assert float(result.suboptimality) >= value(objective, result.params) / 10


def test_a_value_that_is_rounded_to_zero_is_no_bound(x64):
    """More features than rows meet targets far from zero up to the rounding of the intercept."""
    rng = np.random.default_rng(3)
    for _ in range(8):
        X, y = rng.normal(size=(24, 40)), 1e5 + rng.normal(size=24)
        result = solve(X, y)
        weights, offset = (np.asarray(result.params[name]) for name in ("weights", "intercept"))
        exact = np.vectorize(Fraction, otypes=[object])
        residuals = exact(X) @ exact(weights) + Fraction(float(offset)) - exact(y)
        value = float(residuals @ residuals / 2)  # the minimum is zero
        assert float(result.suboptimality) >= value / 10


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("l2", [[0.0, 1e-3, 1e-2], [1e-9, 1e-3, 1e-2], [1e-9] * 3])
def test_penalties_of_outputs_hide_no_column_in_other_units(l2, intercept):
    rng = np.random.default_rng(5)
    X = (rng.normal(size=(150, 7)) * 10.0 ** np.linspace(-4, 4, 7)).astype(np.float32)
    y = X @ (rng.normal(size=(7, 3)) / np.abs(X).mean(axis=0)[:, None])
    y = (y + 0.3 * rng.normal(size=y.shape)).astype(np.float32)
    l2 = (np.asarray(l2) * np.mean(np.sum(np.square(X), axis=0))).astype(np.float32)
    objective = jd.LinearRegression(X, y, l2=l2, intercept=intercept)
    result = jd.minimize(objective)
    assert status(result) == "CONVERGED"
    best = least_squares(objective, in_lengths=True)
    params = {"weights": np.asarray(result.params["weights"], float)}
    if intercept:  # as its own rounding is another question
        params["intercept"] = y.mean(0, dtype=float) - X.mean(0, dtype=float) @ params["weights"]
    assert height(objective, params, best) <= 1e-9 * value(objective, best)


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_of_penalties_is_an_array_of_them(rng, kind):
    X, y = rng.normal(size=(40, 3)).astype(np.float32), rng.normal(size=(40, 2)).astype(np.float32)
    of_array, of_list = (solve(X, y, l2=l2) for l2 in (np.float32([0, 2]), kind([0, 2])))
    np.testing.assert_array_equal(of_list.params["weights"], of_array.params["weights"])
    listed = jd.plan(jd.LinearRegression(X, y, l2=kind([0.0, 2.0])))
    assert listed.structure.has_own_l2
    assert listed.structure.has_penalty
    with pytest.raises(ValueError, match=r"l2 must be a number or have shape \(2,\), got shape"):
        solve(X, y, l2=kind([1.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    ("function", "rows", "features"),
    [
        pytest.param(lambda w: w[1:] - w[:-1], 4, 5, marks=pytest.mark.slow),
        (lambda w: jnp.cumsum(jnp.repeat(w, 3)), 6, 2),
    ],
    ids=["wide", "tall"],
)
def test_a_matrix_free_design_is_solved_too(function, rows, features, rng):
    target = rng.normal(size=rows).astype(np.float32)
    design = jd.MatrixFree(function, rows=rows, features=features)
    weights = solve(design, target, intercept=False).params["weights"]
    matrix = np.stack([function(unit) for unit in np.eye(features)], axis=1)
    np.testing.assert_allclose(weights, np.linalg.pinv(matrix) @ target, atol=1e-5)


@given(
    st.lists(st.floats(0.125, 64, width=16), min_size=3, max_size=3),
    st.lists(st.floats(-64, 64, width=16), min_size=3, max_size=3),
)
def test_separable_unknowns_take_one_division_each(scale, center):
    objective = jd.SumOfSquares(jnp.array(scale, jnp.float32), jnp.array(center, jnp.float32))
    result = jd.minimize(objective, jnp.array([100.0, -100.0, 7.0]), METHOD)
    assert bool(result.converged)
    np.testing.assert_allclose(result.params, center, rtol=1e-5, atol=1e-4)


def test_a_separable_unknown_without_curvature_stays_where_it_is():
    objective = jd.SumOfSquares(jnp.array([1.0, 0.0]), 3.0)
    result = jd.minimize(objective, jnp.array([10.0, 10.0]), METHOD)
    np.testing.assert_array_equal(result.params, [3.0, 10.0])


def test_a_quadratic_is_solved_in_one_step(rng, x64):
    root = rng.normal(size=(6, 6))
    hessian, linear = root @ root.T + np.eye(6), rng.normal(size=6)
    result = jd.minimize(jd.Quadratic(hessian, linear), method=METHOD)
    assert int(result.iterations) == 1
    np.testing.assert_allclose(result.params, np.linalg.solve(hessian, linear), rtol=1e-9)


def test_a_singular_quadratic_gets_the_stationary_point_nearest_the_start(x64):
    start = np.arange(6.0)
    result = jd.minimize(jd.Quadratic(np.ones((6, 6)), np.zeros(6)), start, METHOD)
    np.testing.assert_allclose(result.params, start - start.mean(), atol=1e-9)


def test_a_quadratic_given_as_a_map_is_solved_on_its_own_structure():
    def hessian(d):
        return {"a": 4 * d["a"] + d["b"], "b": d["a"] + 3 * d["b"]}

    linear = {"a": jnp.array(1.0), "b": jnp.array(2.0)}
    result = jd.minimize(jd.Quadratic(hessian, linear), method=METHOD)
    expected = np.linalg.solve([[4.0, 1.0], [1.0, 3.0]], [1.0, 2.0])
    np.testing.assert_allclose([result.params["a"], result.params["b"]], expected, rtol=1e-5)


def test_newton_converges_quadratically(x64):
    errors = []
    for steps in (1, 2, 3, 4):
        result = jd.minimize(
            newton_target, jnp.array(0.8), METHOD, max_iterations=steps, tolerance=0.0
        )
        errors.append(abs(float(result.params) - np.log(2)))
    for before, after in itertools.pairwise(errors):
        assert after <= before**2 + 1e-15


def newton_target(x):
    return jnp.exp(x) - 2 * x


@pytest.mark.slow
def test_of_a_slope_without_curvature_no_minimum_is_known():
    slope = np.float32([1, 2, 3])
    # A function that casts its value is not looked at in float64.
    result = jd.minimize(
        lambda p: (slope @ p + 5).astype(jnp.float32), jnp.ones(3), jd.DerivativeMethod()
    )
    assert result.status == jd.Status.STAGNATED
    assert result.suboptimality == np.inf


def test_newton_finds_a_saddle_where_one_is_near():
    result = jd.minimize(lambda p: p[0] ** 2 - p[1] ** 2 + p[0] ** 4, jnp.array([0.3, 0.2]), METHOD)
    assert bool(result.converged)
    np.testing.assert_allclose(result.params, [0.0, 0.0], atol=1e-4)


def test_sixteen_bit_rows_are_solved_in_float32(rng):
    X = jnp.array(rng.normal(size=(30, 3)), jnp.bfloat16)
    y = jnp.array(rng.normal(size=30), jnp.bfloat16)
    result = solve(X, y)
    assert result.params["weights"].dtype == jnp.float32
    weights, *_ = closed_form(X, y)
    np.testing.assert_allclose(result.params["weights"], weights, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_members_of_a_batch_that_are_ill_or_deficient_are_solved_too(rng, x64):
    X = rng.normal(size=(2, 3, 60, 20))
    X[0, 1] = of_condition(1e10, rng, 60, 20)
    X[1, 2, :, 4] = X[1, 2, :, 3]
    y = rng.normal(size=60)

    def weights(X):
        return solve(X, y).params["weights"]

    batch = jax.vmap(jax.vmap(weights))(X)
    for index in np.ndindex(2, 3):
        exact, *_ = closed_form(X[index], y)
        np.testing.assert_allclose(batch[index], exact, rtol=1e-5, atol=1e-8 * np.max(exact))


def test_the_branch_for_ill_members_stays_a_branch_in_a_batch():
    X, y = jnp.ones((8, 60, 20)), jnp.ones((8, 60))
    solver = jax.vmap(lambda X, y: jd.LinearRegression(X, y).checked().stationary_solver(None))
    assert "cond" in str(jax.make_jaxpr(solver)(X, y))
    assert str(jax.make_jaxpr(solver)(X, y)).count("name=qr") <= 2


@pytest.mark.parametrize("l2", [0.5, [0.0, 0.5]])
def test_refined_solutions_do_not_lose_digits_to_the_condition(rng, x64, l2):
    X, y = of_condition(1e6, rng, 40, 10), rng.normal(size=(40, 2))
    s = rng.uniform(0.5, 2, size=40)
    found = solve(X, y, l2=jnp.array(l2), sample_weight=s).params
    # Stationarity in extended precision: the gradient is what rounding the solution leaves.
    wide = np.longdouble
    w, b = np.asarray(found["weights"], wide), np.asarray(found["intercept"], wide)
    residual = s[:, None].astype(wide) * (y.astype(wide) - X.astype(wide) @ w - b)
    gradient = X.T.astype(wide) @ residual - np.asarray(l2, wide) * w
    rounding = np.finfo(np.float64).eps * np.abs(w).max()
    assert np.abs(gradient).max() < 20 * rounding


SOLVES = [
    # So small that a claim is looked at by singular vectors.
    ((2000, 60), {}),
    # Beyond the size of double length.
    ((20_011, 100), {"intercept": False, "y": np.ones(20_011, np.float32)}),
    ((300, 250), {"sample_weight": np.ones(300, np.float32)}),
    ((100, 400), {}),
    ((200, 500), {"l2": np.ones(3, np.float32)}),
    ((400, 100), {"l2": np.ones(3, np.float32)}),
]


def memory_of(regression):
    """Of a solve that is XLA's, whatever the size, as one with a history is."""
    run = jax.jit(lambda regression: jd.minimize(regression, method=METHOD, history=1))
    return run.lower(regression).compile().memory_analysis()


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "options"), SOLVES)
def test_the_bytes_asked_for_are_those_that_the_program_reserves(shape, options):
    options = {"y": jnp.ones((shape[0], 3))} | options
    regression = jd.LinearRegression(jnp.ones(shape), **options).checked()
    reserved = memory_of(regression).temp_size_in_bytes
    assert abs(regression.stationary_solver_bytes(None) / reserved - 1) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "outputs", "dtype", "options"),
    [
        ((60_000, 20), 30, "float32", {}),
        ((130_492, 5), 7, "float32", {"l2": 7, "sample_weight": 130_492, "intercept": False}),
        ((72_364, 75), 30, "bfloat16", {}),
        ((3_000, 120), 7, "bfloat16", {"sample_weight": 3_000}),
    ],
)
def test_many_outputs_and_16_bits_reserve_what_the_plan_promises(shape, outputs, dtype, options):
    X, y = (jnp.ones((shape[0], width), dtype) for width in (shape[1], outputs))
    options = {name: jnp.ones(size) if size else False for name, size in options.items()}
    regression = jd.LinearRegression(X, y, **options)
    reserved = memory_of(regression)
    leaves = [leaf for leaf in jax.tree.leaves(regression) if hasattr(leaf, "dtype")]
    data = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    total = data + reserved.temp_size_in_bytes + reserved.output_size_in_bytes
    assert 0.9 < (data + regression.stationary_solver_bytes(None)) / total < 1.5


@pytest.mark.slow
@pytest.mark.parametrize(("skew", "corrections"), [(0, 0), (30, 1)])
def test_one_solve_reads_x_at_both_ends_and_for_a_correction_where_one_is_due(
    rng, skew, corrections
):
    X = rng.normal(size=(2000, 20)).astype(np.float32)
    X[:, 1] = skew * X[:, 0] + X[:, 1]
    objective = jd.LinearRegression(Counted(jnp.asarray(X)), X @ np.ones(20, np.float32))
    objective = objective.checked()
    count, result = passes(lambda: jd.minimize(objective, method=METHOD))
    assert int(result.iterations) == 1
    np.testing.assert_allclose(result.params["weights"], 1, rtol=1e-4)
    # From zeros one pass. The gradient there serves the solve, and the one at the end the check; no
    # look is taken at the claim of a well-conditioned solve.
    assert count == 1 + 2 * corrections + 2


@pytest.mark.slow
@pytest.mark.parametrize(("condition", "intercept"), [(2e3, True), (1e4, False)])
def test_what_rounding_ends_of_a_wide_solve_the_host_solves_again(rng, condition, intercept):
    """With more features than XLA's solve and the loop's values have digits for."""
    X = of_condition(condition, rng, 20, 60_000).astype(np.float32)
    X = X + intercept * rng.normal(size=60_000).astype(np.float32) / 250
    y = rng.normal(size=20).astype(np.float32)
    result = solve(X, y, intercept=intercept)
    # The rounding of the weights is a few times what the tolerance allows.
    assert status(result) in ("CONVERGED", "STAGNATED")
    mean, target = intercept * X.mean(0, dtype=float), intercept * y.mean(dtype=float)
    weights = np.linalg.lstsq(X - mean, y - target, rcond=1e-9)[0]
    offset = target - mean @ weights
    found = np.asarray(result.params["weights"], float)
    # Steps after a rejected end add to the weights of least norm what rounding leaves.
    np.testing.assert_allclose(found, weights, atol=2e-2 * np.abs(weights).max())
    best = weights.astype(np.float32).astype(float)
    own = X.astype(float) @ found - y + float(result.params.get("intercept", 0.0))
    least = X.astype(float) @ best - y + np.float32(offset)
    value = 0.5 * own @ own
    assert value <= 5 * (0.5 * least @ least) + 1e-9 * (y @ y)
    assert float(result.suboptimality) <= 10 * value
    assert int(result.iterations) <= 10


@pytest.mark.slow
@pytest.mark.parametrize("skew", [0, 30, 300])
def test_a_wide_solve_goes_back_once_and_for_its_correction(rng, skew):
    X = rng.normal(size=(20, 2000)).astype(np.float32)
    X[1] = skew * X[0] + X[1]
    y = rng.normal(size=20).astype(np.float32)
    objective = jd.LinearRegression(Counted(jnp.asarray(X)), y)
    count, result = passes(lambda: jd.minimize(objective.checked(), method=METHOD))
    A = X - X.mean(axis=0, dtype=float)
    targets = y - y.mean(dtype=float)
    least_norm = np.linalg.pinv(A, rcond=1e-8) @ targets
    size = np.max(np.abs(least_norm))
    np.testing.assert_allclose(result.params["weights"], least_norm, rtol=0, atol=1e-4 * size)
    left = A @ np.asarray(result.params["weights"], float) - targets
    assert left @ left < 1e-11 * (targets @ targets)
    # From zeros one pass, then the way back, the correction, and value and gradient at the end.
    if status(result) == "CONVERGED":
        assert count == 1 + 1 + 2 + 2
    else:
        assert skew == 300
        assert status(result) == "STAGNATED"


def test_a_branch_that_any_member_of_a_batch_needs_is_taken_for_all():
    def of_two(is_needed, x):
        return lax.cond(of_any(is_needed), lambda x: x + 1, lambda x: x - 1, x)

    x = jnp.arange(3.0)
    needs = jnp.array([False, True, False])
    np.testing.assert_array_equal(jax.vmap(of_two)(needs, x), x + 1)
    np.testing.assert_array_equal(jax.vmap(of_two)(jnp.zeros(3, bool), x), x - 1)
    np.testing.assert_array_equal(jax.vmap(of_two, in_axes=(None, 0))(True, x), x + 1)
    twice = jax.vmap(jax.vmap(of_two))(jnp.stack([needs, needs & False]), jnp.stack([x, x]))
    np.testing.assert_array_equal(twice, [x + 1, x + 1])
    assert "cond" in str(jax.make_jaxpr(jax.vmap(of_two))(needs, x))
    assert of_two(jnp.array(False), 1.0) == 0


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_an_l2_for_each_output_gives_what_each_gives_alone(rng, spread, intercept):
    # Columns of one length go by the spectrum of X'X, others by QR.
    X = (rng.normal(size=(300, 40)) * np.geomspace(1, spread, 40)).astype(np.float32)
    y = rng.normal(size=(300, 5)).astype(np.float32)
    l2 = np.geomspace(1e-2, 1e3, 5).astype(np.float32)
    together = solve(X, y, intercept=intercept, l2=l2)
    assert together.status == jd.Status.CONVERGED
    for k, penalty in enumerate(l2):
        exact, *_ = closed_form(X, y[:, k], l2=float(penalty), intercept=intercept)
        found = together.params["weights"][:, k]
        np.testing.assert_allclose(found, exact, atol=3e-5 * np.abs(exact).max())


@pytest.mark.slow
def test_a_solve_that_rounding_stops_ends_soon(rng):
    """The means leave an intercept few digits: solves round to other values, and none is better."""
    unit = 10 ** rng.uniform(-1, 1, 80)
    X = (rng.normal(size=(16_000, 80)) + 3e3 * rng.normal(size=80)) * unit
    y = X @ (rng.normal(size=80) / unit) + 2e6 + 3e-2 * rng.normal(size=16_000)
    regression = jd.LinearRegression(X.astype(np.float32), y.astype(np.float32))
    result = jd.minimize(regression, method=jd.DerivativeMethod(), max_iterations=60)
    assert status(result) == "STAGNATED"
    assert result.iterations <= 10


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [3, 2, 7])
def test_a_single_row_and_column_with_several_outputs_is_compiled(rng, outputs):
    # Sums of a single term are none: without a barrier XLA compiled this for ever.
    for kind in (jd.Categorical([0], levels=1), scipy.sparse.csr_matrix(np.float32([[2.0]]))):
        y = np.float32(rng.normal(size=(1, outputs)))
        for l2 in (0.5, 0.0):
            regression = jd.LinearRegression(kind, y, l2=l2, intercept=False)
            result = jd.minimize(regression, method=jd.DerivativeMethod())
            x = 1.0 if isinstance(kind, jd.Categorical) else 2.0
            np.testing.assert_allclose(result.params["weights"], x * y / (x * x + l2), rtol=1e-6)
            assert result.converged


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("intercept", [True, False])
def test_a_wide_matrix_with_equal_rows_and_unequal_targets_is_solved_and_said_to_be(
    seed, intercept
):
    rng = np.random.default_rng(seed)
    levels, y = rng.integers(0, 30, size=12), rng.normal(size=12).astype(np.float32)
    levels[1] = levels[0]
    X = np.eye(30)[levels]
    regression = jd.LinearRegression(jd.Categorical(levels, levels=30), y, intercept=intercept)
    result = jd.minimize(regression, method=METHOD)
    *_, least = closed_form(X, y, intercept=intercept)
    assert result.converged
    np.testing.assert_allclose(float(result.value), least, rtol=1e-5)
    assert float(result.suboptimality) < 1e-6 * least
