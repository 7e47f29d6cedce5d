"""Double-length arithmetic against rational numbers, compiled, where a compiler may undo it."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdescent.kernels import double_length
from jaxdescent.kernels.double_length import Double, double

pytestmark = pytest.mark.optimized


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    with jax.enable_x64(True):
        yield np.dtype(request.param)


def wild(rng, dtype, *shape):
    """Numbers of both signs over many magnitudes."""
    return (rng.normal(size=shape) * 10.0 ** rng.integers(-6, 6, size=shape)).astype(dtype)


def pair(rng, dtype, *shape):
    high = wild(rng, dtype, *shape)
    low = (high * rng.uniform(-0.4, 0.4, size=shape)).astype(dtype) * np.finfo(dtype).eps
    return Double(jnp.asarray(high), jnp.asarray(low))


def exactly(x):
    halves = zip(*map(np.ravel, x), strict=True)
    return [Fraction(float(high)) + Fraction(float(low)) for high, low in halves]


@pytest.mark.slow
def test_sums_and_products_of_two_are_exact(rng, dtype):
    a, b = jnp.asarray(wild(rng, dtype, 500)), jnp.asarray(wild(rng, dtype, 500))
    total = jax.jit(double_length.two_sum)(a, b)
    product = jax.jit(double_length.two_product)(a, b)
    eps = Fraction(float(np.finfo(dtype).eps))
    fractions = [[Fraction(float(v)) for v in np.asarray(array)] for array in (a, b)]
    for x, y, s, p in zip(*fractions, exactly(total), exactly(product), strict=True):
        assert s == x + y
        assert abs(p - x * y) <= eps**2 / 2 * abs(x * y)


def test_a_product_added_to_another_keeps_both_errors(rng, dtype):
    a, b, c, d = (jnp.asarray(wild(rng, dtype, 300)) for _ in range(4))

    @jax.jit
    def difference(a, b, c, d):
        return double_length.subtract(
            double_length.two_product(a, b), double_length.two_product(c, d)
        )

    eps = Fraction(float(np.finfo(dtype).eps))
    found = exactly(difference(a, b, c, d))
    fractions = [[Fraction(float(v)) for v in np.asarray(array)] for array in (a, b, c, d)]
    for w, x, y, z, got in zip(*fractions, found, strict=True):
        assert abs(got - (w * x - y * z)) <= 2 * eps**2 * (abs(w * x) + abs(y * z))


def test_a_difference_of_neighbours_keeps_its_digits(dtype):
    eps = np.finfo(dtype).eps
    x = jnp.asarray(np.array([1 + eps], dtype))
    square = jax.jit(lambda x: double_length.two_product(x, x))(x)
    minus = double(jnp.asarray(np.array([-(1 + 2 * eps)], dtype)))
    left = jax.jit(double_length.add)(square, minus)
    assert exactly(left) == [Fraction(float(eps)) ** 2]


@pytest.mark.parametrize("shape", [(3, 2), (40, 7), (300, 5)])
def test_matrix_products_are_right_to_twice_the_digits(rng, dtype, shape):
    X = jnp.asarray(wild(rng, dtype, *shape))
    w, r = pair(rng, dtype, shape[1], 2), pair(rng, dtype, shape[0], 2)
    image = jax.jit(double_length.product)(X, w)
    back = jax.jit(double_length.transposed_product)(X, r)
    rows = [[Fraction(float(x)) for x in row] for row in np.asarray(X)]
    eps = Fraction(float(np.finfo(dtype).eps))
    for matrix, vector, found in ((rows, w, image), (list(zip(*rows, strict=True)), r, back)):
        for output in range(2):
            column = exactly(Double(vector.high[:, output], vector.low[:, output]))
            got = exactly(Double(found.high[:, output], found.low[:, output]))
            for row, value in zip(matrix, got, strict=True):
                terms = [a * b for a, b in zip(row, column, strict=True)]
                bound = 4 * eps**2 * sum(abs(term) for term in terms)
                assert abs(value - sum(terms)) <= bound


def test_numpy_computes_to_twice_the_digits_too(rng):
    X, eps = wild(rng, np.float64, 41, 6), Fraction(float(np.finfo(np.float64).eps))
    with jax.enable_x64(True):
        w, r = (Double(*map(np.asarray, pair(rng, np.float64, size, 1))) for size in (6, 41))
    image, back = double_length.product(X, w), double_length.transposed_product(X, r)
    assert all(type(part) is np.ndarray for part in (*image, *back))
    for matrix, vector, found in ((X, w, image), (X.T, r, back)):
        for row, value in zip(matrix, exactly(found), strict=True):
            terms = [Fraction(float(a)) * b for a, b in zip(row, exactly(vector), strict=True)]
            assert abs(value - sum(terms)) <= 4 * eps**2 * sum(abs(term) for term in terms)
