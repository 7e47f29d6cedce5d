"""Derivatives through the solution, against the closed form of ridge and finite differences."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdescent as jd
from jaxdescent.designs import as_design
from jaxdescent.kernels import platform
from jaxdescent.numerics import linear_systems
from jaxdescent.regression.solve import least_squares, pseudo_inverse
from tests import references
from tests.references import of_condition
from tests.results import assert_trees_close

pytestmark = pytest.mark.usefixtures("x64")

METHODS = {"derivative": jd.DerivativeMethod(), "descent": jd.GradientDescent()}


@pytest.fixture
def data(rng):
    return {
        "X": rng.normal(size=(7, 2)),
        "y": rng.normal(size=7),
        "l2": np.float64(0.8),
        "sample_weight": rng.uniform(0.5, 2, size=7),
    }


def solution(data, method=METHODS["derivative"]):
    objective = jd.LinearRegression(
        data["X"], data["y"], l2=data["l2"], sample_weight=data["sample_weight"]
    )
    return jd.minimize(objective, method=method, tolerance=1e-12, max_iterations=5000)


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


def weights_of(y, X, method=None, **options):
    """Of a regression of y on X, to be differentiated by either."""
    return jd.minimize(jd.LinearRegression(X, y, **options), method=method).params["weights"]


def score(params):
    return jnp.sin(params["weights"][0]) + params["weights"][1] ** 2 + jnp.cos(params["intercept"])


def loss(data, method=METHODS["derivative"]):
    return score(solution(data, method).params)


def exact_loss(data):
    return score(closed_form(data)["params"])


exact_gradient = jax.jit(jax.grad(exact_loss))


def test_a_triangle_is_inverted_by_halves(rng):
    triangle = np.triu(rng.normal(size=(150, 150))) + 20 * np.eye(150)
    inverse = pseudo_inverse._inverse_triangle(triangle.T @ triangle)
    np.testing.assert_allclose(inverse @ triangle, np.eye(150), atol=1e-12)
    assert not np.tril(inverse, -1).any()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_gradients_by_all_data_equal_the_closed_forms(data, method):
    assert_trees_close(jax.grad(loss)(data, method), exact_gradient(data), rtol=1e-6, atol=1e-8)


def test_forward_derivatives_equal_the_closed_forms(data):
    tangent = jax.tree.map(np.cos, data)
    got = jax.jvp(loss, (data,), (tangent,))
    expected = jax.jit(lambda *way: jax.jvp(exact_loss, *way))((data,), (tangent,))
    assert_trees_close(got, expected, rtol=1e-6)


@pytest.mark.first
@pytest.mark.parametrize("shape", [(9, 2), (4, 6)], ids=str)
def test_the_gradient_of_a_batch_is_that_of_its_members(shape, rng):
    X = rng.normal(size=(3, *shape))
    X[1] += 1e6  # the means of this member alone are far from zero
    X[2, :, 0] *= 1e-8  # and only this one has an uneven column
    y = rng.normal(size=(3, shape[0]))

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def of_batch(X, y):
        def by_descent(X, y):
            result = jd.minimize(jd.LinearRegression(X, y, l2=0.5), method=jd.DerivativeMethod())
            return jnp.sum(jnp.sin(result.params["weights"]))

        return jnp.sum(jax.vmap(by_descent)(X, y))

    def by_solving(X, y):
        X, y = X - X.mean(axis=0), y - y.mean()
        gram = X.T @ X + 0.5 * np.eye(shape[1])
        weights = np.linalg.solve(gram, X.T @ y)
        back = np.linalg.solve(gram, np.cos(weights))
        by_X, by_y = np.outer(y - X @ weights, back) - np.outer(X @ back, weights), X @ back
        return by_X - by_X.mean(axis=0), by_y - by_y.mean()

    expected = zip(*map(by_solving, X, y), strict=True)
    assert_trees_close(of_batch(X, y), tuple(map(np.stack, expected)), rtol=1e-6, atol=1e-7)


def coupled(p, a):
    # Its minimum has no closed form: finite differences are the reference.
    return jnp.sum(jnp.cosh(p - a)) + 0.5 * jnp.sum(p**2) + p[0] * p[1] * jnp.tanh(a[0])


def minimum(a):
    return jd.minimize(coupled, np.zeros(2), METHODS["descent"], args=(a,), tolerance=1e-13).params


@pytest.mark.slow
def test_jacobians_by_args_equal_finite_differences():
    a, step = np.array([0.3, -0.7]), 1e-4
    ends = [[np.asarray(minimum(a + off)) for off in (step * e, -step * e)] for e in np.eye(2)]
    expected = np.stack([(above - below) / (2 * step) for above, below in ends], axis=1)
    np.testing.assert_allclose(jax.jacrev(minimum)(a), expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(jax.jacfwd(minimum)(a), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.first
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_closures_are_differentiated_like_args(wrap):
    def closing(a):
        how = {"method": METHODS["descent"], "tolerance": 1e-13}
        return jnp.sum(jd.minimize(lambda p: coupled(p, a), jnp.zeros(2), **how).params ** 2)

    a = np.array([0.3, -0.7])
    expected = jax.grad(lambda a: jnp.sum(minimum(a) ** 2))(a)
    assert np.all(np.abs(expected) > 1e-2)
    np.testing.assert_allclose(wrap(jax.grad(closing))(a), expected, rtol=1e-8)


def small_units(x, center):
    return 1e-12 * (x[0] - center) ** 2 + 1e4 * (x[1] - center) ** 2


def flat_along_one_direction(p, a):
    return (p[0] + p[1] - a) ** 2 + (p[2] - 2 * a) ** 2


# Where a problem of its argument is least, and the derivative at an argument.
KNOWN = {
    "a residual that closes over it": (
        lambda a: jd.minimize(
            jd.LeastSquares(lambda p: a * p - 1), np.zeros(2), jd.GradientDescent(), tolerance=1e-13
        ),
        2.0, [-0.25] * 2, 1e-8,
    ),
    "the center of a sum of squares": (
        lambda c: jd.minimize(jd.SumOfSquares(2.0, c), np.zeros(3), jd.DerivativeMethod()),
        [1.0, 2.0, 3.0], np.eye(3), 1e-10,
    ),
    "an unknown in small units": (
        lambda center: jd.minimize(small_units, np.ones(2, np.float32), args=(center,)),
        np.float32(1), [1, 1], 1e-5,
    ),
    "a flat direction": (
        lambda a: jd.minimize(flat_along_one_direction, np.zeros(3, np.float32), args=(a,)),
        np.float32(1), [0.5, 0.5, 2], 1e-5,
    ),
}  # fmt: skip
SLOW = (
    "a residual that closes over it",
    "the center of a sum of squares",
    "an unknown in small units",
    "a flat direction",
)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in KNOWN],
)
def test_a_derivative_is_the_known_one(name):
    solved, at, expected, rtol = KNOWN[name]
    for way in (jax.jacrev, jax.jacfwd):
        found = way(lambda a: solved(a).params)(jnp.asarray(at))
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-12)


@pytest.mark.slow
def test_a_quadratics_solution_is_differentiated_by_its_hessian(rng):
    root = rng.normal(size=(3, 3))
    hessian, linear = root @ root.T + np.eye(3), rng.normal(size=3)

    def of(hessian, linear):
        return jnp.sum(jnp.sin(jd.minimize(jd.Quadratic(hessian, linear)).params))

    def exact(hessian, linear):
        return jnp.sum(jnp.sin(jnp.linalg.solve((hessian + hessian.T) / 2, linear)))

    got, expected = (jax.jit(jax.grad(each, (0, 1)))(hessian, linear) for each in (of, exact))
    assert_trees_close(got, expected, rtol=1e-6)


def test_start_and_learning_rate_have_no_influence():
    def of(start, rate):
        method = jd.GradientDescent(rate)
        return jnp.sum(jd.minimize(lambda p: jnp.sum((p - 1) ** 2), start, method).params)

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
        method = jd.GradientDescent(0.1)
        return jnp.sum(jd.minimize(counted, jnp.zeros(2), method, args=(a,)).params)

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


@pytest.mark.slow
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


@pytest.mark.slow
def test_derivatives_in_float32_survive_units_whose_squares_are_no_numbers():
    def function(x, center, units):
        return units * (jnp.sum((x - center) ** 2) + jnp.sum(jnp.cosh(x - center)))

    def solution(center, units):
        return jd.minimize(function, np.zeros(2, np.float32), args=(center, units)).params

    for units in np.float32([1e-20, 1e25]):
        moved = jax.jacfwd(solution)(np.float32([1.0, 2.0]), units)
        np.testing.assert_allclose(moved, np.eye(2), atol=1e-5, err_msg=str(units))


@pytest.mark.parametrize("size", [3, 300])  # with eigenvalues, and without
def test_an_indefinite_system_has_no_solution(size, rng):
    basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
    matrix = (basis * np.linspace(-1, 2, size)) @ basis.T
    found = linear_systems.solve(lambda x: matrix @ x, rng.normal(size=size))
    assert np.all(np.isnan(found))


@pytest.mark.parametrize("size", [3, 300])
def test_a_singular_system_is_solved_with_least_norm(size, rng):
    basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
    matrix = (basis * np.arange(size).clip(max=9)) @ basis.T
    rhs = matrix @ rng.normal(size=size)
    found = linear_systems.solve(lambda x: matrix @ x, rhs)
    np.testing.assert_allclose(
        found, np.linalg.pinv(matrix, rcond=1e-10) @ rhs, rtol=1e-6, atol=1e-9
    )


def test_derivatives_at_a_saddle_are_nan():
    def point(a):
        def saddle(x, a):
            return (x[0] - a) ** 2 - (x[1] - a) ** 2

        return jd.minimize(saddle, jnp.zeros(2), jd.DerivativeMethod(), args=(a,)).params

    assert np.all(np.isnan(jax.jacfwd(point)(1.0)))


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "method", "intercept"),
    [
        ("wide", None, True),
        ("dummies", None, True),
        ("copied", jd.LSMR(), True),
        ("wide", None, False),
    ],
    ids=str,
)
def test_weights_of_least_norm_and_predictions_move_as_by_the_pseudoinverse(
    kind, method, intercept, rng
):
    X = dependent_columns(kind, rng).astype(np.float32)
    y = rng.normal(size=len(X)).astype(np.float32)
    exact = of_least_norm(X, intercept)

    def fitted(y):
        regression = jd.LinearRegression(X, y, intercept=intercept)
        params = jd.minimize(regression, method=method).params
        return params["weights"], X @ params["weights"] + params.get("intercept", 0)

    hat = X @ exact + intercept * (1 / len(X) - np.mean(X @ exact, axis=0))
    for way in (jax.jacrev, jax.jacfwd):
        moved, predicted = way(fitted)(y)
        np.testing.assert_allclose(moved, exact, atol=2e-5 * np.max(np.abs(exact)))
        np.testing.assert_allclose(predicted, hat, atol=2e-5)


@pytest.mark.parametrize(
    ("shape", "l2", "intercept"),
    [
        ((300, 10), 0.0, True),
        ((12, 40), 0.0, False),
        pytest.param((60, 25), 1e-3, True, marks=pytest.mark.slow),
        pytest.param((40, 300), 1e-3, True, marks=pytest.mark.slow),
        pytest.param((20, 20), 0.0, True, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_weights_of_ill_conditioned_data_move_as_in_float64(shape, l2, intercept, rng):
    """The error is that of singular values of X, and not of their squares."""
    rows, features = shape
    X = (of_condition(1e3, rng, *shape) * rows**0.5).astype(np.float32)
    y, back = rng.normal(size=rows).astype(np.float32), rng.normal(size=features)
    A = X.astype(float) - intercept * X.mean(axis=0, dtype=float)
    if l2:
        exact = A.T @ np.linalg.solve(A @ A.T + l2 * np.eye(rows), np.eye(rows))
    else:
        exact = np.linalg.pinv(A, rcond=1e-6)

    weights = functools.partial(weights_of, X=X, l2=l2, intercept=intercept)
    moved = np.asarray(jax.vjp(weights, y)[1](back.astype(np.float32))[0], float)
    assert np.linalg.norm(moved - exact.T @ back) < 1e-3 * np.linalg.norm(exact.T @ back)


@pytest.mark.parametrize("shape", [(40, 4), (8, 12)], ids=["tall", "wide"])
def test_the_weight_of_a_constant_column_does_not_move(shape, rng):
    X = rng.normal(size=shape).astype(np.float32)
    X[:, 2] = 10 ** rng.uniform(-2, 6)  # rounding is left of it when its mean is subtracted
    y = rng.normal(size=len(X)).astype(np.float32)
    A = X - X.mean(axis=0, dtype=float)
    A[:, 2] = 0
    moved = jax.jacrev(functools.partial(weights_of, X=X))(y)
    np.testing.assert_allclose(moved, np.linalg.pinv(A, rcond=1e-6), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("intercept", [True, False])
def test_a_ridge_with_more_features_than_rows_moves_with_all_its_data(intercept, rng):
    """The residuals are the penalty's small share of the targets, for each of two outputs."""
    X, y = rng.normal(size=(6, 20)) + 3, rng.normal(size=(6, 2))
    weight, l2, back = rng.uniform(0.5, 2, 6), np.array([1e-2, 1.0]), rng.normal(size=(20, 2))

    def value(*data):
        return np.sum(back * references.closed_form(*data, intercept)[0])

    def found(X, y, l2, weight):
        regression = jd.LinearRegression(X, y, l2=l2, sample_weight=weight, intercept=intercept)
        return jnp.sum(back.astype(np.float32) * jd.minimize(regression).params["weights"])

    data = [X, y, l2, weight]
    moved = jax.grad(found, argnums=(0, 1, 2, 3))(*(part.astype(np.float32) for part in data))
    for index, slope in enumerate(np.asarray(each, float) for each in moved):
        along = rng.normal(size=slope.shape)
        ends = [
            value(*data[:index], data[index] + step * along, *data[index + 1 :])
            for step in (1e-6, -1e-6)
        ]
        exact = (ends[0] - ends[1]) / 2e-6
        size = np.linalg.norm(slope) * np.linalg.norm(along)
        np.testing.assert_allclose(np.sum(slope * along), exact, atol=2e-3 * size)


