"""Nonlinear conjugate gradients: linear on quadratics, convergent elsewhere, restarted at need."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdescent as jd
from benchmarks.problems.classical import problems, rosenbrock
from jaxdescent.methods.nonlinear_conjugate_gradient import NonlinearConjugateGradient
from jaxdescent.objectives import as_objective

pytestmark = pytest.mark.slow  # most tests compile a few solvers: the core is for every day

PROBLEMS = {problem.name: problem for problem in problems()}


@pytest.mark.parametrize("name", ["rosenbrock 2", "powell singular 4", "helical valley"])
def test_it_converges_without_tuning(x64, name):
    problem = PROBLEMS[name]
    start = jnp.asarray(problem.start)
    method = NonlinearConjugateGradient()
    # By the gradient alone: at a fourth power's minimum at zero nothing tells how small a value is.
    stop = jd.Tolerance(gradient=1e-6)
    result = jd.minimize(problem.function, start, method, tolerance=stop)
    assert result.status == jd.Status.CONVERGED
    assert result.value <= 1e-5 * jax.jit(problem.function)(start)
    assert result.evaluations <= 3 * result.iterations + 10


def above(x, rows, targets, height):
    return height + jnp.sum(jnp.sqrt(1 + (rows @ x - targets) ** 2))


@pytest.mark.core
def test_it_comes_to_a_minimum_far_from_the_value_zero(x64):
    """The last decreases are below the rounding of the value, and only slopes tell them."""
    evaluations = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        rows = rng.normal(size=(60, 8)) * 10.0 ** rng.uniform(-0.5, 0.5, 8)
        targets, height = rng.normal(size=60), 10.0 ** rng.uniform(0, 4)
        data = (rows, targets, height)
        result = jd.minimize(above, np.zeros(8), NonlinearConjugateGradient(), args=data)
        assert result.status == jd.Status.CONVERGED, seed
        off = rows @ np.asarray(result.params) - targets
        gradient = rows.T @ (off / np.sqrt(1 + off**2))
        start = rows.T @ (-targets / np.sqrt(1 + targets**2))
        worth = max(np.linalg.norm(start), height / np.linalg.norm(result.params))
        assert np.linalg.norm(gradient) < 1e-9 * worth, seed
        evaluations.append(int(result.evaluations))
    assert np.median(evaluations) < 150, evaluations


@pytest.mark.core
def test_on_a_quadratic_it_is_linear_conjugate_gradients(x64, rng):
    root = rng.normal(size=(6, 6))
    hessian, linear = root @ root.T + np.eye(6), rng.normal(size=6)
    x, residual = np.zeros(6), linear.copy()
    direction = residual.copy()
    for _ in range(4):
        step = residual @ residual / (direction @ hessian @ direction)
        x = x + step * direction
        new = residual - step * hessian @ direction
        direction = new + (new @ new) / (residual @ residual) * direction
        residual = new
    result = jd.minimize(
        jd.Quadratic(jnp.asarray(hessian), linear=jnp.asarray(linear)),
        jnp.zeros(6),
        NonlinearConjugateGradient(),
        max_iterations=4,
    )
    np.testing.assert_allclose(result.params, x, rtol=1e-6)


def test_every_direction_descends(x64):
    method, objective = NonlinearConjugateGradient(), as_objective(rosenbrock)
    params = jnp.array([-1.2, 1.0, -0.5])
    begin, step = jax.jit(method.init), jax.jit(method.step)
    state = begin(objective, params)
    for _ in range(30):
        params, state, progress = step(objective, params, state)
        assert (
            state.own.directions.slope <= -0.1 * progress.gradient_norm
        )  # along a direction in units of |g|
        assert progress.verdict == 0


def test_at_the_floor_of_float32_it_stagnates():
    start = jnp.array([-1.2, 1.0, -0.5])
    method = NonlinearConjugateGradient()
    result = jd.minimize(
        lambda x: 3 + rosenbrock(x), start, method, tolerance=1e-13, max_iterations=3000
    )
    assert result.status == jd.Status.STAGNATED
    assert result.gradient_norm <= 1e-4 * result.scale
