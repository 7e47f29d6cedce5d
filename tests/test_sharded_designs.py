"""Sparse and categorical rows over eight devices, and several outputs over an axis of their own:
the same numbers, and no X on the way.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxdescent as jd
from jaxdescent.scale.compiled import Compiled
from tests.references import assert_is_matrix, closed_form

ROWS, FEATURES, LEVELS = 160, 30, 12


def rows_over(axis_type=AxisType.Auto):
    mesh = jax.make_mesh((4, 2), ("samples", "others"), axis_types=(axis_type,) * 2)
    return NamedSharding(mesh, P("samples"))


def entries(rng, kind):
    if kind == "long rows":  # of more than one piece, on one device alone
        matrix = scipy.sparse.random(ROWS, 300, 0.02, random_state=rng).tolil()
        matrix[3] = rng.normal(size=300)
        return matrix.tocsr()
    matrix = scipy.sparse.random(ROWS, FEATURES, 0.2, random_state=rng).tocsr()
    if kind == "empty part":
        matrix = matrix.tolil()
        matrix[:40] = 0
        matrix[60] = 0
    return matrix.tocsr()


@pytest.mark.first
@pytest.mark.parametrize(
    ("kind", "has_values"), [("even", False), ("long rows", True), ("empty part", True)]
)
def test_a_sharded_sparse_matrix_is_the_whole_one(kind, has_values, rng, x64):
    matrix = entries(rng, kind).tocoo()
    entries_of = matrix.row, matrix.col, matrix.data if has_values else None
    options = {"shape": matrix.shape, "dtype": jnp.float64}
    whole, cut = (
        jd.Sparse.from_indices(*entries_of, **options, sharding=sharding)
        for sharding in (None, rows_over())
    )
    assert cut.entries == whole.entries
    assert all(leaf.sharding.spec[0] == "samples" for leaf in jax.tree.leaves(cut) if leaf.ndim)
    A = matrix.toarray() if has_values else (matrix.toarray() != 0).astype(float)
    assert_is_matrix(cut, A, rng)


@pytest.mark.parametrize("has_missing", [True, False])
def test_sharded_levels_are_the_whole_ones(has_missing, rng, x64):
    codes = rng.integers(0, LEVELS, ROWS)
    codes[:40] = 1  # a part of one level
    if has_missing:
        codes[::7] = -1
    make = functools.partial(jd.Categorical, codes, LEVELS, dtype=jnp.float64)
    whole, cut = make(), make(sharding=rows_over())
    dense = np.eye(LEVELS + 1)[codes][:, :LEVELS]
    assert_is_matrix(cut, dense, rng)
    fewer, expected = cut.without([1]), whole.without([1])
    assert fewer.level_of_row.sharding == cut.level_of_row.sharding
    np.testing.assert_array_equal(fewer.level_of_row, expected.level_of_row)


@pytest.fixture
def panel(rng):
    matrix = entries(rng, "even").astype(np.float32)
    x = rng.normal(size=(ROWS, 2)).astype(np.float32)
    codes = rng.integers(0, LEVELS, ROWS)
    y = (x @ [1, 2] + matrix @ rng.normal(size=FEATURES) + codes).astype(np.float32)

    def make(sharding):
        put = functools.partial(jax.device_put, device=sharding)
        X = jd.Concatenated(
            {
                "x": put(x),
                "words": jd.Sparse(matrix, sharding=sharding),
                "firm": jd.Categorical(codes, LEVELS, sharding=sharding),
            }
        )
        return jd.LinearRegression(X, put(y), l2=0.3, sample_weight=put(np.float32(1 + codes)))

    exact = np.column_stack([x, matrix.toarray(), np.eye(LEVELS)[codes]])
    return make, closed_form(exact, y, 0.3, 1 + codes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "axis_type"),
    [
        (jd.ConjugateGradient(jd.Jacobi()), AxisType.Explicit),
        (jd.LSMR(), AxisType.Auto),
        (jd.DerivativeMethod(), AxisType.Auto),
    ],
    ids=str,
)
def test_a_sharded_panel_has_the_minimum_of_the_whole_one(method, axis_type, panel):
    make, (weights, intercept, value) = panel
    got = jd.minimize(make(rows_over(axis_type)), method=method)
    assert bool(got.converged)
    found = np.concatenate([got.params["weights"][name] for name in ("x", "words", "firm")])
    np.testing.assert_allclose(found, weights, atol=5e-3)
    np.testing.assert_allclose(got.params["intercept"], intercept, atol=5e-3)
    np.testing.assert_allclose(got.value, value, rtol=3e-5)


@pytest.mark.slow
def test_no_row_leaves_its_device(panel):
    regression = panel[0](rows_over())
    method = jd.ConjugateGradient(jd.Jacobi())

    def solve(regression):
        return jd.minimize(regression, method=method).params

    program = Compiled(solve, regression)
    assert {sent.kind for sent in program.sent} <= {"all-reduce", "all-gather"}
    features = regression.X.shape[1]
    # Once, at the start, 64 rows of the dense part show how far from zero its columns lie.
    sample = 64 * 4 * regression.X.designs["x"].shape[1]
    # XLA joins what several products send at a time; of the rows nothing but scalars is gathered.
    assert all(sent.size <= 16 * features + sample for sent in program.sent)
    assert all(sent.size <= 64 for sent in program.sent if sent.kind == "all-gather")
    # All products of an iteration together send one number for each feature.
    large = [sent for sent in program.sent_in_an_iteration if sent.size >= 64]
    assert sum(sent.size for sent in large) <= 4 * features + 64


@pytest.mark.slow
def test_no_device_stores_more_places_of_entries_than_its_layout_has(rng):
    matrix = scipy.sparse.random(8_000, 500, 0.1, random_state=rng, dtype=np.float32)
    sharding = rows_over()
    X = jd.Sparse(matrix, sharding=sharding)
    targets = jax.device_put(rng.normal(size=8_000).astype(np.float32), sharding)

    def solve(X, targets):
        regression = jd.LinearRegression(X, targets, l2=1.0, intercept=False)
        return jd.minimize(regression, method=jd.ConjugateGradient(), max_iterations=5).params

    # XLA makes places of two numbers an entry of them, before the loop if it can.
    assert Compiled(solve, X, targets).temporaries < X.reading.bytes / 4  # parts


@pytest.mark.slow
def test_a_certificate_and_a_fit_of_several_outputs_take_sharded_rows(rng):
    matrix = entries(rng, "even").astype(np.float32)
    y = rng.normal(size=(ROWS, 2)).astype(np.float32)
    sharding = rows_over()
    cut = jd.LinearRegression(
        jd.Sparse(matrix, sharding=sharding), jax.device_put(y, sharding), l2=1.0
    )
    got = jd.minimize(cut)
    weights, _, _ = closed_form(matrix.toarray(), y, 1.0)
    np.testing.assert_allclose(got.params["weights"], weights, atol=1e-4)
    assert jd.certify(cut, got).kind == "minimum"


def test_traced_values_stand_on_the_devices_of_their_rows(rng, x64):
    matrix = entries(rng, "even").tocoo()
    y, w = rng.normal(size=ROWS), np.arange(FEATURES) / FEATURES

    @jax.jit
    @jax.grad
    def slope(values):
        X = jd.Sparse.from_indices(
            matrix.row, matrix.col, values, shape=matrix.shape, sharding=rows_over()
        )
        return jnp.sum((X.product(w) - y) ** 2)

    expected = 2 * (matrix @ w - y)[matrix.row] * w[matrix.col]
    np.testing.assert_allclose(slope(matrix.data), expected, rtol=1e-10)


def test_hashed_columns_are_sharded_too(rng):
    row = rng.integers(0, ROWS, 500)
    column = rng.integers(0, 2**33, 40, dtype=np.uint64)[rng.integers(0, 40, 500)]
    whole, cut = (
        jd.Hashed(row, column, shape=(ROWS, 2**33), sharding=sharding)
        for sharding in (None, rows_over())
    )
    weights = jnp.asarray(rng.normal(size=whole.shape[1]), jnp.float32)
    np.testing.assert_allclose(cut.product(weights), whole.product(weights), atol=1e-5)


def test_what_cannot_be_sharded_is_told():
    mesh = rows_over().mesh
    codes = np.zeros(10, int)
    for sharding, error, message in (
        (
            jax.device_put(np.zeros(()), jax.devices()[0]).sharding,
            TypeError,
            "NamedSharding of rows",
        ),
        (NamedSharding(mesh, P()), ValueError, "must cut the rows"),
        (NamedSharding(mesh, P(None, "samples")), ValueError, "must cut the rows"),
        (NamedSharding(mesh, P("samples", "others")), ValueError, "must cut the rows"),
        (NamedSharding(mesh, P("samples")), ValueError, re.escape("weight zero, 2 of them")),
    ):
        with pytest.raises(error, match=message):
            jd.Categorical(codes, 2, sharding=sharding)
        with pytest.raises(error, match=message):
            jd.Sparse.from_indices([0], [0], shape=(10, 2), sharding=sharding)


def test_two_axes_of_a_mesh_cut_rows(rng):
    sharding = NamedSharding(rows_over().mesh, P(("samples", "others")))
    codes = rng.integers(0, LEVELS, ROWS)
    cut = jd.Categorical(codes, LEVELS, sharding=sharding)
    rows = jnp.asarray(rng.normal(size=ROWS), jnp.float32)
    expected = jd.Categorical(codes, LEVELS).transposed_product(rows)
    np.testing.assert_allclose(cut.transposed_product(rows), expected, atol=1e-5)


CASES, INPUTS, OUTPUTS = 96, 8, 6


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(CASES, INPUTS)).astype("f") + 3
    y = X @ rng.normal(size=(INPUTS, OUTPUTS)).astype("f") + 5
    return X, (y + rng.normal(size=y.shape)).astype("f")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "shape", "of_X", "of_y"),
    [
        # Of six outputs two or three devices have as many each.
        (None, (1, 2), P(), P(None, ("hosts", "chips"))),
        (jd.ConjugateGradient(), (4, 2), P(None, "hosts"), P(None, "chips")),
        (jd.LSMR(), (4, 2), P("hosts"), P("hosts", "chips")),
    ],
    ids=["outputs alone", "columns and outputs", "rows and outputs"],
)
def test_outputs_over_devices_are_solved_as_on_one(data, method, shape, of_X, of_y):
    devices = jax.devices()[: int(np.prod(shape))]
    mesh = jax.make_mesh(shape, ("hosts", "chips"), (AxisType.Auto,) * 2, devices=devices)
    X, y = (
        jax.device_put(array, NamedSharding(mesh, spec))
        for array, spec in zip(data, (of_X, of_y), strict=True)
    )
    result = jd.minimize(jd.LinearRegression(X, y, l2=0.5), method=method)
    assert len({shard.index for shard in y.addressable_shards}) > 1
    assert result.converged
    weights, intercept, _ = closed_form(*data, 0.5)
    np.testing.assert_allclose(result.params["weights"], weights, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(result.params["intercept"], intercept, rtol=1e-2, atol=2e-2)


@pytest.mark.slow
def test_what_is_sent_is_of_the_size_of_targets_and_weights(data):
    """No row of X leaves its device; XLA does gather outputs of rows for one of CG's branches."""
    mesh = jax.make_mesh((4, 2), ("hosts", "chips"), (AxisType.Auto,) * 2)

    def shape(sizes, *spec):
        place = NamedSharding(mesh, P(*spec))
        return jax.ShapeDtypeStruct(sizes, "float32", sharding=place)

    def solve(X, y):
        return jd.minimize(jd.LinearRegression(X, y), method=jd.ConjugateGradient()).params

    program = Compiled(
        solve, shape((CASES, INPUTS), "hosts"), shape((CASES, OUTPUTS), "hosts", "chips")
    )
    sent = program.sent_in_an_iteration
    assert sent
    assert max(one.size for one in sent) <= 4 * (CASES // 4) * OUTPUTS < 4 * (CASES // 4) * INPUTS