@pytest.mark.slow
def test_the_weights_of_equal_rows_decide_which_target_a_wide_regression_meets(rng):
    """First derivatives, and second ones by the targets and the weights of the rows."""
    X, y, weight, along = rng.normal(size=(5, 9)), *rng.uniform(1, 2, (3, 5))
    X[4], y = X[0], np.stack([y, -y], axis=1)
    l2, back = np.array([0, 0.5]), rng.normal(size=(9, 2))

    def found(y, weight):
        regression = jd.LinearRegression(X, y, l2=l2, sample_weight=weight)
        return jnp.sum(back * jd.minimize(regression).params["weights"])

    def by_targets(weight):
        """The derivative by the targets, whose product with them is the function."""
        A = np.sqrt(weight)[:, None] * (X - weight @ X / np.sum(weight))
        roots = [np.vstack([A, np.sqrt(each) * np.eye(9)]) for each in l2]
        free = [np.linalg.pinv(root, rcond=1e-9)[:, :5] * np.sqrt(weight) for root in roots]
        own = np.stack([column @ each for column, each in zip(back.T, free, strict=True)], axis=1)
        return own - np.outer(weight, np.sum(own, axis=0)) / np.sum(weight)

    moved = (by_targets(weight + 1e-5 * along) - by_targets(weight - 1e-5 * along)) / 2e-5
    slopes = jax.jit(jax.grad(found, (0, 1)))
    (own, of_weight), (second, _) = jax.jvp(lambda weight: slopes(y, weight), (weight,), (along,))
    np.testing.assert_allclose(own, by_targets(weight), atol=1e-9)
    np.testing.assert_allclose(of_weight @ along, np.sum(y * moved), rtol=1e-6)
    np.testing.assert_allclose(second, moved, atol=1e-7)


