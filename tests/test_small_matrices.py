"""Members of a batch against NumPy in double precision, and against each alone."""

import jax
import numpy as np
import pytest

import jaxdescent as jd
from jaxdescent.kernels import small_matrices
from jaxdescent.kernels.small_matrices import LANES, SMALL_COLUMNS

COLUMNS = [1, 7, SMALL_COLUMNS, SMALL_COLUMNS + 1]


def positive_definite(rng, members, size, condition=1e3):
    Q, _ = np.linalg.qr(rng.normal(size=(members, size, size)))
    return (Q * np.geomspace(1, 1 / condition, size)) @ Q.transpose(0, 2, 1)


@pytest.mark.parametrize("columns", COLUMNS)
def test_gram_matrices_of_a_batch_are_numpys(rng, x64, columns):
    left, right = rng.normal(size=(2, 5, 40, columns))
    found = jax.jit(jax.vmap(small_matrices.gram))(left, right)
    np.testing.assert_allclose(found, left.transpose(0, 2, 1) @ right, rtol=1e-12, atol=1e-12)
    shared = jax.jit(jax.vmap(small_matrices.gram, in_axes=(None, 0)))(left[0], right)
    np.testing.assert_allclose(shared, left[0].T @ right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("members", [3, LANES, 2 * LANES + 5])
def test_inverse_factors_of_a_batch_are_numpys(rng, x64, columns, members):
    matrices = positive_definite(rng, members, columns)
    inverse = jax.jit(jax.vmap(small_matrices.inverse_cholesky))(matrices)
    expected = np.linalg.inv(np.linalg.cholesky(matrices))
    np.testing.assert_allclose(inverse, expected, rtol=1e-9, atol=1e-10 * np.abs(expected).max())


def test_a_batch_loses_no_more_digits_than_a_member_alone(rng):
    matrices = positive_definite(rng, 100, 20, condition=1e4).astype(np.float32)
    exact = np.linalg.inv(matrices.astype(np.float64))

    def worst(inverse):
        wide = np.asarray(inverse, np.float64)
        return np.abs(wide.transpose(0, 2, 1) @ wide - exact).max() / np.abs(exact).max()

    batch = jax.jit(jax.vmap(small_matrices.inverse_cholesky))(matrices)
    inverse = jax.jit(small_matrices.inverse_cholesky)
    alone = [inverse(matrix) for matrix in matrices]
    assert worst(batch) < 2 * worst(np.stack(alone))


def test_a_member_that_is_not_positive_definite_is_no_number_and_spoils_no_other(rng):
    matrices = positive_definite(rng, 3, 6)
    matrices[1, 3, 3] = -1
    inverse = jax.jit(jax.vmap(small_matrices.inverse_cholesky))(matrices.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(inverse).any(axis=(1, 2)), [False, True, False])


@pytest.mark.parametrize(
    ("rows", "unknowns"), [(1, 1), (8, 8), (300, 3), (454, 8), (456, 8), (20, 9)]
)
def test_triangles_and_solutions_are_numpys_however_columns_are_scaled(rng, x64, rows, unknowns):
    A = rng.normal(size=(rows, unknowns)) * 10.0 ** rng.uniform(-6, 6, unknowns)
    b = rng.normal(size=(rows, 1))
    A[:, -1] += A[:, 0] / np.linalg.norm(A[:, 0]) * np.linalg.norm(A[:, -1]) * 1e3

    @jax.jit
    def found(columns):
        triangle = small_matrices.triangle_beside(columns)
        return triangle, small_matrices.upper_solution(triangle)

    text = found.lower(np.hstack([A, b])).compile().as_text()
    assert ("lapack" in text) == (not small_matrices.are_few(rows, unknowns + 1))
    triangle, solution = map(np.asarray, found(np.hstack([A, b])))
    lengths = np.linalg.norm(A, axis=0)
    gram = A.T @ A / lengths / lengths[:, None]
    R = triangle[:, :-1] / lengths
    np.testing.assert_allclose(R.T @ R, gram, rtol=0, atol=1e-14 * rows)
    np.testing.assert_array_equal(np.tril(R, -1), 0)
    expected = np.linalg.lstsq(A / lengths, b[:, 0], rcond=None)[0]
    error = np.linalg.norm(solution * lengths - expected)
    assert error < 1e-11 * np.linalg.cond(A / lengths) * np.linalg.norm(expected)


def test_a_column_of_zeros_leaves_zeros_in_its_triangle():
    columns = np.array([[1.0, 0, 2], [1.0, 0, 4]], np.float32)
    triangle = small_matrices.triangle_beside(columns)
    np.testing.assert_allclose(triangle, [[2**0.5, 0, 6 / 2**0.5], [0, 0, 0]], rtol=1e-6)


@pytest.mark.slow
def test_regressions_of_a_batch_are_as_accurate_as_those_of_a_loop(rng):
    X = rng.normal(size=(LANES + 6, 100, 20)).astype(np.float32)
    X[5] *= np.geomspace(1, 1e-3, 20, dtype=np.float32)  # columns of very different lengths
    X[7, :, 1] = X[7, :, 0] + np.float32(1e-3) * X[7, :, 1]  # ill-conditioned
    y = rng.normal(size=(LANES + 6, 100)).astype(np.float32)

    def weights(X, y):
        return jd.minimize(jd.LinearRegression(X, y, intercept=False)).params["weights"]

    batch = jax.jit(jax.vmap(weights))(X, y)
    for index in range(len(X)):
        exact = np.linalg.lstsq(X[index].astype(np.float64), y[index].astype(np.float64))[0]
        np.testing.assert_allclose(batch[index], exact, rtol=2e-5, atol=2e-6 * np.abs(exact).max())
