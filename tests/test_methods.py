"""Methods: one signature for all, and their steps against loops written by hand."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdescent as jd
from benchmarks.problems.classical import rosenbrock, rosenbrock_residuals
from jaxdescent.methods import Method, as_method
from jaxdescent.objectives import as_objective

METHODS = {
    "constant": lambda: jd.GradientDescent(0.01),
    "schedule": lambda: jd.GradientDescent(optax.exponential_decay(0.05, 10, 0.9)),
    "exact line search": lambda: jd.GradientDescent(jd.ExactLineSearch()),
    "backtracking": lambda: jd.GradientDescent(jd.Backtracking()),
    "Barzilai-Borwein": lambda: jd.GradientDescent(jd.BarzilaiBorwein()),
    "inverse Lipschitz": lambda: jd.GradientDescent(jd.InverseLipschitz()),
    "Nesterov": lambda: jd.GradientDescent(jd.Backtracking(), jd.Nesterov()),
    "LBFGS": jd.LBFGS,
    "derivative": jd.DerivativeMethod,
    "optax": lambda: optax.adam(0.05),
}


@pytest.fixture(params=METHODS, ids=str)
def method(request):
    return as_method(METHODS[request.param]())


def test_every_method_has_the_one_signature(method):
    assert isinstance(method, Method)
    assert list(inspect.signature(method.init).parameters) == ["objective", "params"]
    assert list(inspect.signature(method.step).parameters) == ["objective", "params", "state"]


@pytest.mark.first
def test_every_step_keeps_structure_shapes_and_dtypes(method, relaxed_promotion):
    objective = as_objective(lambda p: jnp.sum(p["a"] ** 2) + jnp.cosh(p["b"]))
    params = {"a": jnp.ones((2, 2)), "b": jnp.array(0.5)}

    def begun_and_stepped(params):
        state = method.init(objective, params)
        return state, *method.step(objective, params, state)

    state, new, new_state, progress = jax.eval_shape(begun_and_stepped, params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(
        lambda x: (x.shape, x.dtype), params
    )
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    for after, before in zip(jax.tree.leaves(new_state), jax.tree.leaves(state), strict=True):
        assert (after.shape, after.dtype) == (before.shape, before.dtype)
    assert progress.value.shape == progress.gradient_norm.shape == ()


@pytest.mark.first
def test_progress_belongs_to_the_params_the_step_began_from(method, relaxed_promotion):
    objective = as_objective(lambda p: jnp.sum(jnp.cosh(p)))
    params = jnp.array([1.0, -0.5])

    @jax.jit
    def progress_of_step(params):
        _, _, progress = method.step(objective, params, method.init(objective, params))
        return progress.value, progress.gradient_norm

    value, gradient_norm = progress_of_step(params)
    np.testing.assert_allclose(value, np.cosh(1.0) + np.cosh(0.5), rtol=1e-6)
    np.testing.assert_allclose(gradient_norm, np.hypot(np.sinh(1.0), np.sinh(0.5)), rtol=1e-6)


@pytest.mark.parametrize("of", [lambda method: method, jd.Gram], ids=["alone", "in Gram"])
def test_methods_count_by_their_structure_and_hyper_parameters_are_leaves(of):
    one, two = (of(jd.GradientDescent(rate)) for rate in (0.1, 0.2))
    assert jax.tree.structure(one) == jax.tree.structure(two)
    assert jax.tree.leaves(two) == [0.2]


@pytest.mark.parametrize("separable", [True, False])
def test_a_schedule_is_asked_for_each_iteration_once(separable):
    schedule = optax.linear_schedule(0.2, 0.01, 30)
    objective = jd.SumOfSquares() if separable else lambda p: jnp.sum(p**2)
    options = {"max_iterations": 37, "tolerance": 0}
    start = np.array([3.0, -2.0], np.float32)
    result = jd.minimize(objective, start, jd.GradientDescent(schedule), **options)
    expected = start * np.prod([1 - 2 * float(schedule(index)) for index in range(37)])
    np.testing.assert_allclose(result.params, expected, rtol=1e-4)
    assert int(result.state) == 37


def test_exact_line_search_takes_the_step_of_its_formula(rng):
    root = rng.normal(size=(3, 3))
    hessian, start = root @ root.T + np.eye(3), rng.normal(size=3)
    x = start
    for _ in range(4):
        g = hessian @ x
        x = x - (g @ g) / (g @ hessian @ g) * g
    quadratic, method = jd.Quadratic(hessian.astype("f")), jd.GradientDescent(jd.ExactLineSearch())
    result = jd.minimize(quadratic, start.astype("f"), method, max_iterations=4, tolerance=0)
    np.testing.assert_allclose(result.params, x, rtol=1e-3, atol=1e-4)


def test_only_rates_known_ahead_are_elementwise():
    elementwise = {name for name, make in METHODS.items() if as_method(make()).is_elementwise}
    assert elementwise == {"constant", "schedule", "inverse Lipschitz"}


# How many starts, by how many iterations a member may differ, and its params by what share.
OF_STARTS = {
    "LBFGS": (jd.LBFGS(), rosenbrock, 100, 2, 1e-6),
    "LM": (jd.LevenbergMarquardt(), jd.LeastSquares(rosenbrock_residuals), 6, 0, 1e-7),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_STARTS)
def test_vmap_over_starts_is_a_loop_and_jit_is_eager(name, x64):
    method, objective, count, most, rtol = OF_STARTS[name]
    starts = np.random.default_rng(0).uniform(-2, 2, (count, 2))

    def solve(x):
        return jd.minimize(objective, x, method)

    batch = jax.jit(jax.vmap(solve))(starts)
    assert bool(batch.converged.all())
    np.testing.assert_allclose(batch.params, 1, rtol=1e-6)
    for index, start in enumerate(starts):
        single = solve(start)
        assert single.status == batch.status[index]
        assert abs(int(single.iterations) - int(batch.iterations[index])) <= max(most, 8)
        np.testing.assert_allclose(single.params, batch.params[index], rtol=rtol)
    np.testing.assert_allclose(jax.jit(solve)(start).params, single.params, rtol=0)


CHAINED = jd.LeastSquares(lambda x: 10 * (x[1:] - x[:-1] ** 2))

# The vectors of the result, the params among them, and those that are needed besides.
VECTORS = {
    "LBFGS(1)": (jd.LBFGS(1), rosenbrock, 4.1, 6),
    "LBFGS(2)": (jd.LBFGS(2), rosenbrock, 6.1, 6),
    "LBFGS(10)": (jd.LBFGS(10), rosenbrock, 22.1, 6),
    "LM, matrix-free": (jd.LevenbergMarquardt(), CHAINED, 1.1, 9.95),
}


@pytest.mark.first
@pytest.mark.parametrize("name", VECTORS)
def test_methods_keep_and_need_so_many_vectors(name):
    method, objective, kept, needed = VECTORS[name]
    start = np.zeros(100_000, np.float32)
    tolerance = jd.Tolerance(1e-6)  # without a gap, whose vectors are in the program too
    descend = functools.partial(
        jd.minimize, objective, method=method, max_iterations=5, tolerance=tolerance
    )
    compiled = jax.jit(descend).lower(start).compile()
    analysis = compiled.memory_analysis()
    assert analysis.output_size_in_bytes <= kept * start.nbytes
    # Scalars, and what XLA's partition of a pass over its threads needs, besides the vectors.
    assert analysis.temp_size_in_bytes <= needed * start.nbytes + 16_384
    if objective is rosenbrock:
        result = compiled(start)
        assert result.status == jd.Status.MAX_ITERATIONS
        assert result.value < 99_999
