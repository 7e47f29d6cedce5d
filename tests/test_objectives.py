"""Objectives: their values and derivatives against autodiff, NumPy and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

import jaxdescent as jd
from jaxdescent.objectives import as_objective
from tests.results import assert_trees_close

FLOATS = st.floats(-100, 100, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)


def regression_data(rng, *, rows=12, features=3, outputs=None, dtype=np.float32):
    shape = (rows,) if outputs is None else (rows, outputs)
    X = rng.normal(size=(rows, features)).astype(dtype)
    return X, rng.normal(size=shape).astype(dtype)


def function_objective(rng):
    params = {"a": np.float32([0.3, -1.0, 2.0]), "b": np.float32([1.5, 0.1, -0.4])}
    return jd.LeastSquares(lambda p: jnp.sin(p["a"]) * p["b"]), params


def separable_objective(rng):
    params = {"a": rng.normal(size=(2, 3)).astype(np.float32), "b": np.float32(0.7)}
    scale = {"a": np.float32([[1], [2]]), "b": np.float32(3)}
    center = {"a": np.float32([[0.5, 0, -1]]), "b": np.float32(0.1)}
    return jd.SumOfSquares(scale, center), params


def quadratic_objective(rng):
    hessian = rng.normal(size=(4, 4)).astype(np.float32)
    linear, params = rng.normal(size=(2, 4)).astype(np.float32)
    return jd.Quadratic(hessian, linear, 2.5), params


def map_quadratic_objective(rng):
    def product(d):
        return {"a": 2 * d["a"] + d["b"], "b": jnp.sum(d["a"]) + 3 * d["b"]}

    params = {"a": rng.normal(size=3).astype(np.float32), "b": np.float32(0.5)}
    return jd.Quadratic(product, jax.tree.map(np.ones_like, params)), params


def one_output_regression(rng):
    X, y = regression_data(rng)
    weight = rng.uniform(0.1, 2, size=12).astype(np.float32)
    params = {"weights": np.float32([1, -2, 0.5]), "intercept": np.float32(0.3)}
    return jd.LinearRegression(X, y, l2=0.7, sample_weight=weight), params


def many_output_regression(rng):
    X, y = regression_data(rng, outputs=2)
    weights = rng.normal(size=(3, 2)).astype(np.float32)
    params = {"weights": weights, "intercept": np.float32([0.1, -0.2])}
    return jd.LinearRegression(X, y, l2=np.float32([0.1, 3])), params


def matrix_free_regression(rng):
    _, y = regression_data(rng, rows=4)
    design = jd.MatrixFree(lambda w: w[1:] - w[:-1], rows=4, features=5)
    params = {"weights": np.arange(5, dtype=np.float32)}
    return jd.LinearRegression(design, y, intercept=False), params


CASES = [
    function_objective,
    separable_objective,
    quadratic_objective,
    map_quadratic_objective,
    one_output_regression,
    many_output_regression,
    matrix_free_regression,
]


@pytest.fixture(params=CASES, ids=lambda case: case.__name__, scope="module")
def case(request):
    objective, params = request.param(np.random.default_rng(0))
    return objective.checked(), params


@pytest.fixture(scope="module")
def answers(case):
    """All answers at the params, and what automatic differentiation says."""
    objective, params = case
    direction = jax.tree.map(lambda x: np.cos(x) + np.float32(0.5), params)

    @jax.jit
    def given(objective, params, direction):
        found, value = {}, objective.value
        found["value"], found["gradient"] = value(params), objective.gradient(params)
        found["both"] = objective.value_and_gradient(params)
        found["product"] = objective.hessian_product(params, direction)
        found["curvature"] = objective.curvature(params, direction)
        images = objective.image(params), objective.image(direction)
        found["along"] = objective.curvature_along(params, direction, images[1])
        moved, image = (
            jax.tree.map(lambda x, d: x + 0.5 * d, *pair) for pair in ((params, direction), images)
        )
        found["at image"] = objective.value_and_gradient_at(moved, image)
        found["moved"] = value(moved), objective.gradient(moved)
        derivatives = jax.jvp(jax.grad(value), (params,), (direction,))
        return found, dict(zip(("gradient", "product"), derivatives, strict=True))

    return *given(objective, params, direction), direction


def test_gradient_is_the_derivative_of_the_value(answers):
    found, expected, _ = answers
    value, gradient = found["both"]
    np.testing.assert_allclose(value, found["value"], rtol=1e-5, atol=1e-6)
    assert_trees_close(gradient, expected["gradient"], rtol=2e-4, atol=2e-5)
    assert_trees_close(found["gradient"], gradient, rtol=1e-5, atol=1e-6)


def test_images_save_a_pass_over_the_data_and_change_nothing(answers):
    found, _, _ = answers
    (value, gradient), (expected, slope) = found["at image"], found["moved"]
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert_trees_close(gradient, slope, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(found["along"], found["curvature"], rtol=1e-5)


def test_hessian_product_is_the_derivative_of_the_gradient(answers):
    found, expected, direction = answers
    assert_trees_close(found["product"], expected["product"], rtol=2e-4, atol=2e-5)
    pairs = zip(*map(jax.tree.leaves, (direction, expected["product"])), strict=True)
    inner = sum(float(np.sum(d * np.asarray(product))) for d, product in pairs)
    np.testing.assert_allclose(found["curvature"], inner, rtol=1e-4)


def test_curvature_bounds_enclose_every_eigenvalue(case):
    objective, params = case
    bounds = objective.curvature_bounds(params)
    eigenvalues = np.linalg.eigvalsh(np.asarray(hessian_at(objective, params), np.float64))
    if bounds is None:
        assert not objective.is_separable
        return
    assert float(bounds.lower) <= eigenvalues[0] + 1e-5
    assert float(bounds.upper) >= eigenvalues[-1] - 1e-5


@jax.jit
def hessian_at(objective, params):
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    return jax.hessian(lambda x: objective.value(unravel(x)))(flat)


def test_structure_claims_are_true(case):
    objective, params = case
    hessian = np.asarray(hessian_at(objective, params))
    elsewhere = np.asarray(hessian_at(objective, jax.tree.map(lambda x: x + 1, params)))
    if objective.is_separable:
        np.testing.assert_array_equal(hessian, np.diag(np.diag(hessian)))
    if objective.is_quadratic:
        np.testing.assert_allclose(hessian, elsewhere, atol=1e-4)
    else:
        assert np.abs(hessian - elsewhere).max() > 1e-2


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_regression_gradient_vanishes_at_scikit_learns_ridge(rng, intercept, weighted):
    X, y = regression_data(rng, rows=30, features=4, outputs=2, dtype=np.float64)
    weight = rng.uniform(0.1, 3, size=30) if weighted else None
    peer = Ridge(alpha=1.3, fit_intercept=intercept).fit(X, y, sample_weight=weight)
    with jax.enable_x64(True):
        objective = jd.LinearRegression(
            X, y, l2=1.3, sample_weight=weight, intercept=intercept
        ).checked()
        params = {"weights": jnp.asarray(peer.coef_.T)}
        if intercept:
            params["intercept"] = jnp.asarray(peer.intercept_)
        for leaf in jax.tree.leaves(objective.gradient(params)):
            np.testing.assert_allclose(leaf, 0, atol=1e-9)
        np.testing.assert_allclose(objective.predict(params, X), peer.predict(X), atol=1e-12)


def test_regression_value_is_that_of_its_formula(rng):
    X, y = regression_data(rng)
    w, b, l2 = np.array([0.5, 1.0, -2.0]), 0.25, 0.8
    s = rng.uniform(0.1, 2, size=12)
    objective = jd.LinearRegression(X, y, l2=l2, sample_weight=s.astype(np.float32)).checked()
    params = {"weights": w.astype(np.float32), "intercept": np.float32(b)}
    expected = 0.5 * np.sum(s * (X @ w + b - y) ** 2) + 0.5 * l2 * np.sum(w**2)
    np.testing.assert_allclose(objective.value(params), expected, rtol=1e-5)


def test_regression_starts_from_zeros_of_its_own_shapes(rng):
    X, y = regression_data(rng, outputs=2)
    start = jd.LinearRegression(X, y).checked().start()
    assert jax.tree.map(jnp.shape, start) == {"weights": (3, 2), "intercept": (2,)}
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(start))
    assert set(jd.LinearRegression(X, y, intercept=False).checked().start()) == {"weights"}


@given(scale=st.floats(0.125, 8, width=32), x=st.lists(FLOATS, min_size=1, max_size=5))
def test_sum_of_squares_equals_numpy(scale, x):
    x = np.asarray(x, np.float32)
    objective = jd.SumOfSquares(scale=scale, center=1.0)
    expected = np.sum(scale * (x.astype(np.float64) - 1) ** 2)
    np.testing.assert_allclose(objective.value(jnp.array(x)), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        objective.gradient(jnp.array(x)), 2 * scale * (x - 1), rtol=1e-5, atol=1e-5
    )


@given(st.lists(FLOATS, min_size=9, max_size=9), st.lists(FLOATS, min_size=3, max_size=3))
def test_only_the_symmetric_part_of_a_quadratics_hessian_counts(entries, x):
    matrix = np.asarray(entries, np.float32).reshape(3, 3)
    x = jnp.array(x, jnp.float32)
    as_given = jd.Quadratic(matrix).checked().gradient(x)
    symmetric = jd.Quadratic((matrix + matrix.T) / 2).checked().gradient(x)
    np.testing.assert_allclose(as_given, symmetric, rtol=1e-4, atol=1e-2)


def test_a_partials_data_are_leaves():
    weights = np.float32([1.0, 2.0])
    objective = as_objective(jax.tree_util.Partial(lambda w, p: jnp.sum(w * p**2), weights))
    (leaf,) = jax.tree.leaves(objective)
    assert leaf is weights


def test_a_product_with_a_dense_hessian_copies_nothing():
    def product(hessian, direction):
        return jd.Quadratic(hessian).hessian_product(direction, direction)

    size = 512
    shapes = (jax.ShapeDtypeStruct(shape, "float32") for shape in ((size, size), (size,)))
    analysis = jax.jit(product).lower(*shapes).compile().memory_analysis()
    assert analysis.temp_size_in_bytes < 4 * size * 10


@pytest.mark.parametrize("weight", [1e-25, 1e25])
def test_a_penalty_is_in_the_range_where_the_square_of_a_weight_is_not(weight):
    X, params = jnp.zeros((1, 1)), {"weights": jnp.full(1, weight)}
    regression = jd.LinearRegression(X, jnp.zeros(1), l2=1 / weight, intercept=False)
    np.testing.assert_allclose(regression.value(params), weight / 2, rtol=1e-6)
