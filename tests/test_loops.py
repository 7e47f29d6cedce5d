"""Loops: what lax's give, and on a CPU never one kernel where a turn is large."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxdescent as jd
from jaxdescent.kernels import loops
from jaxdescent.regression.gram_form import GramForm
from tests.meshes import rows_over
from tests.results import assert_same, assert_trees_close

SMALL, LARGE = 1, loops.LARGE_BYTES
ONE_KERNEL = "xla_cpu_small_call"


def halve(index: jax.Array, x: jax.Array) -> jax.Array:
    return x / 2 + index.astype(x.dtype)


@pytest.mark.parametrize("turn_bytes", [SMALL, LARGE])
def test_fori_loop_and_scan_are_those_of_lax(turn_bytes):
    @jax.jit
    def looped(count, x):
        return loops.fori_loop(count, halve, x, turn_bytes=turn_bytes)

    def body(total, index):
        step = index.astype(total.dtype)
        return total + step, total * step

    for count in (0, 1, 7):
        expected = lax.fori_loop(0, count, halve, jnp.arange(5.0))
        np.testing.assert_array_equal(looped(count, jnp.arange(5.0)), expected)
    expected = lax.scan(body, jnp.float32(1), jnp.arange(6))
    assert_same(loops.scan(6, body, jnp.float32(1), turn_bytes=turn_bytes), expected)


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


def test_one_turn_is_what_it_repeats(rng):
    X = jnp.asarray(rng.normal(size=(7, 3)), jnp.float32)

    def function(x):
        return {"sum": jnp.sum(X @ x), "is": x > 0, "none": None}, jnp.int32(3)

    def once(x):
        return loops.one_turn(lambda: function(x))

    points = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    for way in (lambda f: f(points[0]), lambda f: jax.jit(f)(points[0]),
                lambda f: jax.vmap(f)(points)):  # fmt: skip
        got, expected = way(once), way(function)
        assert jax.tree.structure(got) == jax.tree.structure(expected)
        assert_trees_close(got, expected, rtol=1e-6)


def test_one_turn_is_one_kernel_on_a_cpu():
    def many(x):
        for _ in range(5):
            x = jnp.sin(x) / jnp.sum(x) + jnp.max(x)
        return x

    x = jnp.ones(5)
    text = jax.jit(lambda x: loops.one_turn(lambda: many(x))).lower(x).compile().as_text()
    assert text.count(ONE_KERNEL) == 1
    entry = text[text.index("ENTRY") :]
    assert entry.count(" fusion(") <= 2
    plain = jax.jit(many).lower(x).compile().as_text()
    assert plain[plain.index("ENTRY") :].count(" fusion(") > 5


def test_what_has_effects_or_returns_keys_is_called_as_it_is():
    said = []

    def tell():
        jax.debug.callback(lambda: said.append(1))
        return jnp.ones(2)

    np.testing.assert_array_equal(jax.jit(lambda: loops.one_turn(tell))(), 1)
    jax.effects_barrier()
    assert said == [1]
    key = loops.one_turn(lambda: jax.random.key(3))
    assert key == jax.random.key(3)


@pytest.mark.slow
def test_only_small_problems_on_one_device_begin_in_one_kernel(rng):
    def kernels(rows, place=lambda array: array):
        X = rng.normal(size=(rows, 4)).astype(np.float32)
        regression = jd.LinearRegression(place(X), place(X[:, 0]))
        with mock.patch.object(loops, "one_turn", side_effect=loops.one_turn) as turns:
            jd.minimize(regression, method=jd.GradientDescent(1e-3), tolerance=0, max_iterations=3)
        return turns.call_count

    assert kernels(64) == 1
    assert kernels(1 << 13) == 0
    assert kernels(64, lambda array: jax.device_put(array, rows_over(8))) == 0


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
        return GramForm.of(jd.LinearRegression(X, y))

    cases = (separable, start), (gradient, X, y), (gram, X, y)
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
