"""Mini-batches of sparse and categorical rows in memory: their products, and descents beside dense
copies of the same rows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdescent as jd
from jaxdescent.methods.batch_steps import batch_rows
from jaxdescent.objectives import RowBlocks
from tests import references
from tests.meshes import rows_over

ROWS, FEATURES = 600, 150


def entries_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    columns = [rng.choice(FEATURES, length, replace=False) for length in lengths]
    values = rng.normal(size=rows.size).astype(np.float32)
    return rows, np.concatenate(columns).astype(np.int64), values


def uneven(seed=0):
    """Rows without entries, and rows that are cut into several pieces."""
    lengths = np.random.default_rng(seed).poisson(5, ROWS)
    lengths[[0, 7]] = 0
    lengths[[3, 599]] = 140
    return lengths


LENGTHS = {
    "uneven": uneven(),
    "all alike": np.full(ROWS, 6),
    "one entry": np.r_[1, np.zeros(ROWS - 1, int)],
    "none": np.zeros(ROWS, int),
}


def dense_of(rows, columns, values):
    made = np.zeros((ROWS, FEATURES), np.float32)
    made[rows, columns] = 1 if values is None else values
    return made


@jax.jit
def products_of_rows(X, index, W, R):
    taken = X.by_rows().taken(index)
    assert taken.shape == (index.size, FEATURES)
    fewer = taken.taken(jnp.array([5, 61]))
    there = taken.product(W[:, 0]), taken.product(W)
    return taken.to_dense(), *there, taken.transposed_product(R), fewer.product(W)


class TestRows:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("kind", "has_values"),
        [
            ("uneven", True),
            ("uneven", False),
            ("all alike", True),
            ("one entry", False),
            ("none", True),
        ],
    )
    def test_their_products(self, kind, has_values):
        rows, columns, values = entries_of(LENGTHS[kind])
        values = values if has_values else None
        X = jd.Sparse.from_indices(rows, columns, values, shape=(ROWS, FEATURES))
        rng = np.random.default_rng(1)
        index = np.r_[rng.integers(0, ROWS, 60), 3, 7, 3, 599]
        A = dense_of(rows, columns, values)[index].astype(float)
        W, R = rng.normal(size=(FEATURES, 2)), rng.normal(size=(index.size, 2))
        W, R = W.astype(np.float32), R.astype(np.float32)
        taken, one, several, back, of_fewer = products_of_rows(X, index, W, R)
        np.testing.assert_array_equal(taken, A.astype(np.float32))
        np.testing.assert_allclose(several, A @ W, atol=2e-5)
        np.testing.assert_allclose(back, A.T @ R, atol=2e-5)
        np.testing.assert_allclose(one, A @ W[:, 0], atol=2e-5)
        np.testing.assert_allclose(of_fewer, A[[5, 61]] @ W, atol=2e-5)

    @pytest.mark.slow
    def test_a_weight_that_is_not_finite_reaches_the_rows_that_read_it(self):
        rows, columns, values = entries_of(LENGTHS["uneven"])
        X = jd.Sparse.from_indices(rows, columns, values, shape=(ROWS, FEATURES))
        weights = np.zeros(FEATURES, np.float32)
        weights[11] = np.nan
        made = jax.jit(lambda X, w: X.taken(jnp.arange(ROWS)).product(w))(X, weights)
        reads = np.zeros(ROWS, bool)
        reads[rows[columns == 11]] = True
        np.testing.assert_array_equal(np.isnan(made), reads)

    def test_levels_and_none_of_them(self):
        codes = np.array([5, -1, 39, 5, 0])
        X = jd.Categorical(codes, 40)
        index = jnp.array([4, 1, 0, 3])
        taken = X.taken(index)
        expected = np.eye(41, dtype=np.float32)[codes][np.asarray(index), :40]
        np.testing.assert_array_equal(taken.to_dense(), expected)
        assert isinstance(jd.Categorical(codes, 40).taken(index), type(taken))
        assert isinstance(jd.Categorical(np.array([0, 1, 1, 0, 2]), 3).taken(index), jax.Array)


def problem(dtype=np.float32, sharding=None):
    """A dense, a sparse and a categorical design side by side, and all of it as an array."""
    rng = np.random.default_rng(2)
    rows, columns, values = entries_of(LENGTHS["uneven"])
    dense = rng.normal(size=(ROWS, 2)).astype(dtype) + 3
    codes = rng.integers(-1, 20, ROWS)
    X = jd.Concatenated(
        {
            "dense": jax.device_put(dense, sharding),
            "sparse": jd.Sparse.from_indices(
                rows, columns, values.astype(dtype), shape=(ROWS, FEATURES), sharding=sharding
            ),
            "codes": jd.Categorical(codes, 20, dtype=dtype, sharding=sharding),
        }
    )
    one_hot = np.eye(21)[codes][:, :20]
    whole = np.concatenate([dense, dense_of(rows, columns, values), one_hot], axis=1)
    Y = whole @ rng.normal(size=(172, 2)) + 2 + rng.normal(size=(ROWS, 2))
    weight = rng.random(ROWS) + 0.5
    data = {"l2": jnp.array([30.0, 80.0], dtype), "sample_weight": weight.astype(dtype)}
    return X, whole.astype(dtype), Y.astype(dtype), data


def flat(params):
    weights = params["weights"]
    if isinstance(weights, dict):
        weights = np.concatenate([weights[name] for name in ("dense", "sparse", "codes")])
    return np.asarray(weights)


METHOD = jd.MiniBatches(rows=50)


def descent(X, Y, data, iterations=6):
    regression = jd.LinearRegression(X, Y, **data)
    return jd.minimize(regression, method=METHOD, max_iterations=iterations, tolerance=0)


@pytest.fixture(scope="module")
def of_entries():
    """A short descent in float64 and a long one, by one program."""
    with jax.enable_x64(True):
        X, _, Y, data = problem(np.float64)
        return descent(X, Y, data), descent(X, Y, data, iterations=60)


@pytest.mark.slow
def test_a_descent_is_that_on_a_dense_copy_of_the_same_rows_and_comes_to_the_minimum(
    of_entries, x64
):
    _, whole, Y, data = problem(np.float64)
    (short, long), dense = of_entries, descent(whole, Y, data)
    np.testing.assert_allclose(short.value, dense.value, rtol=1e-9)
    np.testing.assert_allclose(flat(short.params), flat(dense.params), atol=1e-9)
    regression = jd.LinearRegression(whole, Y, **data)
    exact = references.least_squares(regression)
    assert 0 <= float(short.value) / references.value(regression, exact) - 1 < 0.01
    assert long.value.dtype == jnp.float64
    np.testing.assert_allclose(flat(long.params), exact["weights"], atol=1e-7)


@pytest.mark.slow
def test_any_transformation_and_hashed_columns():
    rows, columns, values = entries_of(LENGTHS["uneven"])
    X = jd.Hashed(rows, columns << 25, values, shape=(ROWS, 2**33))
    dense = dense_of(rows, columns, values)[:, np.unique(columns)]
    y = dense.sum(axis=1)
    method = jd.MiniBatches(optax.sgd(1e-5), rows=100)
    fit = lambda X: jd.minimize(  # noqa: E731
        jd.LinearRegression(X, y, l2=1.0), method=method, max_iterations=2, tolerance=0
    )
    own, other = fit(X), fit(dense)
    np.testing.assert_allclose(own.params["weights"], other.params["weights"], atol=1e-5)


@pytest.mark.slow
def test_rows_over_several_devices_are_those_of_one_within_a_callers_jit_too(of_entries, x64):
    over = rows_over(4)
    X, _, Y, data = problem(np.float64, sharding=over)
    Y, data["sample_weight"] = jax.device_put((Y, data["sample_weight"]), over)
    made = jax.jit(descent)(X, Y, data)
    np.testing.assert_allclose(made.value, of_entries[0].value, rtol=1e-9)
    np.testing.assert_allclose(flat(made.params), flat(of_entries[0].params), atol=1e-9)


@pytest.mark.slow
def test_nothing_of_rows_times_features_is_held():
    rng = np.random.default_rng(0)
    rows, features = 20_000, 1 << 20
    X = jd.Sparse.from_indices(
        np.repeat(np.arange(rows), 5), rng.integers(0, features, 5 * rows), shape=(rows, features)
    )
    X = jd.Concatenated({"text": X, "user": jd.Categorical(rng.integers(0, 50_000, rows), 50_000)})
    fit = lambda y: jd.minimize(  # noqa: E731
        jd.LinearRegression(X, y), method=jd.MiniBatches(), max_iterations=2
    )
    compiled = jax.jit(fit).lower(jnp.zeros(rows)).compile()
    memory = compiled.memory_analysis()
    # A batch of 13,000 rows would take 55 GB.
    assert memory.temp_size_in_bytes < 40 * 4 * (features + 50_000)


def test_how_many_rows_a_batch_has():
    text = RowBlocks(1_000_000, 1_000_000, 30)
    assert batch_rows(1 << 20, 1 << 20, text) == 1_000_000 // 64
    # Few rows for so many features: steps would be vectors alone.
    assert batch_rows(1 << 24, 1 << 24, text) == (1 << 24) // 30 // 16
    assert batch_rows(1 << 24, 1 << 24, RowBlocks(2000, 2000, 30)) == 2000
    assert batch_rows(1 << 18, 1 << 18, text) == (1 << 18) // 30


def test_the_plan_prices_it():
    rows, columns, values = entries_of(LENGTHS["uneven"])
    X = jd.Sparse.from_indices(rows, columns, values, shape=(ROWS, FEATURES))
    regression = jd.LinearRegression(X, np.ones(ROWS, np.float32))
    candidates = {each.name: each for each in jd.plan(regression).candidates}
    batches, other = candidates["MiniBatches()"], candidates["ConjugateGradient()"]
    assert batches.feasible
    assert batches.seconds > other.seconds  # entries are picked one by one
    # A copy of the entries row by row, and vectors.
    assert batches.peak_bytes - other.peak_bytes > 8 * X.entries
    assert type(jd.plan(regression).chosen.method) is not jd.MiniBatches
