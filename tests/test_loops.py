"""Loops: what lax's give, and on a CPU never one kernel where a turn is large."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxdescent as jd
from jaxdescent.kernels import loops
from jaxdescent.regression.forms import DualForm, GramForm

SMALL, LARGE = 1, loops.LARGE_BYTES
ONE_KERNEL = "xla_cpu_small_call"


def halve(index: jax.Array, x: jax.Array) -> jax.Array:
    return x / 2 + index.astype(x.dtype)


@pytest.mark.parametrize("turn_bytes", [SMALL, LARGE])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_fori_loop_is_that_of_lax(count, turn_bytes):
    x = jnp.arange(5.0)
    expected = lax.fori_loop(0, count, halve, x)
    got = jax.jit(lambda n: loops.fori_loop(n, halve, x, turn_bytes=turn_bytes))(count)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("turn_bytes", [SMALL, LARGE])
def test_scan_is_that_of_lax(turn_bytes):
    def body(total, index):
        step = index.astype(total.dtype)
        return total + step, total * step

    expected = lax.scan(body, jnp.float32(1), jnp.arange(6))
    got = loops.scan(6, body, jnp.float32(1), turn_bytes=turn_bytes)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("turn_bytes", [SMALL, LARGE])
def test_while_loop_is_that_of_lax_in_a_batch(turn_bytes):
    def run(x):
        return loops.while_loop(
            lambda c: c[0] > 1, lambda c: (c[0] / 2, c[1] + 1), (x, 0), turn_bytes=turn_bytes
        )

    x = jnp.array([1.0, 5.0, 100.0])
    halves, counts = jax.vmap(run)(x)
    np.testing.assert_array_equal(counts, [0, 3, 7])
    np.testing.assert_array_equal(halves, x / 2.0**counts)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_large_descents_and_sums_run_on_all_cores(dtype):
    start = jax.ShapeDtypeStruct((1 << 20,), dtype)
    X, y = jax.ShapeDtypeStruct((1 << 15, 512), dtype), jax.ShapeDtypeStruct((1 << 15,), dtype)

    def separable(start):
        method = jd.GradientDescent(1e-2)
        return jd.minimize(jd.SumOfSquares(), start, method, check_every=16).params

    def gradient(X, y):
        regression = jd.LinearRegression(X, y, intercept=False)
        return regression.gradient({"weights": jnp.ones(512, "float32")})

    def gram(X, y):
        return GramForm.from_regression(jd.LinearRegression(X, y))

    def dual(X, y):
        return DualForm.from_regression(jd.LinearRegression(X, y))

    wide, few = jax.ShapeDtypeStruct((256, 1 << 16), dtype), jax.ShapeDtypeStruct((256,), dtype)
    cases = (separable, start), (gradient, X, y), (gram, X, y), (dual, wide, few)
    for function, *inputs in cases:
        text = jax.jit(function).lower(*inputs).compile().as_text()
        assert ONE_KERNEL not in text, function.__name__


def test_small_descents_keep_lax_loops():
    def descend(start):
        return jd.minimize(jd.SumOfSquares(), start, jd.GradientDescent(1e-2), check_every=16)

    text = jax.jit(descend).lower(jax.ShapeDtypeStruct((3,), "float32")).as_text()
    assert "sort" not in text


@pytest.mark.parametrize("length", [1, 7, 8, 9, 21])
def test_blocks_give_what_the_whole_gives(length):
    def function(pair, factor):
        x, nothing = pair
        return {"double": 2 * x * factor[:, None], "none": nothing, "sign": x[:, 0] > 4}

    x = jnp.arange(3.0 * length).reshape(length, 3)
    operands = (x, jnp.zeros((length, 0))), jnp.arange(length, dtype=jnp.float32)
    blocks = jax.jit(lambda operands: loops.by_blocks(function, operands, 8))(operands)
    jax.tree.map(np.testing.assert_array_equal, blocks, function(*operands))
