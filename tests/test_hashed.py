"""Hashed columns: a regression on those that are touched is the whole one, and says which it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import lsmr

import jaxdescent as jd

FEATURES = 2**33


def hashed_rows(rng, rows=80, entries=600, features=FEATURES, distinct=40):
    """Entries of a few columns among all, each row's in any order, some of them twice."""
    columns = rng.integers(0, features, distinct, dtype=np.uint64)
    return rng.integers(0, rows, entries), rng.choice(columns, entries)


@settings(max_examples=10)
@given(
    seed=st.integers(0, 99),
    features=st.sampled_from([1, 300, 2**31, 2**33, 2**63, 2**64]),
    has_values=st.booleans(),
)
def test_products_are_those_of_the_touched_columns_of_the_whole(seed, features, has_values):
    rng = np.random.default_rng(seed)
    columns = rng.integers(0, features, 9, dtype=np.uint64, endpoint=False)
    columns[0] = features - 1
    row, column = rng.integers(0, 12, 50), rng.choice(columns, 50)
    values = rng.normal(size=50) if has_values else None
    with jax.enable_x64(True):
        X = jd.Hashed(row, column, values, shape=(12, features), dtype=jnp.float64)
        weight_of = {int(name): rng.normal() for name in np.unique(column)}
        expected = np.zeros(12)
        for place in range(50):
            expected[row[place]] += weight_of[int(column[place])] * (
                values[place] if has_values else 1
            )
        weights = jnp.asarray([weight_of[int(name)] for name in X.touched])
        np.testing.assert_allclose(X.product(weights), expected, rtol=1e-12, atol=1e-12)
    assert X.features == features
    assert X.touched.dtype == np.uint64
    assert X.shape == (12, len(weight_of))


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [jd.ConjugateGradient(jd.Jacobi()), jd.DerivativeMethod()], ids=str
)
def test_it_is_the_ridge_regression_of_all_columns(method, rng):
    features = 2**20  # which SciPy can still write weights for
    row, column = hashed_rows(rng, features=features)
    y = rng.normal(size=80)
    A = scipy.sparse.coo_matrix((np.ones(600), (row, column.astype(int))), (80, features)).tocsr()
    exact = lsmr(A, y, damp=2**0.5, atol=1e-14, btol=1e-14)[0]
    X = jd.Hashed(row, column, shape=(80, features))
    regression = jd.LinearRegression(X, jnp.asarray(y, jnp.float32), l2=2.0, intercept=False)
    result = jd.minimize(regression, method=method, tolerance=1e-6)
    assert bool(result.converged)
    assert np.count_nonzero(exact) == X.shape[1]
    np.testing.assert_allclose(result.params["weights"], exact[X.touched], atol=1e-4)
    np.testing.assert_allclose(
        X.weights_at(result.params["weights"], np.arange(features)), exact, atol=1e-4
    )
    assert jd.certify(regression, result).kind == "minimum"


def test_other_rows_are_predicted_by_the_columns_numbers(rng):
    row, column = hashed_rows(rng)
    X = jd.Hashed(row, column, shape=(80, FEATURES))
    weights = rng.normal(size=(X.shape[1], 2)).astype(np.float32)
    other_row = rng.integers(0, 5, 60)
    other = np.where(
        rng.random(60) < 0.5, rng.choice(column, 60), rng.integers(0, 2**33, 60, np.uint64)
    )
    values = rng.normal(size=60).astype(np.float32)
    weight_of = dict(zip(X.touched.tolist(), weights, strict=True))
    expected = np.zeros((7, 2), np.float32)  # the last rows have no entries
    for place in range(60):
        expected[other_row[place]] += values[place] * weight_of.get(int(other[place]), np.zeros(2))
    there = X.of_rows(other_row, other, values, rows_in_all=7)
    np.testing.assert_allclose(there.product(jnp.asarray(weights)), expected, atol=1e-5)
    y = jnp.asarray(rng.normal(size=80), jnp.float32)
    regression = jd.LinearRegression(X, y)
    params = {"weights": jnp.asarray(weights[:, 0]), "intercept": jnp.float32(3)}
    np.testing.assert_allclose(regression.predict(params, there), expected[:, 0] + 3, atol=1e-5)
    nothing = X.of_rows([0], [2**33 - 7], rows_in_all=2)
    assert nothing.entries == 0
    np.testing.assert_array_equal(nothing.product(jnp.asarray(weights)), 0)


