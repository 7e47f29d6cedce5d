"""Levenberg-Marquardt against SciPy's MINPACK, dense and matrix-free."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxdescent as jd
from benchmarks.problems.classical import helical_valley_residuals as helical_valley
from benchmarks.problems.classical import powell_singular_residuals as powell_singular
from benchmarks.problems.classical import rosenbrock_residuals as rosenbrock
from benchmarks.problems.more_garbow_hillstrom import brown_badly_scaled, meyer
from jaxdescent.methods import levenberg_marquardt
from jaxdescent.objectives import as_objective
from tests import references

pytestmark = pytest.mark.slow  # most tests compile a few solvers: the core is for every day

STARTS = {
    rosenbrock: [-1.2, 1.0],
    powell_singular: [3.0, -1.0, 0.0, 1.0],
    helical_valley: [-1.0, 0.1, 0.0],
    brown_badly_scaled: [1.0, 1.0],
    meyer: [0.02, 4000.0, 250.0],
}


@pytest.fixture(params=["dense", "matrix-free"])
def solve(request, monkeypatch):
    if request.param == "matrix-free":
        monkeypatch.setattr(levenberg_marquardt, "DENSE_PARAMS", 0)

    # A new function for every call: which solve it is, is no part of a program's key.
    def solve(residual, start, **options):
        objective = jd.LeastSquares(functools.partial(residual))
        return jd.minimize(objective, start, jd.LevenbergMarquardt(), **options)

    return solve


@pytest.mark.parametrize(
    "residual", [f for f in STARTS if f is not meyer], ids=lambda f: f.__name__
)
def test_it_finds_minpacks_minimum(x64, solve, residual):
    check_against_minpack(residual, solve)


def test_unknowns_scaled_over_ten_orders_need_the_dense_solve_and_get_it(x64):
    def solve(residual, start, **options):
        return jd.minimize(jd.LeastSquares(residual), start, jd.LevenbergMarquardt(), **options)

    check_against_minpack(meyer, solve)


def check_against_minpack(residual, solve):
    start = np.array(STARTS[residual])
    result = solve(residual, jnp.asarray(start), tolerance=1e-10)
    of_residual, of_jacobian = jax.jit(residual), jax.jit(jax.jacfwd(residual))
    expected = scipy.optimize.least_squares(
        lambda x: np.asarray(of_residual(x)),
        start,
        lambda x: np.asarray(of_jacobian(x)),
        method="lm",
    )
    assert result.status == jd.Status.CONVERGED
    np.testing.assert_allclose(result.value, expected.cost, rtol=1e-6, atol=1e-9)
    # Where the Jacobian is singular at the minimum, the gap asks for more digits than MINPACK.
    is_singular = residual.__name__ == "powell_singular_residuals"
    assert result.iterations <= (2 + 4 * is_singular) * expected.nfev + 5


@pytest.mark.core
def test_a_linear_problem_is_solved_by_least_squares(x64, solve, rng):
    X, y = rng.normal(size=(30, 4)), rng.normal(size=30)
    result = solve(lambda w, X, y: X @ w - y, jnp.zeros(4), args=(jnp.asarray(X), jnp.asarray(y)))
    assert result.status == jd.Status.CONVERGED
    np.testing.assert_allclose(result.params, np.linalg.lstsq(X, y)[0], atol=1e-5)


def test_fewer_residuals_than_unknowns(x64, solve):
    result = solve(lambda x: jnp.stack([x[0] * x[1] - 1, x[2] - 2]), jnp.array([3.0, 1.0, 0.0]))
    assert result.status == jd.Status.CONVERGED
    np.testing.assert_allclose(result.params[0] * result.params[1], 1, rtol=1e-8)


def test_trees_of_params_and_residuals(solve):
    def residual(p):
        return {"a": jnp.exp(p["x"]) - 2, "b": p["y"] * p["x"] - jnp.ones(3)}

    result = solve(residual, {"x": 0.0, "y": jnp.zeros(3)})
    assert result.status == jd.Status.CONVERGED
    np.testing.assert_allclose(result.params["x"], np.log(2), rtol=1e-3)
    np.testing.assert_allclose(result.params["y"], 1 / np.log(2), rtol=1e-3)


def test_outside_the_domain_the_damping_grows(solve):
    result = solve(jnp.log, jnp.array([20.0]))
    assert result.status == jd.Status.CONVERGED
    np.testing.assert_allclose(result.params, 1, rtol=1e-3)


def test_where_derivatives_are_no_numbers_the_damping_grows():
    """Beyond an exponent of 88 the fraction is zero, and its derivative infinity over infinity."""
    objective = jd.LeastSquares(lambda p: 1 / (1 + jnp.exp(p)) - 1e-3)
    result = jd.minimize(objective, jnp.array([-6.0]), jd.LevenbergMarquardt())
    assert result.status == jd.Status.CONVERGED
    np.testing.assert_allclose(result.params, np.log(999), rtol=1e-3)


def test_at_the_floor_of_float32_it_stagnates(solve):
    t = np.linspace(0, 1, 30, dtype=np.float32)
    y = 2 * np.exp(-3 * t) + np.float32(0.1) * np.sin(40 * t)
    result = solve(lambda p: p[0] * jnp.exp(-p[1] * t) - y, jnp.array([1.0, 1.0]), tolerance=1e-16)
    assert result.status == jd.Status.STAGNATED
    assert result.gradient_norm <= 1e-5 * result.scale


def test_rescaling_an_unknown_changes_nothing(x64):
    objective = jd.LeastSquares(lambda x, scale: rosenbrock(x * scale))
    options = {"tolerance": 0, "max_iterations": 6}
    scale = np.array([1e5, 1e-4])
    plain, scaled = (
        jd.minimize(
            objective,
            np.array([-1.2, 1.0]) / each,
            jd.LevenbergMarquardt(),
            args=(each,),
            **options,
        )
        for each in (np.ones(2), scale)
    )
    np.testing.assert_allclose(scaled.params * scale, plain.params, rtol=1e-6)


def test_residuals_with_a_reverse_rule_alone(solve):
    """The forward rule calls the function itself, so that JAX refuses derivatives along it."""

    @jax.custom_vjp
    def residual(p):
        return jnp.concatenate([jnp.exp(p) - 1.5, p[:1] * p[1:] - 0.2])

    def backward(p, share):
        return (share[:2] * jnp.exp(p) + share[2] * p[::-1],)

    residual.defvjp(lambda p: (residual(p), p), backward)
    result = solve(residual, jnp.zeros(2))
    assert result.converged
    x = np.float64(result.params)
    slope = np.exp(x) * (np.exp(x) - 1.5) + x[::-1] * (x[0] * x[1] - 0.2)
    np.testing.assert_allclose(slope, 0, atol=1e-2)


def test_a_regression_has_residuals(x64, rng):
    X, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
    weight = rng.uniform(1, 2, 20)
    objective = jd.LinearRegression(X, y, l2=np.array([0.5, 2.0]), sample_weight=weight).checked()
    params = jax.tree.map(lambda x: np.asarray(x) + 0.3, objective.start())
    residuals, value = jax.jit(lambda p: (objective.residuals(p), objective.value(p)))(params)
    half = sum(0.5 * np.sum(np.square(r)) for r in jax.tree.leaves(residuals))
    np.testing.assert_allclose(half, value, rtol=1e-12)
    result = jd.minimize(objective, method=jd.LevenbergMarquardt())
    expected = references.least_squares(objective)
    assert result.status == jd.Status.CONVERGED
    np.testing.assert_allclose(result.params["weights"], expected["weights"], rtol=1e-4)


@pytest.mark.core
def test_an_objective_without_residuals_is_refused():
    with pytest.raises(TypeError, match=r"needs an objective with residuals, got Function.*LBFGS"):
        jd.minimize(lambda x: x * x, 1.0, jd.LevenbergMarquardt())
    assert as_objective(lambda x: x).residuals(1.0) is None
