"""The front door: what compiles, what is equal to what, and what happens to memory."""

import functools
import gc
import importlib.util
import types
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdescent as jd
from jaxdescent.calls import programs
from tests.results import assert_trees_close


def counted_function():
    """``sum(w * p^2)``, counting how often Python runs it: once or more a trace, never later."""

    def function(p, w):
        function.traces += 1
        return jnp.sum(w * p**2)

    function.traces = 0
    return function


START, WEIGHTS = jnp.array([3.0, -4.0]), jnp.array([1.0, 2.0])

SECOND_CALLS = {
    "new data": {"args": (2 * WEIGHTS,)},
    "new start": {"params": START + 1},
    "NumPy start": {"params": np.array([1.0, 2.0], np.float32)},
    "new learning rate": {"method": jd.GradientDescent(0.07)},
    "new max_iterations": {"max_iterations": 123},
    "the same": {},
}


@pytest.mark.parametrize(
    "tolerances",
    [(1e-4, 0.5), [jd.Tolerance(gradient=each, suboptimality=each) for each in (1e-4, 0.5)]],
    ids=["a number", "several rules"],
)
def test_a_second_call_traces_nothing(tolerances):
    function = counted_function()
    call = {"params": START, "method": jd.GradientDescent(0.1), "args": (WEIGHTS,)}
    call |= {"max_iterations": 100, "tolerance": tolerances[0]}
    first = jd.minimize(function, **call)
    assert first.converged  # or the next call may be the first to claim it
    traces = function.traces
    assert traces > 0
    for name, change in SECOND_CALLS.items():
        jd.minimize(function, **(call | change))
        assert function.traces == traces, name
    sooner = jd.minimize(function, **(call | {"tolerance": tolerances[1]}))
    assert function.traces == traces
    assert int(sooner.iterations) < int(first.iterations)


def test_a_second_regression_of_the_same_shapes_compiles_nothing(rng):
    def call():
        X, y = rng.normal(size=(9, 2)).astype(np.float32), rng.normal(size=9).astype(np.float32)
        return jd.minimize(jd.LinearRegression(X, y, l2=rng.uniform()))

    call()
    before = programs._compiled.cache_info()
    call()
    after = programs._compiled.cache_info()
    assert (after.misses, after.hits) == (before.misses, before.hits + 1)


def squares(p, w):
    return jnp.sum(w * (p["a"] - 1) ** 2) + jnp.cosh(p["b"])


TREE = {"a": jnp.array([3.0, -4.0]), "b": jnp.array(0.5)}


def assert_results_close(got, expected, **tolerances):
    for name in ("params", "value", "gradient_norm", "iterations", "status"):
        assert_trees_close(getattr(got, name), getattr(expected, name), **tolerances)


@pytest.mark.first
@pytest.mark.parametrize("over", ["starts", "data", "learning rates"])
def test_vmap_equals_a_python_loop(over):
    def call(factor):
        start = jax.tree.map(lambda x: factor * x, TREE) if over == "starts" else TREE
        w = factor * WEIGHTS if over == "data" else WEIGHTS
        method = jd.GradientDescent(0.05 * factor if over == "learning rates" else 0.01)
        return jd.minimize(squares, start, method, args=(w,), tolerance=1e-3)

    factors = np.array([0.2, 1.0, 2.0], np.float32)
    batch = jax.vmap(call)(factors)
    for index, factor in enumerate(factors):
        member = jax.tree.map(lambda x: np.asarray(x)[index], batch)  # noqa: B023
        assert_results_close(member, call(factor), rtol=1e-5, atol=1e-6)


def square(p):
    return jnp.sum(p**2)


@pytest.mark.slow
def test_a_program_without_jit_is_solved_too():
    """As one that is debugged, where the package is imported there."""
    name = "jaxdescent.inputs.traced_functions"
    with jax.disable_jit():
        importlib.util.find_spec(name).loader.exec_module(types.ModuleType(name))
        result = jd.minimize(lambda x: jnp.sum((x - 1) ** 4 + (x - 1) ** 2), np.zeros(2, "f"))
    assert result.status == jd.Status.CONVERGED
    np.testing.assert_allclose(result.params, 1, atol=1e-2)


