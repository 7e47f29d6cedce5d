"""What processes compare of a call: equal in each that gives the same, and else not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdescent as jd
from jaxdescent.objectives import as_objective
from jaxdescent.processes.same_call import differing, texts


def closing(factor):
    return lambda x: factor * jnp.sum(x**2)


def closing_twice(factor):
    def inner(x):
        return factor * x

    def outer(x):
        return jnp.sum(inner(x))

    return outer


def by_default(factor):
    def function(x, factor=factor):
        return factor * jnp.sum(x)

    return function


def with_constant(factor):
    return {1.0: lambda x: 1.0 * jnp.sum(x), 2.0: lambda x: 2.0 * jnp.sum(x)}[factor]


def by_name(factor):
    return {1.0: lambda x: jnp.sum(x**2), 2.0: lambda x: jnp.mean(x**2)}[factor]


def recursive(factor):
    def function(x, depth=0):
        return factor * x if depth else function(x, 1)

    return function


def raised(factor, x):
    return factor * x


PAIRS = {
    "a closure": closing,
    "a closure in a closure": closing_twice,
    "a default": by_default,
    "a constant": with_constant,
    "a name": by_name,
    "a function that calls itself": recursive,
    "a partial": lambda factor: functools.partial(raised, factor),
    "a partial of JAX": lambda factor: jax.tree_util.Partial(raised, jnp.float32(factor)),
    "a jitted closure": lambda factor: jax.jit(closing(factor)),
    "an array inside": lambda factor: closing(np.full(3, factor)),
    "adam": lambda factor: optax.adam(0.01 * factor),
    "a schedule": lambda factor: jd.GradientDescent(optax.exponential_decay(factor, 10, 0.9)),
    "a step": lambda factor: jd.GradientDescent(0.1 * factor),
    "a tolerance": lambda factor: jd.Tolerance(gradient=1e-3 * factor),
    "a predicate": lambda factor: jd.Tolerance(predicate=lambda check: check.value < factor),
    "an objective": lambda factor: as_objective(closing(factor), ()),
    "an argument": lambda factor: as_objective(lambda x, c: c * x, (jnp.full(4, factor),)),
    "a penalty": lambda factor: jd.LinearRegression(np.ones((90, 2)), np.ones(90), l2=factor),
    "penalties": lambda factor: jd.LinearRegression(
        np.ones((90, 2)), np.ones((90, 2)), l2=np.array([1.0, factor])
    ),
    "a number": lambda factor: factor,
    "nothing": lambda factor: None if factor == 1.0 else factor,
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_is_made_anew_is_alike_and_other_numbers_are_not(name):
    make = PAIRS[name]
    assert texts(part=make(1.0)) == texts(part=make(1.0))
    assert texts(part=make(1.0)) != texts(part=make(2.0))


def test_of_data_the_shapes_are_compared():
    """Each process has its own part of them."""
    one, other, longer = np.ones((100, 3)), np.zeros((100, 3)), np.ones((101, 3))
    assert texts(X=one) == texts(X=other)
    assert texts(X=one) != texts(X=longer)


def test_the_refusal_names_what_differs_and_not_its_parts():
    told = [
        {"method": "A(1)", "method.rate": "1", "start[0]": "1.0", "l2": "0.5"},
        {"method": "A(2)", "method.rate": "2", "start[0]": "1.0"},
        {"method": "A(1)", "method.rate": "1", "start[0]": "1.0", "l2": "0.5"},
    ]
    assert differing("minimize", (0, 3, 5), told) == (
        "the processes must make the same call of minimize, and method is A(1) in process 0, 5 and "
        "A(2) in process 3; l2 is 0.5 in process 0, 5 and absent in process 3: give all of them "
        "the same."
    )
