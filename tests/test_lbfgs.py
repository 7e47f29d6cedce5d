"""LBFGS: its direction is the two-loop recursion's, and it converges without tuning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

import jaxdescent as jd
from benchmarks.problems.classical import extended_rosenbrock, problems, rosenbrock
from jaxdescent.objectives import as_objective
from tests.results import status

pytestmark = pytest.mark.slow  # most tests compile a few solvers: the core is for every day

PROBLEMS = {problem.name: problem for problem in problems()}
TOLERANCE = 1e-6
LIMIT = 1000  # beyond which the Rosenbrock function of 10,000 unknowns is given up, by both


def scipy_evaluations(value_and_gradient, problem, method):
    """Values and gradients until ``|g| <= 1e-6 |g at the start|``; infinite if that never comes."""
    limit = TOLERANCE * np.linalg.norm(value_and_gradient(problem.start)[1])
    evaluations = 0

    class Reached(Exception):
        pass

    def counted(x):
        nonlocal evaluations
        evaluations += 1
        value, gradient = value_and_gradient(x)
        if np.linalg.norm(gradient) <= limit:
            raise Reached
        return float(value), np.asarray(gradient)

    options = {"gtol": 0, "maxiter": LIMIT}
    if method == "L-BFGS-B":
        options |= {"ftol": 0, "maxcor": 10}
    try:
        scipy.optimize.minimize(counted, problem.start, jac=True, method=method, options=options)
    except Reached:
        return evaluations
    return np.inf


def test_it_solves_all_classical_functions_with_as_few_gradients_as_scipy(x64):
    ratios = []
    for name, problem in PROBLEMS.items():
        value_and_gradient = jax.jit(jax.value_and_grad(problem.function))
        result = jd.minimize(
            problem.function,
            jnp.asarray(problem.start),
            jd.LBFGS(),
            tolerance=jd.Tolerance(gradient=TOLERANCE),
            max_iterations=LIMIT,
        )
        by_scipy = scipy_evaluations(value_and_gradient, problem, "L-BFGS-B")
        if result.status != jd.Status.CONVERGED:
            assert result.status == jd.Status.MAX_ITERATIONS, name
            assert np.isinf(by_scipy), name
            continue
        ratios.append(int(result.evaluations) / by_scipy)  # zero where SciPy fails
        _, gradient = value_and_gradient(result.params)
        assert np.linalg.norm(gradient) <= 1.001 * TOLERANCE * result.scale
    assert len(ratios) >= 0.9 * len(PROBLEMS)
    assert np.median(ratios) <= 1.2


@functools.partial(jax.jit, static_argnums=0)
def derivatives(function, x):
    return function(x), jax.grad(function)(x), jax.hessian(function)(x)


@pytest.mark.parametrize("name", ["rosenbrock 2", "huber 50", "cosh 100"])
def test_at_the_floor_of_float32_a_claim_is_true_to_the_digits_that_were_asked(name):
    problem = PROBLEMS[name]
    result = jd.minimize(
        problem.function,
        jnp.asarray(problem.start, jnp.float32),
        jd.LBFGS(),
        tolerance=1e-13,
        max_iterations=3000,
    )
    if result.status != jd.Status.CONVERGED:
        # Rounding leaves more of the gradient than was asked for, and the value is as low as asked.
        assert result.status == jd.Status.STAGNATED
        assert float(result.gradient_norm) > 1e-13 * float(result.scale)
    x = np.asarray(result.params, float)
    with jax.enable_x64(True):
        value, gradient, hessian = map(np.asarray, derivatives(problem.function, x))
    above = 0.5 * gradient @ np.linalg.solve(hessian, gradient)
    assert above <= 1e-13 * value
    np.testing.assert_allclose(result.suboptimality, above, rtol=1e-2, atol=1e-30)
    # Of the gradient nothing is left but the rounding of terms as large as the value.
    eps, curvature = float(np.finfo(np.float32).eps), np.linalg.eigvalsh(hessian)[-1]
    assert float(result.gradient_norm) <= eps * np.sqrt(2 * curvature * value)


def test_a_large_constant_that_hides_the_decrease_is_no_obstacle():
    start = jnp.array([3.0, -2.0, 1.0])
    result = jd.minimize(lambda x: 1e4 + jnp.sum(jnp.cosh(x)), start, jd.LBFGS())
    assert result.status == jd.Status.CONVERGED
    np.testing.assert_allclose(result.params, 0, atol=1e-3)


def two_loop(moves, changes, gradient):
    """H g by the recursion of Liu and Nocedal, oldest pair first."""
    q, kept = gradient.copy(), []
    for s, y in zip(moves[::-1], changes[::-1], strict=True):
        kept.append((s @ q) / (s @ y))
        q = q - kept[-1] * y
    q = q * (moves[-1] @ changes[-1]) / (changes[-1] @ changes[-1])
    for s, y, a in zip(moves, changes, kept[::-1], strict=True):
        q = q + s * (a - (y @ q) / (s @ y))
    return q


@pytest.mark.parametrize("memory", [1, 3])
def test_the_direction_is_the_two_loop_recursions(x64, memory):
    method = jd.LBFGS(memory)
    objective = as_objective(lambda p: rosenbrock(jnp.concatenate([p["a"].ravel(), p["b"][None]])))
    params = {"a": np.linspace(-1, 1, 6).reshape(2, 3), "b": np.array(0.5)}
    moves, changes = [], []
    for move, gradient, new_gradient in steps(method, objective, params, 9):
        if moves:
            expected = -two_loop(moves[-memory:], changes[-memory:], gradient)
            assert cosine(move, expected) == pytest.approx(1, abs=1e-10)
        moves.append(move)
        changes.append(new_gradient - gradient)


def steps(method, objective, params, count):
    """The moves of some steps, and the gradients before and after each, as vectors."""

    def flat(tree):
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])

    step = jax.jit(method.step)
    state = jax.jit(method.init)(objective, params)
    for _ in range(count):
        new, new_state, _ = step(objective, params, state)
        yield flat(new) - flat(params), flat(state.gradient), flat(new_state.gradient)
        params, state = new, new_state


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_negative_curvature_adds_no_pair_and_the_descent_goes_on(x64):
    # Along the first steps cos is concave.
    result = jd.minimize(lambda x: jnp.sum(jnp.cos(x)), jnp.array([0.1, -0.2]), jd.LBFGS())
    assert result.status == jd.Status.CONVERGED
    np.testing.assert_allclose(np.cos(result.params), -1, rtol=1e-6)


def test_the_scale_of_the_objective_changes_nothing(x64):
    def scaled(x, scale):
        return scale * rosenbrock(x)

    plain, small, large = (
        jd.minimize(scaled, np.array([-1.2, 1.0]), jd.LBFGS(), args=(scale,), tolerance=1e-8)
        for scale in (1.0, 1e-10, 1e10)
    )
    for result in (small, large):
        assert abs(int(plain.iterations) - int(result.iterations)) <= 3
        np.testing.assert_allclose(result.params, plain.params, rtol=1e-6)


def test_a_gradient_whose_square_overflows_leaves_a_direction():
    def steep(x):
        return 1e20 * jnp.sum(jnp.cosh(x - 1) - 1)

    result = jd.minimize(steep, jnp.linspace(2.0, 4.0, 30), jd.LBFGS())
    assert result.status == jd.Status.CONVERGED
    np.testing.assert_allclose(result.params, 1, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_under_scan_the_value_never_rises(x64, dtype):
    method, objective = jd.LBFGS(), as_objective(extended_rosenbrock)
    params = jnp.asarray(np.tile([-1.2, 1.0], 5), dtype)

    def body(carry, _):
        params, state, progress = method.step(objective, *carry)
        return (params, state), progress.value

    @jax.jit
    def scanned(params):
        carry = (params, method.init(objective, params))
        (params, _), values = jax.lax.scan(body, carry, length=60)
        return params, values

    params, values = scanned(params)
    values = np.asarray(values, float)
    assert params.dtype == values.dtype or dtype == jnp.float32
    assert np.all(np.diff(values) <= 64 * np.finfo(dtype).eps * values[:-1])
    assert values[-1] < 1e-8


@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6), st.integers(-3, 3))
def test_on_any_quadratic_it_finds_the_minimum(numbers, exponent):
    with jax.enable_x64(True):
        root = np.array(numbers).reshape(2, 3)
        hessian = root.T @ root + np.eye(3)
        center = 10.0**exponent * np.array(numbers[:3])
        quadratic = jd.Quadratic(hessian, linear=hessian @ center)
        result = jd.minimize(quadratic, np.ones(3), jd.LBFGS(), max_iterations=50)
        assert result.status == jd.Status.CONVERGED
        # Curvatures are at least 1: the tolerance allows this distance.
        apart = np.sqrt(2 * float(result.suboptimality)) + 1e-8 * (1 + 10.0**exponent)
        assert np.linalg.norm(result.params - center) <= 2 * apart


@pytest.mark.core
def test_exact_steps_end_on_a_quadratic_after_as_many_as_there_are_unknowns(x64):
    weights, stop = jnp.geomspace(1, 1e4, 8), jd.Tolerance(gradient=1e-7)
    result = jd.minimize(jd.SumOfSquares(scale=weights), jnp.ones(8), jd.LBFGS(), tolerance=stop)
    assert result.iterations <= 10


def test_nan_at_the_start_is_non_finite_and_beyond_the_domain_is_not():
    result = jd.minimize(lambda x: jnp.sum(jnp.log(x)), jnp.array([-1.0]), jd.LBFGS())
    assert result.status == jd.Status.NON_FINITE
    result = jd.minimize(lambda x: jnp.sum(x - jnp.log(x)), jnp.array([50.0, 1e-3]), jd.LBFGS())
    assert result.status == jd.Status.CONVERGED
    np.testing.assert_allclose(result.params, 1, rtol=5e-2)


def test_mixed_shapes_and_16_bit_storage():
    params = {"a": jnp.ones((2, 3)), "b": jnp.array(2.0), "c": jnp.ones((4,), jnp.bfloat16)}

    def function(p):
        return sum(jnp.sum(jnp.cosh(leaf.astype(jnp.float32))) for leaf in p.values())

    result = jd.minimize(function, params, jd.LBFGS(3))
    assert result.status == jd.Status.CONVERGED
    assert jax.tree.map(lambda x: x.dtype, result.params) == jax.tree.map(lambda x: x.dtype, params)


@pytest.mark.core
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_slope_along_which_there_is_no_curvature_has_no_minimum(dtype, rng, x64):
    """Steps led down to where every gradient is small beside the curvature times the params."""
    for _ in range(12):
        B, linear = rng.integers(-3, 4, size=(4, 3)), rng.integers(1, 9, size=4)
        # The determinants are exact: the slope goes where the three columns do not lead.
        assert round(np.linalg.det(np.column_stack([B, linear]))) != 0
        bent = jd.Quadratic((B @ B.T).astype(dtype), linear.astype(dtype))
        assert status(jd.minimize(bent, method=jd.LBFGS())) in ("DIVERGED", "STAGNATED")
        level = jd.Quadratic((B @ B.T).astype(dtype), (B @ [1, 2, -1]).astype(dtype))
        result = jd.minimize(level, method=jd.LBFGS())
        assert status(result) == "CONVERGED"
        np.testing.assert_allclose(B.T @ np.asarray(result.params, float), [1, 2, -1], atol=2e-2)


@pytest.mark.core
def test_a_curvature_far_below_the_largest_is_one_where_no_terms_cancel(rng):
    """Diagonal matrices, whose condition is beyond what a full one can have in float32."""
    for _ in range(8):
        diagonal = np.float32(10 ** rng.uniform([-5, -2, 1, 3.5], [-4, 1, 3.5, 4]))
        linear = rng.normal(size=4).astype(np.float32)
        result = jd.minimize(jd.Quadratic(np.diag(diagonal), linear), method=jd.LBFGS())
        assert status(result) == "CONVERGED"
        least = -0.5 * np.sum(linear.astype(float) ** 2 / diagonal)
        assert float(result.value) == pytest.approx(least, rel=1e-4)
