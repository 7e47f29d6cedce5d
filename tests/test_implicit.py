"""Derivatives through the solution, against the closed form of ridge and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdescent as jd
from jaxdescent.numerics import linear_systems
from tests.results import assert_trees_close

pytestmark = pytest.mark.usefixtures("x64")

METHODS = {"derivative": jd.DerivativeMethod(), "descent": jd.GradientDescent()}


@pytest.fixture
def data(rng):
    return {
        "X": jnp.array(rng.normal(size=(7, 2))),
        "y": jnp.array(rng.normal(size=7)),
        "l2": jnp.array(0.8),
        "sample_weight": jnp.array(rng.uniform(0.5, 2, size=7)),
    }


def solution(data, method=METHODS["derivative"]):
    objective = jd.LinearRegression(
        data["X"], data["y"], l2=data["l2"], sample_weight=data["sample_weight"]
    )
    return jd.minimize(objective, method=method, tolerance=1e-12, max_iterations=5000)


@jax.jit
def closed_form(data):
    """Ridge with an unpenalised intercept, by one solve that JAX differentiates itself."""
    design = jnp.concatenate([data["X"], jnp.ones((7, 1))], axis=1)
    weighted = design * data["sample_weight"][:, None]
    penalty = data["l2"] * jnp.diag(jnp.array([1.0, 1.0, 0.0]))
    both = jnp.linalg.solve(weighted.T @ design + penalty, weighted.T @ data["y"])
    residual = design @ both - data["y"]
    value = 0.5 * jnp.sum(data["sample_weight"] * residual**2)
    return {
        "params": {"weights": both[:2], "intercept": both[2]},
        "value": value + 0.5 * data["l2"] * jnp.sum(both[:2] ** 2),
    }


def score(params):
    return jnp.sin(params["weights"][0]) + params["weights"][1] ** 2 + jnp.cos(params["intercept"])


def loss(data, method=METHODS["derivative"]):
    return score(solution(data, method).params)


def exact_loss(data):
    return score(closed_form(data)["params"])


@pytest.mark.first
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_gradients_by_all_data_equal_the_closed_forms(data, method):
    assert_trees_close(
        jax.grad(loss)(data, method), jax.jit(jax.grad(exact_loss))(data), rtol=1e-6, atol=1e-8
    )


def test_gradients_are_the_same_under_jit(data):
    assert_trees_close(jax.jit(jax.grad(loss))(data), jax.grad(exact_loss)(data), rtol=1e-6)


def test_forward_derivatives_equal_the_closed_forms(data):
    tangent = jax.tree.map(jnp.cos, data)
    got = jax.jvp(loss, (data,), (tangent,))
    expected = jax.jvp(exact_loss, (data,), (tangent,))
    assert_trees_close(got, expected, rtol=1e-6)


@pytest.mark.slow
def test_the_derivative_by_l2_alone_equals_a_finite_difference(data):
    def of_l2(l2):
        return solution(data | {"l2": l2}).params

    derivative = jax.jacrev(of_l2)(data["l2"])
    step = 1e-5
    above, below = of_l2(data["l2"] + step), of_l2(data["l2"] - step)
    expected = jax.tree.map(lambda a, b: (a - b) / (2 * step), above, below)
    assert_trees_close(derivative, expected, rtol=1e-6)
    assert_trees_close(jax.jacfwd(of_l2)(data["l2"]), expected, rtol=1e-6)


@pytest.mark.slow
def test_second_derivatives_of_params_equal_the_closed_forms(data):
    def by_l2(function):
        return jax.grad(jax.grad(lambda l2: function(data | {"l2": l2})))(data["l2"])

    np.testing.assert_allclose(by_l2(loss), by_l2(exact_loss), rtol=1e-5)


@pytest.mark.slow
def test_mixed_second_derivatives_equal_the_closed_forms(data):
    def mixed(function):
        def of(l2, y):
            return function(data | {"l2": l2, "y": y})

        return jax.jacfwd(jax.grad(of), argnums=1)(data["l2"], data["y"])

    np.testing.assert_allclose(mixed(loss), mixed(exact_loss), rtol=1e-5, atol=1e-9)


def test_first_and_second_derivatives_of_the_value_equal_the_closed_forms(data):
    def value(l2):
        return solution(data | {"l2": l2}).value

    def exact(l2):
        return closed_form(data | {"l2": l2})["value"]

    np.testing.assert_allclose(jax.grad(value)(data["l2"]), jax.grad(exact)(data["l2"]), rtol=1e-8)
    np.testing.assert_allclose(
        jax.grad(jax.grad(value))(data["l2"]), jax.grad(jax.grad(exact))(data["l2"]), rtol=1e-5
    )


@pytest.mark.slow
def test_derivatives_are_batched_by_vmap(data):
    penalties = jnp.array([0.1, 1.0, 10.0])

    def slope(function):
        return jax.vmap(jax.grad(lambda l2: function(data | {"l2": l2})))(penalties)

    np.testing.assert_allclose(slope(loss), slope(exact_loss), rtol=1e-6)


def coupled(p, a):
    # Its minimum has no closed form: finite differences are the reference.
    return jnp.sum(jnp.cosh(p - a)) + 0.5 * jnp.sum(p**2) + p[0] * p[1] * jnp.tanh(a[0])


def minimum(a):
    return jd.minimize(coupled, jnp.zeros(2), METHODS["descent"], args=(a,), tolerance=1e-13).params


def test_jacobians_by_args_equal_finite_differences():
    a = jnp.array([0.3, -0.7])
    step = 1e-4
    columns = [(minimum(a + step * e) - minimum(a - step * e)) / (2 * step) for e in jnp.eye(2)]
    expected = np.stack(columns, axis=1)
    np.testing.assert_allclose(jax.jacrev(minimum)(a), expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(jax.jacfwd(minimum)(a), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_closures_are_differentiated_like_args(wrap):
    def closing(a):
        return jnp.sum(
            jd.minimize(
                lambda p: coupled(p, a), jnp.zeros(2), METHODS["descent"], tolerance=1e-13
            ).params
            ** 2
        )

    a = jnp.array([0.3, -0.7])
    expected = jax.grad(lambda a: jnp.sum(minimum(a) ** 2))(a)
    assert np.all(np.abs(expected) > 1e-2)
    np.testing.assert_allclose(wrap(jax.grad(closing))(a), expected, rtol=1e-8)


def test_a_closure_in_a_residual_is_differentiated():
    def closing(a):
        return jd.minimize(
            jd.LeastSquares(lambda p: a * p - 1.0),
            jnp.zeros(2),
            METHODS["descent"],
            tolerance=1e-13,
        ).params[0]

    np.testing.assert_allclose(jax.grad(closing)(2.0), -1 / 4, rtol=1e-8)


def test_a_sum_of_squares_moves_with_its_center():
    def of(center):
        return jnp.sum(
            jd.minimize(jd.SumOfSquares(2.0, center), jnp.zeros(3), jd.DerivativeMethod()).params
            ** 2
        )

    center = jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(jax.grad(of)(center), 2 * center, rtol=1e-10)


def test_a_quadratics_solution_is_differentiated_by_its_hessian(rng):
    root = rng.normal(size=(3, 3))
    hessian, linear = jnp.array(root @ root.T + np.eye(3)), jnp.array(rng.normal(size=3))

    def of(hessian, linear):
        return jnp.sum(jnp.sin(jd.minimize(jd.Quadratic(hessian, linear)).params))

    def exact(hessian, linear):
        return jnp.sum(jnp.sin(jnp.linalg.solve((hessian + hessian.T) / 2, linear)))

    assert_trees_close(
        jax.grad(of, (0, 1))(hessian, linear), jax.grad(exact, (0, 1))(hessian, linear), rtol=1e-6
    )


def test_start_and_learning_rate_have_no_influence():
    def of(start, rate):
        return jnp.sum(
            jd.minimize(lambda p: jnp.sum((p - 1) ** 2), start, jd.GradientDescent(rate)).params
        )

    by_start, by_rate = jax.grad(of, (0, 1))(jnp.ones(2) * 3, 0.1)
    np.testing.assert_array_equal(by_start, 0)
    np.testing.assert_array_equal(by_rate, 0)


def test_integer_parts_of_a_result_pass_through_differentiation():
    def of(a):
        result = jd.minimize(coupled, jnp.zeros(2), METHODS["descent"], args=(a,))
        return jnp.sum(result.params), result

    _, result = jax.grad(of, has_aux=True)(jnp.array([0.3, -0.7]))
    assert result.iterations.dtype == jnp.int32
    assert bool(result.converged)


def test_differentiating_traces_the_descent_once():
    counts = []

    def counted(p, a):
        counts.append(1)
        return jnp.sum((p - a) ** 2)

    def of(a):
        return jnp.sum(
            jd.minimize(counted, jnp.zeros(2), jd.GradientDescent(0.1), args=(a,)).params
        )

    slope = jax.jit(jax.grad(of))
    slope(jnp.ones(2))
    before = len(counts)
    slope(jnp.ones(2) * 2)
    assert len(counts) == before


def test_nothing_is_traced_for_derivatives_that_nobody_takes():
    def of(a):
        return minimum(a).sum()

    a = jnp.array([0.3, -0.7])
    assert "linear_solve" not in str(jax.make_jaxpr(of)(a))
    assert "linear_solve" in str(jax.make_jaxpr(jax.grad(of))(a))


def test_data_that_do_not_move_are_not_differentiated():
    @jax.custom_jvp
    def fixed(data):
        return data

    @fixed.defjvp
    def refuse(primals, tangents):
        raise AssertionError("these data have no tangent")

    def of(a, data):
        def objective(p, a, data):
            return jnp.sum((p - a * fixed(data)) ** 2)

        result = jd.minimize(objective, jnp.zeros(2), args=(a, data), tolerance=1e-12)
        return jnp.sum(result.params) + result.value

    data = jnp.array([1.0, 2.0])
    np.testing.assert_allclose(jax.grad(of)(2.0, data), 3, rtol=1e-8)
    np.testing.assert_allclose(jax.jvp(lambda a: of(a, data), (2.0,), (1.0,))[1], 3, rtol=1e-8)


@pytest.mark.first
@pytest.mark.parametrize("units", [1e-20, 1e25])
def test_derivatives_in_float32_survive_units_whose_squares_are_no_numbers(units):
    def solution(center):
        def function(x, center):
            return units * (jnp.sum((x - center) ** 2) + jnp.sum(jnp.cosh(x - center)))

        return jd.minimize(function, jnp.zeros(2, jnp.float32), args=(center,)).params

    center = jnp.asarray([1.0, 2.0], jnp.float32)
    np.testing.assert_allclose(jax.jacfwd(solution)(center), np.eye(2), atol=1e-5)


def test_an_unknown_in_small_units_has_its_own_derivative():
    def solution(center):
        def function(x, center):
            return 1e-12 * (x[0] - center) ** 2 + 1e4 * (x[1] - center) ** 2

        return jd.minimize(function, jnp.ones(2, jnp.float32), args=(center,)).params

    np.testing.assert_allclose(jax.jacfwd(solution)(jnp.float32(1.0)), [1, 1], rtol=1e-5)


@pytest.mark.slow
def test_weights_of_columns_in_other_units_move_as_by_the_pseudoinverse(rng):
    X = (rng.normal(size=(20, 3)) * [1, 1e-4, 1e-8]).astype(np.float32)

    def weights(y):
        return jd.minimize(jd.LinearRegression(jnp.asarray(X), y)).params["weights"]

    y = jnp.asarray(rng.normal(size=20), jnp.float32)
    centred = X.astype(np.float64) - X.astype(np.float64).mean(axis=0)
    exact = np.linalg.pinv(centred, rcond=1e-15)
    errors = np.abs(np.asarray(jax.jacrev(weights)(y), np.float64) - exact)
    assert np.all(errors <= 1e-4 * np.max(np.abs(exact), axis=1, keepdims=True))


def test_an_indefinite_system_is_solved_in_any_units():
    matrix = np.array([[1.0, 0.5], [0.5, -2.0]])

    def solution(units):
        hessian = (units * matrix).astype(np.float32)
        rhs = jnp.asarray([units, 0.0], jnp.float32)
        return linear_systems.solve(lambda x: hessian @ x, rhs)

    for units in (1e-25, 1.0, 1e25):
        np.testing.assert_allclose(solution(units), np.linalg.solve(matrix, [1, 0]), rtol=1e-5)


def test_a_system_whose_products_overflow_has_no_solution_in_numbers():
    rhs = jnp.ones(2, jnp.float32)
    assert np.all(np.isnan(linear_systems.solve(lambda x: x * jnp.float32(np.inf), rhs)))


def of_least_norm(X, intercept):
    """The weights of least norm as a matrix times y, in float64."""
    rows = len(X)
    centring = np.eye(rows) - intercept / rows
    return np.linalg.pinv(centring @ np.asarray(X, np.float64), rcond=1e-6) @ centring


def dependent_columns(kind, rng):
    if kind == "wide":
        rows = int(rng.integers(4, 9))
        return rng.normal(size=(rows, rows + int(rng.integers(1, 30))))
    if kind == "copied":
        X = rng.normal(size=(20, 4)) * [1, 3, 0.5, 2]
        return np.column_stack([X, X[:, :2]])
    groups = np.repeat(np.arange(4), rng.integers(1, 9, size=4))
    return np.eye(4)[groups]  # beside an intercept one is the rest of the others


@pytest.mark.first
@pytest.mark.parametrize("kind", ["wide", "copied", "dummies"])
@pytest.mark.parametrize(
    "method",
    [None, *(pytest.param(each, marks=pytest.mark.slow) for each in (jd.LSMR(), jd.LBFGS()))],
    ids=str,
)
def test_weights_of_least_norm_and_predictions_move_as_by_the_pseudoinverse(kind, method, rng):
    X = dependent_columns(kind, rng).astype(np.float32)
    y = rng.normal(size=len(X)).astype(np.float32)
    for intercept in (True, False) if method is None else (True,):
        exact = of_least_norm(X, intercept)

        def fitted(y, intercept=intercept):
            regression = jd.LinearRegression(X, y, intercept=intercept)
            params = jd.minimize(regression, method=method).params
            weights = params["weights"]
            return weights, X @ weights + params.get("intercept", 0.0)

        hat = X @ exact + intercept / len(X)
        hat = hat - intercept * np.mean(X @ exact, axis=0)
        for way in (jax.jacrev, jax.jacfwd):
            moved, predicted = way(fitted)(y)
            np.testing.assert_allclose(moved, exact, atol=2e-5 * np.max(np.abs(exact)))
            np.testing.assert_allclose(predicted, hat, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("intercept", [True, False])
def test_weights_of_least_norm_turn_with_a_wide_matrix(intercept, rng):
    X, by = rng.normal(size=(2, 6, 15))
    y = rng.normal(size=6)

    def weights(X):
        regression = jd.LinearRegression(X, jnp.asarray(y, X.dtype), intercept=intercept)
        return jd.minimize(regression).params["weights"]

    ends = [of_least_norm(X + step * by, intercept) @ y for step in (1e-6, -1e-6)]
    slope = (ends[0] - ends[1]) / 2e-6
    near, towards = jnp.asarray(X, jnp.float32), jnp.asarray(by, jnp.float32)
    forward = jax.jvp(weights, (near,), (towards,))[1]
    backward = np.tensordot(jax.jacrev(weights)(near), by, 2)
    for moved in (forward, backward):
        np.testing.assert_allclose(moved, slope, atol=1e-3 * np.max(np.abs(slope)))


@pytest.mark.slow
def test_where_a_solution_jumps_it_has_no_derivative(rng):
    X = rng.normal(size=(20, 3)).astype(np.float32)
    X = np.column_stack([X, X[:, 0]])  # moved by whatever, the columns are independent
    y = rng.normal(size=20).astype(np.float32)

    def first(X):
        return jd.minimize(jd.LinearRegression(X, y)).params["weights"][0]

    assert np.all(np.isnan(jax.grad(first)(X)))
    assert np.all(np.isfinite(jax.grad(first)(X[:, :3])))


def test_along_a_flat_direction_a_function_s_minimiser_stays():
    def minimiser(a):
        def function(p, a):
            return (p[0] + p[1] - a) ** 2 + (p[2] - 2 * a) ** 2

        return jd.minimize(function, jnp.zeros(3, jnp.float32), args=(a,)).params

    for way in (jax.jacrev, jax.jacfwd):
        np.testing.assert_allclose(way(minimiser)(jnp.float32(1)), [0.5, 0.5, 2], rtol=1e-5)


def test_minres_removes_what_is_outside_the_range(rng):
    root = rng.normal(size=(300, 40))
    matrix = root @ np.diag([*np.ones(20), *-np.ones(20)]) @ root.T
    rhs = rng.normal(size=300)
    exact = np.linalg.pinv(matrix, rcond=1e-10) @ rhs
    own = jnp.asarray(matrix, jnp.float32)
    found = linear_systems.solve(lambda x: own @ x, jnp.asarray(rhs, jnp.float32))
    np.testing.assert_allclose(found, exact, atol=5e-3 * np.max(np.abs(exact)))
