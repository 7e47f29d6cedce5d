"""Which method is taken where none is given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdescent as jd
from jaxdescent.cost import choice, default_plan
from jaxdescent.cost.hedge import Hedge
from jaxdescent.kernels import memory
from jaxdescent.machine import Machine
from jaxdescent.objectives import as_objective
from jaxdescent.tolerance import as_tolerance

X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
REGRESSION = jd.LinearRegression(X, X @ np.ones(4, np.float32), intercept=False)
RESIDUAL = jd.LeastSquares(lambda p: jnp.exp(p) - 2)
BOWL = jd.Quadratic(np.eye(4, dtype=np.float32), np.ones(4, np.float32))


def cosh(p):
    return jnp.sum(jnp.cosh(p - 1))


def default_method(objective, params, tolerance=None):
    return default_plan(objective, params, tolerance=tolerance).require().method


PLENTY, LITTLE = 1 << 30, 1 << 6
CASES = {
    "a regression": (REGRESSION, PLENTY, jd.DerivativeMethod, 1),
    "a large regression": (REGRESSION, LITTLE, jd.LSMR, 1),
    "a quadratic": (BOWL, PLENTY, jd.DerivativeMethod, 1),
    "a large quadratic": (BOWL, LITTLE, jd.ConjugateGradient, 1),
    "a sum of squares": (jd.SumOfSquares(), PLENTY, jd.DerivativeMethod, 0),
    "a large sum of squares": (jd.SumOfSquares(), 8, jd.GradientDescent, 0),
    "residuals": (RESIDUAL, PLENTY, jd.LevenbergMarquardt, np.log(2)),
    "a function": (cosh, PLENTY, jd.LBFGS, 1),
    "a large function": (cosh, LITTLE, jd.LBFGS, 1),
}


@pytest.mark.first
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_default_follows_the_objective_and_the_memory_and_converges(case, monkeypatch):
    objective, available, expected, minimiser = CASES[case]
    monkeypatch.setattr(memory, "available_bytes", lambda device: available)
    monkeypatch.setattr(memory, "SMALL_BYTES", 0)
    objective = as_objective(objective).checked()
    params = objective.start()
    params = jnp.full(4, 0.5) if params is None else params
    assert isinstance(default_method(objective, params), expected)
    result = jd.minimize(objective, params)
    assert int(result.status) == jd.Status.CONVERGED
    (params,) = jax.tree.leaves(result.params)
    # All are well-conditioned: a few units in the last place, whichever the method.
    np.testing.assert_allclose(params, np.broadcast_to(minimiser, 4), rtol=0, atol=1e-6)


def test_sixteen_bits_go_to_steps_that_survive_their_rounding():
    params = jnp.full(4, 0.5, jnp.bfloat16)
    assert isinstance(default_method(as_objective(cosh), params), jd.GradientDescent)
    result = jd.minimize(cosh, params)
    assert jd.Status(int(result.status)).name in {"CONVERGED", "STAGNATED"}
    np.testing.assert_allclose(result.params.astype(jnp.float32), 1, atol=0.02)
    gradient = np.linalg.norm(np.sinh(np.asarray(result.params, np.float32) - 1))
    np.testing.assert_allclose(result.gradient_norm, gradient, rtol=1e-5)


def test_for_a_small_problem_nobody_asks_how_much_memory_there_is(monkeypatch):
    def refuse(device=None):
        raise AssertionError("asked")

    def taken():
        objective = REGRESSION.checked()
        return default_method(objective, objective.start(), as_tolerance(None))

    expected = taken()
    monkeypatch.setattr(memory, "available_bytes", refuse)
    assert type(taken()) is type(expected)
    assert jd.minimize(REGRESSION).converged


@pytest.mark.slow
def test_a_long_solve_is_hedged_whatever_the_data_are(rng, monkeypatch):
    """The choice is the one that jd.plan marks, and the same where the data are traced."""
    monkeypatch.setattr(choice, "MOMENT", 0.0)
    good = rng.normal(size=(20_000, 300)).astype(np.float32)
    bad = good * np.geomspace(1.0, 1e-4, 300, dtype=np.float32)
    y = good[:, 0]

    def chosen(X):
        objective = jd.LinearRegression(X, y).checked()
        return default_method(objective, objective.start())

    def shown(method):
        return type(method.first), type(method.then), method.budget

    traced = []
    jax.eval_shape(lambda X: traced.append(chosen(X)), good)
    planned = jd.plan(jd.LinearRegression(good, y), device=Machine.of()).require().method
    assert isinstance(planned, Hedge)
    assert shown(chosen(good)) == shown(chosen(bad)) == shown(traced[0]) == shown(planned)
    for X in (good, bad):
        result = jd.minimize(jd.LinearRegression(X, y))
        assert result.converged
        assert result.method == repr(planned.first if X is good else planned.then)
        unit = np.eye(300)[0]
        np.testing.assert_allclose(X @ result.params["weights"], good @ unit, atol=0.02)
