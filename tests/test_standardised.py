"""A design less the means of its columns and in other units: each answer is that of the entries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

import jaxdescent as jd
from jaxdescent.designs import Center, Dense, Standardised, as_design
from tests import references

ROWS = 60
CASES = [
    *(
        (kind, 0.0, "both")
        for kind in ("dense", "sharded", "entries", "levels", "side by side", "read", "map")
    ),
    *((kind, 3000.0, "both") for kind in ("dense", "sharded", "side by side", "read")),
    *((kind, 0.0, "scale") for kind in ("dense", "side by side")),
    *((kind, 3000.0, "mean") for kind in ("dense", "sharded")),
]


def design_of(kind, rng, shift=0.0):
    """A design of this kind, and its entries."""
    X = (rng.normal(size=(ROWS, 4)) + shift).astype(np.float32)
    codes = rng.integers(-1, 5, ROWS)
    levels = np.eye(6, dtype=np.float32)[codes][:, :5]
    sparse = np.where(rng.random((ROWS, 5)) < 0.3, rng.normal(size=(ROWS, 5)), 0)
    sparse = sparse.astype(np.float32)
    row, column = np.nonzero(sparse)
    entries = jd.Sparse.from_indices(row, column, sparse[row, column], shape=sparse.shape)
    if kind == "dense":
        return as_design(X), X
    if kind == "sharded":
        return Dense(jnp.asarray(X), is_on_one_device=False), X
    if kind == "entries":
        return entries, sparse
    if kind == "levels":
        return jd.Categorical(codes, 5), levels
    if kind == "read":
        return jd.Streamed({"x": X}), X
    if kind == "map":
        return jd.MatrixFree(lambda w: jnp.asarray(X) @ w, rows=ROWS, features=4), X
    parts = {"x": X, "level": jd.Categorical(codes, 5), "word": entries}
    return jd.Concatenated(parts), np.concatenate([X, levels, sparse], axis=1)


@pytest.mark.first
@pytest.mark.parametrize(("kind", "shift", "what"), CASES)
def test_every_answer_is_that_of_the_entries(kind, shift, what, rng):
    design, X = design_of(kind, rng, shift)
    features = X.shape[1]
    center = None if what == "scale" else Center.of(design, None)
    scale = None if what == "mean" else jnp.asarray(rng.uniform(0.5, 2, features), jnp.float32)
    if center is not None:
        assert bool(jnp.any(center.is_far)) == bool(shift)
    made = Standardised(design, center, scale)
    exact = X.astype(float)
    exact = exact if center is None else exact - np.asarray(center.mean, float)
    exact = exact if scale is None else exact * np.asarray(scale, float)
    size = 1 + shift * (center is None)
    close = {"rtol": 1e-4, "atol": 5e-5 * size}
    for outputs in ((), (2,)):
        weights = rng.normal(size=(features, *outputs)).astype(np.float32)
        rows = rng.normal(size=(ROWS, *outputs)).astype(np.float32)
        np.testing.assert_allclose(made.product(weights), exact @ weights, **close)
        np.testing.assert_allclose(made.transposed_product(rows), exact.T @ rows, **close)
        kept, back = made.there_and_back(weights, lambda p, y: (2 * p, p - y), rows)
        np.testing.assert_allclose(kept, 2 * exact @ weights, **close)
        expected = exact.T @ (exact @ weights - rows)
        loose = {"rtol": 1e-4, "atol": 1e-3 * size**2}
        np.testing.assert_allclose(back, expected, **loose)
    np.testing.assert_allclose(made.to_dense(), exact, **close)
    assert made.shape == X.shape
    for index in (np.array([3, 0, 59]), np.arange(20)):
        taken = made.taken(jnp.asarray(index))
        if taken is None:
            assert kind == "map"
            continue
        np.testing.assert_allclose(as_design(taken).to_dense(), exact[index], **close)
    for got, expected in (
        (made.rows_at(jnp.array([3, 0, 59])), exact[[3, 0, 59]]),
        (made.row_block(4, 9), exact[4:13]),
        (made.column_block(1, 2), exact[:, 1:3]),
    ):
        if got is not None:
            np.testing.assert_allclose(got, expected, **close)
    target, factor = np.arange(ROWS) % 7, rng.normal(size=ROWS).astype(np.float32)
    sums = made.sums_of_rows(jnp.asarray(target), jnp.asarray(factor), 7)
    if sums is not None:
        expected = np.eye(7)[target].T @ (factor[:, None] * exact)
        np.testing.assert_allclose(sums, expected, rtol=1e-4, atol=5e-6 * (1 + shift))
    s, other = rng.random(ROWS).astype(np.float32), rng.normal(size=features).astype(np.float32)
    squares = (s[:, None] * (exact - other) ** 2).sum(axis=0)
    got = made.column_squared_norms(jnp.asarray(s), jnp.asarray(other))
    if kind == "map":
        assert got is None
        return
    np.testing.assert_allclose(got, squares, rtol=2e-4)
    lengths = made.column_lengths(jnp.asarray(s), jnp.asarray(other))
    np.testing.assert_allclose(lengths, np.sqrt(squares), rtol=1e-4)


@pytest.mark.parametrize("kind", ["dense", "read"])
def test_a_second_center_is_subtracted_before_products_too(kind, rng):
    design, X = design_of(kind, rng, 3000.0)
    scale = rng.uniform(0.5, 2, 4).astype(np.float32)
    first, second = X.mean(axis=0), np.float32([1, -2, 3, 0.5])
    made = Standardised(design.minus(jnp.asarray(first)), scale=jnp.asarray(scale))
    exact = (X.astype(float) - first) * scale - second
    w = rng.normal(size=(4, 2)).astype(np.float32)
    got = made.minus(jnp.asarray(second))
    np.testing.assert_allclose(got.product(w), exact @ w, rtol=1e-4, atol=1e-3)
    assert Standardised(design_of("levels", rng)[0], scale=jnp.ones(5)).minus(jnp.ones(5)) is None


def test_scaled_designs_side_by_side_are_centred_each_in_its_own_way(rng):
    """Only the one whose means are far from zero has them subtracted from its entries."""
    design, X = design_of("side by side", rng, 3e4)
    scale = rng.uniform(0.5, 2, X.shape[1]).astype(np.float32)
    scaled = Standardised(design, scale=jnp.asarray(scale))
    center = Center.of(scaled, None)
    np.testing.assert_array_equal(center.is_far, [True, False, False])
    exact = X.astype(float) * scale
    exact = exact - np.asarray(center.mean, float)
    w = rng.normal(size=X.shape[1]).astype(np.float32)
    made = Standardised(scaled, center)
    np.testing.assert_allclose(made.product(w), exact @ w, rtol=1e-4, atol=3e-2)
    assert np.std(np.asarray(made.product(w), float) - exact @ w) < 1e-2


def test_designs_side_by_side_within_others_are_centred_as_if_all_stood_in_one_row(rng):
    design, X = design_of("side by side", rng)
    x, level, word = (design.designs[name] for name in ("x", "level", "word"))
    nested = jd.Concatenated({"x": x, "rest": jd.Concatenated({"level": level, "word": word})})
    y = rng.normal(size=ROWS).astype(np.float32)
    result = jd.minimize(jd.LinearRegression(nested, y, l2=0.1), method=jd.LSMR())
    expected, intercept, _ = references.closed_form(X, y, 0.1)
    weights = result.params["weights"]
    got = np.concatenate([weights["x"], weights["rest"]["level"], weights["rest"]["word"]])
    np.testing.assert_allclose(got, expected, atol=5e-4)
    np.testing.assert_allclose(result.params["intercept"], intercept, atol=5e-4)


def test_batches_are_taken_out_of_the_design_within(rng):
    design, X = design_of("entries", rng)
    center = jnp.asarray(rng.normal(size=5), jnp.float32)
    taken = Standardised(design.by_rows(), Center(center)).taken(jnp.arange(50))
    again = jax.jit(lambda X: X.taken(jnp.array([5, 41])))(taken)
    exact = (X - np.asarray(center))[[5, 41]]
    W, R = rng.normal(size=(5, 2)).astype(np.float32), rng.normal(size=(2, 2)).astype(np.float32)
    np.testing.assert_allclose(again.product(W), exact @ W, atol=2e-5)
    np.testing.assert_allclose(again.transposed_product(R), exact.T @ R, atol=2e-5)
    by_rows = Standardised(design, scale=center).by_rows().taken(jnp.arange(9, 12))
    np.testing.assert_allclose(by_rows.to_dense(), X[9:12] * np.asarray(center), rtol=1e-6)


def test_batches_of_designs_within_designs_keep_the_center_of_each(rng):
    near, far = (rng.normal(size=(ROWS, k)) + mean for k, mean in ((2, 0.0), (1, 1e6)))
    entries = sp.random(ROWS, 3, 0.3, random_state=0, dtype=np.float32).tocsr()
    design = jd.Concatenated(
        {
            "a": jd.Concatenated({"x": near.astype(np.float32), "z": far.astype(np.float32)}),
            "s": jd.Sparse(entries),
        }
    )
    X = np.hstack([near, far, entries.toarray()]).astype(np.float32).astype(np.float64)
    means = X.mean(axis=0)
    center = Center(jnp.asarray(means, jnp.float32), jnp.array([False, True, False]))
    index = jnp.array([3, 0, 41])
    taken = Standardised(design.by_rows(), center).taken(index)
    exact = X[index] - np.asarray(center.mean, np.float64)
    w = rng.normal(size=6).astype(np.float32)
    np.testing.assert_allclose(taken.product(w), exact @ w, rtol=1e-4, atol=1e-4)


def test_derivatives_by_the_scale_and_the_means_are_those_of_the_entries(rng, x64):
    X = jnp.asarray(rng.normal(size=(ROWS, 4)))
    mean, scale = jnp.asarray(rng.normal(size=4)), jnp.asarray(rng.uniform(1, 2, 4))
    w, r = jnp.asarray(rng.normal(size=4)), jnp.asarray(rng.normal(size=ROWS))

    def value(mean, scale, is_far):
        made = Standardised(as_design(X), Center(mean, jnp.array(is_far)), scale)
        return jnp.sum(made.product(w) ** 3) + jnp.sum(jnp.sin(made.transposed_product(r)))

    def plain(mean, scale):
        A = (X - mean[None]) * scale[None]
        return jnp.sum((A @ w) ** 3) + jnp.sum(jnp.sin(A.T @ r))

    expected = jax.grad(plain, (0, 1))(mean, scale)
    for is_far in (False, True):
        got = jax.grad(value, (0, 1))(mean, scale, is_far)
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-8)
