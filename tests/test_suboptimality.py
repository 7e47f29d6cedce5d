"""How far from the minimum: the estimates against exact ones, and CONVERGED that means it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxdescent as jd
from benchmarks.problems.classical import rosenbrock
from benchmarks.problems.more_garbow_hillstrom import variably_dimensioned
from jaxdescent.descent.rate import Rate
from jaxdescent.descent.state import Size
from jaxdescent.methods import StepReport
from jaxdescent.numerics.ritz import SmallestRitz
from tests.references import of_condition
from tests.results import status


def evidence(result):
    return jd.Evidence(int(result.evidence))


def vardim(x):
    return jnp.sum(jnp.square(variably_dimensioned(x)))


def powers(x):
    return jnp.sum((x - jnp.arange(x.size, dtype=x.dtype)) ** 4)


FAR = {
    "vardim": (vardim, 1 - np.arange(1, 201) / 200, 0.0),
    "fourth powers": (powers, np.full(5_000, 2.0), 0.0),
    "rosenbrock": (rosenbrock, np.array([-100.0, 100.0]), 0.0),
    "cosh": (lambda x: jnp.cosh(x - 1), np.array(40.0), 1.0),
    "a fourth power": (lambda x: (x - 3) ** 4, np.array(1000.0), 0.0),
    "exponential": (jd.LeastSquares(lambda p: jnp.exp(p) - 1), np.array(30.0), 0.0),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, np.float32) for name in FAR), ("rosenbrock", np.float64), ("cosh", np.float64)],
)
def test_a_far_start_does_not_make_a_point_converged(name, dtype, x64):
    objective, start, minimum = FAR[name]
    result = jd.minimize(objective, start.astype(dtype))
    assert status(result) == "CONVERGED"
    # Of the variably dimensioned function rounding of the params alone moves the value by 48.
    bar = {np.float32: 1e-3, np.float64: 1e-12}[dtype]
    assert float(result.value) - minimum <= bar * max(minimum, 1)
    again = jd.minimize(objective, result.params)
    lowered = float(result.value) - float(again.value)
    assert lowered <= max(1e-3 * abs(float(result.value)), bar)


def regression(rng, dtype, *, rows=300, features=20, condition=1.0, noise=1.0, shift=0.0):
    X = of_condition(condition, rng, rows, features) * np.sqrt(rows) + shift
    y = X @ rng.normal(size=features) + noise * rng.normal(size=rows)
    return X.astype(dtype), y.astype(dtype)


def exact_suboptimality(X, y, l2, params):
    """``1/2 |A (w - w*)|^2`` in long double, of the centred problem and of its intercept."""
    X, y = X.astype(np.longdouble), y.astype(np.longdouble)
    mean, target = X.mean(axis=0), y.mean()
    features = X.shape[1]
    A = np.concatenate([X - mean, np.sqrt(np.longdouble(l2)) * np.eye(features)])
    b = np.concatenate([y - target, np.zeros(features)])
    best = np.zeros(features, np.longdouble)
    for _ in range(4):
        rest = (b - A @ best).astype(np.float64)
        best = best + np.linalg.lstsq(A.astype(np.float64), rest, rcond=None)[0]
    weights = np.asarray(params["weights"], np.longdouble)
    off = np.longdouble(params["intercept"]) - (target - mean @ weights)
    height = 0.5 * np.sum((A @ (weights - best)) ** 2) + 0.5 * len(y) * off**2
    return float(height), float(0.5 * np.sum((A @ best - b) ** 2))


METHODS = [
    (jd.DerivativeMethod(), 1e5),
    (jd.ConjugateGradient(), 1e3),
    (jd.ConjugateGradient(jd.Jacobi()), 1e3),
    (jd.LSMR(), 1e3),
    (jd.LSMR(jd.Sketch()), 1e4),
    (jd.LBFGS(), 1e4),
    (jd.GradientDescent(), 1),  # its iterations grow with the square, and 3,000 are allowed
    (jd.Gram(), 1e2),
]
"""Each with the largest condition number at which float32 leaves it digits to converge by."""


@pytest.mark.first
@pytest.mark.parametrize(
    ("method", "l2", "dtype"),
    [
        *((method, l2, np.float32) for method, _ in METHODS for l2 in (0.0, 3.0)),
        (jd.DerivativeMethod(), 0.0, np.float64),
        (jd.ConjugateGradient(), 0.0, np.float64),
        (jd.LSMR(), 0.0, np.float64),
    ],
    ids=str,
)
def test_the_suboptimality_of_a_regression_is_that_of_the_exact_solution(method, l2, dtype, rng):
    X, y = regression(rng, dtype, condition=5.0)
    with jax.enable_x64(dtype is np.float64):
        result = jd.minimize(jd.LinearRegression(X, y, l2=l2), method=method)
    assert status(result) == "CONVERGED"
    height, minimum = exact_suboptimality(X, y, l2, result.params)
    eps = float(np.finfo(dtype).eps)
    assert height <= eps ** (2 / 3) * minimum
    estimate = float(result.suboptimality)
    rounding = eps**2 * float(np.sum((y - y.mean()) ** 2))
    # A bound by l2 is as far above as the curvature is above l2, 300 / 3, and that of the smallest
    # Ritz value as far as curvatures differ, 25.
    kinds = {jd.Evidence.BOUND: 100.0, jd.Evidence.RITZ_VALUES: 25.0}
    above = kinds.get(evidence(result), 10.0)
    assert height / 10 - rounding <= estimate <= 2 * above * height + 100 * rounding


@pytest.mark.first
@pytest.mark.parametrize("condition", [1e2, 1e3, 1e4, 1e5])
@pytest.mark.parametrize(("method", "converges_up_to"), METHODS, ids=str)
def test_a_float32_regression_that_converged_is_within_its_tolerance(
    method, converges_up_to, condition, rng
):
    X, y = regression(rng, np.float32, condition=condition)
    result = jd.minimize(jd.LinearRegression(X, y), method=method, max_iterations=3000)
    height, minimum = exact_suboptimality(X, y, 0.0, result.params)
    if status(result) == "CONVERGED":
        assert height <= float(np.finfo(np.float32).eps) ** (2 / 3) * minimum
    else:
        assert condition > converges_up_to
        assert status(result) in ("MAX_ITERATIONS", "STAGNATED")
        assert "jd.DerivativeMethod()" in result.message


@given(
    st.lists(st.floats(1e-3, 1e3), min_size=4, max_size=4),
    st.floats(-50, 50),
    st.integers(-20, 20),
)
def test_the_rule_is_free_of_units(weights, shift, power):
    weights, start = np.float32(weights), np.zeros(len(weights), np.float32)
    factor, shift = np.float32(2.0**power), np.float32(shift)
    one, other = (
        jd.minimize(parabola, start, jd.LBFGS(), args=(weights, shift, unit))
        for unit in (np.float32(1), factor)
    )
    assert int(one.status) == int(other.status)
    np.testing.assert_allclose(one.suboptimality * factor, other.suboptimality, rtol=1e-3)


def parabola(x, weights, shift, unit):
    return unit * (jnp.sum(weights * (x - shift) ** 2) + 1)


def test_a_sum_of_squares_knows_its_suboptimality_exactly():
    result = jd.minimize(
        jd.SumOfSquares(scale=2.0), jnp.array([3.0, -4.0]), jd.GradientDescent(0.1)
    )
    assert evidence(result) == jd.Evidence.EXACT
    assert result.suboptimality == result.value
    below = jd.minimize(jd.SumOfSquares(scale=-2.0), jnp.ones(2), jd.GradientDescent(1e-3))
    assert evidence(below) == jd.Evidence.NONE
    assert result.suboptimality < jnp.inf == below.suboptimality


def test_a_penalty_bounds_the_suboptimality(rng):
    X, y = regression(rng, np.float32)
    ridge = jd.LinearRegression(X, y, l2=1e4, intercept=False)
    result = jd.minimize(ridge, method=jd.GradientDescent(), max_iterations=2, tolerance=0)
    bound = float(result.gradient_norm) ** 2 / 2e4
    assert float(result.suboptimality) <= bound * (1 + 1e-5)
    assert evidence(result) == jd.Evidence.BOUND


@pytest.mark.parametrize(
    "method",
    [optax.adam(0.05), optax.sgd(0.02, momentum=0.9), jd.GradientDescent(jd.BarzilaiBorwein())],
    ids=["adam", "momentum", "Barzilai-Borwein"],
)
def test_first_order_methods_estimate_from_the_rate(method, relaxed_promotion):
    weights = np.float32([1, 3, 10])

    def function(x):
        return jnp.sum(weights * (x - 1) ** 2) + 1

    result = jd.minimize(function, jnp.zeros(3), method, max_iterations=5000)
    assert status(result) == "CONVERGED"
    true = float(np.sum(weights * (np.asarray(result.params) - 1) ** 2))
    assert true <= 2.4e-5
    assert float(result.suboptimality) >= true / 10


@pytest.mark.slow
def test_it_works_under_jit_and_vmap(rng):
    X, y = regression(rng, np.float32, rows=60, features=4, condition=2.0)
    targets = np.stack([y, 2 * y, y - 1])

    def solve(y):
        return jd.minimize(jd.LinearRegression(X, y), method=jd.ConjugateGradient())

    together = jax.vmap(solve)(targets)
    for index, target in enumerate(targets):
        member = {name: leaf[index] for name, leaf in together.params.items()}
        alone, compiled = solve(target), jax.jit(solve)(target)
        for params, found in (
            (member, (together.evidence[index], together.suboptimality[index])),
            (alone.params, (alone.evidence, alone.suboptimality)),
            (compiled.params, (compiled.evidence, compiled.suboptimality)),
        ):
            exact, _ = exact_suboptimality(X, np.asarray(target), 0.0, params)
            if params is alone.params:
                assert found[0] == jd.Evidence.FACTORISATION
                np.testing.assert_allclose(found[1], exact, rtol=1e-3)
            else:  # in a program by a Ritz value: curvatures differ fourfold
                assert found[0] == jd.Evidence.RITZ_VALUES
                assert exact / 4 <= found[1] <= 4 * exact


@pytest.mark.slow
def test_what_converged_is_converged_by_the_numbers_it_returns(rng):
    X, y = regression(rng, np.float32, condition=30.0, shift=2.0)
    for method in (jd.Gram(), jd.LSMR(), jd.LSMR(jd.Jacobi()), jd.ConjugateGradient()):
        result = jd.minimize(jd.LinearRegression(X, y), method=method)
        assert status(result) == "CONVERGED"
        height, minimum = exact_suboptimality(X, y, 0.0, result.params)
        assert height <= 2.4221e-5 * minimum


@pytest.mark.first
@pytest.mark.parametrize(
    ("function", "method", "size"),
    [
        (lambda x: 3 * x, jd.LBFGS(), 1),
        (lambda x: 3 * x, jd.LBFGS(1), 30),
        (lambda x: -(x**2), jd.LBFGS(), 30),
        (lambda x: -(x**2), jd.LBFGS(1), 1),
    ],
    ids=["slope", "slope, one pair", "dome", "dome, one pair"],
)
def test_an_unbounded_function_diverges_at_finite_params(function, method, size):
    result = jd.minimize(lambda x: jnp.sum(function(x)), np.ones(size, np.float32), method)
    assert status(result) == "DIVERGED"
    assert np.all(np.isfinite(result.params))
    assert np.isfinite(result.value)


FIRST_ORDER = {
    "backtracking": jd.GradientDescent(),
    "Nesterov": jd.GradientDescent(momentum=jd.Nesterov()),
    "Barzilai-Borwein": jd.GradientDescent(jd.BarzilaiBorwein()),
    "LBFGS(1)": jd.LBFGS(1),
    "adam": optax.adam(0.1),
}


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_a_flat_valley_below_steep_walls_is_no_minimum(name, x64, relaxed_promotion):
    # The gradient falls from 1e8 to 1 within a few steps, and from there on the way is long.
    def valley(x):
        return 5e7 * x[0] ** 2 + jnp.sqrt(1 + x[1] ** 2)

    result = jd.minimize(valley, jnp.array([1.0, 1e4]), FIRST_ORDER[name])
    if status(result) == "CONVERGED":
        np.testing.assert_allclose(result.value, 1, rtol=float(np.finfo(float).eps) ** (2 / 3))
    else:
        assert status(result) in ("MAX_ITERATIONS", "STAGNATED")
        assert name not in ("Barzilai-Borwein", "LBFGS(1)")
        assert float(result.value) > 9000


STAGNATES = [("Nesterov", np.float32)]


@pytest.mark.first
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, np.float32) for name in FIRST_ORDER),
        ("Nesterov", np.float64),
        ("LBFGS(1)", np.float64),
    ],
)
def test_no_method_converges_above_the_lowest_value_that_it_saw(
    name, dtype, x64, relaxed_promotion
):
    # Momentum shoots past the minimum to where the rate is too small for the slope.
    start = dtype(1000)
    result = jd.minimize(lambda x: (x - 3) ** 4, start, FIRST_ORDER[name])
    # Steps of a tenth at most do not come from 1,000 to 3 in the iterations that are allowed.
    assert status(result) == "CONVERGED" or name == "adam" or (name, dtype) in STAGNATES
    if name != "adam":
        assert result.value <= 1e-9


def test_backtracking_finds_its_rate_again_after_a_steep_start():
    # The first rate is 1e-15, and the first step leads to where one is right.
    result = jd.minimize(lambda x: jnp.cosh(x - 1), 40.0, jd.GradientDescent())
    assert status(result) == "CONVERGED"
    np.testing.assert_allclose(result.params, 1, atol=0.01)


def test_one_pair_takes_gradients_whose_square_overflows():
    result = jd.minimize(lambda x: jnp.sum((jnp.exp(x) - 1) ** 2), 30.0, jd.LBFGS(1))
    assert status(result) == "CONVERGED"
    np.testing.assert_allclose(result.params, 0, atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_the_smallest_ritz_value_follows_the_tridiagonal_matrix(seed):
    rng = np.random.default_rng(seed)
    diagonal = rng.uniform(0.5, 2, 12)
    below = rng.uniform(0, 1, 12)
    below[0] = 0
    L = np.diag(diagonal) + np.diag(below[1:], -1)
    ritz = SmallestRitz.start((), jnp.float32)
    for index in range(12):
        ritz = ritz.after(jnp.float32(diagonal[index]), jnp.float32(below[index]))
        leading = L[: index + 1, : index + 1]
        smallest = np.linalg.svd(leading, compute_uv=False)[-1] ** 2
        assert smallest * (1 - 1e-4) <= 1 / float(ritz.inverse) <= 3 * smallest


def test_the_rate_of_a_geometric_descent_gives_what_is_left():
    after = jax.jit(lambda rate, *new: rate.after(StepReport(*new[:2], curvature=0.0), new[2]))
    rate = Rate.start(jnp.float32, jnp.float32)
    for index in range(16):
        value, norm = np.float32(5 + 0.5**index), np.float32(0.5 ** (index / 2))
        rate = after(rate, value, norm, np.int32(index))
        if index >= 8:
            assert 0.5 <= float(rate.estimate.suboptimality) / 0.5**index <= 10


def test_the_scale_of_the_params_forgets_the_start():
    size = Size.start(jnp.float32)
    for index in range(8):
        size = size.after(jnp.float32(1e6 * 0.1**index), jnp.int32(index))
    assert float(size.scale) == pytest.approx(1e6 * 0.1**2)


@pytest.mark.first
@pytest.mark.parametrize("mean", [0.0, 3.0, 30.0, 100.0, 1000.0])
@pytest.mark.parametrize("name", ["backtracking", "Barzilai-Borwein", "adam"])
def test_features_far_from_zero_make_no_method_say_converged(name, mean, relaxed_promotion):
    converged = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(200, 3)) + mean
        y = X @ rng.normal(size=3) + 0.1 * rng.normal(size=200)
        X, y = X.astype(np.float32), y.astype(np.float32)
        result = jd.minimize(
            jd.LinearRegression(X, y), method=FIRST_ORDER[name], max_iterations=3000
        )
        height, minimum = exact_suboptimality(X, y, 0.0, result.params)
        if bool(result.converged):
            assert height <= 2.4221e-5 * minimum
            converged += 1
        elif mean >= 30:  # which is no timid word: they have not arrived
            assert height > minimum
    # The condition number of the Hessian is about (1 + 3 mean^2)^2.
    if mean == 0 or (mean == 3 and name == "Barzilai-Borwein"):
        assert converged == 4
