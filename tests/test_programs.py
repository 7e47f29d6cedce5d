"""Compiled programs: what makes a new one, how long they live, and what surrounds a call."""

import gc
import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdescent as jd
from jaxdescent.calls import programs
from jaxdescent.inputs import tracing
from tests.commands import printed


def new_function(index):
    return eval(f"lambda x: {index}.0 * x")  # a new function object each time


def apply(function, x, *, times=1):
    for _ in range(times):
        x = function(x)
    return x


def run(function, x, **flags):
    inputs = (jax.tree_util.Partial(function), x)
    return programs.compiled(apply, inputs, **flags)(*inputs)


def test_one_structure_is_one_program():
    function = new_function(3)
    inputs = (jax.tree_util.Partial(function), jnp.ones(2))
    program = programs.compiled(apply, inputs)
    assert programs.compiled(apply, (inputs[0], jnp.zeros(5))) is program
    assert programs.compiled(apply, inputs, times=2) is not program
    assert programs.compiled(apply, inputs, donate=(1,)) is not program
    other = (jax.tree_util.Partial(new_function(3)), jnp.ones(2))
    assert programs.compiled(apply, other) is not program


def test_flags_are_static_and_reach_the_function_and_donated_inputs_are_consumed():
    x = jnp.ones(2)
    np.testing.assert_array_equal(run(new_function(3), x, times=2, donate=(1,)), [9, 9])
    assert x.is_deleted()


def test_a_program_that_leaves_the_cache_frees_what_it_compiled():
    function = new_function(7)
    reference = weakref.ref(function)
    assert float(run(function, jnp.array(2.0))) == 14
    del function
    gc.collect()
    assert reference() is not None  # the cache keeps it
    for index in range(programs.PROGRAMS + 1):
        programs.compiled(apply, (jax.tree_util.Partial(new_function(index)), 1.0))
    gc.collect()
    assert reference() is None
    assert programs._compiled.cache_info().currsize == programs.PROGRAMS


def test_a_program_in_use_stays():
    used = new_function(5)
    inputs = (jax.tree_util.Partial(used), 1.0)
    program = programs.compiled(apply, inputs)
    for index in range(2 * programs.PROGRAMS):
        programs.compiled(apply, (jax.tree_util.Partial(new_function(index)), 1.0))
        assert programs.compiled(apply, inputs) is program


def test_no_program_is_kept_of_an_object_that_may_be_changed():
    class Scale:
        __hash__ = None
        factor = 2.0

        def __call__(self, x):
            return self.factor * x

    scale = Scale()
    before = programs._compiled.cache_info().currsize
    np.testing.assert_array_equal(run(scale, jnp.ones(2)), [2, 2])
    scale.factor = 3.0
    np.testing.assert_array_equal(run(scale, jnp.ones(2)), [3, 3])
    assert programs._compiled.cache_info().currsize == before


TRANSFORMATIONS = {
    "jit": jax.jit,
    "grad": jax.grad,
    "vmap": jax.vmap,
    "jvp": lambda function: lambda x: jax.jvp(function, (x,), (x,)),
    "jit of vmap": lambda function: jax.jit(jax.vmap(function)),
    "eval_shape": lambda function: lambda x: jax.eval_shape(function, x),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_inside_a_transformation_is_not_the_top_level(name):
    seen = []

    def look(x):
        seen.append(tracing.is_top_level())
        return x

    argument = jnp.ones(3) if "vmap" in name else jnp.array(1.0)
    TRANSFORMATIONS[name](look)(argument)
    assert seen == [False]
    assert tracing.is_top_level()


def test_other_threads_are_at_the_top_level_of_their_own():
    seen = []

    def inside(x):
        thread = threading.Thread(target=lambda: seen.append(tracing.is_top_level()))
        thread.start()
        thread.join()
        return x

    jax.jit(inside)(1.0)
    assert seen == [True]


def test_the_top_level_is_known_even_if_first_asked_for_inside_jit():
    tracing._top_level_state.cache_clear()
    seen = []
    jax.jit(lambda x: (seen.append(tracing.is_top_level()), x)[1])(1.0)
    assert seen == [False]
    assert tracing.is_top_level()


FIRST_CALLS = """
import jax, jax.numpy as jnp, jaxdescent as jd
traces = []
def own(x):
    traces.append("own")
    return 2 * x
def solve(start):
    traces.append("solve")
    return jd.minimize(lambda x: jnp.sum(jnp.cosh(x)), start).params
own, solve = jax.jit(own), jax.jit(solve)
for _ in range(2):
    own(jnp.ones(3))
    solve(jnp.ones(3))
    jd.minimize(jd.SumOfSquares(), jnp.ones(3))
print(*traces)
"""


@pytest.mark.slow
def test_nothing_that_comes_with_the_first_call_makes_jax_trace_again():
    assert printed(FIRST_CALLS).split() == ["own", "solve"]


def test_threads_that_minimise_at_once_get_their_own_results():
    results = {}

    def work(center):
        result = jd.minimize(
            jd.SumOfSquares(center=jnp.array(center)), 0.0, jd.GradientDescent(0.25)
        )
        results[center] = float(result.params)

    threads = [threading.Thread(target=work, args=(float(k),)) for k in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == pytest.approx({float(k): float(k) for k in range(1, 9)}, rel=1e-4)
