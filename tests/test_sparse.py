"""Sparse designs: SciPy's products, and every method's minimum of the dense regression."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.sparse import BCOO, BCSR

import jaxdescent as jd
from jaxdescent.cost import default_plan
from jaxdescent.designs import sparse_entries, sparse_layout
from jaxdescent.preconditioners.hessians import CentredRegression
from tests import references
from tests.meshes import rows_over

ROWS, FEATURES = 60, 12


def random_matrix(rng, rows=ROWS, features=FEATURES, density=0.2, dtype=np.float64):
    matrix = scipy.sparse.random(rows, features, density, random_state=rng, dtype=dtype)
    return matrix.tocsr()


def close(got, expected, rtol=1e-12):
    scale = max(float(np.max(np.abs(expected), initial=0)), 1e-300)
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * scale)


@jax.jit
def products(X, weights, residual):
    return X.product(weights), X.transposed_product(residual)


@pytest.mark.slow
@settings(max_examples=10)
@given(st.data())
def test_products_are_scipys_for_any_pattern(data):
    rows, features = data.draw(st.sampled_from([(1, 1), (7, 5), (4, 90), (90, 4)]))
    count = data.draw(st.sampled_from([0, 1, 9, 200]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    row, column = rng.integers(0, rows, count), rng.integers(0, features, count)
    if data.draw(st.booleans()):
        row[: count // 2] = rows - 1  # one row that is far longer than the others
    values = rng.normal(size=count) * rng.integers(0, 2, count)  # explicit zeros
    matrix = scipy.sparse.coo_matrix((values, (row, column)), (rows, features))
    with jax.enable_x64(True):
        X = jd.Sparse.from_indices(row, column, values, shape=matrix.shape)
        assert X.dtype == X.reading.dtype == jnp.float64
        assert X.entries == matrix.tocsr().nnz
        references.assert_is_matrix(X, matrix.toarray(), rng, are_sums=True)
        ones = jd.Sparse.from_indices(row, column, shape=matrix.shape, dtype=jnp.float64)
        matrix = scipy.sparse.coo_matrix((np.ones(count), (row, column)), (rows, features))
        references.assert_is_matrix(ones, matrix.toarray(), rng)


@pytest.mark.parametrize("make", ["csr", "csc", "coo", "lil", "array", "bcoo", "bcsr"])
def test_matrices_of_scipy_and_jax_are_taken(make, rng, x64):
    matrix = random_matrix(rng)
    if make == "bcoo":
        given = BCOO.from_scipy_sparse(matrix)
        indices = np.concatenate([given.indices, np.full((2, 2), 1000, np.int32)])
        given = BCOO((np.append(given.data, np.ones(2)), indices), shape=matrix.shape)
    elif make == "bcsr":
        given = BCSR.from_scipy_sparse(matrix)
    else:
        given = scipy.sparse.csr_array(matrix) if make == "array" else matrix.asformat(make)
    references.assert_is_matrix(jd.Sparse(given), matrix.toarray(), rng)


def full_column(rng):
    matrix = random_matrix(rng, 5000, 40, 0.05).tolil()
    matrix[:, 3] = rng.normal(size=(5000, 1))
    return matrix.tocsr()


def full_row(rng):
    return full_column(rng).T.tocsr()


def zipf(rng):
    column = np.minimum(rng.zipf(1.3, 40_000) - 1, 2999)
    entries = rng.normal(size=40_000), (rng.integers(0, 1000, 40_000), column)
    return scipy.sparse.coo_matrix(entries, (1000, 3000)).tocsr()


@pytest.mark.first
@pytest.mark.parametrize("make", [full_column, full_row, zipf])
def test_no_distribution_of_entries_blows_the_layout_up(make, rng, x64, monkeypatch):
    monkeypatch.setattr(sparse_layout, "LEAST_ENTRIES", 1 << 11)
    matrix = make(rng)
    X = jd.Sparse(matrix)
    references.assert_is_matrix(X, matrix.toarray(), rng)
    # An entry takes 12 bytes, and a row a few more; the padding of a slice is at most 15 pieces.
    assert X.reading.bytes < 1.25 * 12 * X.entries + 24 * max(X.shape)


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [(50, 65), (13, 65)], ids=["few last ones", "most of them"])
def test_padding_of_ones_is_masked_however_much_of_a_piece_it_is(lengths, rng, x64, monkeypatch):
    monkeypatch.setattr(sparse_layout, "FEWEST_ENTRIES", 1 << 15)  # one width for all pieces
    length = rng.integers(*lengths, 200)
    row = np.repeat(np.arange(200), length)
    column = np.concatenate([rng.permutation(300)[:each] for each in length])
    X = jd.Sparse.from_indices(row, column, shape=(200, 300), dtype=jnp.float64)
    matrix = scipy.sparse.coo_matrix((np.ones(row.size), (row, column)), (200, 300)).tocsr()
    references.assert_is_matrix(X, matrix.toarray(), rng)
    weights = rng.normal(size=300)
    weights[7] = np.inf
    got, _ = products(X, weights, np.zeros(200))
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(matrix @ weights))


def test_designs_are_flattened_alike_with_names_and_without(rng):
    X = jd.Sparse(random_matrix(rng))
    hashed = jd.Hashed([0, 1, 1], [2**40, 7, 9], shape=(2, 2**50))
    for design in (X, hashed, jd.Concatenated({"a": X, "b": X})):
        leaves, structure = jax.tree.flatten(design)
        named, same = jax.tree_util.tree_flatten_with_path(design)
        assert structure == same
        assert all(a is b for a, (_, b) in zip(leaves, named, strict=True))


@pytest.mark.parametrize(
    ("mean", "rows", "least", "share"), [(30, 100_000, 0, 1.1), (4, 2500, 1, 1.75)]
)
def test_few_widths_are_chosen_and_pad_little(mean, rows, least, share, rng):
    size = rng.poisson(mean, rows).clip(least, 64)
    widths = sparse_layout._widths(size)
    padded = widths[np.searchsorted(widths, size)].sum()
    assert len(widths) < 12
    assert padded < share * size.sum()
    assert padded < 0.7 * size.max() * rows  # what the longest row would need


def test_a_matrix_without_entries_predicts_the_intercept(x64):
    X = jd.Sparse.from_indices([], [], np.zeros(0), shape=(3, 2))
    y = jnp.array([1.0, 2.0, 6.0])
    result = jd.minimize(jd.LinearRegression(X, y, l2=1.0), method=jd.LSMR())
    np.testing.assert_allclose(result.params["weights"], 0)
    np.testing.assert_allclose(result.params["intercept"], 3)


def test_what_is_not_finite_reaches_only_the_rows_that_read_it(rng, x64):
    matrix, nothing = random_matrix(rng), np.zeros(ROWS)
    for bad in (np.nan, np.inf):
        weights = rng.normal(size=FEATURES)
        weights[4] = bad
        got, _ = products(jd.Sparse(matrix), weights, nothing)
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(matrix @ weights))
    matrix.data[3] = np.nan
    got, _ = products(jd.Sparse(matrix), np.ones(FEATURES), nothing)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(matrix @ np.ones(FEATURES)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_values_of_16_bits_are_kept_and_multiplied_in_float32(dtype, rng):
    values = jnp.asarray(rng.normal(size=3), dtype)
    X = jd.Sparse.from_indices([0, 1, 1], [1, 0, 2], values, shape=(2, 3))
    assert X.reading.dtype == dtype
    assert X.dtype == X.product(jnp.ones(3)).dtype == jnp.float32
    exact = np.asarray(values, float)
    np.testing.assert_allclose(X.product(jnp.ones(3)), [exact[0], exact[1:].sum()], rtol=1e-6)


def test_double_precision_becomes_single_without_x64(rng):
    matrix = random_matrix(rng)
    X = jd.Sparse(matrix)
    assert X.dtype == X.reading.dtype == X.to_dense().dtype == jnp.float32
    np.testing.assert_allclose(X.to_dense(), matrix.toarray(), rtol=1e-6)


def regressions(rng, outputs=(), weighted=True, intercept=True):
    matrix = random_matrix(rng)
    y = jnp.asarray(rng.normal(size=(ROWS, *outputs)))
    weight = jnp.asarray(rng.uniform(0.5, 2, ROWS)) if weighted else None
    make = functools.partial(
        jd.LinearRegression, y=y, l2=0.5, sample_weight=weight, intercept=intercept
    )
    return make(jd.Sparse(matrix)), make(jnp.asarray(matrix.toarray()))


def test_values_and_gradients_are_the_dense_ones_eagerly_in_jit_and_in_vmap(rng, x64):
    sparse, dense = (each.checked() for each in regressions(rng))
    params = {"weights": rng.normal(size=FEATURES), "intercept": np.float64(0.3)}
    stacked = jax.tree.map(lambda leaf: np.stack([leaf, 2 * leaf]), params)

    @jax.jit
    def answers(objective):
        several = jax.vmap(objective.value_and_gradient)(stacked)
        curved = objective.curvature_bounds(params), objective.curvature(params, params)
        return objective.value_and_gradient(params), several, curved

    expected = answers(dense)
    jax.tree.map(close, answers(sparse), expected)
    jax.tree.map(close, sparse.value_and_gradient(params), expected[0])
    jax.tree.map(close, jax.jit(jax.grad(sparse.value))(params), expected[0][1])


@pytest.mark.slow
def test_derivatives_of_the_minimum_are_the_dense_ones(rng, x64):
    matrix = random_matrix(rng, 20, 4, 0.4).tocoo()

    def of_params(weights, intercept):
        return jnp.sum(jnp.sin(weights)) + intercept

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1, 2, 3))
    def sparse(values, y, l2, weight):
        X = jd.Sparse.from_indices(matrix.row, matrix.col, values, shape=matrix.shape)
        regression = jd.LinearRegression(X, y, l2=l2, sample_weight=weight)
        return of_params(**jd.minimize(regression, method=jd.LSMR(), tolerance=1e-12).params)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1, 2, 3))
    def dense(values, y, l2, weight):
        X = jnp.zeros(matrix.shape).at[matrix.row, matrix.col].set(values)
        mean, target = (weight @ each / jnp.sum(weight) for each in (X, y))
        A = X - mean[None]
        normal = A.T @ (weight[:, None] * A) + l2 * jnp.eye(4)
        weights = jnp.linalg.solve(normal, A.T @ (weight * (y - target)))
        return of_params(weights, target - mean @ weights)

    arguments = matrix.data, rng.normal(size=20), np.float64(0.5), rng.uniform(0.5, 2, 20)
    jax.tree.map(functools.partial(close, rtol=1e-6), sparse(*arguments), dense(*arguments))


def test_traced_values_of_one_place_add_up(x64):
    def product(values):
        X = jd.Sparse.from_indices([1, 0, 1], [0, 0, 0], values, shape=(2, 1))
        return X.product(jnp.ones(1))

    values = jnp.array([1.0, 2.0, 4.0])
    np.testing.assert_allclose(jax.jit(product)(values), [2, 5])
    np.testing.assert_allclose(jax.jit(jax.jacobian(product))(values), [[0, 1, 0], [1, 0, 1]])


def test_norms_of_centred_columns_need_the_entries_alone(rng, x64):
    sparse, dense = regressions(rng)
    diagonal = jax.jit(lambda r: CentredRegression.from_objective(r).diagonal())
    close(*(diagonal(each.checked()) for each in (sparse, dense)), rtol=1e-10)
    # A constant column is none, but for rounding, which is no more than that and never negative.
    ones = jd.Sparse.from_indices(np.arange(9), np.zeros(9, int), shape=(9, 2), dtype=jnp.float64)
    norms = np.asarray(ones.column_squared_norms(None, jnp.array([1.0, 0.0])))
    assert (norms >= 0).all()
    assert (norms < 1e-13).all()


def test_a_column_of_ones_in_all_rows_but_one_keeps_its_length():
    rows, center = 1_000_000, jnp.array([1 - 1e-6, 1e-6])
    level = np.arange(rows) // (rows - 1)
    categorical = jd.Categorical(level, 2)
    ones = jd.Sparse.from_indices(np.arange(rows), level, shape=(rows, 2))
    for design in (categorical, ones):
        norms = design.column_squared_norms(None, center)
        np.testing.assert_allclose(norms, [1 - 1e-6] * 2, rtol=1e-3)


def test_predictions_take_a_sparse_matrix(rng, x64):
    sparse, _ = regressions(rng)
    matrix = random_matrix(rng)
    params = {"weights": jnp.asarray(rng.normal(size=FEATURES)), "intercept": jnp.asarray(2.0)}
    expected = matrix @ np.asarray(params["weights"]) + 2
    close(sparse.predict(params, matrix), expected)
    close(sparse.predict(params, jd.Sparse(matrix)), expected)


def test_new_values_at_the_same_places_trace_nothing(rng, x64):
    matrix = random_matrix(rng)
    traces = []

    @jax.jit
    def product(X, weights):
        traces.append(X)
        return X.product(weights)

    for _ in range(2):
        matrix.data[:] = rng.normal(size=matrix.nnz)
        close(product(jd.Sparse(matrix), jnp.ones(FEATURES)), matrix @ np.ones(FEATURES))
    assert len(traces) == 1


def test_a_matrix_on_several_devices_is_multiplied(rng, x64, several_devices):
    matrix = random_matrix(rng, 4000, 64, 0.1)
    mesh = rows_over(8).mesh
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    of_pieces = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "rows"))

    def placed(leaf):
        is_cut = leaf.ndim == 2 and leaf.shape[1] % 8 == 0
        return jax.device_put(leaf, of_pieces if is_cut else everywhere)

    X = jax.tree.map(placed, jd.Sparse(matrix))
    weights, residual = rng.normal(size=64), rng.normal(size=4000)
    there, back = products(X, *(jax.device_put(each, everywhere) for each in (weights, residual)))
    close(there, matrix @ weights)
    close(back, matrix.T @ residual)


def planned(regression):
    regression = regression.checked()
    return default_plan(regression, regression.start())


def test_a_sparse_regression_is_never_made_dense_where_that_costs_more(rng):
    row, column = rng.integers(0, 20_000, 100_000), rng.integers(0, 5000, 100_000)
    X = jd.Sparse.from_indices(row, column, shape=(20_000, 5000))
    plan = planned(jd.LinearRegression(X, jnp.ones(20_000), l2=1.0))
    assert plan.chosen.name == "LSMR()"
    assert plan.chosen.seconds_per_iteration < plan.candidates[0].seconds / 100
    assert f"{X.entries:,} entries" in plan.structure.describe()
    small = jd.LinearRegression(jd.Sparse.from_indices([0], [0], shape=(3, 2)), jnp.ones(3))
    assert planned(small).chosen.name == "DerivativeMethod()"


def test_what_is_not_dense_is_priced_without_the_sums_of_dense_products():
    n = 1_000_000
    free = jd.MatrixFree(lambda w: 2 * w, rows=n, features=n)
    sparse_rows = jd.Sparse.from_indices(np.arange(n), np.arange(n), shape=(n, n))
    for X in (free, sparse_rows):
        planned = jd.plan(jd.LinearRegression(X, jnp.zeros(n), l2=1.0, intercept=False))
        iterative = {each.name: each.peak_bytes for each in planned.candidates}
        # Vectors of 4 n bytes: X's entries have three, the look at a claim by the lengths of sparse
        # columns up to nineteen.
        assert iterative["LSMR()"] < (80 if X is free else 1.25 * 76) * n
        assert iterative["ConjugateGradient()"] < (80 if X is free else 1.25 * 68) * n


def test_a_sparse_matrix_is_shown_by_its_sizes(rng):
    matrix = random_matrix(rng)
    X = jd.Sparse(matrix)
    assert repr(X) == f"Sparse(60 x 12, {matrix.nnz} entries)"
    assert repr(jd.LinearRegression(matrix, jnp.ones(60))) == (
        "LinearRegression(60 rows x 12 features, intercept)"
    )
    assert not X.is_stored


def made(*arguments, shape=(3, 2), **options):
    return jd.Sparse.from_indices(*arguments, shape=shape, **options)


REFUSED = [
    (lambda: made([0, 3], [0, 0]), ValueError, "row indices must be from 0 to 2, got 3"),
    (lambda: made([0, -1], [0, 0]), ValueError, "row indices must be from 0 to 2, got -1"),
    (lambda: made([0, 1], [0, 2]), ValueError, "column indices must be from 0 to 1, got 2"),
    (lambda: made([0, 1], [0]), ValueError, "got 2 rows and 1 columns"),
    (lambda: made([[0]], [0]), ValueError, r"must have shape \(entries,\), got \(1, 1\)"),
    (lambda: made([0.5], [0]), TypeError, "must be integers, got dtype float64"),
    (lambda: made([True], [0]), TypeError, "must be integers, got dtype bool"),
    (lambda: made([0], [0], np.ones(2)), ValueError, r"values must have shape \(1,\)"),
    (lambda: made([0], [0], np.ones(1, int)), TypeError, "real floating-point, got dtype int64"),
    (lambda: made([0], [0], np.ones(1, bool)), TypeError, "real floating-point, got dtype bool"),
    (
        lambda: made([0], [0], np.ones(1, complex)),
        TypeError,
        "real floating-point, got dtype complex128",
    ),
    (lambda: made([0], [0], dtype=int), TypeError, "dtype of ones must be .*, got .*int"),
    # shapes
    (lambda: made([], [], shape=(0, 2)), ValueError, "at least one row and one feature"),
    (lambda: made([0], [0], shape=(3,)), ValueError, r"shape must be \(rows, features\)"),
    (lambda: made([0], [0], shape=(2**31, 2)), ValueError, r"fewer than 2\*\*31"),
    (lambda: made([0], [0], shape=(2.0, 2)), TypeError, r"two integers, got \(2.0, 2\)"),
    (lambda: made([0], [0], shape=5), TypeError, "two integers, got 5"),
    # matrices
    (lambda: jd.Sparse(np.eye(3)), TypeError, "got ndarray: pass a dense X"),
    (lambda: jd.Sparse(scipy.sparse.coo_array(np.ones(3))), ValueError, "must have shape"),
    (
        lambda: jd.Sparse(BCOO((np.ones((2, 2)), np.array([[0], [1]])), shape=(2, 2))),
        TypeError,
        "without batch",
    ),
    # what is traced
    (
        lambda: jax.jit(lambda row: made(row, [0]))(jnp.zeros(1, int)),
        TypeError,
        "must be known numbers, got traced ones",
    ),
    (
        lambda: jax.jit(jd.Sparse)(BCOO((np.ones(2), np.array([[0, 0], [1, 1]])), shape=(2, 2))),
        TypeError,
        "must be known numbers, got traced ones",
    ),
    # products
    (lambda: made([0], [0]).product(jnp.ones(3)), ValueError, r"as many as features, got \(3,\)"),
    (
        lambda: made([0], [0]).transposed_product(jnp.ones((2, 1))),
        ValueError,
        r"as many as rows, got \(2, 1\)",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSED)
def test_what_makes_no_matrix_or_product_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_indices_of_64_bits_without_sign_are_exact():
    # Two places far out, which in float64 would be one.
    places = np.array([2**30 - 2, 2**30 - 1], np.uint64)
    column = sparse_entries.checked_index("column", places, 2**30)
    row = sparse_entries.checked_index("row", np.full(2, 2**30 - 1), 2**30)
    kept = sparse_entries.without_duplicates(row, column, np.ones(2), 2**30, np.float32)
    assert [len(part) for part in kept] == [2, 2, 2]
    X = jd.Sparse.from_indices(np.uint64([2, 0]), np.uint64([0, 1]), shape=(3, 2))
    np.testing.assert_array_equal(X.to_dense(), [[0, 1], [0, 0], [1, 0]])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_large_values_are_compared_without_overflow(dtype):
    large = np.array([1, 1, 1, 0.01]) * float(jnp.finfo(dtype).max)
    X = jd.Sparse.from_indices(range(4), range(4), large.astype(dtype), shape=(4, 4))
    assert not X.is_uneven
    several = np.array([1, 1, 1, 9]) * float(jnp.finfo(dtype).max) / 9
    X = jd.Sparse.from_indices(range(4), range(4), several.astype(dtype), shape=(4, 4))
    assert X.is_uneven
