"""The line search: its conditions hold where it says so, and it fails where none can."""

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


def along(function, x, first_step, *, direction=None, flatness=0.9):
    objective = as_objective(function)
    x = jnp.asarray(x)
    value, gradient = objective.value_and_gradient(x)
    direction = -gradient if direction is None else jnp.asarray(direction, x.dtype)
    slope = jnp.sum(gradient * direction)
    start = LinePoint(x, value, gradient)
    found = search(objective, start, direction, slope, first_step, flatness=flatness)
    return found, value, slope, direction


@jax.jit
def along_rosenbrock(x, first_step, flatness):
    return along(rosenbrock, x, first_step, flatness=flatness)


@given(
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.floats(1e-6, 1e4),
    st.sampled_from([0.05, 0.9]),
)
def test_an_accepted_step_satisfies_wolfes_conditions(a, b, first_step, flatness):
    with jax.enable_x64(True):
        x = jnp.array([a, b])
        found, value, slope, direction = along_rosenbrock(x, first_step, flatness)
        if not slope < -1e-10:
            return
        assert found.is_accepted
        assert found.evaluations <= MAX_TRIALS
        noise = 64 * np.finfo(float).eps * value
        assert found.point.value <= value + DECREASE * found.step * slope + noise
        if found.evaluations < MAX_TRIALS // 2:
            assert jnp.sum(found.point.gradient * direction) >= flatness * slope


@pytest.mark.core
def test_the_point_found_has_its_own_value_and_gradient():
    found, *_, direction = along(rosenbrock, [-1.2, 1.0], 1.0)
    x = jnp.array([-1.2, 1.0])
    np.testing.assert_allclose(found.point.params, x + found.step * direction, rtol=1e-6)
    value, gradient = jax.value_and_grad(rosenbrock)(found.point.params)
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
    found, value, *_ = along(function, [3.0], 1e6)
    assert found.is_accepted
    assert found.point.params[0] > 0
    assert found.point.value < value
    assert found.evaluations < 15


def test_near_the_minimum_slopes_decide_where_values_are_noise():
    # In float32 the value is 1e6 wherever |x| < 0.1: no decrease can be seen.
    found, value, *_ = along(lambda x: 1e6 + jnp.sum(x * x), [1e-3], 0.9)
    assert found.point.value == value
    assert found.is_accepted
    assert abs(found.point.params[0]) < 1e-3


@pytest.mark.core
@pytest.mark.parametrize("direction", [[1.0, 0.0], [0.0, 0.0], [jnp.nan, 0.0]])
def test_a_direction_that_does_not_descend_fails_without_an_evaluation(direction):
    found, value, *_ = along(lambda x: jnp.sum(x * x), [1.0, 1.0], 1.0, direction=direction)
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
    found, *_ = along(rising, [0.0], 1.0)
    assert not found.is_accepted
    assert found.evaluations <= MAX_TRIALS
    np.testing.assert_array_equal(found.point.params, [0.0])


def test_far_too_short_a_first_step_grows_tenfold():
    found, *_ = along(lambda x: jnp.sum(x * x), [1.0], 1e-6)
    assert found.is_accepted
    assert found.evaluations <= 8


@pytest.mark.core
def test_a_quadratic_takes_the_exact_step_at_once():
    bowl = jd.SumOfSquares(scale=3.0)
    x = jnp.array([1.0, -2.0])
    value, gradient = bowl.value_and_gradient(x)
    squared = jnp.sum(gradient**2)
    found = search(bowl, LinePoint(x, value, gradient), -gradient, -squared, 1 / 6)
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
    starts = jnp.linspace(-2, 2, 14).reshape(7, 2)
    batched = jax.vmap(lambda x: along(rosenbrock, x, 1.0)[0])(starts)
    for index, start in enumerate(starts):
        single = along(rosenbrock, start, 1.0)[0]
        assert batched.evaluations[index] == single.evaluations
        np.testing.assert_allclose(batched.point.params[index], single.point.params, rtol=1e-5)


def test_the_first_length_follows_the_scale_of_the_problem():
    one = jnp.array(1.0)
    assert first_length(jnp.full(4, 50.0), one * 1e9, one) == 100  # the params' norm
    assert first_length(jnp.zeros(4), one * 1e9, one) == 1
    assert first_length(jnp.zeros(4), one * 3, one * 1e10) == pytest.approx(6e-10)
    assert first_length(jnp.zeros(4), one * 0, one) == 1


def test_idleness_counts_steps_without_a_lower_value_or_gradient():
    idle = Idle.start(jnp.array(1.0), jnp.array(1.0))
    for value, norm, steps in [(2, 2, 0), (2, 2, 1), (1, 3, 0), (1, 1, 0), (1, 0.95, 1)]:
        idle = idle.after(jnp.array(value, jnp.float32), jnp.array(norm, jnp.float32))
        assert idle.steps == steps
    assert not idle.is_over
    assert idle._replace(steps=jnp.array(30)).is_over
