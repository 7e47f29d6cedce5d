"""Stopping rules: every status is reached, and none is given for another's cause."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdescent as jd
from jaxdescent.tolerance import default_tolerance
from tests import references
from tests.results import status

START = np.float32([3, -4])


def bowl(p):
    return jnp.sum(p**2)


def moved_bowl(p, center, floor):
    return floor + jnp.sum((p - center) ** 2)


def descend(objective, start=START, rate=0.1, **options):
    return jd.minimize(objective, start, jd.GradientDescent(rate), **options)


def checked_at(iteration, check_every):
    """The first check at this iteration, or after it."""
    return -(-iteration // check_every) * check_every


OBJECTIVES = pytest.mark.parametrize(
    "objective", [jd.SumOfSquares(), bowl], ids=["separable", "function"]
)


@pytest.mark.parametrize("check_every", [1, 16, 7])
@OBJECTIVES
def test_a_gradient_within_the_tolerance_is_converged(objective, check_every):
    stop = jd.Tolerance(gradient=1e-3)
    result = descend(objective, tolerance=stop, check_every=check_every)
    assert status(result) == "CONVERGED"
    assert float(result.gradient_norm) <= 1e-3 * 10.0
    assert bool(result.converged)
    # |g| = 10 * 0.8^k <= 1e-2 first holds at k = 31.
    assert int(result.iterations) == checked_at(31, check_every)


@pytest.mark.parametrize("check_every", [1, 16])
@OBJECTIVES
@pytest.mark.parametrize("units", [1.0, 1e4])
def test_an_absolute_bound_of_the_gradient_does_not_follow_the_units(objective, check_every, units):
    stop = jd.Tolerance(absolute_gradient=1e-3)
    start = START * np.float32(units)
    result = descend(objective, start, tolerance=stop, check_every=check_every)
    assert status(result) == "CONVERGED"
    # |g| = 10 units 0.8^k <= 1e-3 first holds at k = 42, and 83 with the larger units.
    assert int(result.iterations) == checked_at(42 if units == 1 else 83, check_every)
    assert 1e-3 * 0.8**check_every < float(result.gradient_norm) <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("method", [None, jd.LSMR(), jd.ConjugateGradient(), jd.LBFGS()], ids=repr)
def test_an_absolute_bound_holds_of_the_gradient_that_is_measured(method):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 10)).astype(np.float32)
    y = X @ rng.normal(size=10).astype(np.float32) + rng.normal(size=200).astype(np.float32)

    def bounded(bound):
        stop = jd.Tolerance(absolute_gradient=bound)
        return jd.minimize(jd.LinearRegression(X, y), method=method, tolerance=stop)

    result = bounded(0.05)
    assert status(result) == "CONVERGED"
    weights, intercept = (np.asarray(result.params[k], float) for k in ("weights", "intercept"))
    residual = X.astype(float) @ weights + intercept - y
    gradient = np.append(residual @ X.astype(float), residual.sum())
    assert np.linalg.norm(gradient) <= 0.05 * (1 + 1e-3)
    if isinstance(method, jd.LSMR):  # below rounding
        assert status(bounded(1e-12)) == "STAGNATED"


@pytest.mark.first
@pytest.mark.parametrize(
    "method",
    [
        jd.LBFGS(),
        jd.ConjugateGradient(jd.Jacobi()),
        jd.LSMR(),
        jd.LSMR(jd.Sketch()),
        jd.Gram(),
    ],
    ids=str,
)
def test_an_optimal_start_needs_no_iteration(method, rng, x64):
    X, y = rng.normal(size=(400, 9)), rng.normal(size=400)
    for targets, tolerance in ((np.zeros(400), None), (y, 1e-6)):
        regression = jd.LinearRegression(X, targets, l2=0.1)
        start = references.least_squares(regression)
        result = jd.minimize(regression, start, method, tolerance=tolerance)
        assert status(result) == "CONVERGED"
        assert int(result.iterations) == 0


def test_convergence_at_the_last_iteration_is_convergence():
    start = descend(bowl, np.zeros(2, np.float32))
    assert int(start.iterations) == 0
    last = descend(bowl, tolerance=jd.Tolerance(gradient=1e-3), max_iterations=31)
    assert status(start) == status(last) == "CONVERGED"


@pytest.mark.parametrize("check_every", [1, 16])
@OBJECTIVES
def test_a_gradient_whose_square_underflows_is_not_taken_for_zero(objective, check_every):
    start, stop = START * np.float32(1e-25), jd.Tolerance(gradient=1e-3)
    result = descend(objective, start, tolerance=stop, check_every=check_every)
    assert status(result) == "CONVERGED"
    assert int(result.iterations) == checked_at(31, check_every)
    np.testing.assert_allclose(result.params, start * 0.8 ** int(result.iterations), rtol=1e-4)


@pytest.mark.parametrize("check_every", [1, 16])
def test_bfloat16_that_rounds_every_step_away_has_stagnated(check_every):
    start = jnp.full((8,), 100.0, jnp.bfloat16)
    options = {"check_every": check_every, "max_iterations": 10_000}
    result = descend(jd.SumOfSquares(), start, 1e-5, **options)
    assert status(result) == "STAGNATED"
    assert int(result.iterations) < 10_000
    np.testing.assert_array_equal(result.params, start)


@pytest.mark.parametrize("check_every", [None, 1, 16])
@OBJECTIVES
@pytest.mark.parametrize("rate", [1.5, 1e6, 1e30])
def test_too_large_a_learning_rate_diverges(objective, check_every, rate):
    result = descend(objective, rate=rate, check_every=check_every)
    assert status(result) == "DIVERGED"


def test_a_negative_scale_diverges_by_the_derivative_method():
    result = jd.minimize(jd.SumOfSquares(scale=-1.0), START, jd.DerivativeMethod())
    assert status(result) == "DIVERGED"


@pytest.mark.parametrize(
    ("objective", "start", "method"),
    [
        *(
            (lambda p: jnp.sum(jnp.sqrt(p - 10)), START, method)
            for method in (jd.GradientDescent(0.1), jd.GradientDescent(), jd.DerivativeMethod())
        ),
        # The slope falls by far less than in a divergence.
        (lambda p: jnp.where(p > 1, p, jnp.nan), 3.0, jd.GradientDescent(0.5)),
        (jd.SumOfSquares(), np.float32([np.inf, 1]), jd.GradientDescent(0.1)),
    ],
    ids=["constant", "backtracking", "derivative", "on the way", "an infinite start"],
)
def test_an_objective_that_is_no_number_is_non_finite(objective, start, method):
    assert status(jd.minimize(objective, start, method)) == "NON_FINITE"


def test_a_nan_row_is_non_finite(rng):
    X = rng.normal(size=(8, 2)).astype(np.float32)
    X[3, 1] = np.nan
    y = np.ones(8, np.float32)
    for method in (jd.DerivativeMethod(), jd.GradientDescent()):
        result = jd.minimize(jd.LinearRegression(X, y), method=method)
        assert status(result) == "NON_FINITE"


def test_tolerance_zero_runs_every_iteration():
    for objective in (jd.SumOfSquares(), bowl):
        result = descend(objective, rate=0.5, tolerance=0, max_iterations=50)
        assert int(result.iterations) == 50
        assert status(result) == "MAX_ITERATIONS"
        np.testing.assert_array_equal(result.params, [0.0, 0.0])


def test_a_warm_start_is_judged_by_the_scale_at_the_objectives_own_start(rng):
    X = rng.normal(size=(30, 3)).astype(np.float32)
    y = rng.normal(size=30).astype(np.float32)
    objective = jd.LinearRegression(X, y)
    stop = jd.Tolerance(gradient=1e-3)
    cold = jd.minimize(objective, method=jd.GradientDescent(), tolerance=stop)
    warm = jd.minimize(objective, cold.params, jd.GradientDescent(), tolerance=stop)
    assert int(cold.iterations) > 0
    assert int(warm.iterations) == 0
    assert status(warm) == "CONVERGED"


def test_value_and_norm_belong_exactly_to_the_returned_params():
    half = np.arange(-1000, 1000, dtype=np.float32).astype(jnp.bfloat16)
    for objective, args, start in (
        (jd.SumOfSquares(center=1.0), (), START),
        (jd.SumOfSquares(center=1.0), (), half),  # whose steps are rounded
        (moved_bowl, np.float32([1, 0]), START),
    ):
        for check_every in (1, 16):
            options = {"max_iterations": 21, "check_every": check_every}
            result = descend(objective, start, 0.01, args=tuple(args), **options)
            params = np.asarray(result.params, np.float64)
            np.testing.assert_allclose(result.value, np.sum((params - 1) ** 2), rtol=1e-6)
            norm = 2 * np.linalg.norm(params - 1)
            np.testing.assert_allclose(result.gradient_norm, norm, rtol=1e-6)


def halving(tolerance, start=START, **options):
    """x shrinks by 1/2 and the value by 1/4 a step."""
    return descend(bowl, start, 0.25, tolerance=tolerance, **options)


@pytest.mark.parametrize("check_every", [1, 16])
def test_a_predicate_that_holds_has_stopped(check_every):
    tolerance = jd.Tolerance(predicate=lambda check: check.iteration >= 20)
    result = descend(jd.SumOfSquares(), rate=0.01, tolerance=tolerance, check_every=check_every)
    assert status(result) == "STOPPED"
    assert int(result.iterations) == checked_at(20, check_every)


def test_a_predicate_sees_params_value_and_norm_that_belong_together():
    def is_consistent(check):
        return (
            (check.iteration == 3)
            & (jnp.abs(check.value - bowl(check.params)) < 1e-6)
            & (jnp.abs(check.gradient_norm - 2 * jnp.linalg.norm(check.params)) < 1e-6)
        )

    result = halving(jd.Tolerance(predicate=is_consistent))
    assert status(result) == "STOPPED"
    np.testing.assert_array_equal(result.params, START / 8)


def test_a_predicate_may_close_over_traced_values():
    @jax.jit
    @jax.vmap
    def iterations(limit):
        tolerance = jd.Tolerance(predicate=lambda check: check.value <= limit)
        return halving(tolerance).iterations

    # 25 / 4^k
    np.testing.assert_array_equal(iterations(np.float32([30, 7, 0.4, 0.3])), [0, 1, 3, 4])


def test_the_default_tolerance_follows_the_coarsest_dtype():
    wide, narrow = np.zeros(2, np.float32), np.zeros(2, jnp.bfloat16)
    assert default_tolerance(wide) == pytest.approx(2.0 ** (-23 * 2 / 3))
    assert default_tolerance((wide, narrow)) == pytest.approx(2.0 ** (-7 * 2 / 3))


@pytest.mark.slow
def test_every_status_has_advice_and_messages_count_a_batch():
    for code in jd.Status:
        assert code.advice.endswith(".")
    batch = jax.vmap(lambda rate: descend(bowl, rate=rate))(np.float32([0.1, 1.5, 0.2]))
    first, second = batch.message.split("\n")
    assert first.startswith("2 of 3 CONVERGED: ")
    assert second.startswith("1 of 3 DIVERGED: ")


def test_a_message_read_under_jit_is_refused():
    def read(x):
        return descend(bowl, x).message

    with pytest.raises(ValueError, match="return the result, then read its message outside"):
        jax.jit(read)(START)


@pytest.mark.parametrize("check_every", [1, 16])
@pytest.mark.parametrize(
    ("tolerance", "expected"), [(0.0, "MAX_ITERATIONS"), (1e-16, "STAGNATED"), (1e-2, "CONVERGED")]
)
def test_a_traced_tolerance_ends_where_one_that_can_be_seen_does(check_every, tolerance, expected):
    seen, traced = end(tolerance, check_every), end_of_traced(tolerance, check_every)
    assert status(seen) == status(traced) == expected
    assert int(seen.iterations) == int(traced.iterations)
    np.testing.assert_allclose(seen.params, traced.params, rtol=1e-6)


def end(tolerance, check_every):
    args = tuple(np.float32([1 / 3, 1]))
    options = {"tolerance": tolerance, "check_every": check_every, "max_iterations": 300}
    return descend(moved_bowl, args=args, **options)


end_of_traced = jax.jit(end, static_argnums=1)


def test_rules_that_cannot_hold_are_no_part_of_the_program():
    def size(function, *inputs):
        return len(str(jax.make_jaxpr(function)(*inputs)).splitlines())

    def end(tolerance):
        return descend(bowl, tolerance=tolerance)

    assert size(lambda: end(0)) < size(lambda: end(1e-3)) < size(end, 1e-3)
