"""The study of claims: minima of drawn problems, and what counts as false."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdescent as jd
from benchmarks.studies.claims import functions, judge, regressions
from benchmarks.studies.claims.table import printed

DRAWN = [
    regressions.dense("geometric 1e2", 60, 7, 0),
    regressions.dense("means of 30 spreads", 60, 7, 1, l2=0.5),
    regressions.dense("flat target, two clusters", 60, 8, 0),
    regressions.sparse(200, 12, 0),
    regressions.categorical(200, 9, 0),
    regressions.matrix_free("gaussian", 60, 7, 0),
]


def least_squares(problem):
    """The least value by NumPy, and its weights, with the intercept as a column."""
    X, y = problem.X.astype(float), problem.y.astype(float)
    rows, features = X.shape
    penalty = np.sqrt(problem.l2) * np.eye(features, features + 1)
    X = np.vstack([np.column_stack([X, np.ones(rows)]), penalty])
    y = np.concatenate([y, np.zeros(features)])
    solution = np.linalg.lstsq(X, y)[0]
    return 0.5 * np.sum((y - X @ solution) ** 2), solution[:-1]


@pytest.mark.parametrize("problem", DRAWN, ids=lambda each: each.name)
def test_the_gap_of_a_regression_is_exact(problem, rng):
    least, weights = least_squares(problem)
    value, gap, _ = problem.truth({"weights": weights})
    np.testing.assert_allclose(value, least, rtol=1e-9)
    assert gap < 1e-12 * value
    value, gap, _ = problem.truth({"weights": rng.standard_normal(weights.size)})
    np.testing.assert_allclose(gap, value - least, rtol=1e-9)


@pytest.mark.parametrize("problem", DRAWN, ids=lambda each: each.name)
def test_a_design_multiplies_as_its_numbers(problem, rng):
    objective = problem.objective()
    weights = rng.standard_normal(problem.X.shape[1]).astype(np.float32)
    params = {"weights": jnp.asarray(weights), "intercept": jnp.zeros(())}
    product = objective.predict(params, objective.X)
    np.testing.assert_allclose(product, problem.X @ weights, rtol=1e-4, atol=1e-4)


def test_a_faint_part_is_worth_eight_tolerances():
    problem = regressions.dense("faint target, two clusters", 200, 10, 0)
    X, y = (a - a.mean(axis=0) for a in (problem.X.astype(float), problem.y.astype(float)))
    left, singular_values, right = np.linalg.svd(X, full_matrices=False)
    steep = np.where(singular_values > 0.01, 1 / singular_values, 0)
    value, gap, _ = problem.truth({"weights": right.T @ (steep * (left.T @ y))})
    np.testing.assert_allclose(gap / (judge.EPSILON ** (2 / 3) * value), 8, rtol=1e-2)


def test_newtons_method_finds_known_minima():
    valleys = functions.drawn("quartic valleys", 20, 0)
    value, gap, _ = valleys.truth(valleys.start)
    np.testing.assert_allclose(value - gap, 1, rtol=1e-9)
    chained = functions.drawn("chained Rosenbrock", 20, 0)
    value, gap, _ = chained.truth(1 + 0.01 * chained.start)
    assert value > 0.01
    np.testing.assert_allclose(gap, value, rtol=1e-9)


@pytest.mark.parametrize("kind", functions.FUNCTIONS)
def test_the_gap_of_a_function_is_of_its_value(kind):
    problem = functions.drawn(kind, 24, 0)
    value, gap, floor = problem.truth(problem.start)
    data = tuple(jnp.asarray(array) for array in problem.data)
    result = problem.function(jnp.asarray(problem.start), *data)
    expected = 0.5 * jnp.sum(result**2) if problem.is_fit else result
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert gap > 0
    assert np.isfinite(floor)


@pytest.mark.parametrize(
    ("status", "ratio", "estimate", "expected"),
    [
        ("CONVERGED", 2.0, 0.1, (True, False, False)),
        ("CONVERGED", 0.5, 0.1, (False, False, False)),
        ("CONVERGED", np.inf, np.nan, (True, False, False)),
        ("STAGNATED", 0.5, 20.0, (False, True, False)),
        ("MAX_ITERATIONS", 50.0, 4.0, (False, False, True)),
        ("MAX_ITERATIONS", 50.0, np.inf, (False, False, False)),
        ("MAX_ITERATIONS", 50.0, 6.0, (False, False, False)),
    ],
)
def test_claims_are_counted_by_their_ratio(status, ratio, estimate, expected):
    claim = judge.Claim("g", "p", "m", "jit", status, "RATE", 3, ratio, estimate, 0.1)
    assert (claim.is_false, claim.is_false_negative, claim.is_too_small) == expected
    counts = " | ".join(str(int(each)) for each in (expected[0], ratio <= 1, *expected[1:]))
    assert f"| all | a | 1 | {int(status == 'CONVERGED')} | {counts} |" in printed({"a": [claim]})


def test_a_run_is_judged_in_units_of_the_tolerance():
    problem = DRAWN[0]
    params = {"weights": least_squares(problem)[1] + 0.1}
    status, evidence = int(jd.Status.CONVERGED), int(jd.Evidence.EXACT)
    claim = judge.judged("g", problem, "m", "eager", lambda: (params, status, evidence, 3, 0.25))
    value, gap, _ = problem.truth(params)
    allowed = float(np.finfo(np.float32).eps) ** (2 / 3) * value
    np.testing.assert_allclose(claim.ratio, gap / allowed, rtol=1e-12)
    np.testing.assert_allclose(claim.estimate, 0.25 / allowed, rtol=1e-12)
    assert claim.is_false
    assert (claim.status, claim.evidence, claim.iterations) == ("CONVERGED", "EXACT", 3)
    broken = {"weights": jnp.full(7, jnp.nan)}
    claim = judge.judged("g", problem, "m", "eager", lambda: (broken, status, evidence, 3, 0.25))
    assert claim.ratio == np.inf
    assert not jax.config.jax_enable_x64