@pytest.mark.slow
def test_light_rows_beside_equal_ones_of_a_wide_regression_move_or_are_lost(rng):
    X, back = rng.normal(size=(5, 9)), rng.normal(size=9)
    X[4], weight = X[0], np.array([1, 1, 1e-10, 1, 3])

    @jax.jit
    def by_targets(y, weight):
        def weights(y):
            regression = jd.LinearRegression(X, y, sample_weight=weight, intercept=False)
            return jd.minimize(regression).params["weights"]

        return jax.vjp(weights, y)[1](back)[0]

    y, each = rng.normal(size=5), back @ np.linalg.pinv(X[:4])
    exact = each[[0, 1, 2, 3, 0]] * [1 / 4, 1, 1, 1, 3 / 4]
    np.testing.assert_allclose(by_targets(y, weight), exact, rtol=1e-5)
    for weight[2] in (1e-15, 1e-20):  # lost in products, and in columns in units of their own
        assert np.all(np.isnan(by_targets(y, weight)))


@pytest.mark.slow
def test_second_derivatives_by_the_weights_of_rows_hold_where_these_are_zero(data):
    weight = np.where(np.arange(7) < 3, 0.0, data["sample_weight"])

    def second(function):
        def of_weight(weight):
            return function(data | {"sample_weight": weight})

        return lambda weight: jax.jvp(jax.grad(of_weight), (weight,), (np.ones(7),))[1]

    found, exact = second(loss)(weight), jax.jit(second(exact_loss))(weight)
    np.testing.assert_allclose(found, exact, rtol=1e-6)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
