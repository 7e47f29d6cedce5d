"""The line search: its conditions hold where it says so, and it fails where none can."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxdescent as jd
from benchmarks.problems.classical import rosenbrock
from jaxdescent.methods.line_search import (
    DECREASE,
    MAX_TRIALS,
    Idle,
    LinePoint,
    first_length,
    search,
)
from jaxdescent.objectives import as_objective

pytestmark = pytest.mark.slow  # most tests compile a few solvers: the core is for every day


@functools.partial(jax.jit, static_argnums=0)
def along(function, x, first_step, direction=None, flatness=0.9):
    objective = as_objective(function)
    value, gradient = objective.value_and_gradient(x)
    direction = -gradient if direction is None else direction
    slope = jnp.sum(gradient * direction)
    start = LinePoint(x, value, gradient)
    found = search(objective, start, direction, slope, first_step, flatness=flatness)
    return found, value, slope, direction


@given(
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.floats(1e-6, 1e4),
    st.sampled_from([0.05, 0.9]),
)
def test_an_accepted_step_satisfies_wolfes_conditions(a, b, first_step, flatness):
    with jax.enable_x64(True):
        x = np.array([a, b])
        found, value, slope, direction = along(rosenbrock, x, first_step, None, flatness)
        if not slope < -1e-10:
            return
        assert found.is_accepted
        assert found.evaluations <= MAX_TRIALS
        noise = 64 * np.finfo(float).eps * value
        assert found.point.value <= value + DECREASE * found.step * slope + noise
        if found.evaluations < MAX_TRIALS // 2:
            assert jnp.sum(found.point.gradient * direction) >= flatness * slope


@pytest.mark.core
@pytest.mark.parametrize("flatness", [0.1, 0.9])
def test_a_decrease_below_rounding_is_told_by_the_slopes(x64, rng, flatness):
    """Every step of these has the same value, so that the value allows any of them."""
    for ratio in 10.0 ** rng.uniform(-2, 3, 20):  # of the first step to the minimum's
        at = 10.0 ** rng.uniform(-6, -5)
        found, value, *_ = along(far_above_zero, np.array([at]), ratio / 2, None, flatness)
        assert found.point.value == value
        assert found.is_accepted
        # In closed form: along the direction -2 x the slope is slope (1 - 2 t).
        left = 1 - 2 * float(found.step)
        assert 2 * DECREASE - 1 <= left <= flatness
        assert found.evaluations <= 8


def far_above_zero(x):
    return 1e8 + jnp.sum(x * x)


@pytest.mark.core
def test_the_point_found_has_its_own_value_and_gradient():
    x = np.float32([-1.2, 1.0])
    found, *_, direction = along(rosenbrock, x, 1.0)
    moved = x + np.asarray(found.step) * np.asarray(direction)
    np.testing.assert_allclose(found.point.params, moved, rtol=1e-6)
    value, gradient = jax.jit(jax.value_and_grad(rosenbrock))(found.point.params)
    np.testing.assert_allclose(found.point.value, value, rtol=1e-6)
    np.testing.assert_allclose(found.point.gradient, gradient, rtol=1e-4)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jnp.sum(x - jnp.log(x)),  # NaN beyond zero
        lambda x: jnp.sum(jnp.where(x < 0, jnp.inf, (x - 0.5) ** 2)),
        lambda x: jnp.sum(jnp.where(x < 0, -jnp.inf, (x - 0.5) ** 2)),
    ],
    ids=["nan", "infinite", "minus infinite"],
)
def test_outside_the_domain_steps_shrink(function):
    found, value, *_ = along(function, np.float32([3]), 1e6)
    assert found.is_accepted
    assert found.point.params[0] > 0
    assert found.point.value < value
    assert found.evaluations < 15


def bowl(x):
    return jnp.sum(x * x)


@pytest.mark.core
@pytest.mark.parametrize("direction", [[1.0, 0.0], [0.0, 0.0], [np.nan, 0.0]])
def test_a_direction_that_does_not_descend_fails_without_an_evaluation(direction):
    found, value, *_ = along(bowl, np.ones(2, np.float32), 1.0, np.float32(direction))
    assert not found.is_accepted
    assert found.evaluations == 0
    assert found.step == 0
    assert found.point.value == value
    np.testing.assert_array_equal(found.point.params, [1.0, 1.0])


def test_a_search_that_can_find_nothing_ends():
    # The gradient lies: every step rises.
    @jax.custom_jvp
    def rising(x):
        return jnp.sum(jnp.abs(x)) + 1

    rising.defjvp(lambda x, t: (rising(*x), -jnp.sum(t[0])))
    found, *_ = along(rising, np.float32([0]), 1.0)
    assert not found.is_accepted
    assert found.evaluations <= MAX_TRIALS
    np.testing.assert_array_equal(found.point.params, [0.0])


def test_far_too_short_a_first_step_grows_tenfold():
    found, *_ = along(bowl, np.float32([1]), 1e-6)
    assert found.is_accepted
    assert found.evaluations <= 8


@pytest.mark.core
def test_a_quadratic_takes_the_exact_step_at_once():
    @jax.jit
    def first(objective, x):
        value, gradient = objective.value_and_gradient(x)
        start = LinePoint(x, value, gradient)
        return search(objective, start, -gradient, -jnp.sum(gradient**2), 1 / 6)

    found = first(jd.SumOfSquares(scale=3.0), np.float32([1, -2]))
    assert found.evaluations == 1
    np.testing.assert_allclose(found.point.params, 0, atol=1e-6)


@pytest.mark.core
def test_the_objective_is_traced_once():
    traces = []

    def function(x):
        traces.append(1)
        return jnp.sum(x * x)

    objective = as_objective(function)
    start = LinePoint(jnp.ones(2), jnp.array(2.0), 2 * jnp.ones(2))
    jax.make_jaxpr(lambda start: search(objective, start, -start.gradient, jnp.array(-8.0), 1.0))(
        start
    )
    assert len(traces) == 1


def test_vmap_is_a_loop():
    starts = np.linspace(-2, 2, 14, dtype=np.float32).reshape(7, 2)
    batched = jax.jit(jax.vmap(lambda x: along(rosenbrock, x, 1.0)[0]))(starts)
    for index, start in enumerate(starts):
        single = along(rosenbrock, start, 1.0)[0]
        assert batched.evaluations[index] == single.evaluations
        np.testing.assert_allclose(batched.point.params[index], single.point.params, rtol=1e-5)


def test_the_first_length_follows_the_scale_of_the_problem():
    first = jax.jit(first_length)
    assert first(np.full(4, 50, np.float32), np.float32(1e9), np.float32(1)) == 100  # params' norm
    zeros = np.zeros(4, np.float32)
    for slope, value, length in ((1e9, 1, 1), (3, 1e10, pytest.approx(6e-10)), (0, 1, 1)):
        assert first(zeros, np.float32(slope), np.float32(value)) == length


def test_idleness_counts_steps_without_a_lower_value_or_gradient():
    after = jax.jit(lambda idle, value, norm: idle.after(value, norm))
    idle = Idle.start(jnp.float32(1), jnp.float32(1))
    for value, norm, steps in [(2, 2, 0), (2, 2, 1), (1, 3, 0), (1, 1, 0), (1, 0.95, 1)]:
        idle = after(idle, np.float32(value), np.float32(norm))
        assert idle.steps == steps
    assert not idle.is_over
    assert idle._replace(steps=jnp.array(30)).is_over
