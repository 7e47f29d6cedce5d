"""The gap: both ends against exact minima, on problems drawn at random."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxdescent as jd
from jaxdescent.gap import Query, dense, krylov_gap
from jaxdescent.objectives import as_objective
from tests.results import status


def question(value, *, worth=None, size=1.0, budget=10_000, share=2.4e-5):
    zero = jnp.float32(0)
    return Query(
        value=zero + value,
        share=zero + share,
        worth=None if worth is None else zero + worth,
        size=zero + size,
        eps=float(jnp.finfo(jnp.float32).eps),
        budget=jnp.int32(budget),
        flattest=zero + jnp.inf,
    )


def drawn(rng, rows, features, *, condition=100.0, outputs=(), l2=0.0, shift=0.0, weighted=False):
    """A regression, params near its minimum, and the value of both in float64."""
    base = rng.normal(size=(rows, features)) * np.geomspace(1, 1 / condition, features)
    X = (base + shift * rng.normal(size=features)).astype(np.float32)
    w = rng.normal(size=(features, *outputs))
    y = (X @ w + 0.1 * rng.normal(size=(rows, *outputs)) + 3).astype(np.float32)
    s = rng.uniform(0.1, 2, rows).astype(np.float32) if weighted else np.ones(rows, np.float32)
    regression = jd.LinearRegression(
        jnp.asarray(X), jnp.asarray(y), l2=l2, sample_weight=jnp.asarray(s) if weighted else None
    )
    wide, target = X.astype(np.float64), y.astype(np.float64).reshape(rows, -1)
    mean, middle = s @ wide / s.sum(), s @ target / s.sum()
    A = np.sqrt(s)[:, None] * (wide - mean)
    A = np.vstack([A, np.sqrt(l2) * np.eye(features)])
    b = np.vstack([np.sqrt(s)[:, None] * (target - middle), np.zeros((features, target.shape[1]))])
    best = np.linalg.lstsq(A, b, rcond=1e-12)[0]
    near = (best + 0.01 * rng.normal(size=best.shape)).astype(np.float32)
    intercept = (middle - mean @ near + 0.01).astype(np.float32)
    params = {
        "weights": jnp.asarray(near.reshape(features, *outputs)),
        "intercept": jnp.asarray(intercept.reshape(outputs)),
    }

    def value(weights, offset):
        residual = target - wide @ weights - offset
        return 0.5 * np.sum(s[:, None] * residual**2) + 0.5 * l2 * np.sum(weights**2)

    least = value(best, middle - mean @ best)
    gap = value(near.astype(np.float64), intercept.astype(np.float64)) - least
    return regression, params, least, gap, np.sum(np.square(b)) / 2


SHAPES = {
    "tall": {"rows": 200, "features": 15},
    "wide": {"rows": 20, "features": 50},
    "several outputs": {"rows": 90, "features": 8, "outputs": (3,)},
    "a penalty": {"rows": 60, "features": 12, "l2": 2.0},
    "a wide one with a penalty": {"rows": 12, "features": 30, "l2": 0.5},
    "row weights": {"rows": 80, "features": 9, "weighted": True},
    "means far from zero": {"rows": 300, "features": 10, "shift": 30.0},
    "columns over three decades": {"rows": 150, "features": 10, "condition": 1e3},
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("how", ["dense", "krylov"])
def test_both_ends_enclose_the_exact_gap(name, how, rng):
    regression, params, least, gap, worth = drawn(rng, **SHAPES[name])
    asked = question(least + gap, worth=worth)
    if how == "dense":
        asked = jax.tree.map(lambda leaf: np.asarray(leaf)[()], asked)
        found = dense.gap(regression, params, asked, 100)
        np.testing.assert_allclose([found.lower, found.upper], gap, rtol=1e-4)
        return
    found = jax.jit(krylov_gap)(regression, params, asked)
    assert float(found.lower) <= gap * 1.001
    assert float(found.upper) >= 0.9 * gap
    assert float(found.lower) >= 0.9 * gap - 1.2 * float(found.allowed)


@given(seed=st.integers(0, 2**32 - 1))
def test_the_lowest_point_of_a_dense_gap_is_the_minimum(seed):
    rng = np.random.default_rng(seed)
    rows, features = rng.integers(2, 40, 2)
    regression, params, least, gap, worth = drawn(rng, rows, features, l2=float(rng.uniform(0, 2)))
    asked = jax.tree.map(lambda leaf: np.asarray(leaf)[()], question(least + gap, worth=worth))
    found = dense.gap(regression, params, asked, 100)
    assert regression.value(found.params) <= least + 1e-4 * max(least, 1e-3 * worth)


def test_two_clusters_of_singular_values_are_told_apart(rng):
    """The gradient in float32 does not show the second cluster beside the first."""
    rows, features = 800, 60
    U = np.linalg.qr(rng.normal(size=(rows, features)))[0]
    V = np.linalg.qr(rng.normal(size=(features, features)))[0]
    X = ((U * np.where(np.arange(features) < 30, 1, 10**-3.7)) @ V.T).astype(np.float32)
    y = (X @ V @ np.where(np.arange(features) < 30, 1, 1e3)).astype(np.float32)
    y += 1e-3 * rng.normal(size=rows).astype(np.float32)
    regression = jd.LinearRegression(jnp.asarray(X), jnp.asarray(y), intercept=False)
    for method in (None, jd.LSMR(), jd.ConjugateGradient()):
        for how in (lambda f: f, jax.jit):
            result = how(lambda r, m=method: jd.minimize(r, method=m))(regression)
            A, b = X.astype(np.float64), y.astype(np.float64)
            least = np.linalg.lstsq(A, b, rcond=1e-9)[0]
            values = [
                0.5 * np.sum((A @ w - b) ** 2)
                for w in (np.asarray(result.params["weights"], np.float64), least)
            ]
            allowed = 2.5e-5 * max(values[1], 6e-8 * np.sum(b**2))
            if status(result) == "CONVERGED":
                assert values[0] - values[1] <= allowed
            assert float(result.suboptimality) >= 0.5 * (values[0] - values[1])


def logistic(rng, size, penalty=1e-2):
    X = jnp.asarray(rng.normal(size=(3 * size, size)).astype(np.float32))
    y = jnp.asarray((rng.random(3 * size) < 0.5).astype(np.float32))

    def loss(w):
        z = X @ w
        return jnp.sum(jnp.logaddexp(0, z) - y * z) + penalty / 2 * jnp.sum(w**2)

    return loss


@pytest.mark.parametrize("how", ["dense", "krylov"])
def test_a_function_has_its_newton_decrement_as_gap(how, rng):
    loss = logistic(rng, 20)
    x = jnp.zeros(20)
    for _ in range(20):
        x = x - jnp.linalg.solve(jax.hessian(loss)(x), jax.grad(loss)(x))
    near = x + 0.01 * jnp.asarray(rng.normal(size=20).astype(np.float32))
    gap = float(0.5 * (near - x) @ jax.hessian(loss)(x) @ (near - x))
    asked = question(loss(near), size=jnp.linalg.norm(near), share=1e-9)
    if how == "dense":
        asked = jax.tree.map(lambda leaf: np.asarray(leaf)[()], asked)
        found = dense.gap(as_objective(loss), near, asked, 100)
    else:
        found = jax.jit(functools.partial(krylov_gap, as_objective(loss)))(near, asked)
    np.testing.assert_allclose(found.upper, gap, rtol=0.12)
    assert float(found.lower) <= 1.02 * gap


@pytest.mark.parametrize("how", ["dense", "krylov"])
def test_negative_curvature_shows_a_lower_value(how):
    def saddle(x):
        return x[0] ** 2 - x[1] ** 2 + 0.25 * x[1] ** 4 + 0 * x[2]

    at = jnp.array([1e-3, 1e-4, 1.0])
    asked = question(saddle(at), size=1.0, share=10.0)
    if how == "dense":
        asked = jax.tree.map(lambda leaf: np.asarray(leaf)[()], asked)
        found = dense.gap(as_objective(saddle), at, asked, 100)
    else:
        found = krylov_gap(as_objective(saddle), at, asked)
    assert float(found.lower) > 1e-3
    assert saddle(found.params) < -1e-3


ENDLESS = {
    "an exponential": (lambda x: jnp.exp(-x[0]) + x[1] ** 2, [0.0, 1.0]),
    "a saddle": (lambda x: x[0] ** 2 - 1e-3 * x[1] ** 2, [1.0, 0.5]),
}


@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.parametrize("how", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_what_has_no_minimum_has_not_converged(name, how):
    """After more iterations the exponential underflows, and no value tells that it falls on."""
    function, start = ENDLESS[name]
    for method in (None, jd.GradientDescent()):

        def descend(x, method=method):
            return jd.minimize(function, x, method, max_iterations=200)

        result = how(descend)(jnp.array(start))
        assert status(result) != "CONVERGED"


def test_a_rejected_candidate_goes_on_from_the_lower_point():
    result = jd.minimize(lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4, jnp.array([1.0, 0.0]))
    assert status(result) == "CONVERGED"
    np.testing.assert_allclose(result.value, -0.25, atol=1e-5)


def test_what_converged_stays_where_it_is_when_minimised_again(rng):
    regression = drawn(rng, 300, 20)[0]
    for objective, start in ((regression, None), (logistic(rng, 30), jnp.zeros(30))):
        for method in (None, jd.LBFGS(), jd.ConjugateGradient()):
            if method is not None and start is not None and not isinstance(method, jd.LBFGS):
                continue
            result = jd.minimize(objective, start, method, max_iterations=3000)
            again = jd.minimize(objective, result.params, method)
            assert status(result) == status(again) == "CONVERGED"
            assert float(result.value - again.value) <= 3e-5 * abs(float(result.value))


def test_at_the_limit_of_iterations_the_suboptimality_is_the_gap(rng):
    regression, _, least, _, _ = drawn(rng, 400, 30, condition=1e4)
    for method in (jd.LSMR(), jd.LBFGS(), jd.GradientDescent()):
        result = jd.minimize(regression, method=method, max_iterations=5)
        assert status(result) == "MAX_ITERATIONS"
        np.testing.assert_allclose(result.suboptimality, float(result.value) - least, rtol=1e-2)


def test_a_gap_never_more_than_doubles_the_price(rng):
    regression = drawn(rng, 3000, 2, condition=1.0)[0]
    traced = jax.jit(lambda r: jd.minimize(r, method=jd.GradientDescent(), max_iterations=400))
    plain = jax.jit(
        lambda r: jd.minimize(r, method=jd.GradientDescent(), max_iterations=400, tolerance=0)
    )
    with_gap, without = traced(regression), plain(regression)
    per_step = float(without.evaluations) / float(without.iterations)
    assert float(with_gap.evaluations) <= 2 * per_step * float(with_gap.iterations) + 40