@pytest.mark.parametrize("scale", [1e-26, 1e-19])
def test_weights_move_where_a_penalty_is_beyond_all_squares_of_the_data(shape, scale, rng):
    X, by = (scale * rng.normal(size=shape)).astype(np.float32), rng.normal(size=shape[0])
    weights = functools.partial(weights_of, X=X, l2=0.5, intercept=False)
    y = rng.normal(size=shape[0]).astype(np.float32)
    moved = jax.jvp(weights, (y,), (by.astype(np.float32),))[1]
    exact = X.astype(float).T @ by / 0.5
    np.testing.assert_allclose(moved, exact, rtol=0, atol=1e-5 * np.max(np.abs(exact)))


SOLVERS = "singular values", "triangle", "conjugate gradients"


def take(solver, monkeypatch):
    """Small regressions are solved as larger ones are."""
    jax.clear_caches()  # a program that is kept was traced with other limits
    if solver == "triangle":
        monkeypatch.setattr(platform, "cpu_count", lambda: 1)
    if solver != "singular values":
        monkeypatch.setattr(pseudo_inverse, "MOST_SIDE", 0)
    if solver == "conjugate gradients":
        monkeypatch.setattr(pseudo_inverse, "MOST_SIDE_ON_HOST", 0)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [SOLVERS[0], SOLVERS[2]])
