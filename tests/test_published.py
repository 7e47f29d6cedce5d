"""Published functions and random quadratics, against what was published, differences and SciPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxdescent as jd
from benchmarks.problems import classical, published
from benchmarks.problems.random_quadratics import (
    SPECTRA,
    random_quadratic,
    random_regression,
    spectrum,
)
from tests import references

PROBLEMS = {problem.name: problem for problem in published.problems()}
CLASSICAL = {problem.name: problem for problem in classical.problems()}

PUBLISHED_STARTS = {
    "Freudenstein-Roth": 400.5,
    "Powell badly scaled": 1.13526,
    "Brown badly scaled": 9.99998e11,
    "Jennrich-Sampson": 4171.31,
    "Bard": 41.6817,
    "Gaussian": 3.88811e-6,
    "Meyer": 1.69361e9,
    "Gulf": 12.1107,
    "Box": 1031.15,
    "Kowalik-Osborne": 5.31317e-3,
    "Brown-Dennis": 7.92669e6,
    "Osborne 1": 0.879026,
    "Biggs EXP6": 0.779070,
    "Osborne 2": 2.09342,
    "Watson 6": 30.0,
    "Watson 9": 30.0,
    "Watson 12": 30.0,
    "penalty I 4": 885.063,
    "penalty I 10": 148033.0,
    "penalty II 4": 2.34001,
    "penalty II 10": 162.653,
    "variably dimensioned 10": 2.19855e6,
    "trigonometric 10": 7.07576e-3,
    "chebyquad 8": 3.86177e-2,
    "chebyquad 9": 2.88830e-2,
    "chebyquad 10": 3.37633e-2,
    "DIXMAANA 60": 1 + 60 * 4 + (40 * 64 + 20 * 4) / 8,
    "FLETCHCR 50": 49 * 100,
    "ARWHEAD 50": 49 * 3,
    "LIARWHD 50": 50 * (4 * 12**2 + 3**2),
    "NONDIA 50": 4 + 49 * 400,
    "BDQRTIC 50": 46 * (1 + 15**2),
    "DQDRTIC 50": 48 * 201 * 9,
}
"""Values that the papers and the codes written for them give, and some that are counted by hand."""

pytestmark = pytest.mark.usefixtures("x64")


@functools.cache
def value_and_gradient(name):
    function = jax.jit(jax.value_and_grad(PROBLEMS[name].function))

    def both(x):
        value, gradient = function(np.asarray(x))
        return float(value), np.asarray(gradient)

    return both


def value(name, x):
    return value_and_gradient(name)(x)[0]


def test_there_are_as_many_as_promised_and_no_name_twice():
    every = published.problems()
    assert len(every) >= 45
    assert len({problem.name for problem in every} | CLASSICAL.keys()) == len(every) + len(
        CLASSICAL
    )
    assert all((problem.function.__doc__ or problem.residuals.__doc__) for problem in every)


@pytest.mark.first
@pytest.mark.parametrize(
    "name", [name for name in PROBLEMS if PROBLEMS[name].minimiser is not None]
)
def test_the_minimum_is_attained_at_the_minimiser(name):
    problem = PROBLEMS[name]
    found, gradient = value_and_gradient(name)(problem.minimiser)
    first, steepest = value_and_gradient(name)(problem.start)
    assert found == pytest.approx(problem.minimum, rel=1e-12, abs=1e-20 * (1 + abs(first)))
    np.testing.assert_allclose(gradient, 0, atol=1e-8 * np.linalg.norm(steepest))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PROBLEMS if PROBLEMS[name].minimiser is None])
def test_scipy_finds_the_minimum_in_double_precision(name):
    problem = PROBLEMS[name]
    # MINPACK needs at least as many residuals as unknowns.
    if problem.residuals is not None and name != "FLETCHCR 50":
        residuals, jacobian = jax.jit(problem.residuals), jax.jit(jax.jacfwd(problem.residuals))
        solved = scipy.optimize.least_squares(
            lambda x: np.asarray(residuals(x)),
            problem.start,
            lambda x: np.asarray(jacobian(x)),
            method="lm",
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
        )
        found = 2 * solved.cost
    else:
        found = scipy.optimize.minimize(
            value_and_gradient(name),
            problem.start,
            jac=True,
            method="BFGS",
            options={"gtol": 1e-12},
        ).fun
    minima = (problem.minimum, *problem.local_minima)
    assert any(found == pytest.approx(each, rel=5e-6, abs=1e-18) for each in minima), found


@pytest.mark.first
@pytest.mark.parametrize("name", PUBLISHED_STARTS)
def test_the_value_at_the_start_is_the_published_one(name):
    assert value(name, PROBLEMS[name].start) == pytest.approx(PUBLISHED_STARTS[name], rel=4e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_dtype_is_that_of_the_params(name, dtype):
    problem = PROBLEMS[name]
    params = jax.ShapeDtypeStruct(problem.start.shape, dtype)
    found = jax.eval_shape(problem.function, params)
    assert (found.dtype, found.shape) == (dtype, ())


@pytest.mark.first
@pytest.mark.parametrize("name", [name for name in CLASSICAL if CLASSICAL[name].residuals])
def test_classical_residuals_have_the_function_as_the_sum_of_their_squares(name, rng):
    problem = CLASSICAL[name]
    x = problem.start + 0.1 * rng.normal(size=problem.start.size)
    found = np.sum(np.asarray(problem.residuals(x)) ** 2)
    np.testing.assert_allclose(found, problem.function(jnp.asarray(x)), rtol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_a_random_regression_knows_how_far_params_are_above_its_minimum(seed, rng):
    drawn = random_regression(seed, np.float64)
    Y = drawn.Y.reshape(len(drawn.X), -1)
    posed = jd.LinearRegression(
        drawn.X, Y, l2=drawn.l2, sample_weight=drawn.sample_weight, intercept=drawn.intercept
    )
    best = references.least_squares(posed)
    zeros = {"weights": 0 * best["weights"], "intercept": np.zeros(Y.shape[1])}
    best = zeros | best
    least = references.value(posed, best)
    assert drawn.minimum == pytest.approx(least, rel=1e-9, abs=1e-18 * drawn.value_at_zero)
    assert drawn.value_at_zero == pytest.approx(references.value(posed, zeros), rel=1e-12)
    assert drawn.suboptimality(best) <= 1e-16 * drawn.value_at_zero
    whole, off = drawn.value_at_zero - least, 1e-12 * drawn.value_at_zero
    assert drawn.suboptimality(zeros) == pytest.approx(whole, rel=1e-9, abs=off)
    moved = {name: leaf * (1 + 1e-6 * rng.normal(size=leaf.shape)) for name, leaf in best.items()}
    height = references.height(posed, moved, best)
    assert drawn.suboptimality(moved) == pytest.approx(height, rel=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_a_random_quadratic_knows_how_far_params_are_above_its_minimum(seed):
    drawn = random_quadratic(seed, np.float64)
    best = np.linalg.solve(drawn.hessian, drawn.linear)
    assert drawn.minimum == pytest.approx(-0.5 * drawn.linear @ best, rel=1e-10)
    assert drawn.suboptimality(best) <= 1e-20 * drawn.value_at_zero
    assert drawn.suboptimality(0 * best) == pytest.approx(drawn.value_at_zero, rel=1e-10)
    assert drawn.suboptimality(1.01 * best) == pytest.approx(1e-4 * drawn.value_at_zero, rel=1e-6)


@pytest.mark.parametrize("kind", SPECTRA)
def test_a_spectrum_has_its_condition_number(kind, rng):
    values = spectrum(kind, 20, 1e4, rng)
    asked = 10 / 9 if kind == "flat" else 1e4
    found = values.max() / values.min() / asked
    if kind == "clustered":  # each value is within a twentieth of its cluster's
        assert 0.95 / 1.05 <= found <= 1.05 / 0.95
    elif kind == "one small":  # the others are drawn between a half and one
        assert 0.5 <= found <= 1
        assert values.min() == pytest.approx(1 / asked, rel=1e-9)
    else:
        assert found == pytest.approx(1, rel=1e-9)


def test_random_problems_are_rounded_to_their_dtype_and_follow_from_their_seed():
    for draw in (random_regression, random_quadratic):
        one, two = draw(3), draw(3)
        assert one.name == two.name
        assert one.minimum == two.minimum
    assert random_regression(3).X.dtype == random_quadratic(3).hessian.dtype == np.float32
