"""Part 3 of the breakdown in small: the shapes, the three problems, and what is known of each."""

import dataclasses
import math
import os
import signal

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from rich.console import Console

import jaxdescent as jd
from jaxdescent.breakdown import (
    independent_weights,
    large_problem,
    llama,
    llama_tree,
    matrix_free_regression,
    placed,
    tied_weights,
)
from jaxdescent.breakdown.settings import Settings
from jaxdescent.descent.fused_steps import FUSED_STEPS
from jaxdescent.scale.compiled import Compiled
from tests.references import replay

pytestmark = pytest.mark.optimized

QUIET = Console(quiet=True)
SMALL = {"a": (150, 130), "b": (64, 300), "c": (300,)}
LLAMA_3_8B = 8_030_261_248


def small_tree(*limits):
    del limits
    return llama_tree.Tree(SMALL, "a few matrices")


@pytest.fixture(scope="module")
def small():
    """The problems of part 3 have a few matrices."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (independent_weights, tied_weights):
            patch.setattr(module, "tree", small_tree)
        yield


def independent(settings):
    problem = independent_weights.IndependentWeights(settings, QUIET)
    return large_problem.run(problem, settings, QUIET)


def test_the_tree_is_llamas_to_the_last_parameter():
    tree = llama_tree.tree()
    assert tree.size == LLAMA_3_8B
    assert len(tree.shapes) == 3 + 32 * 9 == 291
    layer = 2 * 4096**2 + 2 * 1024 * 4096 + 3 * 14336 * 4096 + 2 * 4096
    assert tree.size == 2 * 128256 * 4096 + 4096 + 32 * layer
    for most in (LLAMA_3_8B, LLAMA_3_8B + 1, 2**62, None):
        assert llama_tree.tree(most) == tree
    assert tree.description == "all 32 layers"


def test_a_part_of_the_tree_never_exceeds_what_is_allowed():
    layer = 218_112_000
    assert llama_tree.tree(llama_tree.tree().size - 1).size == LLAMA_3_8B - layer
    limits = [4096, 4097, 10**7, 16_777_216, 10**8, layer - 1, layer, layer + 1, 10**9]
    limits += [int(limit) for limit in np.geomspace(4096, LLAMA_3_8B - 1, 200)]
    whole = llama_tree.tree().shapes
    for most in limits:
        part = llama_tree.tree(most)
        assert 0 < part.size <= most
        if most >= 1024 * 4096:  # the smallest matrix
            assert part.size > most / 3
        assert sum(math.prod(shape) for shape in part.shapes.values()) == part.size
        # By layer, or single matrices of the first.
        for name, shape in part.shapes.items():
            assert whole.get(name, whole.get(f"layer0.{name}")) == shape
    # Within a layer a larger limit takes no fewer.
    sizes = [llama_tree.tree(most).size for most in range(4096, layer, 4_000_037)]
    assert sizes == sorted(sizes)
    for most in (0, 1, 4095):
        with pytest.raises(ValueError, match=r"at least 4,096, .* got "):
            llama_tree.tree(most)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_independent_weights_equal_a_replay_and_the_closed_form(dtype, request, small):
    if dtype == "float32":
        outcome = request.getfixturevalue("part_three")
    else:
        outcome = independent(Settings(dtype=dtype))
    numbers = outcome.numbers["independent"]
    assert numbers["unknowns"] == sum(math.prod(shape) for shape in SMALL.values()) > 38_000
    assert numbers["iterations"] == 1000
    assert outcome.is_complete
    assert numbers["sampled_elements"] == 64 * len(SMALL)
    assert numbers["write_backs"] == math.ceil(1000 / FUSED_STEPS)
    assert numbers["bit_equal_to_replay"] == numbers["sampled_elements"]
    error = numbers["largest_error_against_closed_form"]
    assert 0 < error <= numbers["bound_on_that_error"]
    if dtype == "float32":
        assert numbers["bound_on_that_error"] == 1e-4
    else:
        assert numbers["bound_on_that_error"] == numbers["write_backs"] / 256


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
def test_every_weight_equals_a_replay_of_our_own(dtype):
    shapes = {"a": (40, 30), "b": (77,)}
    start = independent_weights.draw(shapes, dtype, 5)
    drawn = np.concatenate([np.asarray(leaf).ravel() for leaf in start.values()])
    assert drawn.dtype == dtype
    expected, _ = replay(drawn, 1000, FUSED_STEPS, 1e-2)
    options = {"max_iterations": 1000, "tolerance": 0, "check_every": FUSED_STEPS}
    result = jd.minimize(jd.SumOfSquares(), start, jd.GradientDescent(1e-2), **options)
    ends = np.concatenate([np.asarray(leaf).ravel() for leaf in result.params.values()])
    np.testing.assert_array_equal(ends, expected)
    np.testing.assert_array_equal(independent_weights.replay(drawn, 1000, dtype), ends)


def test_weights_that_have_come_to_zero_have_no_relative_error():
    """As after so many steps that their closed form underflows."""
    zeros = np.zeros(3, np.float32)
    checks = independent_weights._checks(zeros, zeros, 10)
    assert checks["largest_error_against_closed_form"] == 0
    assert checks["bit_equal_to_replay"] == 3


def test_the_replay_would_notice_a_single_step_too_many():
    starts = np.arange(1, 1000, dtype=np.float32)
    for dtype in (np.float32, ml_dtypes.bfloat16):
        one, other = (independent_weights.replay(starts, count, dtype) for count in (99, 100))
        assert np.mean(one == other) < 0.01


def test_starts_are_integers_drawn_anew_for_each_array_and_seed():
    shapes = {"a": (100, 100), "b": (100, 100)}
    start = independent_weights.draw(shapes, jnp.float32, 0)
    for leaf in start.values():
        assert leaf.min() >= -1000
        assert leaf.max() < 1000
        np.testing.assert_array_equal(leaf, np.round(leaf))
        assert abs(float(leaf.mean())) < 4 * 1000 / math.sqrt(3) / 100
    assert np.mean(np.asarray(start["a"]) == np.asarray(start["b"])) < 0.01
    again = independent_weights.draw(shapes, jnp.float32, 0)
    np.testing.assert_array_equal(again["a"], start["a"])
    for seed in (1, 2**31):  # of tied weights, one more than the largest that can be asked for
        other = independent_weights.draw(shapes, jnp.float32, seed)
        assert np.mean(np.asarray(other["a"]) == np.asarray(start["a"])) < 0.01


def tied_by_the_textbook(x):
    """The formula at the head of the module, written with slices."""
    rows, columns = (1, *x.shape)[-2:]
    i, j = np.arange(rows), np.arange(columns)
    center = (37 * i % 64 - 32)[:, None] + (101 * j % 64 - 32)[None]
    own = 1 + (7 * i % 8)[:, None] / 64 + (5 * j % 8)[None] / 64
    along_rows = 0.47 + (3 * i[:-1] % 8) / 56
    along_columns = 0.47 + (5 * j[:-1] % 8) / 56
    e = x.reshape(rows, columns) - jnp.asarray(center, x.dtype)
    value = jnp.sum(jnp.asarray(own, x.dtype) * e**2)
    value += jnp.sum(jnp.asarray(along_rows, x.dtype)[:, None] * (e[1:] - e[:-1]) ** 2)
    value += jnp.sum(jnp.asarray(along_columns, x.dtype)[None] * (e[:, 1:] - e[:, :-1]) ** 2)
    return 0.5 * value


tied_value_and_gradient = jax.jit(jax.value_and_grad(tied_by_the_textbook))
tied_optimum = jax.jit(tied_weights.optimum, static_argnums=0)
TIED_SHAPES = [(9, 14), (1, 40), (70, 1), (30,), (1,)]


@jax.jit
def tied_answers(x, direction):
    objective = tied_weights.TiedNeighbours()
    return objective.value(x), objective.gradient(x), objective.hessian_product(x, direction)


@pytest.mark.first
@pytest.mark.parametrize("shape", TIED_SHAPES, ids=str)
def test_the_tied_gradient_is_that_of_the_textbooks_formula(shape, rng):
    x = (rng.normal(size=shape) * 50).astype(np.float32)
    direction = rng.normal(size=shape).astype(np.float32)
    own_value, own_gradient, own_product = tied_answers(x, direction)
    value, gradient = tied_value_and_gradient(x)
    np.testing.assert_allclose(own_value, value, rtol=1e-5)
    np.testing.assert_allclose(own_gradient, gradient, rtol=1e-5, atol=1e-3)
    center = np.asarray(tied_optimum(shape))
    _, product = tied_value_and_gradient(center + direction)  # affine, and zero at the center
    np.testing.assert_allclose(own_product, product, rtol=1e-5, atol=1e-5)
    assert center.shape == shape
    assert center.min() >= -64
    assert center.max() <= 62
    for stationary in (tied_value_and_gradient(center), tied_answers(center, direction)):
        np.testing.assert_array_equal(stationary[1], 0)


def test_what_a_check_reads_is_the_value_and_the_gradients_norm(rng):
    tree = {str(shape): (rng.normal(size=shape) * 50).astype(np.float32) for shape in TIED_SHAPES}
    value, squared = jax.jit(tied_weights.TiedNeighbours().value_and_squared_norm)(tree)
    values, gradients = zip(*map(tied_value_and_gradient, tree.values()), strict=True)
    np.testing.assert_allclose(value, sum(values), rtol=1e-5)
    expected = sum(np.sum(np.asarray(gradient, np.float64) ** 2) for gradient in gradients)
    np.testing.assert_allclose(squared, expected, rtol=1e-5)


def test_tied_eigenvalues_lie_within_the_stated_bounds():
    lowest, highest = math.inf, 0
    for shape in [(20, 20), (1, 64)]:
        zero = jnp.zeros(shape)
        hessian = jax.jit(jax.hessian(tied_by_the_textbook))(zero).reshape(zero.size, zero.size)
        eigenvalues = np.linalg.eigvalsh(np.asarray(hessian, np.float64))
        assert eigenvalues[0] >= tied_weights.LOWER
        assert eigenvalues[-1] <= tied_weights.UPPER
        lowest, highest = min(lowest, eigenvalues[0]), max(highest, eigenvalues[-1])
    assert highest / lowest == pytest.approx(5, abs=0.7)


def test_no_tied_weight_moves_alone():
    # The Hessian's off-diagonal entries: every weight feels each of its neighbours.
    objective, shape = tied_weights.TiedNeighbours(), (6, 7)
    product = jax.jit(lambda d: objective.hessian_product(jnp.zeros(shape), d))
    units = np.eye(42, dtype=np.float32).reshape(42, *shape)
    for position in ((0, 0), (2, 3), (5, 6)):
        felt = np.asarray(product(units[np.ravel_multi_index(position, shape)])) < 0
        neighbours = {
            (position[0] + di, position[1] + dj) for di, dj in ((1, 0), (-1, 0), (0, 1), (0, -1))
        }
        assert set(zip(*map(list, np.nonzero(felt)), strict=True)) == {
            (i, j) for i, j in neighbours if 0 <= i < 6 and 0 <= j < 7
        }


@pytest.fixture(scope="module")
def part_three(small):
    """All of it in float32: each of its problems is looked at below."""
    return llama.run(Settings(max_params=40_000, dtype="float32"), QUIET)


def test_tied_weights_come_to_their_optimum(part_three):
    numbers = part_three.numbers["tied"]
    assert numbers["relative_gradient_norm"] <= tied_weights.TOLERANCE
    assert numbers["iterations"] <= tied_weights.TiedWeights.iterations
    # The gradient bounds the distance: |x - c| <= |g| / LOWER.
    distance = numbers["distance_root_mean_square"] * math.sqrt(numbers["unknowns"])
    assert 0 < distance <= numbers["proved_distance"] * 1.01 + 1e-3
    assert numbers["distance_largest"] < 0.02


def test_the_pace_is_that_of_segments_with_iterations():
    descent = large_problem.SegmentedDescent(lambda: None)
    method = jd.GradientDescent(0.4)
    jd.run(jd.SumOfSquares(), jnp.ones(8), method, chunk=4, hooks=[descent])
    fastest = min(each.chunk_seconds / each.iterations for each in descent.segments)
    empty = dataclasses.replace(descent.segments[-1], iterations=0, chunk_seconds=1e-9)
    descent.segments.append(empty)
    assert descent.numbers["seconds_per_iteration"] == fastest


def test_the_distance_is_numpys(rng):
    shapes = {"a": (20, 30), "b": (50,)}
    offsets = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    params = {
        name: np.asarray(tied_optimum(shape)) + offsets[name].astype(np.float32)
        for name, shape in shapes.items()
    }
    flat = np.concatenate([offset.ravel() for offset in offsets.values()])
    rms, most = tied_weights.distance(params)
    assert rms == pytest.approx(math.sqrt(np.mean(flat**2)), rel=1e-4)
    assert most == pytest.approx(np.abs(flat).max(), rel=1e-4)


regression_optimum = jax.jit(matrix_free_regression.optimum, static_argnums=0)


def forward_by_numpy(w):
    """Row (i, j): (1 + (7i mod 8 + 5j mod 8) / 32) w_ij + w_(i-1)j / 4 - w_i(j-1) / 8."""
    side = math.isqrt(len(w))
    w = w.reshape(side, side)
    i = np.arange(side)
    out = (1 + ((7 * i % 8)[:, None] + (5 * i % 8)[None]) / 32) * w
    out[1:] += w[:-1] / 4
    out[:, 1:] -= w[:, :-1] / 8
    return out.ravel()


def matrix_by_numpy(size):
    return np.stack([forward_by_numpy(row) for row in np.eye(size)], axis=1)


def test_the_design_multiplies_as_its_matrix_does(rng):
    matrix = matrix_by_numpy(64)
    design = matrix_free_regression.design(64)
    w, r = rng.normal(size=(2, 64)).astype(np.float32)
    np.testing.assert_allclose(jax.jit(design.product)(w), matrix @ w, rtol=1e-5, atol=1e-6)
    back = jax.jit(design.transposed_product)(r)
    np.testing.assert_allclose(back, matrix.T @ r, rtol=1e-5, atol=1e-6)


def test_the_designs_eigenvalues_lie_within_the_stated_bounds():
    for side in (4, 16):
        matrix = matrix_by_numpy(side * side)
        eigenvalues = np.linalg.eigvalsh(matrix.T @ matrix)
        assert eigenvalues[0] >= matrix_free_regression.LOWER
        assert eigenvalues[-1] <= matrix_free_regression.UPPER


def test_a_block_regression_is_the_sum_of_its_blocks(rng):
    targets, weights = rng.normal(size=(2, 3, 64)).astype(np.float32)
    matrix = matrix_by_numpy(64)
    residuals = [matrix @ w - y for w, y in zip(weights, targets, strict=True)]

    @jax.jit
    def value_and_gradient(targets, weights):
        objective = matrix_free_regression.BlockRegression(targets)
        return objective.value_and_gradient(weights)

    value, gradient = value_and_gradient(list(targets), list(weights))
    np.testing.assert_allclose(value, 0.5 * sum(np.sum(r**2) for r in residuals), rtol=1e-5)
    for got, residual in zip(gradient, residuals, strict=True):
        np.testing.assert_allclose(got, matrix.T @ residual, rtol=1e-4, atol=1e-5)


def test_the_matrix_free_regression_finds_the_weights_behind_its_targets(part_three):
    numbers = part_three.numbers["matrix_free_regression"]
    assert numbers["weights"] == 16 * 32**2
    assert numbers["relative_gradient_norm"] <= matrix_free_regression.TOLERANCE
    assert numbers["largest_error"] < 1e-4
    for block in (0, 15):
        weights = np.asarray(regression_optimum(32, block))
        assert np.abs(weights).max() <= 1
        assert np.std(weights) > 0.1  # zero would be found by not moving


def test_part_three_joins_its_three_problems(part_three):
    assert set(part_three.numbers) == {"independent", "tied", "matrix_free_regression"}
    assert part_three.is_complete
    assert len(part_three.verdict) == len(part_three.points) == 3
    alone = llama.run(Settings(everything=False, dtype="float32"), QUIET)
    assert set(alone.numbers) == {"independent"}


@pytest.mark.slow
def test_part_three_goes_on_from_what_it_kept(tmp_path, monkeypatch, small):
    monkeypatch.setitem(jd.hooks.Checkpoint.__init__.__kwdefaults__, "every", 0.0)
    send = [independent_weights.SEGMENT]
    original = large_problem.SegmentedDescent.report

    def interrupts(self, record):
        original(self, record)
        if record.iteration in send:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(large_problem.SegmentedDescent, "report", interrupts)
    settings = Settings(dtype="float32", checkpoint=tmp_path)
    first = independent(settings)
    assert not first.is_complete
    done = first.numbers["independent"]["iterations"]
    assert 0 < done < 1000
    with pytest.raises(ValueError, match="say --resume to go on"):
        independent(settings)
    send.clear()
    settings = dataclasses.replace(settings, resume=True)
    # The second time it is over, and goes on from before the check at its limit.
    for resumed_at in (done, 1000 - 1000 % independent_weights.SEGMENT):
        outcome = independent(settings)
        numbers = outcome.numbers["independent"]
        assert outcome.is_complete
        assert numbers["resumed_at"] == resumed_at
        assert numbers["iterations"] == 1000
        assert numbers["bit_equal_to_replay"] == numbers["sampled_elements"]
        assert 0 <= numbers["goodput"] <= 1


@pytest.mark.parametrize("block", range(matrix_free_regression.BLOCKS))
def test_targets_of_the_regression_are_exact(block):
    """So they have the same bits over any devices, however a compiler contracts the products."""
    weights = regression_optimum(64, block)
    got = jax.jit(matrix_free_regression.forward)(weights)
    w = np.asarray(weights, np.float64)
    np.testing.assert_array_equal(np.asarray(got, np.float64), forward_by_numpy(w))
    assert np.abs(w).max() == 1 - block / 32


class TestPlaced:
    @pytest.fixture
    def many(self, monkeypatch):
        """As if the devices were of several processes, while arrays are placed."""

        def of(count, **room):
            monkeypatch.setattr(jax, "process_count", lambda: 2)
            monkeypatch.setattr(placed.host, "attached_devices", lambda: count)
            if room:
                monkeypatch.setattr(placed, "bytes_of_all", lambda: room["room"])

        return of

    def test_one_process_places_nothing(self):
        assert placed.over_all((8, 8)) is None
        assert placed.devices() == 1
        assert placed.in_words(placed.numbers([])) == ""

    def test_arrays_lie_along_the_longest_axis_that_can_be_shared_or_the_one_named(self, many):
        many(8)
        for shape, axis, expected in (
            ((16, 32), None, (None, "params")),
            ((16, 32), 0, ("params",)),
            ((12, 20), None, ()),
            ((24, 20), 0, ("params",)),
            ((64,), 0, ("params",)),
            ((), None, ()),
        ):
            assert tuple(placed.over_all(shape, axis).spec) == expected

    def test_arrays_that_cannot_be_shared_have_the_room_of_a_device(self, many):
        many(8, room=80.0)
        assert placed.room([(16, 3), (8,)]) == 80
        assert placed.room([(16, 3), (12,)]) == 10
        assert placed.room([(16, 20)], 1) == 10

    @pytest.mark.parametrize(("count", "side"), [(1, 64), (8, 64), (3, 63), (96, 64)])
    def test_squares_have_rows_for_each_device(self, many, count, side):
        many(count, room=1e12)
        assert matrix_free_regression.chosen(Settings(max_params=16 * 64**2 + 5), 1e12) == side

    @pytest.mark.slow
    def test_coupled_problems_send_rows_and_numbers_alone(self, many):
        """No device ever gathers what it has not: not even the coefficients, which it computes."""
        many(8)
        shapes = {"tall": (512, 128), "wide": (64, 128), "vector": (1024,)}
        params = {
            name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=placed.over_all(shape, 0))
            for name, shape in shapes.items()
        }
        square = (128 * 128,)
        y = jax.ShapeDtypeStruct(square, jnp.float32, sharding=placed.over_all(square))

        def descend(objective, params, every):
            method = jd.GradientDescent(0.3)
            tolerance = jd.Tolerance(gradient=1e-6)
            return jd.minimize(objective, params, method, check_every=every, tolerance=tolerance)

        def regression(w, y):
            return descend(matrix_free_regression.BlockRegression(y), w, 12)

        programs = (
            Compiled(lambda x: descend(tied_weights.TiedNeighbours(), x, 8), params),
            Compiled(regression, [y, y], [y, y]),
        )
        row, sums = 4 * 128, 4 * 8
        for program in programs:
            assert "collective-permute" in {sent.kind for sent in program.sent}
            for kind, size in program.sent:
                assert size <= {"collective-permute": row, "all-reduce": 16}.get(kind, sums)
