"""What is compiled for GPUs and TPUs that are not here: memory, collectives, precision.

Compiled and inspected, not run. It needs XLA's plugins: ``make test-accelerators``.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdescent as jd
from benchmarks.studies.accelerators import (
    FEATURES,
    ROWS,
    array,
    largest_copy,
    mesh,
    reads_in_an_iteration,
)
from benchmarks.studies.accelerators import METHODS as EVERY
from jaxdescent.breakdown.llama_tree import tree
from jaxdescent.scale.compiled import Compiled
from tests.accelerators import MARKS

pytestmark = MARKS

METHODS = {name: make for name, make in EVERY.items() if "Sketch" not in name}

KERNELS = {
    "GradientDescent(1e-6)": 40,
    "GradientDescent(Backtracking())": 60,
    "GradientDescent(BarzilaiBorwein())": 70,
    "ConjugateGradient()": 36,
    "LSMR()": 52,
    "LBFGS()": 76,
}
"""Kernels that an iteration may start on an H100: some more than it does today."""

READINGS = {
    "GradientDescent(1e-6)": 2,
    "GradientDescent(Backtracking())": 4,
    "GradientDescent(BarzilaiBorwein())": 4,
    "ConjugateGradient()": 2,
    "LSMR()": 2,
    "LBFGS()": 3,
}
"""How often an iteration reads X: a product with X and one with X' for each evaluation.

