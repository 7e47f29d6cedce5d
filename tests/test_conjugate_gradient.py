"""ConjugateGradient against exact solves, for every kind of quadratic objective."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxdescent as jd
from benchmarks.harness.passes import Counted, passes
from jaxdescent.objectives import as_objective
from jaxdescent.status import Status
from tests import references
from tests.references import least_squares
from tests.results import assert_progress_is_true, assert_trees_close

pytestmark = pytest.mark.slow  # most tests compile a few solvers: the core is for every day

PRECONDITIONERS = [None, jd.Jacobi(), jd.Nystrom(4), jd.Sketch()]


def regression(rng, outputs=(), **options):
    X = rng.normal(size=(80, 6)) * np.logspace(0, 1, 6) + 2
    return jd.LinearRegression(
        jnp.asarray(X), jnp.asarray(rng.normal(size=(80, *outputs))), **options
    )


@pytest.mark.parametrize("preconditioner", PRECONDITIONERS, ids=repr)
def test_a_regression_has_the_exact_solution(preconditioner, rng, x64):
    objective = regression(rng, (3,), l2=0.3, sample_weight=rng.random(80))
    exact = least_squares(objective)
    result = jd.minimize(objective, method=jd.ConjugateGradient(preconditioner), tolerance=1e-11)
    assert bool(result.converged)
    assert_trees_close(result.params, exact, rtol=1e-6, atol=1e-8)


@given(seed=st.integers(0, 2**16), size=st.sampled_from([1, 5]))
def test_n_unknowns_need_no_more_than_n_iterations(seed, size):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size))
    hessian, linear = root @ root.T + np.eye(size), rng.normal(size=size)
    with jax.enable_x64(True):
        result = jd.minimize(
            jd.Quadratic(hessian, linear), method=jd.ConjugateGradient(), tolerance=1e-8
        )
    assert int(result.iterations) <= size
    np.testing.assert_allclose(
        result.params, np.linalg.solve(hessian, linear), rtol=1e-5, atol=1e-7
    )


def test_progress_belongs_to_the_params_the_step_began_from(rng, x64):
    objective = regression(rng).checked()
    params = {"weights": jnp.asarray(rng.normal(size=6)), "intercept": jnp.asarray(1.5)}
    method = jd.ConjugateGradient(jd.Jacobi())
    assert_progress_is_true(method, objective, params, 3, 1e-10, {"rtol": 1e-8})


def test_what_is_reported_stays_true_over_hundreds_of_float32_iterations(rng):
    X = (rng.normal(size=(200, 100)) * np.logspace(0, -3, 100)).astype(np.float32)
    objective = jd.LinearRegression(X, rng.normal(size=200).astype(np.float32), intercept=False)
    result = jd.minimize(objective, method=jd.ConjugateGradient(), tolerance=0, max_iterations=400)
    exact = references.value(objective, result.params)
    np.testing.assert_allclose(result.value, exact, rtol=1e-5)


def test_separable_and_tree_shaped_quadratics_converge():
    bowl = jd.SumOfSquares(scale={"a": 3.0, "b": 0.5}, center={"a": 1.0, "b": -2.0})
    start = {"a": jnp.ones((2, 2)), "b": jnp.array(3.0)}
    for preconditioner in (None, jd.Jacobi(), jd.Nystrom(5)):
        result = jd.minimize(bowl, start, jd.ConjugateGradient(preconditioner))
        assert bool(result.converged)
        np.testing.assert_allclose(result.params["b"], -2.0, rtol=1e-4)


@pytest.mark.core
def test_a_slope_without_curvature_ends_diverged_at_finite_params():
    for curvatures in ([0, 0, 0], [1, 0, 2]):
        slope = jd.Quadratic(np.diag(np.float32(curvatures)), np.ones(3, np.float32))
        result = jd.minimize(slope, method=jd.ConjugateGradient())
        assert int(result.status) == Status.DIVERGED
        assert np.all(np.isfinite(result.params))
        assert np.isfinite(result.value)


@pytest.mark.core
def test_a_singular_hessian_with_a_minimum_converges(rng):
    root = rng.normal(size=(6, 3))
    hessian = root @ root.T
    linear = hessian @ rng.normal(size=6)
    result = jd.minimize(
        jd.Quadratic(hessian.astype(np.float32), linear.astype(np.float32)),
        method=jd.ConjugateGradient(),
    )
    assert bool(result.converged)
    np.testing.assert_allclose(
        result.params, np.linalg.pinv(hessian) @ linear, rtol=1e-2, atol=1e-3
    )


def test_a_fat_regression_from_zeros_has_the_least_norm(rng, x64):
    X, y = rng.normal(size=(10, 30)), rng.normal(size=10)
    objective = jd.LinearRegression(X, y, intercept=False)
    for preconditioner in (None, jd.Sketch()):
        method = jd.ConjugateGradient(preconditioner)
        result = jd.minimize(objective, method=method, tolerance=1e-10)
        weights = np.asarray(result.params["weights"])
        assert bool(result.converged)
        np.testing.assert_allclose(X @ weights, y, atol=1e-6)
        if preconditioner is None:
            np.testing.assert_allclose(weights, np.linalg.pinv(X) @ y, atol=1e-5)


@pytest.mark.core
def test_it_keeps_two_vectors_besides_params_and_image():
    objective = as_objective(jd.Quadratic(jnp.eye(7), jnp.ones(7)))
    state = jax.eval_shape(jd.ConjugateGradient().init, objective, jnp.zeros(7))
    assert sorted(leaf.size for leaf in jax.tree.leaves(state))[-4:] == [1, 7, 7, 7]


def test_an_iteration_makes_two_passes_and_a_start_at_zeros_one(rng):
    X = rng.normal(size=(2000, 20)).astype(np.float32)
    y = rng.normal(size=2000).astype(np.float32)
    objective = jd.LinearRegression(Counted(jnp.asarray(X)), y, intercept=False)
    method = jd.ConjugateGradient()
    count, result = passes(lambda: jd.minimize(objective, method=method))
    assert count == 2 * int(result.iterations) + 1  # the host's sketch makes no product with X
    count, halted = passes(lambda: jd.minimize(objective, method=method, max_iterations=2))
    assert int(halted.iterations) == 2
    assert count == 5  # no claim, no look
    start = {"weights": jnp.full(20, 0.5)}
    count, again = passes(lambda: jd.minimize(objective, start, method))
    at_zeros = 1  # the gradient, which sets the tolerance's scale
    assert count == 2 * int(again.iterations) + 2 + at_zeros
    np.testing.assert_allclose(again.params["weights"], result.params["weights"], atol=2e-3)


UNITS = [jd.ConjugateGradient(each) for each in PRECONDITIONERS]
UNITS += [jd.Gram(), jd.LSMR(jd.Nystrom(4))]


@pytest.mark.parametrize("method", UNITS, ids=repr)
def test_the_units_of_the_features_change_no_digit(method, rng):
    """Where squares of the curvatures are beyond the range of float32."""
    X, y = np.float32(rng.normal(size=(80, 6))), np.float32(rng.normal(size=80))
    units = 1.0, 2.0**40, 2.0**-40
    results = [
        jd.minimize(jd.LinearRegression(X * np.float32(unit), y), method=method) for unit in units
    ]
    centred = np.float64(X) - np.mean(X, axis=0, dtype=float)
    exact = np.linalg.lstsq(centred, y, rcond=None)[0]
    for result, unit in zip(results, units, strict=True):
        assert result.converged
        np.testing.assert_allclose(result.params["weights"] * unit, exact, atol=1e-3)