def test_only_outputs_without_a_penalty_turn_with_a_wide_matrix(solver, rng, monkeypatch):
    take(solver, monkeypatch)
    (X, by), y = rng.normal(size=(2, 5, 12)), rng.normal(size=(5, 2))
    l2 = np.array([0.0, 1.0])

    weights = functools.partial(weights_of, y, l2=l2, intercept=False)

    def exact(X):
        return references.closed_form(X, y, l2, intercept=False)[0]

    slope = (exact(X + 1e-6 * by) - exact(X - 1e-6 * by)) / 2e-6
    np.testing.assert_allclose(jax.jvp(weights, (X,), (by,))[1], slope, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_columns_in_any_units_move_with_several_penalties(rng):
    units = np.array([1, 1e-6, 1, 1e3])
    X, y = (rng.normal(size=(20, 4)) * units).astype(np.float32), rng.normal(size=(20, 2))
    by, l2 = rng.normal(size=(20, 2)), np.array([0, 1e-8], np.float32)

    weights = functools.partial(weights_of, X=X, l2=l2)
    moved = jax.jvp(weights, (y.astype(np.float32),), (by.astype(np.float32),))[1]
    A = (X - X.mean(axis=0, dtype=float)) / units
    for index, each in enumerate(l2.astype(float)):
        exact = np.linalg.solve(A.T @ A + np.diag(each / units**2), A.T @ by[:, index]) / units
        np.testing.assert_allclose(moved[:, index], exact, rtol=1e-4)


@pytest.mark.parametrize("solver", [*SOLVERS[:2], pytest.param(SOLVERS[2], marks=pytest.mark.slow)])
def test_short_columns_of_a_wide_matrix_move_where_the_penalty_is_smaller(solver, monkeypatch):
    take(solver, monkeypatch)
    for short in (1e-5, 1e-7):  # numbers alone differ: both have the same programs
        rng = np.random.default_rng(0)
        X = (rng.normal(size=(6, 10)) * np.where(np.arange(10) < 3, 1, short)).astype(np.float32)
        y, by, back, l2 = *rng.normal(size=(2, 6)), rng.normal(size=10), short**2 / 10

        weights = functools.partial(weights_of, X=X, l2=l2, intercept=False)
        A = np.vstack([X.astype(float), np.sqrt(l2) * np.eye(10)])
        exact = np.linalg.lstsq(A, np.vstack([np.eye(6), np.zeros((10, 6))]), rcond=1e-15)[0]
        y, by, to = (each.astype(np.float32) for each in (y, by, back))
        forward, backward = jax.jvp(weights, (y,), (by,))[1], jax.vjp(weights, y)[1](to)[0]
        for found, expected in ((forward, exact @ by), (backward, exact.T @ back)):
            atol = 1e-3 * np.max(np.abs(expected))
            np.testing.assert_allclose(found, expected, atol=atol, err_msg=str(short))


def weights_in_float64(X, y, l2, sample_weight, intercept):
    """The weights of least norm by the normal equations, to be differentiated in float64."""
    root = jnp.sqrt(sample_weight)
    share = sample_weight / jnp.sum(sample_weight) * intercept
    A, t = root[:, None] * (X - (share @ X)[None]), root * (y - share @ y)
    rows, features = A.shape
    if rows - intercept >= features:
        return jnp.linalg.solve(A.T @ A + l2 * jnp.eye(features), A.T @ t)
    if intercept:  # a reflection takes the direction that A does not have to the first row
        normal = root / jnp.linalg.norm(root) + jnp.eye(rows)[0]
        normal = normal / jnp.linalg.norm(normal)
        A, t = (A - 2 * jnp.outer(normal, normal @ A))[1:], (t - 2 * normal * (normal @ t))[1:]
    return A.T @ jnp.linalg.solve(A @ A.T + l2 * jnp.eye(len(A)), t)


def derivatives(function, data, ways):
    """The first derivatives by all data, and how they change along these ways."""
    return jax.jvp(jax.grad(function), (data,), (ways,))


@jax.jit
def exact_weights(data):
    return weights_in_float64(*data, 1)


@jax.jit
def exact_derivatives(data, ways, back):
    return derivatives(lambda data: jnp.sum(back * weights_in_float64(*data, 1)), data, ways)


@functools.cache
def in_float64(shape, l2):
    """Data, ways, their condition number, a covector, and the derivatives in float64, which are
    those of every solver.
    """
    rng = np.random.default_rng(0)
    rows, condition = shape[0], 10 ** rng.uniform(1, 2.5)
    X = of_condition(condition, rng, *shape) * rows**0.5
    data = X, rng.normal(size=rows), l2, rng.uniform(0.5, 2, rows)
    ways = *(rng.normal(size=np.shape(part)) for part in data[:2]), l2, data[3] * (l2 > 0)
    data, ways = jax.tree.map(np.float32, (data, ways))
    wide, wide_ways = jax.tree.map(np.float64, (data, ways))
    # The weights themselves, whose product with their derivative by the penalty does not cancel.
    back = np.asarray(exact_weights(wide), np.float32)
    expected = exact_derivatives(wide, wide_ways, back.astype(float))
    return data, ways, condition, back, jax.tree.map(np.asarray, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "penalties", "solver"),
    [
        *(((12, 40), (0.0, 1e-3), solver) for solver in SOLVERS),
        *(((200, 10), (0.0,), solver) for solver in SOLVERS[1:]),
        ((30, 30), (0.0,), SOLVERS[0]),
    ],
    ids=str,
)
def test_first_and_second_derivatives_of_ill_conditioned_data_are_those_in_float64(
    shape, penalties, solver, monkeypatch
):
    """Up to eps times the condition number, by all data of weighted rows with an intercept."""
    take(solver, monkeypatch)
    for l2 in penalties:  # numbers alone differ: both have the same programs
        data, ways, condition, back, expected = in_float64(shape, l2)

        def found(data, back=back):
            X, y, l2, weight = data
            regression = jd.LinearRegression(X, y, l2=l2, sample_weight=weight)
            return jnp.sum(back * jd.minimize(regression).params["weights"])

        which = slice(None) if l2 else slice(2)  # without a penalty the others may be zero
        for got, right in zip(derivatives(found, data, ways), expected, strict=True):
            for own, other in zip(got[which], right[which], strict=True):
                error = np.linalg.norm(np.asarray(own, float) - other)
                limit = 20 * np.finfo(np.float32).eps * condition * np.linalg.norm(other)
                assert error < limit, (l2, error, limit)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(9, 4), (4, 9)], ids=str)
