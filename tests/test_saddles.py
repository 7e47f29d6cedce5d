"""Saddles and maxima are left along negative curvature, and nothing else is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdescent as jd


def wells(p):
    return p[0] ** 2 - p[1] ** 2 + p[1] ** 4 / 4


def monkey(p):
    return p[0] ** 3 - 3 * p[0] * p[1] ** 2


def many(x):
    """Five hundred bowls and five hundred double wells, coupled."""
    a, b = x[:500], x[500:]
    bowls, double_wells = 0.5 * jnp.sum(a**2), jnp.sum(0.25 * b**4 - 0.5 * b**2)
    return bowls + double_wells + 0.1 * jnp.sum(a * b**2)


def test_a_saddle_is_left_for_a_lower_value():
    left = jd.leave_saddle(wells, jnp.zeros(2))
    assert wells(left) < -0.1
    assert left.dtype == jnp.float32


@pytest.mark.first
@pytest.mark.parametrize("method", [None, jd.DerivativeMethod(), jd.GradientDescent()])
def test_a_descent_from_a_saddle_ends_at_a_minimum(method):
    stays = jd.minimize(wells, jnp.zeros(2), method)
    assert float(stays.value) == 0
    result = jd.minimize(wells, jnp.zeros(2), method, leave_saddles=True)
    np.testing.assert_allclose(np.abs(result.params), [0, 2**0.5], atol=1e-4)
    assert jd.certify(wells, result).kind == "minimum"
    assert result.iterations > stays.iterations


@pytest.mark.parametrize("start", [jnp.zeros(3), jnp.array(0.0)])
def test_exact_maxima_of_a_cosine_are_left(start):
    def function(x):
        return jnp.sum(jnp.cos(x))

    result = jd.minimize(function, start, leave_saddles=True)
    assert float(result.value) == pytest.approx(-start.size)


def test_a_degenerate_point_is_not_left_and_says_so():
    start = jnp.zeros(2)
    assert jd.leave_saddle(monkey, start) is start
    result = jd.minimize(monkey, start, leave_saddles=True)
    assert jd.certify(monkey, result).kind == "degenerate"


def test_a_minimum_is_not_left():
    start = jnp.array([0.0, 2**0.5])
    assert jd.leave_saddle(wells, start) is start


@pytest.mark.slow
def test_a_linear_network_is_trained_from_zeros(rng):
    target = jnp.asarray(rng.normal(size=(5, 5)), jnp.float32)

    def function(p, target):
        return 0.5 * jnp.sum(jnp.square(jnp.matmul(p["b"], p["a"]) - target))

    start = {"a": jnp.zeros((5, 5)), "b": jnp.zeros((5, 5))}
    result = jd.minimize(function, start, args=(target,), leave_saddles=True)
    assert float(result.value) < 1e-8 * float(function(start, target))


@pytest.mark.slow
def test_a_saddle_of_a_thousand_unknowns_is_left():
    result = jd.minimize(many, jnp.zeros(1000), leave_saddles=True)
    assert float(result.value) < -100
    assert jd.certify(many, result).kind == "minimum"


def test_the_params_keep_structure_and_dtype():
    start = {"x": jnp.zeros((), jnp.bfloat16), "y": jnp.zeros(3)}
    left = jd.leave_saddle(lambda p: jnp.cos(p["x"]) + jnp.sum(jnp.square(p["y"])), start)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), left) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), start
    )


def test_iterations_are_limited_in_all():
    result = jd.minimize(many, jnp.zeros(1000), leave_saddles=True, max_iterations=3)
    assert int(result.iterations) == 3


def test_params_with_nan_are_refused():
    for objective in (wells, jd.SumOfSquares()):
        with pytest.raises(ValueError, match="the gradient is NaN: pass the point where a descent"):
            jd.leave_saddle(objective, jnp.array([jnp.nan, 0.0]))


def test_inside_a_transformation_it_is_refused():
    with pytest.raises(ValueError, match="outside jit, vmap and grad"):
        jax.jit(lambda x: jd.minimize(wells, x, leave_saddles=True).value)(jnp.zeros(2))
    with pytest.raises(ValueError, match="outside jit, vmap and grad"):
        jax.jit(lambda x: jd.leave_saddle(wells, x))(jnp.zeros(2))
