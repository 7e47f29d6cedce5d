"""Rounding against NumPy's bfloat16, sums against exact ones."""

import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxdescent as jd
from jaxdescent.kernels.sums import in_chains
from jaxdescent.numerics import precision

pytestmark = pytest.mark.optimized

ALL_HALVES = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
WORDS = np.array(
    [
        0x00000000,
        0x80000000,
        0x00000001,  # the smallest denormal
        0x00008000,  # halfway to the smallest bfloat16
        0x00018000,  # halfway, odd below
        0x007FFFFF,  # the largest denormal
        0x3F808000,  # halfway from 1 up, even below
        0x3F818000,  # halfway, odd below
        0x3F807FFF,
        0x3F808001,
        0x7F7F7FFF,  # the last that rounds to a finite number
        0x7F7F8000,  # the first that rounds to infinity
        0x7F7FFFFF,  # the largest
        0x7F800000,
        0xFF800000,
        0x7F800001,  # a NaN all of whose kept bits are zero
        0x7FC00000,
        0xFFFFFFFF,
    ],
    np.uint32,
)
NEAREST = jd.Nearest()


# Compiled as a whole, as a descent has it.
@jax.jit
def narrow_to_bfloat16(values, rounding=NEAREST, iteration=0, leaf=0):
    like = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), values)
    return precision.narrow(values, like, rounding, iteration, leaf)


