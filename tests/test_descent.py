"""The loop: how often it writes back, and what memory it needs."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxdescent as jd
from jaxdescent.descent import fused_steps
from tests.commands import printed
from tests.references import replay

# Eight virtual devices sum and partition in other ways than the one device of a real run.
ANALYSE = """
import json, sys
import jax, jax.numpy as jnp
import jaxdescent as jd
from jaxdescent.calls import programs
from jaxdescent.calls.problem import Problem
from jaxdescent.breakdown.tied_weights import TiedNeighbours
from jaxdescent.descent.loop import descend

assert jax.device_count() == 1
SHAPES = [(4096, 1024), (4096, 1024), (1024, 4096), (2050, 1030), (4096,)]


def analyse(objective, dtype, check_every):
    params = {f"leaf {i}": jax.ShapeDtypeStruct(shape, dtype) for i, shape in enumerate(SHAPES)}
    method, tolerance = jd.GradientDescent(1e-2), jd.Tolerance(gradient=0.0).resolved(params)
    problem = Problem(objective.checked(), method, tolerance, jd.Nearest())
    inputs = (params, problem, jnp.asarray(1000, jnp.int32))
    flags = dict(check_every=check_every, history=0, starts_at_own=False)
    program = programs.compiled(descend, inputs, donate=(0,), **flags)
    memory = program.lower(*inputs).compile().memory_analysis()
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params)]
    return dict(
        params=sum(sizes),
        largest=max(sizes),
        alias=memory.alias_size_in_bytes,
        temp=memory.temp_size_in_bytes,
    )


objectives = {"separable": jd.SumOfSquares(), "tied": TiedNeighbours()}
print(json.dumps([
    [analyse(objectives[name], jnp.dtype(dtype), every) for every in checks]
    for name, dtype, *checks in json.loads(sys.argv[1])
]))
"""
REQUESTS = [
    ("separable", "float32", 16, 1000),
    ("separable", "bfloat16", 16, 1000),
    ("tied", "float32", 8, 16),
]


@pytest.mark.slow
def test_constant_steps_on_separable_leaves_run_in_place_and_tied_ones_need_a_leaf():
    output = printed(ANALYSE, json.dumps(REQUESTS), XLA_FLAGS="")
    for request, memories in zip(REQUESTS, json.loads(output), strict=True):
        for memory in memories:
            assert memory["alias"] == memory["params"], request
            if request[0] == "separable":
                assert memory["temp"] < 0.05 * memory["params"], request
            else:
                assert memory["temp"] <= 1.01 * memory["largest"], request


@pytest.mark.first
@pytest.mark.parametrize("check_every", [1, 7, 64])
def test_bfloat16_is_written_back_once_a_pass_and_iterations_are_exact(check_every, rng):
    start = rng.integers(-1000, 1000, 4096).astype(ml_dtypes.bfloat16)
    for max_iterations in (1, 15, 16, 17, 33, 100):
        options = {"max_iterations": max_iterations, "tolerance": 0, "check_every": check_every}
        result = jd.minimize(jd.SumOfSquares(), start, jd.GradientDescent(1e-2), **options)
        assert int(result.iterations) == max_iterations
        assert jd.Status(int(result.status)) is jd.Status.MAX_ITERATIONS
        expected, write_backs = replay(start, max_iterations, check_every, 1e-2)
        np.testing.assert_array_equal(
            np.asarray(result.params).view(np.uint16), expected.view(np.uint16)
        )
        # A pass is at most a bfloat16's half ulp off: the closed form is within their sum.
        closed = 0.98**max_iterations * start[start != 0].astype(np.float64)
        ratio = expected[start != 0].astype(np.float64) / closed
        assert np.abs(ratio - 1).max() <= write_backs * 2.0**-8 * 1.01


def test_the_replay_tells_different_write_backs_apart(rng):
    start = rng.integers(-1000, 1000, 4096).astype(ml_dtypes.bfloat16)
    ends = [replay(start, 100, every, 1e-2)[0] for every in (1, 7, 16, 64)]
    for index, one in enumerate(ends):
        for other in ends[:index]:
            assert np.any(one != other)


@pytest.mark.parametrize(
    ("check_every", "dtype"), [(1, jnp.float32), (16, jnp.bfloat16)], ids=["float32", "bfloat16"]
)
def test_jit_equals_eager_bit_by_bit(check_every, dtype, rng):
    start = {
        "a": jnp.asarray(rng.integers(-1000, 1000, (33, 7)), dtype),
        "b": jnp.asarray(rng.integers(-1000, 1000, 100), dtype),
    }

    def run(start):
        options = {"max_iterations": 50, "tolerance": 0, "check_every": check_every}
        result = jd.minimize(jd.SumOfSquares(3.0, 0.5), start, jd.GradientDescent(1e-2), **options)
        return result.params, result.value, result.gradient_norm, result.iterations

    traced, eager = jax.jit(run)(start), run(start)
    jax.tree.map(np.testing.assert_array_equal, traced[0], eager[0])
    assert int(traced[3]) == int(eager[3]) == 50
    # A program that knows that its arrays are small adds their squares in another order.
    np.testing.assert_allclose(traced[1:3], eager[1:3], rtol=1e-6)


def test_fused_steps_carry_no_norm_that_nobody_reads():
    params = {name: np.ones((300, 3), np.float32) for name in "abc"}

    def solve(params):
        return jd.minimize(
            jd.SumOfSquares(), params, jd.GradientDescent(1e-2), check_every=fused_steps.FUSED_STEPS
        )

    # A norm is a root and a branch; each of the fused steps would add its own.
    assert str(jax.make_jaxpr(solve)(params)).count("sqrt") < fused_steps.FUSED_STEPS
