"""Preconditioners: the spectrum they leave, whatever X and the order of its rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdescent as jd
from jaxdescent.preconditioners import CentredRegression
from tests import references
from tests.references import of_condition

pytestmark = pytest.mark.slow  # most tests compile a few solvers: the core is for every day


def ill_conditioned(rng, rows, features, spread):
    """Singular values log-spaced over ``spread``, and noise of a tenth of y."""
    X = of_condition(spread, rng, rows, features)
    y = X @ rng.normal(size=features)
    noise = rng.normal(size=rows)
    return X, y + 0.1 * np.linalg.norm(y) / np.linalg.norm(noise) * noise


def excess(objective, result):
    """``f / f_min - 1`` in float64, of exactly the data given."""
    best = references.least_squares(objective)
    least = references.value(objective, best)
    return references.height(objective, result.params, best) / least


@jax.jit
def factorise(objective, preconditioner):
    """The factor N, and the columns of N and of ``A N``."""
    regression = CentredRegression.from_objective(objective)
    factor = preconditioner.factorise(regression)
    columns = factor.apply(jnp.eye(objective.X.shape[1], dtype=objective.X.dtype))
    return factor, columns, regression.forward(columns)


def conditioned(X, preconditioner, **options):
    """The singular values of ``A N``."""
    objective = jd.LinearRegression(X, np.zeros(len(X), X.dtype), **options).checked()
    _, columns, image = factorise(objective, preconditioner)
    A = np.concatenate([image, np.sqrt(options.get("l2", 0)) * columns])
    return np.linalg.svd(A, compute_uv=False)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sketched_lsmr_is_accurate_at_a_condition_number_of_1e5(dtype, rng, x64):
    X, y = (array.astype(dtype) for array in ill_conditioned(rng, 4096, 64, 1e5))
    objective = jd.LinearRegression(X, y, intercept=False)
    is_single = dtype == np.float32
    method = jd.LSMR(jd.Sketch(), atol=2e-4 if is_single else 1e-7, btol=0)
    result = jd.minimize(objective, method=method, tolerance=0, max_iterations=100)
    assert bool(result.converged)
    assert int(result.iterations) < (20 if is_single else 40)
    assert excess(objective, result) < (1e-6 if is_single else 1e-12)


ORDERS = {
    "as they come": lambda X: X,
    "sorted": lambda X: X[np.argsort(X[:, 0])],
    "heavy rows first": lambda X: np.concatenate([100 * np.eye(32), 1e-3 * X[32:]]),
    "one-hot, periodic": lambda X: np.eye(32)[np.arange(len(X)) % 32],
    "one-hot, in blocks": lambda X: np.repeat(np.eye(32), len(X) // 32, axis=0),
    "zero but for the last": lambda X: np.concatenate([0 * X[:-64], X[-64:]]),
}


@pytest.mark.parametrize(("spread", "is_rough"), [(1e3, True), (1e7, False)])
def test_a_sketch_of_float64_is_in_float32_while_that_is_enough(spread, is_rough, rng, x64):
    X, y = ill_conditioned(rng, 4096, 64, spread)
    objective = jd.LinearRegression(X, y, intercept=False).checked()
    factor, _, _ = factorise(objective, jd.Sketch())
    triangle = np.linalg.inv(factor.vectors)
    assert np.all(factor.gain == 1)
    assert triangle.dtype == np.float64
    digits = np.max(np.abs(triangle - triangle.astype(np.float32))) / np.max(np.abs(triangle))
    assert (digits < 1e-10) == is_rough
    singular = conditioned(X, jd.Sketch(), intercept=False)
    assert singular[0] / singular[-1] < 4
    result = jd.minimize(objective, method=jd.LSMR(jd.Sketch()), tolerance=0)
    assert excess(objective, result) < 1e-20


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_the_sketch_leaves_a_small_condition_number_for_any_order_of_the_rows(order, rng, x64):
    X = order(rng.normal(size=(2048, 32)))
    values = conditioned(X, jd.Sketch(), intercept=False)
    assert values[0] / values[-1] < 6


@pytest.mark.parametrize("rows", [3001, 130, 20])
def test_the_sketch_takes_any_number_of_rows_with_weights_penalty_and_intercept(rows, rng, x64):
    X = rng.normal(size=(rows, 16)) * np.logspace(0, -4, 16) + 3
    weight = rng.random(rows)
    values = conditioned(X, jd.Sketch(), l2=1e-3, sample_weight=weight)
    assert values[0] / values[-1] < 6


def test_a_group_of_more_rows_than_a_chunk_is_mixed_in_parts(rng):
    X = (rng.normal(size=(20_000, 8)) * np.logspace(0, -2, 8)).astype(np.float32)
    values = conditioned(X, jd.Sketch(), intercept=False)
    assert values[0] / values[-1] < 6


def test_one_seed_gives_one_sketch_and_another_another(rng):
    X = rng.normal(size=(500, 4)).astype(np.float32)
    one, same, other = (conditioned(X, jd.Sketch(seed=seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert np.any(one != other)


@pytest.mark.core
def test_jacobi_gives_every_column_the_norm_one_but_zero_ones(rng, x64):
    X = rng.normal(size=(60, 4)) * np.array([1e-3, 1.0, 1e4, 0.0]) + 5
    weight = rng.random(60)
    objective = jd.LinearRegression(X, np.zeros(60), sample_weight=weight)
    _, _, A = factorise(objective.checked(), jd.Jacobi())
    np.testing.assert_allclose(np.linalg.norm(A, axis=0)[:3], 1, rtol=1e-8)
    assert np.linalg.norm(np.asarray(A)[:, 3]) < 1e-10


def test_nystrom_flattens_what_stands_above_the_penalty(rng, x64):
    X, _ = ill_conditioned(rng, 200, 40, 1e6)
    plain, values = (conditioned(X, jd.Nystrom(rank), l2=1e-6, intercept=False) for rank in (1, 25))
    assert plain[0] / plain[-1] > 100
    assert values[0] / values[-1] < 5


def test_nystrom_of_a_higher_rank_than_the_hessian_has_stays_finite(rng):
    X = rng.normal(size=(50, 2)) @ rng.normal(size=(2, 10))
    y = rng.normal(size=50).astype(np.float32)
    objective = jd.LinearRegression(X.astype(np.float32), y, intercept=False)
    for method in (jd.LSMR(jd.Nystrom(8)), jd.ConjugateGradient(jd.Nystrom(30))):
        result = jd.minimize(objective, method=method)
        residual = X @ np.linalg.lstsq(X, y, rcond=1e-6)[0] - y
        np.testing.assert_allclose(result.value, 0.5 * residual @ residual, rtol=1e-4)


@pytest.mark.core
def test_hyper_parameters_are_leaves_and_sizes_are_structure():
    assert jax.tree.leaves(jd.Sketch(seed=7)) == [7]
    assert jax.tree.structure(jd.Nystrom(3)) != jax.tree.structure(jd.Nystrom(4))


@pytest.mark.parametrize(
    "preconditioner", [jd.Jacobi(), jd.Eliminate()], ids=["Jacobi", "Eliminate"]
)
def test_columns_whose_squares_overflow_are_not_hidden(preconditioner):
    rng = np.random.default_rng(0)
    x, codes = rng.normal(size=80), np.arange(80) % 4
    X = jd.Concatenated(
        {"x": jnp.asarray(1e20 * x[:, None], jnp.float32), "level": jd.Categorical(codes, 4)}
    )
    objective = jd.LinearRegression(X, jnp.asarray(2 * x + codes, jnp.float32))
    result = jd.minimize(objective, method=jd.ConjugateGradient(preconditioner))
    assert not result.converged
    assert jd.Status(int(result.status)) is jd.Status.NON_FINITE