def assert_same_bfloat16(got, expected):
    """Equal bit for bit; a NaN equals every NaN."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.dtype == expected.dtype == ml_dtypes.bfloat16
    with np.errstate(invalid="ignore"):
        is_nan = np.isnan(expected)
        np.testing.assert_array_equal(np.isnan(got), is_nan)
    np.testing.assert_array_equal(got.view(np.uint16)[~is_nan], expected.view(np.uint16)[~is_nan])


def words_as_floats(words):
    return np.asarray(words, np.uint32).view(np.float32)


def bfloat16_of(values):
    with np.errstate(invalid="ignore", over="ignore"):
        return values.astype(ml_dtypes.bfloat16)


@pytest.mark.slow
def test_widening_is_exact_for_every_bfloat16():
    values = ALL_HALVES.view(ml_dtypes.bfloat16)
    wide = np.asarray(jax.jit(precision.widen)(values))
    assert wide.dtype == np.float32
    np.testing.assert_array_equal(wide.view(np.uint32), ALL_HALVES.astype(np.uint32) << 16)
    with np.errstate(invalid="ignore"):
        numbers = ~np.isnan(values)
        np.testing.assert_array_equal(wide[numbers], values.astype(np.float32)[numbers])


def test_every_bfloat16_survives_widening_and_narrowing():
    values = ALL_HALVES.view(ml_dtypes.bfloat16)
    wide = np.asarray(jax.jit(precision.widen)(values))
    for rounding in (jd.Nearest(), jd.StochasticRounding(3)):
        assert_same_bfloat16(narrow_to_bfloat16(wide, rounding), values)


TIES = (ALL_HALVES.astype(np.uint32) << 16) | 0x8000
RANDOM_WORDS = np.random.default_rng(0).integers(0, 1 << 32, 1 << 20, dtype=np.uint32)


@pytest.mark.parametrize("words", [WORDS, TIES, RANDOM_WORDS], ids=["hard", "ties", "random"])
def test_rounding_to_nearest_is_numpys(words):
    values = words_as_floats(words)
    assert np.isnan(values).any()
    assert_same_bfloat16(narrow_to_bfloat16(values), bfloat16_of(values))


@pytest.mark.parametrize("share", [1, 0x2000, 0x8000, 0xC000, 0xFFFF])
def test_stochastic_rounding_is_unbiased(share):
    # share / 2^16 of the way from 1 to the next bfloat16: rounded up so often, and no further.
    count = 1 << 20
    values = words_as_floats(np.full(count, 0x3F800000 | share))
    stored = np.asarray(narrow_to_bfloat16(values, jd.StochasticRounding(7))).view(np.uint16)
    ups = np.sum(stored == 0x3F81)
    assert ups + np.sum(stored == 0x3F80) == count
    probability = share / (1 << 16)
    deviation = math.sqrt(count * probability * (1 - probability))
    assert abs(ups - count * probability) < 4 * deviation


@pytest.mark.parametrize("sign", [1, -1])
def test_stochastic_rounding_is_unbiased_over_random_numbers(rng, sign):
    values = (sign * rng.uniform(1, 1000, 1 << 20)).astype(np.float32)
    stored = np.asarray(narrow_to_bfloat16(values, jd.StochasticRounding(1))).astype(np.float64)
    exact = values.astype(np.float64)
    ulp = 2.0 ** (np.floor(np.log2(np.abs(exact))) - 7)
    error = (stored - exact) / ulp
    assert np.abs(error).max() < 1
    # An error of mean zero and variance p (1 - p), 1/6 on average.
    assert abs(error.mean()) < 4 * math.sqrt(1 / 6 / len(values))
    assert error.var() == pytest.approx(1 / 6, rel=0.02)


def test_stochastic_rounding_leaves_infinity_and_nan_alone():
    special = np.array([np.inf, -np.inf, np.nan, words_as_floats([0x7F800001])[0]], np.float32)
    for iteration in range(20):
        stored = narrow_to_bfloat16(special, jd.StochasticRounding(2), iteration)
        assert_same_bfloat16(stored, bfloat16_of(special))


def test_stochastic_rounding_follows_its_seed_iteration_and_leaf(rng):
    values = rng.normal(size=4096).astype(np.float32)

    def stored(seed, iteration, leaf=0):
        return np.asarray(narrow_to_bfloat16(values, jd.StochasticRounding(seed), iteration, leaf))

    np.testing.assert_array_equal(stored(1, 5), stored(1, 5))
    for other in (stored(2, 5), stored(1, 6), stored(1, 5, 1)):
        # Independent choices between two neighbours agree with probability 1 - 2 p (1 - p),
        # 2/3 on average.
        assert np.mean(other == stored(1, 5)) == pytest.approx(2 / 3, abs=0.04)
    first, second = narrow_to_bfloat16([values] * 2, jd.StochasticRounding(1), 5)
    np.testing.assert_array_equal(first, stored(1, 5))
    np.testing.assert_array_equal(second, stored(1, 5, 1))


def test_stochastic_rounding_does_not_depend_on_the_sharding(rng):
    mesh = jax.make_mesh((4, 2), ("rows", "columns"))
    values = rng.normal(size=(32, 16)).astype(np.float32)
    placed = jax.device_put(values, NamedSharding(mesh, P("rows", "columns")))
    rounding = jd.StochasticRounding(9)
    np.testing.assert_array_equal(
        narrow_to_bfloat16(placed, rounding), narrow_to_bfloat16(values, rounding)
    )


def test_wider_dtypes_and_other_halves_are_rounded_by_numpys_rules(rng):
    values = rng.normal(size=1000).astype(np.float32)
    rounding = jd.StochasticRounding()
    half = precision.narrow(jnp.asarray(values), np.zeros(1000, np.float16), rounding, 0)
    np.testing.assert_array_equal(half, values.astype(np.float16))
    same = precision.narrow(jnp.asarray(values), np.zeros(1000, np.float32), rounding, 0)
    np.testing.assert_array_equal(same, values)
    assert precision.widen(half).dtype == jnp.float32


@pytest.mark.slow
def test_nearest_biases_a_long_descent_and_stochastic_rounding_does_not():
    # 1,000 steps of 1 %, written back after every step: nearest loses what is below half an ulp.
    size = 1 << 12
    start = np.linspace(500, 1000, size).astype(ml_dtypes.bfloat16)

    def mean_ratio(rounding, check_every):
        options = {"max_iterations": 1000, "tolerance": 0, "rounding": rounding}
        method = jd.GradientDescent(5e-3)
        end = jd.minimize(jd.SumOfSquares(), start, method, check_every=check_every, **options)
        closed = 0.99**1000 * np.asarray(start, np.float64)
        return np.mean(np.asarray(end.params, np.float64) / closed)

    assert abs(mean_ratio(jd.Nearest(), 1) - 1) > 0.1
    # Each of 1,000 roundings deviates by less than half an ulp of 2^-7: the mean over all
    # elements deviates by sqrt(1000 / size) / 2 of that at most.
    allowed = 4 * math.sqrt(1000 / size) / 2 * 2.0**-7
    assert abs(mean_ratio(jd.StochasticRounding(4), 1) - 1) < allowed
    assert abs(mean_ratio(jd.StochasticRounding(4), 16) - 1) < allowed


# What random terms are exact to. XLA adds up small arrays one after another: equal terms, whose
# roundings all go one way, are off by more.
ULPS, ULPS_OF_EQUAL_TERMS = 4, 32
SHAPES = [(), (1,), (511,), (512,), (1000,), (300, 513), (7, 11, 512), (65_536,), (3, 50_001)]


@jax.jit
def chained(x):
    return in_chains(precision.widen(x))


# Compiled as a whole, once for each shape: so a descent has them.
plain, squared_norm = jax.jit(precision.total), jax.jit(precision.squared_norm)
norm, inner = jax.jit(precision.norm), jax.jit(precision.inner)


def within_ulps(got, exact, ulps, scale=None):
    """``scale`` is what the error is relative to: the sum of magnitudes where terms cancel."""
    scale = abs(exact) if scale is None else scale
    assert abs(float(got) - exact) <= ulps * np.spacing(np.float32(scale))


FILLINGS = {
    "a constant": lambda rng, shape: np.full(shape, 0.1),
    "random": lambda rng, shape: np.asarray(rng.uniform(0, 1000, shape)),
    "both signs": lambda rng, shape: np.asarray(rng.normal(size=shape)),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
def test_totals_are_exact_to_a_few_ulps(shape, dtype):
    for filling, values in FILLINGS.items():
        x = values(np.random.default_rng(0), shape).astype(dtype)
        terms = np.asarray(x, np.float64).ravel()
        ulps = ULPS_OF_EQUAL_TERMS if filling == "a constant" else ULPS
        for of in (chained, plain):
            total = of(x)
            assert total.dtype == jnp.float32
            within_ulps(total, math.fsum(terms), ulps, math.fsum(np.abs(terms)))
        within_ulps(squared_norm({"x": x}), math.fsum(terms**2), ulps)


@given(
    shape=st.sampled_from([(1, 1), (5, 3), (3, 129), (4, 640), (1, 1023), (2, 1500)]),  # compiled
    seed=st.integers(0, 2**32 - 1),
    exponent=st.integers(-20, 20),
)
def test_totals_of_any_size_are_exact_to_a_few_ulps(shape, seed, exponent):
    values = np.random.default_rng(seed).normal(size=shape) * 10.0**exponent
    x = values.astype(np.float32)
    terms = np.asarray(x, np.float64).ravel()
    for of in (chained, plain):
        within_ulps(of(x), math.fsum(terms), 4, math.fsum(np.abs(terms)))


def test_one_long_row_is_summed_without_growing_error():
    # A plain running sum of 3e6 float32 tenths is off by thousands of ulps.
    x = np.full((1, 3_000_001), 0.1, np.float32)
    exact = 3_000_001 * float(np.float32(0.1))
    running = np.cumsum(x[0], dtype=np.float32)[-1]
    assert abs(running - exact) > 1000 * np.spacing(np.float32(exact))
    for total in (chained, plain):
        within_ulps(total(x), exact, 4)


def test_inner_products_and_norms_add_up_over_leaves_of_several_dtypes(rng):
    a = {"f": rng.normal(size=(40, 7)).astype(np.float32), "b": rng.normal(size=300)}
    a["b"] = a["b"].astype(ml_dtypes.bfloat16)
    b = {name: (leaf * leaf.dtype.type(0.5) + leaf.dtype.type(1)) for name, leaf in a.items()}
    products = [
        np.asarray(a[name], np.float64).ravel() * np.asarray(b[name], np.float64).ravel()
        for name in a
    ]
    terms = np.concatenate(products)
    within_ulps(inner(a, b), math.fsum(terms), 8, math.fsum(np.abs(terms)))
    squares = np.concatenate([np.asarray(leaf, np.float64).ravel() ** 2 for leaf in a.values()])
    within_ulps(norm(a), math.sqrt(math.fsum(squares)), 8)


FEW_AND_MANY = [50, precision.FEW, precision.FEW + 1]


@pytest.mark.first
@pytest.mark.parametrize("size", FEW_AND_MANY)
@pytest.mark.parametrize("scale", [1e-34, 1e-30, 1e-19, 1.0, 1e19, 1e30, 3e38])
def test_norms_neither_underflow_nor_overflow(scale, size, rng):
    x = (rng.uniform(-1, 1, size) * scale / 20).astype(np.float32)
    expected = np.linalg.norm(x.astype(np.float64))
    np.testing.assert_allclose(norm({"a": x[:20], "b": x[20:]}), expected, rtol=1e-6)


@pytest.mark.parametrize("size", FEW_AND_MANY)
@pytest.mark.parametrize("exponent", [-1015, -500, -480, 0, 505, 515, 1010])
def test_norms_use_the_whole_range_of_double_precision(exponent, size, x64, rng):
    x = rng.uniform(0.5, 1, size)
    found = float(norm(np.ldexp(x, exponent)))
    shares = np.linalg.norm(np.ldexp(np.ldexp(x, exponent), -exponent))
    np.testing.assert_allclose(np.ldexp(found, -exponent), shares, rtol=1e-14)


@pytest.mark.parametrize("size", FEW_AND_MANY)
@pytest.mark.parametrize(("element", "expected"), [(0.0, 0.0), (np.inf, np.inf), (np.nan, np.nan)])
def test_norms_of_zeros_infinities_and_nans(element, expected, size):
    x = np.zeros(size, np.float32)
    x[1] = element
    np.testing.assert_equal(float(norm({"a": x[:20], "b": x[20:]})), expected)


@pytest.mark.parametrize("element", [0.0, 2e-38, 3e-30, 5.0, -3e38, np.inf, np.nan])
def test_norms_of_single_numbers_are_their_magnitudes(element):
    scalar = jnp.float32(element)
    for tree in (scalar, scalar[None], {"x": scalar, "y": np.float32(0)}):
        for found in (precision.norm(tree), norm(tree)):
            np.testing.assert_allclose(float(found), abs(float(scalar)), rtol=1e-6)


def test_double_precision_is_summed_in_double_precision(x64, rng):
    values = rng.normal(size=10_001)
    for of in (chained, plain):
        total = of(values)
        assert total.dtype == jnp.float64
        assert abs(float(total) - math.fsum(values)) < 1e-11


def test_the_coarsest_leaf_decides_epsilon():
    tree = {"a": np.zeros(2, np.float32), "b": np.zeros(2, ml_dtypes.bfloat16)}
    assert precision.epsilon(tree) == 2.0**-7
    assert precision.epsilon(tree["a"]) == 2.0**-23


BILLION = 1_000_000_000


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["a constant", "counters"])
def test_a_billion_terms_are_summed_to_a_few_ulps(pattern):
    shape = (BILLION // 16_000, 16_000)  # no whole number of runs
    if pattern == "a constant":
        fill = jax.jit(lambda: jnp.full(shape, 0.1))
        exact = BILLION * float(np.float32(0.1))
    else:  # row numbers mod 1024 plus column numbers, all exact in float32
        fill = jax.jit(
            lambda: (
                (jax.lax.broadcasted_iota(jnp.int32, shape, 0) & 1023)
                + jax.lax.broadcasted_iota(jnp.int32, shape, 1)
            ).astype(jnp.float32)
        )
        rows = sum(row & 1023 for row in range(shape[0]))
        exact = float(rows * 16_000 + shape[0] * (15_999 * 16_000 // 2))
    x = fill()
    program = jax.jit(in_chains).lower(x).compile()
    # Only the chains' sums go through memory, one for 32 elements.
    assert program.memory_analysis().temp_size_in_bytes < 0.05 * 4 * BILLION
    within_ulps(program(x), exact, 4)


@pytest.mark.parametrize("shape", [(100_000, 1000), (1_000_000, 100), (3, 500, 70_001)], ids=str)
def test_sums_write_no_terms_to_memory_however_long_the_rows_are(shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    square = jax.jit(lambda x: in_chains(x**2)).lower(x).compile()
    assert square.memory_analysis().temp_size_in_bytes < 0.05 * 4 * math.prod(shape)