def test_derivatives_of_third_order_by_the_penalty_hold_in_reverse(shape, rng):
    X, y, back = rng.normal(size=shape), rng.normal(size=shape[0]), rng.normal(size=shape[1])

    def found(l2):
        result = jd.minimize(jd.LinearRegression(X, y, l2=l2))
        return back @ result.params["weights"] + result.value

    U, s, V = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    image = s * (U.T @ (y - y.mean()))
    share = image * (V @ back) - image**2 / 2  # of each 1 / (s**2 + l2) in what is found
    for order in (1, 2, 3):
        found = jax.grad(found)
        if order > 1:
            terms = (-1) ** order * math.factorial(order) / (s**2 + 0.5) ** (order + 1)
            np.testing.assert_allclose(found(0.5), share @ terms, rtol=1e-8)


@pytest.mark.first
@pytest.mark.parametrize("shape", [(9, 4), (4, 9)], ids=str)
@pytest.mark.parametrize("is_factorised_by_numpy", [True, False])
def test_data_without_a_solution_have_derivatives_that_are_nan(shape, is_factorised_by_numpy, rng):
    X, y = rng.normal(size=shape).astype(np.float32), rng.normal(size=shape[0]).astype(np.float32)
    good, infinite = np.ones(shape[0], np.float32), X.copy()
    infinite[0, 0], negative = np.inf, np.where(np.arange(shape[0]) == 1, -3, good)
    make = as_design if is_factorised_by_numpy else np.asarray  # known to be on one CPU

    @jax.jit
    def slope(y, X, weight, l2):
        def first(y):
            regression = jd.LinearRegression(X, y, l2=l2, sample_weight=weight)
            return jd.minimize(regression).params["weights"][0]

        return jax.grad(first)(y)

    assert np.all(np.isfinite(slope(y, make(X), good, np.float32(0.5))))
    for bad in ((infinite, good, 0.5), (X, good, -0.5), (X, negative, 0.5)):
        assert np.all(np.isnan(slope(y, make(bad[0]), bad[1], np.float32(bad[2]))))


