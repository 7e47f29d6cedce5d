"""A design less the means of its columns and in other units: each answer is that of the entries."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

import jaxdescent as jd
from jaxdescent.designs import Center, Dense, Standardised, as_design
from tests import references
from tests.results import assert_trees_close

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


FEW, MANY, TARGET = np.array([3, 0, 59]), np.arange(20), np.arange(ROWS) % 7


@functools.partial(jax.jit, static_argnames="what")
def answers(design, scale, numbers, what):
    """What a standardised design answers, and the center that it has."""
    center = None if what == "scale" else Center.of(design, None)
    made = Standardised(design, center, None if what == "mean" else scale)
    w, y, W, Y, factor, s, other = numbers
    taken = (made.taken(jnp.asarray(index)) for index in (FEW, MANY))
    few, many = (None if each is None else as_design(each).to_dense() for each in taken)
    found = {"few": few, "many": many, "rows_at": made.rows_at(FEW), "to_dense": made.to_dense()}
    found["row_block"] = made.row_block(4, 9)
    for outputs, weights, rows in (("one", w, y), ("two", W, Y)):
        found[f"{outputs} there"] = made.product(weights)
        found[f"{outputs} back"] = made.transposed_product(rows)
        both = made.there_and_back(weights, lambda p, y: (2 * p, p - y), rows)
        found[f"{outputs} kept"], found[f"{outputs} there and back"] = both
    found["sums"] = made.sums_of_rows(jnp.asarray(TARGET), factor, 7)
    found["squares"] = made.column_squared_norms(s, other)
    found["lengths"] = made.column_lengths(s, other)
    return found, center


@pytest.mark.first
@pytest.mark.parametrize(("kind", "shift", "what"), CASES)
def test_every_answer_is_that_of_the_entries(kind, shift, what, rng):
    design, X = design_of(kind, rng, shift)
    features = X.shape[1]
    scale = rng.uniform(0.5, 2, features).astype(np.float32)
    shapes = features, ROWS, (features, 2), (ROWS, 2), ROWS, ROWS, features
    numbers = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    numbers[5] **= 2  # a row's weight
    w, y, W, Y, factor, s, other = numbers
    found, center = answers(design, scale, numbers, what)
    assert Standardised(design, center, scale).shape == X.shape
    A = X.astype(float)
    if center is not None:
        assert bool(np.any(center.is_far)) == bool(shift)
        A = A - np.asarray(center.mean, float)
    A = A if what == "mean" else A * scale
    squares = s @ (A - other) ** 2
    expected = {"few": A[FEW], "many": A[MANY], "rows_at": A[FEW], "to_dense": A}
    expected["row_block"] = A[4:13]
    for outputs, weights, rows in (("one", w, y), ("two", W, Y)):
        expected[f"{outputs} there"], expected[f"{outputs} back"] = A @ weights, A.T @ rows
        expected[f"{outputs} kept"] = 2 * A @ weights
        expected[f"{outputs} there and back"] = A.T @ (A @ weights - rows)
    expected |= {"sums": np.eye(7)[TARGET].T @ (factor[:, None] * A)}
    expected |= {"squares": squares, "lengths": np.sqrt(squares)}
    size = 1 + shift * (center is None)
    bounds = dict.fromkeys(expected, (1e-4, 5e-5 * size)) | {"squares": (2e-4, 0)}
    bounds |= dict.fromkeys(("one there and back", "two there and back"), (1e-4, 1e-3 * size**2))
    bounds |= {"sums": (1e-4, 5e-6 * (1 + shift)), "lengths": (1e-4, 0)}
    may_lack = {"rows_at", "row_block", "sums"}
    if kind == "map":
        assert found["squares"] is None
        may_lack |= {"few", "many", "squares", "lengths"}
    for name, (rtol, atol) in bounds.items():
        if name not in may_lack or found[name] is not None:
            np.testing.assert_allclose(found[name], expected[name], rtol, atol, err_msg=name)


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
    w = rng.normal(size=X.shape[1]).astype(np.float32)

    @jax.jit
    def product(design, scale):
        scaled = Standardised(design, scale=scale)
        center = Center.of(scaled, None)
        return center, Standardised(scaled, center).product(w)

    center, got = product(design, scale)
    np.testing.assert_array_equal(center.is_far, [True, False, False])
    exact = (X.astype(float) * scale - np.asarray(center.mean, float)) @ w
    np.testing.assert_allclose(got, exact, rtol=1e-4, atol=3e-2)
    assert np.std(np.asarray(got, float) - exact) < 1e-2


def test_designs_side_by_side_within_others_are_centred_as_if_all_stood_in_one_row(rng):
    design, X = design_of("side by side", rng)
    x, level, word = (design.designs[name] for name in ("x", "level", "word"))
    nested = jd.Concatenated({"x": x, "rest": jd.Concatenated({"level": level, "word": word})})
    y = rng.normal(size=ROWS).astype(np.float32)
    regression = jd.LinearRegression(nested, y, l2=0.1)
    result = jd.minimize(regression, method=jd.ConjugateGradient())
    expected, intercept, _ = references.closed_form(X, y, 0.1)
    weights = result.params["weights"]
    got = np.concatenate([weights["x"], weights["rest"]["level"], weights["rest"]["word"]])
    np.testing.assert_allclose(got, expected, atol=5e-3)
    np.testing.assert_allclose(result.params["intercept"], intercept, atol=5e-3)


def test_batches_are_taken_out_of_the_design_within(rng):
    design, X = design_of("entries", rng)
    center = rng.normal(size=5).astype(np.float32)
    W, R = rng.normal(size=(5, 2)).astype(np.float32), rng.normal(size=(2, 2)).astype(np.float32)

    @jax.jit
    def answers(design, center, W, R):
        taken = Standardised(design.by_rows(), Center(center)).taken(jnp.arange(50))
        again = taken.taken(jnp.array([5, 41]))
        scaled = Standardised(design, scale=center).by_rows().taken(jnp.arange(9, 12))
        return again.product(W), again.transposed_product(R), scaled.to_dense()

    there, back, scaled = answers(design, center, W, R)
    exact = (X - center)[[5, 41]]
    np.testing.assert_allclose(there, exact @ W, atol=2e-5)
    np.testing.assert_allclose(back, exact.T @ R, atol=2e-5)
    np.testing.assert_allclose(scaled, X[9:12] * center, rtol=1e-6)


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
    index, w = np.array([3, 0, 41]), rng.normal(size=6).astype(np.float32)

    @jax.jit
    def product(design, center):
        return Standardised(design.by_rows(), center).taken(jnp.asarray(index)).product(w)

    exact = (X[index] - np.asarray(center.mean, np.float64)) @ w
    np.testing.assert_allclose(product(design, center), exact, rtol=1e-4, atol=1e-4)


def test_derivatives_by_the_scale_and_the_means_are_those_of_the_entries(rng, x64):
    X, r = rng.normal(size=(ROWS, 4)), rng.normal(size=ROWS)
    mean, w, scale = rng.normal(size=4), rng.normal(size=4), rng.uniform(1, 2, 4)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def slopes(mean, scale, is_far):
        made = Standardised(as_design(X), Center(mean, is_far), scale)
        return jnp.sum(made.product(w) ** 3) + jnp.sum(jnp.sin(made.transposed_product(r)))

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def plain(mean, scale):
        A = (X - mean[None]) * scale[None]
        return jnp.sum((A @ w) ** 3) + jnp.sum(jnp.sin(A.T @ r))

    expected = plain(mean, scale)
    for is_far in (False, True):
        assert_trees_close(slopes(mean, scale, is_far), expected, rtol=1e-8, atol=1e-8)
