"""Hashed numbers: the distributions they have, and what they depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import stats

from jaxdescent.numerics import randomness

SIGNIFICANCE = 1e-4
"""The seeds are fixed, so that a test that passes once passes always."""


def words(shape, *counters):
    return np.asarray(randomness.bits(shape, randomness.fold(*counters)))


def test_mixing_is_a_bijection():
    # Invertible steps: xor of a shift, and products with odd numbers.
    x = np.random.default_rng(0).integers(0, 1 << 32, 1 << 18, dtype=np.uint32)
    mixed = np.asarray(randomness.mix(jnp.asarray(np.unique(x))))
    assert len(np.unique(mixed)) == len(np.unique(x))


def test_every_input_bit_flips_half_of_the_output():
    x = np.random.default_rng(1).integers(0, 1 << 32, 1 << 14, dtype=np.uint32)
    mixed = np.asarray(randomness.mix(jnp.asarray(x)))
    for bit in range(32):
        flipped = np.asarray(randomness.mix(jnp.asarray(x ^ np.uint32(1 << bit))))
        assert np.bitwise_count(mixed ^ flipped).mean() == pytest.approx(16, abs=0.5)


@pytest.mark.parametrize("shape", [(1 << 18,), (512, 512), (64, 64, 64)], ids=str)
def test_bits_are_uniform_and_uncorrelated_along_every_axis(shape):
    drawn = words(shape, 3)
    for shift in (0, 8, 16, 24):
        counts = np.bincount(((drawn >> shift) & 255).ravel(), minlength=256)
        assert stats.chisquare(counts).pvalue > SIGNIFICANCE
    numbers = drawn / 2.0**32 - 0.5
    for axis in range(len(shape)):
        neighbours = np.mean(numbers * np.roll(numbers, 1, axis)) * 12
        assert abs(neighbours) < 4 / np.sqrt(drawn.size)


@pytest.mark.parametrize("other", [(4,), (3, 0), (3, 1), (3, 0, 0)], ids=str)
def test_seeds_and_counters_give_different_numbers(other):
    one, another = words((1 << 16,), 3), words((1 << 16,), *other)
    assert np.mean(one == another) < 1e-3
    assert np.bitwise_count(one ^ another).mean() == pytest.approx(16, abs=0.1)


def test_many_leaves_and_iterations_fold_into_different_seeds():
    seeds = {int(s) for s in np.asarray(randomness.fold(0, jnp.arange(300)[:, None] + 0)).ravel()}
    assert len(seeds) == 300
    iterations, leaves = jnp.meshgrid(jnp.arange(100), jnp.arange(100))
    folded = np.asarray(randomness.fold(0, iterations, leaves))
    assert len(np.unique(folded)) > 10_000 - 10  # two of 1e4 words of 32 bits may meet


@pytest.mark.parametrize(
    "draw",
    [
        lambda shape: randomness.bits(shape, randomness.fold(5)),
        lambda shape: randomness.normal(shape, randomness.fold(5), jnp.float32),
        lambda shape: randomness.integers(shape, randomness.fold(5), -9, 9, jnp.float32),
    ],
    ids=["bits", "normal", "integers"],
)
def test_numbers_do_not_depend_on_the_sharding(draw):
    mesh = jax.make_mesh((4, 2), ("rows", "columns"))
    shape = (64, 32)
    placed = jax.jit(
        draw, static_argnums=0, out_shardings=NamedSharding(mesh, P("rows", "columns"))
    )(shape)
    assert placed.sharding.spec == P("rows", "columns")
    plain = jax.jit(draw, static_argnums=0)(shape)
    np.testing.assert_allclose(placed, plain, rtol=1e-6)  # cosines differ in the last bit


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("low", "high"), [(-100, 100), (0, 1), (-3, 4), (5, 133)])
def test_integers_cover_their_interval_evenly(low, high, dtype):
    drawn = randomness.integers((1 << 18,), randomness.fold(1), low, high, dtype)
    assert drawn.dtype == dtype
    values = np.asarray(drawn, np.float64)
    np.testing.assert_array_equal(np.unique(values), np.arange(low, high))
    if high - low > 1:
        counts = np.bincount((values - low).astype(int))
        assert stats.chisquare(counts).pvalue > SIGNIFICANCE


def test_the_starts_of_the_tutorial_cover_their_interval_evenly():
    drawn = np.asarray(
        randomness.integers((1 << 20,), randomness.fold(0), -1000, 1000, jnp.float32)
    )
    np.testing.assert_array_equal(np.unique(drawn), np.arange(-1000, 1000))
    counts = np.bincount((drawn + 1000).astype(int), minlength=2000)
    assert stats.chisquare(counts).pvalue > SIGNIFICANCE


def test_the_widest_interval_stays_within_itself():
    drawn = np.asarray(randomness.integers((1 << 20,), randomness.fold(2), 0, 1 << 16, jnp.float32))
    assert drawn.min() >= 0
    assert drawn.max() <= (1 << 16) - 1
    assert len(np.unique(drawn)) == 1 << 16


def test_the_extreme_words_stay_within_the_interval(monkeypatch):
    for word, expected in ((0, -1000), ((1 << 32) - 1, 999)):
        monkeypatch.setattr(
            randomness, "bits", lambda shape, seed, word=word: jnp.full(shape, word, jnp.uint32)
        )
        assert float(randomness.integers((), 0, -1000, 1000, jnp.float32)) == expected


@pytest.mark.parametrize("shape", [(1 << 18,), (512, 512)], ids=str)
def test_normal_numbers_are_normal(shape):
    drawn = np.asarray(randomness.normal(shape, randomness.fold(8), jnp.float32), np.float64)
    flat = drawn.ravel()
    assert stats.kstest(flat, "norm").pvalue > SIGNIFICANCE
    # The moments' own standard errors: 1, sqrt(2), sqrt(15), sqrt(96) over sqrt(n).
    error = 4 / np.sqrt(flat.size)
    for power, expected, deviation in ((1, 0, 1), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5)):
        assert abs(np.mean(flat**power) - expected) < error * deviation
    assert np.all(np.isfinite(flat))


def test_double_precision_is_drawn_where_asked_for(x64):
    drawn = randomness.normal((1 << 12,), randomness.fold(8), jnp.float64)
    assert drawn.dtype == jnp.float64
    assert stats.kstest(np.asarray(drawn), "norm").pvalue > SIGNIFICANCE


@pytest.mark.parametrize("shape", [(3 << 30,), (1 << 17, 1 << 16), (3, 1 << 31)], ids=str)
def test_more_elements_than_a_signed_word_counts_compile_without_temporaries(shape):
    draw = jax.jit(
        lambda seed: randomness.integers(shape, seed, -1000, 1000, jnp.float32).astype(jnp.bfloat16)
    )
    program = draw.lower(jax.ShapeDtypeStruct((), jnp.uint32)).compile()
    memory = program.memory_analysis()
    assert memory.output_size_in_bytes == 2 * np.prod(shape, dtype=np.int64)
    assert memory.temp_size_in_bytes < 1 << 20
    assert jax.eval_shape(draw, jnp.uint32(0)).shape == shape