@pytest.mark.parametrize("objective", [jd.SumOfSquares(), square], ids=["separable", "function"])
@pytest.mark.parametrize("check_every", [None, 7, 1])
def test_max_iterations_is_exact(objective, check_every):
    options = {"tolerance": 0, "check_every": check_every}
    for count in (1, 17, 1000):
        result = jd.minimize(
            objective, START, jd.GradientDescent(1e-3), max_iterations=count, **options
        )
        assert int(result.iterations) == count
        assert int(result.status) == jd.Status.MAX_ITERATIONS
        np.testing.assert_allclose(result.params, START * 0.998**count, rtol=2e-4)


def test_history_holds_the_last_checked_values_oldest_first():
    options = {"tolerance": 0, "history": 3}
    result, short = (
        jd.minimize(square, START, jd.GradientDescent(0.25), max_iterations=count, **options)
        for count in (5, 1)
    )
    values = 25 * 0.25 ** np.arange(6.0)
    np.testing.assert_allclose(result.history.value, values[3:], rtol=1e-5)
    np.testing.assert_allclose(short.history.value, [*values[:2], np.nan])
    for name in ("value", "gradient_norm", "suboptimality"):
        assert getattr(result.history, name)[-1] == getattr(result, name)
    assert jd.minimize(jd.SumOfSquares(), 1.0).history == ()


def test_python_floats_doubles_and_nested_trees_are_params():
    params = {"a": (1.0, [2.0, np.ones((2, 3))]), "b": np.float32(3)}
    result = jd.minimize(jd.SumOfSquares(), params, jd.GradientDescent(0.1))
    assert bool(result.converged)
    assert jax.tree.structure(result.params) == jax.tree.structure(params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(result.params))


def test_stochastic_rounding_is_reproducible_from_its_seed():
    start = jnp.linspace(-3, 3, 64).astype(jnp.bfloat16)

    def params(seed):
        options = {"max_iterations": 32, "tolerance": 0, "rounding": jd.StochasticRounding(seed)}
        return jd.minimize(jd.SumOfSquares(), start, jd.GradientDescent(1e-3), **options).params

    np.testing.assert_array_equal(params(3), params(3))
    assert np.any(np.asarray(params(3)) != np.asarray(params(4)))


def test_donated_params_are_consumed():
    start = {"a": jnp.ones((64,)), "b": jnp.ones((4, 4))}
    result = jd.minimize(jd.SumOfSquares(), start, jd.GradientDescent(0.1), donate=True)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(start))
    assert bool(result.converged)
    kept = jnp.ones((64,))
    jd.minimize(jd.SumOfSquares(), kept, jd.GradientDescent(0.1))
    assert not kept.is_deleted()


def test_optax_counts_by_identity():
    function, adam = counted_function(), optax.sgd(0.1)
    jd.minimize(function, START, adam, args=(WEIGHTS,))
    traces = function.traces
    jd.minimize(function, START, adam, args=(WEIGHTS,))
    assert function.traces == traces
    jd.minimize(function, START, optax.sgd(0.1), args=(WEIGHTS,))
    assert function.traces > traces


def test_evaluations_count_gradients():
    result = jd.minimize(square, START, jd.GradientDescent(0.1), max_iterations=10, tolerance=0)
    assert int(result.evaluations) == 11


def functions_alive_after(count, *, clear=False):
    """How many of ``count`` functions, each minimised once, are still in memory."""
    functions = []
    for index in range(count):
        function = eval(f"lambda p: {index + 1}.0 * p**2")  # a new function object each time
        functions.append(weakref.ref(function))
        jd.minimize(function, 1.0, jd.GradientDescent(1e-4), max_iterations=1)
        del function
    if clear:
        programs._compiled.cache_clear()
    gc.collect()
    return sum(reference() is not None for reference in functions)


# At the end: it forgets the programs of the tests before it, which would be compiled again.
@pytest.mark.slow
def test_a_function_is_freed_with_its_program():
    assert functions_alive_after(3) == 3
    assert functions_alive_after(3, clear=True) == 0


@pytest.mark.slow
def test_more_lambdas_than_programs_are_kept_do_not_leak(monkeypatch):
    assert programs._compiled.cache_info().maxsize == programs.PROGRAMS
    few = functools.lru_cache(maxsize=2)(programs._compiled.__wrapped__)
    monkeypatch.setattr(programs, "_compiled", few)
    assert functions_alive_after(6) <= 2
