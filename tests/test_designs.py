"""Designs: products with X and its transpose against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdescent as jd
from jaxdescent.designs import as_design
from jaxdescent.kernels.blocks import WIDENED_BYTES, sum_over_strides
from jaxdescent.kernels.products import part_length, run_length
from tests import references
from tests.meshes import rows_over

ROWS, FEATURES = 5, 3


@pytest.fixture
def matrix(rng):
    return rng.normal(size=(ROWS, FEATURES)).astype(np.float32)


def dense(matrix):
    return as_design(matrix)


def matrix_free(matrix):
    function = jax.tree_util.Partial(lambda m, w: m @ w, jnp.asarray(matrix))
    return jd.MatrixFree(function, rows=ROWS, features=FEATURES)


@pytest.mark.parametrize("make", [dense, matrix_free])
@pytest.mark.parametrize("outputs", [(), (2,)])
def test_products_equal_numpys(rng, matrix, make, outputs):
    design = make(matrix)
    weights = rng.normal(size=(FEATURES, *outputs)).astype(np.float32)
    residual = rng.normal(size=(ROWS, *outputs)).astype(np.float32)
    assert design.shape == (ROWS, FEATURES)
    assert design.dtype == jnp.float32
    np.testing.assert_allclose(design.product(jnp.array(weights)), matrix @ weights, rtol=1e-4)
    np.testing.assert_allclose(
        design.transposed_product(jnp.array(residual)), matrix.T @ residual, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(design.to_dense(), matrix, rtol=1e-6)


@pytest.mark.parametrize("rows", [1 << 10, 3 * 1031, 61 * 101])
def test_parts_of_the_rows_are_equal_and_few(rows):
    length = part_length(rows)
    assert rows % length == 0
    assert 2 <= rows // length <= 64


@pytest.mark.parametrize(
    ("rows", "features", "outputs", "is_in_blocks", "digits"),
    [
        # Row after row to the same sums, the error is 2e-5 and more.
        *(
            (rows, features, (), False, (2e-6, 0))
            for rows in (200_000, 200_003)
            for features in (1, 10, 50)
        ),
        *(
            (rows, 3, (outputs,), False, (1e-5, 1e-4))
            for rows in (1024, 1031, 2 * 1031, 7 * 211)
            for outputs in (2, 5)
        ),
        (8209, 1024, (9,), True, (1e-5, 1e-6)),
        pytest.param(8209, 3001, (2,), True, (1e-5, 1e-6), marks=pytest.mark.slow),
    ],
)
def test_a_transposed_product_keeps_its_digits(rng, rows, features, outputs, is_in_blocks, digits):
    """In runs, in parts, or block by block: of positive numbers, and of both signs."""
    draw = rng.normal if outputs else rng.uniform
    matrix = jnp.asarray(draw(size=(rows, features)), jnp.float32)
    residual = jnp.asarray(draw(size=(rows, *outputs)), jnp.float32)
    exact = np.asarray(matrix, float).T @ np.asarray(residual, float)
    product = jax.jit(lambda design, residual: design.transposed_product(residual))
    assert ("scan" in str(jax.make_jaxpr(product)(as_design(matrix), residual))) == is_in_blocks
    rtol, atol = digits[0], digits[1] * (np.abs(exact).max() if is_in_blocks else 1)
    np.testing.assert_allclose(product(as_design(matrix), residual), exact, rtol=rtol, atol=atol)


@pytest.mark.parametrize("features", [1, 50, 4096])
@pytest.mark.parametrize("rows", [1 << 11, 1 << 14, 1_000_000, 1_000_003, 16_411])
def test_runs_of_the_rows_are_equal(rows, features):
    length = run_length(rows, features)
    if length is not None:
        assert rows % length == 0
        assert 2 <= rows // length <= rows / 128
    assert (length is None) == (rows in (1_000_003, 16_411))
    assert run_length((1 << 11) - 1, features) is None


def test_a_design_is_taken_as_it_is(matrix):
    design = dense(matrix)
    assert as_design(design) is design


def test_sixteen_bit_rows_are_multiplied_in_float32_without_a_wide_copy(rng):
    X = jnp.array(rng.normal(size=(512, 256)), jnp.bfloat16)
    design = as_design(X)
    weights = jnp.array(rng.normal(size=256), jnp.float32)
    product = design.product(weights)
    assert product.dtype == design.dtype == jnp.float32
    exact = np.asarray(X, np.float64) @ np.asarray(weights, np.float64)
    np.testing.assert_allclose(product, exact, rtol=1e-4, atol=1e-4)
    assert design.to_dense().dtype == jnp.float32


@jax.jit
def lengths_alone(X):
    return as_design(X).column_lengths(None, None)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("is_centred", [False, True])
def test_lengths_of_columns_whose_squares_are_no_numbers(rng, dtype, is_centred):
    scales = np.array([1e-34, 1e-30, 1e-20, 1e-3, 1, 1e10, 1e19, 1e30, 3e37])
    X = np.column_stack([rng.uniform(-1, 1, (50, 9)) * scales, np.zeros(50)])
    X = X.astype(jnp.dtype(dtype))
    s = rng.random(50).astype(np.float32)
    center = (0.1 * np.append(scales, 0) * is_centred).astype(np.float32)

    @jax.jit
    def lengths(X):
        return as_design(X).column_lengths(s, center if is_centred else None)

    exact = np.sqrt(s @ np.square(X.astype(float) - center))
    np.testing.assert_allclose(lengths(X), exact, rtol=1e-5)
    X[3, 4] = np.inf
    infinite = lengths_alone(X)
    assert not np.isfinite(infinite[4])
    assert np.isfinite(np.delete(infinite, 4)).all()


def test_hoisting_a_design_without_closures_keeps_its_structure(matrix):
    design = dense(matrix)
    assert jax.tree.structure(design.hoisted()) == jax.tree.structure(design)


def test_hoisting_turns_closed_over_tracers_into_leaves(matrix):
    def count_leaves(scale):
        design = jd.MatrixFree(lambda w: scale * w, rows=FEATURES, features=FEATURES)
        assert not jax.tree.leaves(design)
        return scale * len(jax.tree.leaves(design.hoisted()))

    assert float(jax.jit(count_leaves)(1.0)) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_large_16_bit_matrix_is_widened_block_by_block(dtype, rng):
    rows, features = 5000, 2048  # not a whole number of blocks
    X = jnp.asarray(rng.normal(size=(rows, features)).astype(np.float32)).astype(dtype)
    y = rng.normal(size=rows).astype(np.float32)
    w = rng.normal(size=features).astype(np.float32)
    weight = rng.uniform(0.5, 2, size=rows).astype(np.float32)
    regression = jd.LinearRegression(X, jnp.asarray(y, dtype), sample_weight=weight, l2=0.5)
    regression = regression.checked()
    params = {"weights": jnp.asarray(w), "intercept": jnp.float32(0.5)}
    program = jax.jit(lambda objective, params: objective.value_and_gradient(params))
    assert "scan" in str(jax.make_jaxpr(program)(regression, params))
    value, gradient = program(regression, params)
    exact = np.asarray(X, np.float64)
    residual = exact @ w + 0.5 - np.asarray(jnp.asarray(y, dtype), np.float64)
    expected = exact.T @ (weight * residual) + 0.5 * w
    scale = np.abs(expected).max()
    np.testing.assert_allclose(gradient["weights"], expected, rtol=1e-4, atol=2e-6 * scale)
    np.testing.assert_allclose(gradient["intercept"], np.sum(weight * residual), rtol=1e-4)
    np.testing.assert_allclose(value, references.value(regression, params), rtol=1e-5)
    image = jax.jit(lambda objective, params: objective.image(params))
    np.testing.assert_allclose(image(regression, params), exact @ w + 0.5, rtol=1e-4, atol=1e-3)
    pulled = jax.jit(lambda objective, params: objective.gradient(params))(regression, params)
    np.testing.assert_allclose(pulled["weights"], gradient["weights"], rtol=1e-5)
    lengths = jax.jit(lambda objective, params: objective.X.column_lengths(weight, None))
    of_columns = np.linalg.norm(np.sqrt(weight)[:, None] * exact, axis=0)
    np.testing.assert_allclose(lengths(regression, params), of_columns, rtol=1e-5)
    for call in (program, image, lengths):
        analysis = call.lower(regression, params).compile().memory_analysis()
        assert analysis.temp_size_in_bytes < 2 * WIDENED_BYTES < X.nbytes


def test_a_matrix_that_may_lie_on_several_devices_is_not_cut_into_blocks():
    X, y = jnp.ones((5000, 2048), jnp.bfloat16), jnp.ones(5000)

    def gradient(X, w):
        return jd.LinearRegression(X, y, intercept=False).checked().gradient({"weights": w})

    assert jax.device_count() > 1
    assert "scan" not in str(jax.make_jaxpr(gradient)(X, jnp.ones(2048)))


def with_map(forward, **sizes):
    X = jd.MatrixFree(forward, **({"rows": ROWS, "features": FEATURES} | sizes))
    return jd.minimize(jd.LinearRegression(X, jnp.ones(ROWS)), method=jd.LSMR())


MAPS = {
    "another shape": (lambda w: w, {}, ValueError, r"a result of shape \(\d+,\) in float32, got"),
    "another dtype": (
        lambda w: jnp.zeros(ROWS, jnp.float16) + w[0].astype(jnp.float16),
        {},
        ValueError,
        "float16",
    ),
    "a pair": (lambda w: (w[:1], w[:1]), {}, ValueError, "MatrixFree.forward must map"),
    "a square": (
        lambda w: jnp.full(ROWS, jnp.sum(w**2)),
        {},
        TypeError,
        "must be linear in the weights, made of operations that JAX can transpose",
    ),
    "a magnitude": (lambda w: jnp.full(ROWS, jnp.abs(w[0])), {}, TypeError, "must be linear"),
    "a constant part": (
        lambda w: jnp.full(ROWS, w[0] + 3),
        {},
        TypeError,
        r"zero at zero; there its largest value is 3: take the constant part off the targets",
    ),
}


@pytest.mark.parametrize("case", MAPS)
def test_a_map_that_is_not_linear_is_refused(case):
    forward, sizes, kind, message = MAPS[case]
    for _ in range(2):  # a refused map has not passed its check
        with pytest.raises(kind, match=message):
            with_map(forward, **sizes)


def test_a_map_is_looked_at_once():
    calls = []

    def forward(w):
        calls.append(1)
        return jnp.full(ROWS, w[0])

    with_map(forward)
    once = len(calls)
    with_map(forward)
    assert len(calls) < 2 * once


@pytest.mark.slow
def test_weights_may_have_a_shape_of_their_own(rng):
    picture = rng.normal(size=(6, 5)).astype(np.float32)
    X = jd.MatrixFree(lambda w: w[1:] + w[:-1], rows=(5, 5), features=(6, 5))
    y = (picture[1:] + picture[:-1]).ravel()
    regression = jd.LinearRegression(X, y, l2=1e-3, intercept=False)
    dense = np.asarray(X.to_dense(), float)
    expected = np.linalg.solve(dense.T @ dense + 1e-3 * np.eye(30), dense.T @ y.astype(float))
    for method in (jd.DerivativeMethod(), jd.LSMR()):
        result = jd.minimize(regression, method=method)
        assert result.params["weights"].shape == (6, 5)
        np.testing.assert_allclose(result.params["weights"].ravel(), expected, atol=2e-3)
    again = jd.minimize(regression, result.params, method)
    assert int(again.iterations) <= 2
    np.testing.assert_allclose(regression.predict(result.params, X), y, atol=1e-2)


@jax.tree_util.register_static
class Doubling:
    """What an operator of lineax answers."""

    def mv(self, vector):
        return 2 * vector

    def in_structure(self):
        return jax.ShapeDtypeStruct((4,), jnp.float32)

    out_structure = in_structure


@pytest.mark.slow
def test_an_operator_is_a_design():
    y = jnp.arange(4.0)
    result = jd.minimize(jd.LinearRegression(Doubling(), y, intercept=False))
    np.testing.assert_allclose(result.params["weights"], y / 2, atol=1e-6)


@pytest.mark.slow
def test_a_column_of_features_has_one_output_or_none(matrix):
    # (features, 1) are weights as the function has them, and those of one output.
    A, y = jnp.asarray(matrix), matrix @ np.arange(3, dtype=np.float32)
    design = jd.MatrixFree(lambda w: A @ w[:, 0], rows=ROWS, features=(FEATURES, 1))
    for targets, shape in ((y, (3, 1)), (y[:, None], (3, 1, 1))):
        regression = jd.LinearRegression(design, targets, intercept=False)
        params = jd.minimize(regression, method=jd.ConjugateGradient()).params
        assert params["weights"].shape == shape
        np.testing.assert_allclose(np.ravel(params["weights"]), np.arange(3), atol=1e-4)
        answers = jax.jit(lambda r, p: (r.predict(p, design), r.value(p), r.gradient(p)["weights"]))
        predicted, value, slope = answers(regression, params)
        assert (predicted.shape, slope.shape) == (targets.shape, shape)
        assert value < 1e-6


def test_lengths_and_dtypes_of_a_function_are_looked_at_when_it_is_made():
    with pytest.raises(TypeError, match=r"MatrixFree\.features must be .* got \[2, 3\]"):
        jd.MatrixFree(lambda w: w, rows=6, features=[2, 3])
    with pytest.raises(ValueError, match=r"MatrixFree\.rows must be at least 1, got 0"):
        jd.MatrixFree(lambda w: w[:0], rows=0, features=3)
    with pytest.raises(TypeError, match="weights_dtype must be float32 or float64, got float16"):
        jd.MatrixFree(lambda w: w, rows=3, features=3, weights_dtype=np.float16)


@pytest.mark.parametrize("features", [7, 256])
@pytest.mark.parametrize("rows", [100_000, 100_096, 99_992, 12_344, 18_528, 8 * 4099])
@pytest.mark.parametrize("in_strides", [False, True])
def test_no_row_leaves_its_device_however_many_there_are(
    rows, features, in_strides, several_devices
):
    """Runs or blocks of rows that lie on two devices would make XLA gather all of X."""
    placed = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=rows_over(8))
        for shape in ((rows, features), (rows,))
    ]

    def back(X, residual):
        if in_strides:
            return sum_over_strides(lambda X, r: r @ X, X, residual)
        return as_design(X).transposed_product(residual)

    compiled = jax.jit(back).lower(*placed).compile()
    assert "all-gather" not in compiled.as_text()
    assert compiled.memory_analysis().temp_size_in_bytes < rows * features * 4 / 8
