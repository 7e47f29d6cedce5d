"""One-hot columns and designs side by side, against the dense matrix in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxdescent as jd
from jaxdescent.designs import Dense, MatrixFree
from tests import references


@pytest.mark.slow
@settings(max_examples=12)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 60]), st.booleans())
def test_products_are_those_of_the_columns_written_out(seed, levels, has_missing):
    rng = np.random.default_rng(seed)
    codes = rng.integers(-1 if has_missing else 0, levels, 40)
    # A level that is everywhere, and levels that are nowhere.
    codes = np.where(rng.random(40) < rng.random(), levels - 1, codes)
    X = references.one_hot(codes, levels)
    with jax.enable_x64(True):
        design = jd.Categorical(codes, levels, dtype=jnp.float64)
        references.assert_is_matrix(design, X, rng)
        np.testing.assert_array_equal(design.rows_at(jnp.array([3, 0, 39])), X[[3, 0, 39]])


@pytest.fixture(scope="module")
def panel():
    """A covariate far from zero, two connected factors of uneven levels, and sparse words."""
    rng = np.random.default_rng(5)
    rows, workers, firms = 400, 30, 7
    worker = np.minimum(rng.geometric(0.08, rows) - 1, workers - 1)
    firm = rng.integers(0, firms, rows)
    worker[:workers], firm[:firms] = np.arange(workers), np.arange(firms)
    x = 50 + rng.normal(size=(rows, 2)) + 0.1 * worker[:, None]
    words = scipy.sparse.random(rows, 12, 0.2, random_state=rng, dtype=np.float32).tocsr()
    effects = rng.normal(size=workers), rng.normal(size=firms)
    y = x @ [1.0, -0.5] + effects[0][worker] + effects[1][firm] + 0.1 * rng.normal(size=rows)
    y += words @ rng.normal(size=12)
    design = jd.Concatenated(
        {
            "x": jnp.asarray(x, jnp.float32),
            "worker": jd.Categorical(worker, workers),
            "firm": jd.Categorical(firm, firms),
            "words": jd.Sparse(words),
        }
    )
    X = np.column_stack(
        [x, references.one_hot(worker, workers), references.one_hot(firm, firms), words.toarray()]
    )
    return design, X, y


def joined(weights):
    return np.concatenate([np.asarray(weights[name]) for name in ("x", "worker", "firm", "words")])


# One for each of the answers that methods ask of a design.
METHODS = [
    None,
    jd.LSMR(),
    jd.LSMR(jd.Jacobi()),
    jd.LSMR(jd.Nystrom(4)),
    jd.ConjugateGradient(jd.Jacobi()),
    jd.DerivativeMethod(),
    jd.LBFGS(),
    jd.Gram(),
]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_method_finds_the_ridge_solution_by_name(method, panel):
    design, X, y = panel
    regression = jd.LinearRegression(design, jnp.asarray(y, jnp.float32), l2=1.0)
    result = jd.minimize(regression, method=method, max_iterations=5000)
    assert bool(result.converged)
    assert set(result.params["weights"]) == {"x", "worker", "firm", "words"}
    # Both of the data as they were rounded: x is 50 with a spread of 1.
    X, y = X.astype(np.float32).astype(float), y.astype(np.float32).astype(float)
    dense = jd.LinearRegression(X, y, l2=1.0)
    best = references.least_squares(dense)
    params = result.params | {"weights": joined(result.params["weights"])}
    least, above = references.value(dense, best), references.height(dense, params)
    # CONVERGED promises the fraction eps^(2/3) of the value. A prediction's error is one of
    # those whose squares this bounds. A solve leaves rounding alone, of each row's product.
    eps = float(np.finfo(np.float32).eps)
    rounding = eps * (np.abs(X) @ np.abs(best["weights"]))
    is_solved = method is None or isinstance(method, jd.DerivativeMethod)
    assert above <= (0.5 * rounding @ rounding if is_solved else eps ** (2 / 3) * least)
    np.testing.assert_allclose(result.value, least, rtol=eps ** (2 / 3))
    predicted = regression.predict(result.params, design)
    expected = X @ best["weights"] + best["intercept"]
    np.testing.assert_allclose(predicted, expected, atol=np.sqrt(2 * above) + 8 * rounding.max())


@pytest.mark.slow
def test_a_start_and_a_point_may_be_given_by_name(panel):
    design, X, y = panel
    regression = jd.LinearRegression(design, jnp.asarray(y, jnp.float32), l2=1.0)
    first = jd.minimize(regression, method=jd.LSMR(jd.Jacobi()))
    again = jd.minimize(regression, first.params, jd.ConjugateGradient(jd.Jacobi()))
    assert int(again.iterations) <= 3
    np.testing.assert_allclose(again.value, first.value, rtol=1e-4)
    assert jd.certify(regression, first).kind == "minimum"
    assert jd.certify(regression, first.params).kind == "minimum"

    @jax.jit
    def answers(params):
        slope, product = jax.grad(regression.value)(params), regression.hessian_product
        return *regression.value_and_gradient(params), slope, product(params, params)

    value, gradient, slope, product = answers(first.params)
    np.testing.assert_allclose(value, first.value, rtol=1e-5)
    np.testing.assert_allclose(regression.value(first.params), value, rtol=1e-6)
    for each in (gradient, product):
        assert jax.tree.structure(each) == jax.tree.structure(first.params)
    X, y = X.astype(np.float32).astype(float), y.astype(np.float32).astype(float)
    w = joined(first.params["weights"]).astype(float)
    rest = X @ w + float(first.params["intercept"]) - y
    # Sums of 400 rounded residuals times features of 50, of which nothing but rounding is left.
    sizes = np.abs(X).T @ (np.abs(X) @ np.abs(w) + np.abs(y))
    for each in (slope, gradient):
        apart = np.abs(joined(each["weights"]) - (X.T @ rest + w))
        assert np.all(apart <= 4 * np.finfo(np.float32).eps * (sizes + 1))


@pytest.mark.slow
def test_it_is_the_same_under_jit_and_vmap_and_differentiates(panel):
    design, X, y = panel
    targets = jnp.asarray(y, jnp.float32)

    def slope(targets, l2):
        regression = jd.LinearRegression(design, targets, l2=l2)
        method = jd.ConjugateGradient(jd.Jacobi())
        return jd.minimize(regression, method=method).params["weights"]["x"][0]

    eager = slope(targets, 1.0)
    both = jax.vmap(jax.value_and_grad(slope, argnums=1), (None, 0))
    several, of_l2 = jax.jit(both)(targets, np.float32([0.5, 1.0]))
    np.testing.assert_allclose(several[1], eager, rtol=1e-3)

    def reference(l2):
        return references.closed_form(X, y, l2)[0][0]

    expected = (reference(1 + 1e-4) - reference(1 - 1e-4)) / 2e-4
    np.testing.assert_allclose(of_l2[1], expected, rtol=1e-3)


def test_designs_of_all_kinds_stand_side_by_side():
    rng = np.random.default_rng(2)
    dense = rng.normal(size=(60, 2)).astype(np.float32)
    codes = rng.integers(-1, 4, 60)
    design = jd.Concatenated(
        {
            "dense": dense,
            "category": jd.Categorical(codes, 4),
            "map": MatrixFree(lambda w: dense @ w[:2] + w[2], rows=60, features=3),
        }
    )
    X = np.concatenate([dense, references.one_hot(codes, 4), dense, np.ones((60, 1))], axis=1)
    w = rng.normal(size=9)
    weights = jax.tree.map(np.float32, {"dense": w[:2], "category": w[2:6], "map": w[6:]})
    product, written_out = jax.jit(lambda X, w: (X.product(w), X.to_dense()))(design, weights)
    np.testing.assert_allclose(product, X @ w, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(written_out, X, rtol=1e-6)
    assert design.shape == (60, 9)
    assert design.column_squared_norms(None, None) is None  # the map does not know them
    assert design.rows_at(jnp.array([0])) is None
    assert repr(design).startswith("Concatenated(dense=")
    leaves, structure = jax.tree.flatten(design)
    assert jax.tree.unflatten(structure, leaves).shape == (60, 9)


def codes_of(*numbers):
    return np.array(numbers)


ERRORS = {
    "text": (lambda: jd.Categorical(np.array(["a"]), 1), TypeError, "integers, got dtype <U1"),
    "real": (lambda: jd.Categorical(np.array([0.0]), 1), TypeError, "integers, got dtype float64"),
    "two axes": (lambda: jd.Categorical(np.zeros((2, 2), int), 1), ValueError, r"got \(2, 2\)"),
    "no rows": (lambda: jd.Categorical(np.zeros(0, int), 1), ValueError, "rows at least 1"),
    "too large": (
        lambda: jd.Categorical(codes_of(0, 5), 3),
        ValueError,
        r"from 0 to 2, or -1 for none of the levels, got 5 in row 1",
    ),
    "below": (lambda: jd.Categorical(codes_of(-2), 3), ValueError, "got -2 in row 0"),
    "no levels": (lambda: jd.Categorical(codes_of(0), 0), ValueError, "levels must be at least 1"),
    "traced": (
        lambda: jax.jit(lambda codes: jd.Categorical(codes, 3).level_of_row)(jnp.zeros(3, int)),
        TypeError,
        "must be known when it is made",
    ),
    "empty": (lambda: jd.Concatenated({}), ValueError, "at least one design by name"),
    "a list": (lambda: jd.Concatenated([np.ones((2, 2))]), ValueError, "at least one design"),
    "a number for a name": (
        lambda: jd.Concatenated({1: np.ones((2, 2), np.float32)}),
        TypeError,
        "names must be strings, got 1",
    ),
    "rows": (
        lambda: jd.Concatenated({"a": np.ones((2, 2)), "b": np.ones((3, 2))}),
        ValueError,
        r"as many rows each, got \{'a': 2, 'b': 3\}",
    ),
    "a name is missing": (
        lambda: jd.minimize(
            jd.LinearRegression(
                jd.Concatenated({"a": np.ones((2, 2), np.float32)}), np.ones(2, np.float32)
            ),
            {"weights": {"b": jnp.zeros(2)}, "intercept": 0.0},
        ),
        ValueError,
        r"weights must have the shapes \{'a': \(2,\)\}",
    ),
    "predict on an array": (
        lambda: jd.LinearRegression(
            jd.Concatenated({"a": np.ones((2, 2), np.float32)}), np.ones(2, np.float32)
        ).predict({"weights": {"a": jnp.zeros(2)}, "intercept": 0.0}, np.ones((2, 2), np.float32)),
        ValueError,
        "must be a jd.Concatenated",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_say_what_was_got_and_what_was_expected(case):
    call, kind, message = ERRORS[case]
    with pytest.raises(kind, match=message):
        call()


def test_dtypes_must_agree(x64):
    with pytest.raises(TypeError, match=r"weights of one dtype, got .*float32.*float64"):
        jd.Concatenated({"a": Dense.from_array(np.ones((1, 1), np.float32)), "b": np.ones((1, 1))})


@given(st.integers(0, 10_000), st.booleans(), st.booleans())
def test_reference_levels_are_the_missing_rank(seed, intercept, has_missing):
    """Of 3 to 30 rows, which are repeated, and of 1 to 7 levels that rows may have: one shape."""
    rng = np.random.default_rng(seed)
    rows, sizes = int(rng.integers(3, 31)), rng.integers(1, 8, 2)
    codes = [rng.integers(-1 if has_missing else 0, size, rows) for size in sizes]
    design = jd.Concatenated(
        {f"factor {k}": jd.Categorical(np.resize(codes[k], 30), 7) for k in range(2)}
    )
    ones = [np.ones((30, 1))] if intercept else []
    X = np.concatenate([np.asarray(design.to_dense(), float), *ones], axis=1)
    seen = X.any(axis=0).sum()  # a level that no row has is no constant that others share
    levels = design.reference_levels(intercept=intercept)
    count = sum(each.size for each in levels.values())
    if not has_missing or not intercept:
        assert count == seen - np.linalg.matrix_rank(X)
    else:  # rows without a level may add up with others to the intercept
        assert count <= seen - np.linalg.matrix_rank(X)
    reduced = np.asarray(design.without(levels).to_dense(), float)
    reduced = np.concatenate([reduced, *ones], axis=1)
    assert np.linalg.matrix_rank(reduced) == np.linalg.matrix_rank(X)


def test_what_x_is_multiplied_by_must_fit():
    # Products pick numbers by their places, and would read beyond the end.
    firm = jd.Categorical(np.array([0, 1, 2]), 4)
    with pytest.raises(ValueError, match=r"multiplied by \(4,\) or \(4, outputs\).*got \(2,\)"):
        firm.product(jnp.ones(2))
    with pytest.raises(ValueError, match=r"as many as rows, got \(4,\)"):
        firm.transposed_product(jnp.ones(4))
    both = jd.Concatenated({"a": firm, "b": firm})
    with pytest.raises(ValueError, match=r"\(8,\) or \(8, outputs\), as many as features"):
        both.product(jnp.ones(9))
    regression = jd.LinearRegression(firm, np.ones(3, np.float32), intercept=False)
    with pytest.raises(ValueError, match="as many as features"):
        regression.value({"weights": jnp.ones(3)})


def test_whole_numbers_are_weights_too():
    X = np.array([[1.5, 0.25], [0.5, 2.0]], np.float32)
    y, whole = np.ones(2, np.float32), {"weights": jnp.array([1, 2]), "intercept": 1}
    floats = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), whole)
    for design in (X, jd.Sparse.from_indices([0, 0, 1, 1], [0, 1, 0, 1], X.ravel(), shape=(2, 2))):
        regression = jd.LinearRegression(design, y, l2=0.5)
        assert regression.value(whole) == regression.value(floats)
        np.testing.assert_array_equal(
            regression.predict(whole, design), regression.predict(floats, design)
        )


def test_a_start_by_name_has_the_dtype_of_the_weights(x64):
    design = jd.Concatenated(
        {"a": np.ones((3, 1)), "firm": jd.Categorical([0, 1, 0], 2, dtype=float)}
    )
    regression = jd.LinearRegression(design, np.arange(3.0))
    start = {"weights": {"a": np.zeros(1), "firm": np.zeros(2)}, "intercept": 0.0}
    assert jd.minimize(regression, start, jd.ConjugateGradient()).converged
    single = jax.tree.map(np.float32, start)
    with pytest.raises(TypeError, match=r"params\['.*'\] must be .* float64, got float32: cast it"):
        jd.minimize(regression, single)
    start["weights"]["firm"] = np.zeros(2, int)
    with pytest.raises(TypeError, match=r"params\['weights'\]\['firm'\] must be real floating"):
        jd.minimize(regression, start)


@pytest.mark.slow
def test_without_64_bits_float64_levels_are_of_32():
    codes = np.array([0, 1, 1])
    regression = jd.LinearRegression(jd.Categorical(codes, 2, dtype=float), np.arange(3.0))
    assert jd.minimize(regression).converged
    with pytest.raises(TypeError, match="dtype must be float32 or float64"):
        jd.Categorical(codes, 2, dtype=int)


@pytest.mark.slow
def test_weights_have_the_form_of_each_design():
    picture = jd.MatrixFree(lambda w: jnp.cumsum(w.ravel()), rows=6, features=(3, 2))
    X = jd.Concatenated({"picture": picture, "level": jd.Categorical(np.arange(6) % 2, 2)})
    regression = jd.LinearRegression(X, np.arange(6, dtype=np.float32), l2=0.1)
    method = jd.ConjugateGradient()
    params = jd.minimize(regression, method=method).params
    assert params["weights"]["picture"].shape == (3, 2)
    gradient, predicted = jax.jit(lambda p: (regression.gradient(p), regression.predict(p, X)))(
        params
    )
    assert gradient["weights"]["picture"].shape == (3, 2)
    assert predicted.shape == (6,)
    assert jd.minimize(regression, params, method).iterations <= 1


@pytest.mark.first
@pytest.mark.parametrize(
    ("method", "is_traced"),
    [(jd.GradientDescent(), False), (jd.LBFGS(), False), (jd.LSMR(jd.Jacobi()), True)],
)
def test_a_predicate_sees_weights_by_name(method, is_traced, rng):
    X = jd.Concatenated(
        {
            "age": rng.normal(size=(12, 1)).astype(np.float32),
            "firm": jd.Categorical(np.arange(12) % 3, 3),
        }
    )
    regression = jd.LinearRegression(X, rng.normal(size=12).astype(np.float32), l2=0.1)
    limit = jnp.float32(1e-3)

    def moved(check):
        return jnp.max(jnp.abs(check.params["weights"]["firm"])) > limit

    stop = jd.Tolerance(gradient=None, suboptimality=None, predicate=moved)

    def status(regression):
        return jd.minimize(regression, method=method, tolerance=stop).status

    assert (jax.jit(status) if is_traced else status)(regression) == jd.Status.STOPPED


def test_the_intercepts_level_is_of_a_component_without_one():
    # Rows without a worker tie firm 2 to the intercept alone; workers and firms 0 and 1 are free.
    worker, firm = np.array([0, 0, 1, -1]), np.array([0, 1, 1, 2])
    design = jd.Concatenated({"worker": jd.Categorical(worker, 2), "firm": jd.Categorical(firm, 3)})
    levels = design.reference_levels()
    assert {name: each.tolist() for name, each in levels.items()} == {"firm": [1, 2]}
    X = np.c_[np.asarray(design.without(levels).to_dense()), np.ones(4)]
    assert np.linalg.matrix_rank(X) == np.count_nonzero(X.any(0)) == 4


@pytest.mark.slow
def test_without_reference_levels_the_minimum_is_unique(panel):
    design, X, y = panel
    levels = design.reference_levels()
    assert {name: each.size for name, each in levels.items()} == {"worker": 1, "firm": 1}
    regression = jd.LinearRegression(design.without(levels), jnp.asarray(y, jnp.float32))
    result = jd.minimize(regression, method=jd.LSMR(jd.Jacobi()))
    weights = result.params["weights"]
    for name, own in levels.items():
        np.testing.assert_array_equal(weights[name][own], 0)
    predicted = regression.predict(result.params, design.without(levels))
    exact, intercept, _ = references.closed_form(X, y)
    np.testing.assert_allclose(predicted, X @ exact + intercept, atol=5e-3)
    with pytest.raises(ValueError, match="'x' is not the name of a categorical design"):
        design.without({"x": np.array([0])})