@pytest.mark.parametrize("shape", [(90, 40), (40, 90), (40, 40)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_triangle_solves_up_to_eps_times_the_condition(shape, dtype, rng, monkeypatch):
    """For ``p + B x = f, B'p - l2 x = g`` with the centred and weighted B."""
    monkeypatch.setattr(pseudo_inverse, "MOST_SIDE", 0)
    monkeypatch.setattr(pseudo_inverse, "_factorised", None)  # no singular values
    (rows, features), eps = shape, np.finfo(dtype).eps
    condition, l2 = 10 ** rng.uniform(2, 4.5), rng.choice([0, 1e-6])
    X = (of_condition(condition, rng, *shape) + rng.normal(size=features)).astype(dtype)
    weight = rng.uniform(0.5, 2, rows).astype(dtype)
    weight[: rows // 5] = 0
    is_wide, weighty = rows <= features, np.sum(weight > 0)
    if not is_wide:
        X[:, 0] = 0.3  # which has no part in any solution
    root, mean = np.sqrt(weight.astype(float)), np.average(X.astype(float), axis=0, weights=weight)
    B = root[:, None] * (X - mean)
    B[:, 0] *= is_wide
    B = B.T if is_wide else B
    f, g = rng.normal(size=len(B)), np.zeros(B.shape[1])
    g = g if is_wide else B.T @ rng.normal(size=len(B))
    design = as_design(X)  # known to be on one CPU

    @jax.jit
    def found(f, g, weight):
        regression = jd.LinearRegression(design, X[:, 0], l2=dtype(l2), sample_weight=weight)
        alone = regression.eliminated().objective
        made = pseudo_inverse.of_regression(regression, alone, dtype=dtype, is_wide=is_wide)
        return *made.solve(f[:, None], g[:, None]), made.rank

    x, image, rank = found(f.astype(dtype), g.astype(dtype), weight)
    A = np.vstack([B, np.sqrt(l2) * np.eye(B.shape[1])])
    inverse = np.linalg.pinv(A, rcond=1e-9)
    exact = inverse @ (np.append(f, np.zeros(B.shape[1])) - inverse.T @ g)
    assert int(rank) == (weighty if is_wide else features - 1)
    condition = np.linalg.norm(root[:, None] * X, 2) * np.linalg.norm(inverse, 2)
    for own, other in ((x[:, 0], exact), (image[:, 0], B @ exact)):
        error = np.linalg.norm(np.asarray(own, float) - other)
        assert error < 30 * eps * condition * np.linalg.norm(other)


@pytest.mark.parametrize("spectrum", ["few", "spread"])
def test_conjugate_gradients_are_right_or_say_that_they_are_not(spectrum, rng, monkeypatch):
    """Targets in the range of A, and others; the gradient falls by a lot in one turn."""
    U, V = (np.linalg.qr(rng.normal(size=(each, 40)))[0] for each in (100, 40))
    sizes = (
        np.where(np.arange(40) < 20, 1, 1e-3) if spectrum == "few" else np.geomspace(1, 1e-3, 40)
    )
    A = (U * sizes @ V.T).astype(np.float32)
    b = np.column_stack([A @ rng.normal(size=40), rng.normal(size=100)]).astype(np.float32)

    def solved():
        def along(x):
            return A @ x

        start = jnp.zeros((40, 2), jnp.float32)
        how = {"like": start, "turn_bytes": A.nbytes}
        return np.asarray(least_squares.least_squares(along, lambda r: A.T @ r, b, **how)[0], float)

    exact = np.linalg.lstsq(A.astype(float), b.astype(float), rcond=None)[0]
    sizes = np.linalg.norm(exact, axis=0)
    errors = np.linalg.norm(solved() - exact, axis=0) / sizes
    # Residuals count with the square of the condition number.
    left = np.linalg.norm(b - A @ exact, axis=0) / sizes
    assert np.all(errors < 20 * np.finfo(np.float32).eps * 1e3 * (1 + 1e3 * left))
    monkeypatch.setattr(least_squares, "MOST_TURNS", 1)
    assert np.all(np.isnan(solved()))


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS[:2])
def test_where_a_solution_jumps_it_has_no_derivative(solver, rng, monkeypatch):
    take(solver, monkeypatch)
    X = rng.normal(size=(20, 3)).astype(np.float32)
    X = np.column_stack([X, X[:, 0]])  # moved by whatever, the columns are independent
    y = rng.normal(size=20).astype(np.float32)

    def first(X, y):
        return jd.minimize(jd.LinearRegression(X, y)).params["weights"][0]

    slope = jax.grad(first, 1)
    assert np.all(np.isnan(jax.grad(first)(X, y)))
    assert np.all(np.isnan(jax.jvp(lambda X: slope(X, y), (X,), (X,))[1]))
    exact = np.linalg.pinv((X - X.mean(axis=0)).astype(float), rcond=1e-5)[0]
    np.testing.assert_allclose(slope(X, y), exact, rtol=0, atol=1e-5)