A line search evaluates twice; L-BFGS multiplies by X once more, for the exact step.
"""

ONE_VECTOR = ("GradientDescent(1e-6)", "ConjugateGradient()", "LSMR()", "LBFGS()")
"""Methods that evaluate once in an iteration."""

SQUARES = {"Gram()": 4, "DerivativeMethod()": 9}
"""Matrices of features x features that a device may keep besides a copy of its part of X."""


A_NUMBER_EACH = 8 * 8
"""Bytes of a number of each of eight devices, which the gap gathers to compare them."""


def gathered_bytes(program):
    """The most bytes that are sent at once but for sums."""
    return max((sent.size for sent in program.sent if sent.kind != "all-reduce"), default=0)


def posed(pairs):
    """Regressions by target and method: the tests of one of them run in one process, which compiles
    it once."""
    return pytest.mark.parametrize(
        ("name", "method"),
        [
            pytest.param(*pair, marks=pytest.mark.xdist_group(" ".join(pair)), id="-".join(pair))
            for pair in pairs
        ],
    )


def sizes(name, method):
    """Rows on each device, and features: TPUs unroll a factorisation, which of 1,024 columns is
    compiled for a minute."""
    share = 4 if name == "v5e:2x4" and method in SQUARES else 1
    return ROWS // share, FEATURES // share


@functools.cache
def regression(name, method, axis=0, dtype=jnp.float32):
    devices, (rows, features) = mesh(name).size, sizes(name, method)
    shape = (devices * rows, features) if axis == 0 else (rows, devices * features)
    X = array(name, shape, dtype, axis)
    y = array(name, shape[:1], jnp.float32, axis if axis == 0 else None)

    def solve(X, y):
        return jd.minimize(jd.LinearRegression(X, y), method=METHODS[method]()).params

    return Compiled(solve, X, y)


def sums(name, dtype, check_every, size=1 << 26):
    params = array(name, (mesh(name).size * size,), dtype, 0)

    def descend(params):
        method = jd.GradientDescent(0.1)
        return jd.minimize(jd.SumOfSquares(), params, method, check_every=check_every)

    return Compiled(descend, params, donated=(0,)), size * jnp.dtype(dtype).itemsize


@pytest.mark.parametrize(
    ("name", "dtype", "check_every"),
    [
        ("h100", jnp.float32, 1),
        ("8xh100", jnp.bfloat16, 1),
        ("8xh100", jnp.bfloat16, 16),
        ("v5e:2x4", jnp.float32, 1),
        ("v5e:2x4", jnp.bfloat16, 16),
        ("v6e:2x4", jnp.bfloat16, 1),
    ],
)
def test_a_constant_step_is_in_place(name, dtype, check_every):
    program, leaf = sums(name, dtype, check_every)
    assert program.temporaries < 0.05 * leaf
    assert all(sent.size < 1024 for sent in program.sent)  # numbers, or one of each device


@pytest.mark.parametrize("name", ["8xh100", "v5e:16x16"])
def test_a_constant_step_on_a_tree_adds_all_sums_at_once_and_needs_no_more_than_a_leaf(name):
    """Of two layers of Llama-3-8B and its embeddings. By the latency of an all-reduce for each leaf
    256 chips were a twentieth as fast.
    """
    devices, model = mesh(name).size, tree(8_030_261_248 - 30 * 218_112_000)
    params = {
        leaf: array(name, shape, jnp.bfloat16, int(np.argmax(shape)))
        for leaf, shape in model.shapes.items()
    }

    def descend(params):
        return jd.minimize(jd.SumOfSquares(), params, jd.GradientDescent(0.1))

    program = Compiled(descend, params, donated=(0,))
    assert len(params) == 3 + 9 * 2
    assert 2 * model.size // devices <= program.arguments < 1.05 * 2 * model.size / devices
    largest = 4 * max(map(math.prod, model.shapes.values())) // devices  # in float32
    assert program.temporaries < largest
    assert {sent.kind for sent in program.sent} == {"all-reduce"}
    assert len(program.sent) <= 4
    assert sum(sent.size for sent in program.sent) < 16 * len(params) * 4


@posed(
    [
        *(("h100", method) for method in KERNELS),
        *(("8xh100", method) for method in (*ONE_VECTOR, *SQUARES)),
        *(("v5e:2x4", method) for method in METHODS),
    ]
)
def test_rows_stay_on_their_devices(name, method):
    program, (rows, features) = regression(name, method), sizes(name, method)
    part, square = 4 * rows * features, 4 * features**2
    squares = SQUARES.get(method, 0)
    room = squares * square + part if squares else 0.2 * part
    assert program.temporaries < room
    assert gathered_bytes(program) <= A_NUMBER_EACH
    largest = square if squares else 80 * features
    assert all(sent.size <= largest + 16 * features for sent in program.sent)


@posed(itertools.product(["8xh100", "v5e:2x4"], ONE_VECTOR))
def test_an_iteration_sends_one_vector_and_a_few_numbers(name, method):
    sent = regression(name, method).sent_in_an_iteration
    # LBFGS's product for the exact step is a number, the gradient where it leads a vector.
    (vector,) = [each for each in sent if each.size >= 4 * FEATURES]
    assert vector.size <= 4 * FEATURES + 64
    assert all(each.size < 64 for each in sent if each is not vector)
    assert len(sent) <= 4


@posed(itertools.product(["h100", "v5e:2x4"], KERNELS))
def test_an_iteration_reads_the_design_no_more_than_it_must_by_few_kernels(name, method):
    program = regression(name, method)
    part = 4 * ROWS * FEATURES
    usual, rare = reads_in_an_iteration(program, part)
    assert usual == READINGS[method]
    if name == "h100":
        assert rare <= usual + 1  # conjugate gradients now and then refresh their residual
        assert 0 < program.kernels_in_an_iteration <= KERNELS[method]
        assert largest_copy(program) < 0.1 * part  # no copy of X in another layout


@pytest.mark.parametrize(
    ("name", "method"), [("8xh100", "LSMR()"), ("v5e:2x4", "ConjugateGradient()")]
)
def test_features_stay_on_their_devices(name, method):
    program = regression(name, method, axis=1)
    assert program.temporaries < 0.2 * 4 * ROWS * FEATURES
    assert all(sent.size <= 8 * ROWS + 64 for sent in program.sent)
    assert "all-gather" not in {sent.kind for sent in program.sent if sent.size > 8 * ROWS}


def on_devices(name, tree):
    """The same arrays without numbers, their leading axis over the devices of a name."""
    return jax.tree.map(
        lambda leaf: array(name, leaf.shape, leaf.dtype, 0 if leaf.ndim else None), tree
    )


@pytest.mark.parametrize("name", ["8xh100", "v5e:2x4"])
def test_entries_and_levels_stay_on_their_devices(name):
    rows, features, levels = 8 * 4096, 1500, 300
    rng = np.random.default_rng(0)
    row, column = rng.integers(0, rows, 30 * rows), rng.integers(0, features, 30 * rows)
    parts = jax.make_mesh((8,), ("devices",), devices=jax.devices("cpu")[:8])
    over = jax.sharding.NamedSharding(parts, jax.sharding.PartitionSpec("devices"))
    X = jd.Concatenated(
        {
            "words": jd.Sparse.from_indices(row, column, shape=(rows, features), sharding=over),
            "firm": jd.Categorical(rng.integers(0, levels, rows), levels, sharding=over),
        }
    )
    y = jnp.zeros(rows)

    def solve(X, y):
        return jd.minimize(
            jd.LinearRegression(X, y), method=jd.ConjugateGradient(jd.Jacobi())
        ).params

    program = Compiled(solve, on_devices(name, X), on_devices(name, y))
    vector = 4 * (features + levels)
    assert gathered_bytes(program) <= A_NUMBER_EACH
    # Before the first iteration sums of several kinds are sent at once.
    assert all(sent.size <= 4 * vector + 64 for sent in program.sent)
    assert sum(sent.size for sent in program.sent_in_an_iteration) <= vector + 128
    # A TPU stores what it gathers before it adds it up, in the steps and in the gap's products.
    assert program.temporaries < (14 if name.startswith("v") else 0.2) * X.reading.bytes / 8


@posed(("h100" if method in KERNELS else "8xh100", method) for method in METHODS)
def test_products_that_decide_convergence_are_in_full_precision(name, method):
    text = regression(name, method).lowered
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert products
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


@pytest.mark.parametrize("name", ["h100", "v5e:2x4"])
def test_16_bit_data_are_not_copied(name):
    program = regression(name, "ConjugateGradient()", dtype=jnp.bfloat16)
    assert program.temporaries < 0.5 * 2 * ROWS * FEATURES


@pytest.mark.parametrize("name", ["h100", "v5e:2x4"])
def test_designs_that_store_some_entries_need_a_few_vectors_and_no_dense_matrix(name):
    rng = np.random.default_rng(0)
    rows, features, entries = 20_000, 5_000, 200_000
    row, column = rng.integers(0, rows, entries), rng.integers(0, features, entries)
    values = rng.normal(size=entries).astype(np.float32)
    design = jd.Concatenated(
        {
            "words": jd.Sparse.from_indices(row, column, values, shape=(rows, features)),
            "firm": jd.Categorical(rng.integers(0, features, rows), features),
            "year": jd.Categorical(rng.integers(0, 10, rows), 10),
            "x": rng.normal(size=(rows, 3)).astype(np.float32),
        }
    )

    def everywhere(leaf):
        return array(name, leaf.shape, leaf.dtype)

    def solve(design, y):
        method = jd.ConjugateGradient(jd.Jacobi())
        return jd.minimize(jd.LinearRegression(design, y), method=method).params

    program = Compiled(solve, jax.tree.map(everywhere, design), array(name, (rows,), jnp.float32))
    assert not program.sent
    # A TPU pads what has few columns to 128 of them.
    padded = 1 if name == "h100" else 128
    assert program.temporaries < 40 * 4 * sum(design.shape) * padded
