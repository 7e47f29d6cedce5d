"""Gram: the regression's minimiser, by its Gram matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdescent as jd
from tests.references import least_squares
from tests.results import assert_trees_close

pytestmark = pytest.mark.slow  # most tests compile a few solvers: the core is for every day


def regression(rng, rows, features, outputs=(), *, dtype=np.float64, **options):
    X = (rng.normal(size=(rows, features)) + 0.5).astype(dtype)
    y = (rng.normal(size=(rows, *outputs)) + 1).astype(dtype)
    if options.pop("is_weighted", False):
        options["sample_weight"] = (rng.random(rows) + 0.1).astype(dtype)
    return jd.LinearRegression(jnp.asarray(X), jnp.asarray(y), **options)


OPTIONS = [
    {},
    {"intercept": False},
    {"l2": 0.7, "is_weighted": True},
    {"outputs": (2,), "l2": jnp.array([0.1, 3.0])},
]
SHAPE = (80, 6)


value_and_gradient = jax.jit(jd.LinearRegression.value_and_gradient)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_minimiser_is_the_closed_form(options, rng, x64):
    objective = regression(rng, *SHAPE, **options)
    result = jd.minimize(objective, method=jd.Gram(), tolerance=1e-10)
    assert bool(result.converged)
    expected = least_squares(objective)
    assert_trees_close(result.params, expected, rtol=1e-6, atol=1e-7)
    # Value and norm are measured on the regression itself.
    value, gradient = value_and_gradient(objective, result.params)
    np.testing.assert_allclose(result.value, value, rtol=1e-12, atol=1e-20)
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in gradient.values()))
    # What rounding of the products of features and targets leaves is another in each.
    rounding = np.finfo(np.float64).eps * np.linalg.norm(objective.X) * np.linalg.norm(objective.y)
    np.testing.assert_allclose(result.gradient_norm, norm, rtol=1e-3, atol=4 * rounding)


INNER = [
    jd.GradientDescent(jd.ExactLineSearch()),
    jd.GradientDescent(jd.InverseLipschitz()),
    jd.GradientDescent(jd.Backtracking(), jd.Nesterov()),
    jd.GradientDescent(jd.BarzilaiBorwein()),
    jd.ConjugateGradient(jd.Nystrom(3)),
    jd.ConjugateGradient(jd.Jacobi()),
    jd.LBFGS(),
    jd.DerivativeMethod(),
    optax.sgd(5e-3),
]


@pytest.mark.parametrize("inner", INNER)
def test_any_method_runs_inside(inner, rng, x64, relaxed_promotion):
    objective = regression(rng, *SHAPE, l2=0.5)
    method = jd.Gram(inner)
    result = jd.minimize(objective, method=method, tolerance=1e-8, max_iterations=20_000)
    assert bool(result.converged)
    assert_trees_close(result.params, least_squares(objective), rtol=1e-5, atol=1e-6)


@pytest.mark.core
def test_gram_steps_are_the_inner_methods_steps_on_the_regression(rng, x64):
    objective = regression(rng, 50, 6, l2=0.2, intercept=False)
    for inner in (jd.ConjugateGradient(), jd.GradientDescent(1e-3)):
        for count in (1, 3, 6):
            options = {"tolerance": 0, "max_iterations": count}
            got = jd.minimize(objective, method=jd.Gram(inner), **options)
            expected = jd.minimize(objective, method=inner, **options)
            assert_trees_close(got.params, expected.params, rtol=1e-7, atol=1e-9)


def test_under_jit_and_vmap_each_has_its_closed_form_and_its_derivatives(rng, x64):
    X = np.asarray(regression(rng, *SHAPE).X)
    ys, penalties = rng.normal(size=(3, len(X))) + 1, np.array([0.05, 0.5, 10.0])

    def solve(y, l2):
        objective = jd.LinearRegression(X, y, l2=l2)
        return jd.minimize(objective, method=jd.Gram(), tolerance=1e-12).params["weights"]

    def differentiated(y, l2):
        weights, pullback = jax.vjp(solve, y, l2)
        return weights, *jax.vmap(pullback)(jnp.eye(len(weights)))

    found = jax.jit(jax.vmap(differentiated))(ys, penalties)
    A = X - X.mean(axis=0)
    for y, l2, weights, by_targets, by_penalty in zip(ys, penalties, *found, strict=True):
        inverse = np.linalg.inv(A.T @ A + l2 * np.eye(A.shape[1]))
        exact = inverse @ (A.T @ y)
        np.testing.assert_allclose(weights, exact, atol=1e-8)
        np.testing.assert_allclose(by_targets, inverse @ A.T, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(by_penalty, -inverse @ exact, rtol=1e-6, atol=1e-8)


def test_a_gram_step_does_not_touch_x(rng):
    objective = regression(rng, 80, 6, dtype=np.float32, l2=1.0).checked()
    method, params = jd.Gram(), objective.start()
    state = jax.eval_shape(method.init, objective, params)
    jaxpr = jax.make_jaxpr(lambda state: method.step(objective, params, state))(state)
    shapes = [variable.aval.shape for equation in jaxpr.jaxpr.eqns for variable in equation.invars]
    assert all(80 not in shape for shape in shapes)


def test_bfloat16_data_and_params_are_computed_with_in_float32(rng):
    wide = regression(rng, *SHAPE, dtype=np.float32, l2=0.5)
    stored = jd.LinearRegression(wide.X.astype(jnp.bfloat16), wide.y, l2=0.5)
    exact = least_squares(stored)
    rounded = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), exact)
    for start, dtype, rtol, atol in (
        (None, jnp.float32, 1e-2, 1e-3),
        (rounded, jnp.bfloat16, 0.05, 0.05),
    ):
        result = jd.minimize(stored, start, jd.Gram(), max_iterations=20)
        assert result.params["weights"].dtype == dtype
        own = jax.tree.map(lambda leaf: np.asarray(leaf, float), result.params)
        assert_trees_close(own, exact, rtol=rtol, atol=atol)


def test_many_penalties_share_one_gram_matrix_through_the_whole_descent(rng):
    X, y = rng.normal(size=(200, 60)).astype(np.float32), rng.normal(size=200).astype(np.float32)
    penalties = jnp.linspace(1, 50, 50)

    def solve(l2):
        method = jd.Gram(jd.GradientDescent(1e-4))
        return jd.minimize(jd.LinearRegression(X, y, l2=l2), method=method).params["weights"]

    program = jax.jit(jax.vmap(solve)).lower(penalties).compile()
    # One array of X for each penalty where a descent begins again after its gap; G is shared.
    assert program.memory_analysis().temp_size_in_bytes < len(penalties) * 1.5 * X.nbytes