def test_it_stands_in_jit_vmap_and_beside_other_designs(rng):
    row, column = hashed_rows(rng)
    X = jd.Hashed(row, column, shape=(80, FEATURES))
    weights = rng.normal(size=(3, X.shape[1])).astype(np.float32)
    both = jd.Concatenated({"x": np.ones((80, 1), np.float32), "words": X})

    @jax.jit
    def answers(weights):
        beside = both.product({"x": jnp.ones(1), "words": weights[0]})
        return X.to_dense(), jax.vmap(X.product)(weights), beside

    dense, products, beside = answers(weights)
    expected = np.asarray(dense) @ weights.T
    np.testing.assert_allclose(products.T, expected, atol=1e-5)
    np.testing.assert_allclose(beside, expected[:, 0] + 1, atol=1e-5)
    again = jax.tree.map(lambda leaf: leaf, X)
    np.testing.assert_array_equal(again.touched, X.touched)
    assert (
        repr(again)
        == repr(X)
        == (f"Hashed(80 x 8,589,934,592, {X.entries} entries, {X.shape[1]} columns touched)")
    )


def test_the_same_columns_are_the_same_structure_whatever_their_values(rng):
    row, column = hashed_rows(rng)
    one, two = (jd.Hashed(row, column, rng.normal(size=600), shape=(80, FEATURES)) for _ in "ab")
    other = jd.Hashed(row, column + np.uint64(1), rng.normal(size=600), shape=(80, FEATURES + 1))
    assert jax.tree.structure(one) == jax.tree.structure(two)
    assert jax.tree.structure(one) != jax.tree.structure(other)


SMALL = jd.Hashed([0], [1], shape=(1, 9))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: jd.Hashed([0], [2**33], shape=(1, 2**33)), ValueError, "got 8,589,934,592"),
        (lambda: jd.Hashed([0], [-1], shape=(1, 2**33)), ValueError, "got -1"),
        (lambda: jd.Hashed([0], [0.5], shape=(1, 2**33)), TypeError, "must be integers"),
        (lambda: jd.Hashed([0], [[1]], shape=(1, 2**33)), ValueError, "must have shape"),
        (lambda: jd.Hashed([], [], shape=(1, 2**33)), ValueError, "at least one entry"),
        (lambda: jd.Hashed([0, 0], [1], shape=(1, 9)), ValueError, "for each entry"),
        (lambda: jd.Hashed([3], [1], shape=(3, 9)), ValueError, "from 0 to 2, got 3"),
        (lambda: jd.Hashed([0], [1], shape=(1, 2**64 + 1)), ValueError, "1 to 2\\*\\*64"),
        (lambda: jd.Hashed([0], [1], shape=9), TypeError, "two integers"),
        (lambda: jd.Hashed([0], [1], shape=(0, 9)), ValueError, "is empty"),
        (
            lambda: jax.jit(lambda c: jd.Hashed([0], c, shape=(1, 9)))(np.array([1])),
            TypeError,
            "known numbers",
        ),
        (lambda: SMALL.of_rows([0, 1], [1], rows_in_all=2), ValueError, "for each entry"),
        # Of a column that no row touches too.
        (
            lambda: SMALL.of_rows([5], [3], rows_in_all=2),
            ValueError,
            "row indices must be from 0 to 1, got 5",
        ),
        (
            lambda: SMALL.of_rows([0], [1], [1.0, 2.0], rows_in_all=2),
            ValueError,
            "one for each index",
        ),
        (lambda: SMALL.weights_at(np.ones(9), [1]), ValueError, "of the 1 touched columns"),
    ],
)
def test_what_makes_no_sense_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
