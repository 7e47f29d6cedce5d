"""Repeated calls: what is looked at once, what every time, and how long a call is known."""

import gc
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import jaxdescent as jd
from jaxdescent.calls import programs, repeated

START, WEIGHTS = jnp.array([3.0, -4.0]), jnp.array([1.0, 2.0])
RATE = jnp.float32(0.1)


def squares(p, w):
    return jnp.sum(w * (p - 1) ** 2)


def call(function=squares, params=START, method=None, args=(WEIGHTS,), **options):
    method = jd.GradientDescent(RATE) if method is None else method
    return jd.minimize(function, params, method, args=args, **{"max_iterations": 20} | options)


@pytest.fixture
def looks(monkeypatch):
    """One entry for each call whose input was looked at."""
    seen = []
    module = importlib.import_module("jaxdescent.minimize")
    posed = module.posed
    monkeypatch.setattr(module, "posed", lambda *a, **k: (seen.append(None), posed(*a, **k))[1])
    return seen


REPEATS = {
    "the same": {},
    "new start": {"params": 2 * START},
    "new data": {"args": (3 * WEIGHTS,)},
}


@pytest.mark.parametrize("change", REPEATS.values(), ids=REPEATS.keys())
def test_a_repeated_call_is_not_looked_at_again_and_ends_where_a_fresh_one_does(change, looks):
    def fresh(p, w):
        return squares(p, w)

    call()
    looks.clear()
    got = call(**change)
    assert not looks
    expected = call(fresh, **change)
    assert looks
    jax.tree.map(np.testing.assert_array_equal, got, expected)


LOOKED_AT = {
    "learning rate": {"method": jd.GradientDescent(0.07)},
    "method": {"method": jd.LBFGS()},
    "tolerance": {"tolerance": 0.5},
    "iterations": {"max_iterations": 3},
    "history": {"history": 2},
    "shape": {"params": jnp.ones(3), "args": (jnp.ones(3),)},
    "dtype": {"params": START.astype(jnp.bfloat16)},
    "structure": {"function": lambda p, w: squares(p["x"], w), "params": {"x": START}},
}


BAD = {
    "negative rate": ({"method": jd.GradientDescent(jnp.float32(-1.0))}, ValueError, "positive"),
    "no iteration": ({"max_iterations": 0}, ValueError, "max_iterations"),
    "a bool for a count": ({"max_iterations": True}, TypeError, "max_iterations"),
    "negative tolerance": ({"tolerance": -1.0}, ValueError, "tolerance"),
    "integers": ({"params": jnp.array([3, -4])}, TypeError, "floating-point"),
    "nothing": ({"params": jnp.zeros(0)}, ValueError, "empty"),
    "a string as data": ({"args": ("a",)}, TypeError, "array or a number"),
    "a list of data": ({"args": [WEIGHTS]}, TypeError, "tuple"),
}


@pytest.mark.parametrize(("change", "error", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_after_good_input_of_the_same_structure(change, error, words):
    call()
    with pytest.raises(error, match=words):
        call(**change)


def test_deleted_input_is_refused_by_name():
    call()
    start, weights, rate = (jnp.array(a) for a in (START, WEIGHTS, RATE))
    call(params=start, args=(weights,), method=jd.GradientDescent(rate))
    start.delete()
    with pytest.raises(ValueError, match="params was deleted"):
        call(params=start)
    weights.delete()
    with pytest.raises(ValueError, match=r"args\[0\] was deleted"):
        call(args=(weights,))


def test_an_identity_that_is_used_again_is_no_old_acquaintance():
    for _ in range(20):
        call(method=jd.GradientDescent(jnp.float32(0.1)))
        with pytest.raises(ValueError, match="positive"):
            call(method=jd.GradientDescent(jnp.float32(-0.1)))


def test_a_mutable_array_counts_as_new_every_time():
    rate = np.array(0.1, np.float32)
    call(method=jd.GradientDescent(rate))
    rate[...] = -1
    with pytest.raises(ValueError, match="positive"):
        call(method=jd.GradientDescent(rate))


def test_a_known_call_is_differentiated_inside_a_transformation():
    def distance(p, a):
        return jnp.sum((p - a) ** 2)

    def minimiser(a):
        return call(distance, args=(a,), tolerance=0.0).params

    for _ in range(2):
        minimiser(WEIGHTS)
    np.testing.assert_allclose(jax.jacobian(minimiser)(WEIGHTS), np.eye(2), rtol=1e-5)


def test_a_known_call_donates_where_it_is_asked_to():
    start = jnp.array(START)
    call(params=start)
    call(params=start)
    assert not start.is_deleted()
    call(params=start, donate=True)
    assert start.is_deleted()


def test_a_mesh_set_around_a_known_call_is_seen():
    call()
    mesh = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh), pytest.raises(ValueError, match="must have Auto axes"):
        call()


def test_a_known_call_keeps_its_program_in_use():
    traces = []

    def counted(p, w):
        traces.append(None)
        return squares(p, w)

    call(counted)
    count = len(traces)
    for index in range(2 * programs.PROGRAMS):
        programs.compiled(squares, (jax.tree_util.Partial(lambda: None), 1.0), index=index)
        call(counted)
    assert len(traces) == count


def test_known_calls_are_few_and_go_with_their_program():
    def function(p, w):
        return squares(p, w)

    programs._compiled.cache_clear()
    gc.collect()
    before = len(repeated._known)
    for limit in range(1, 3 * programs.CALLS):
        call(function, max_iterations=limit)
    assert len(repeated._known) - before == programs.CALLS
    programs._compiled.cache_clear()
    gc.collect()
    assert len(repeated._known) == before == 0


def test_large_problems_are_looked_at_every_time(looks):
    size = 3000  # its Hessian, and what factorising it takes, is more than 64 megabytes
    large = {"params": jnp.zeros(size), "args": (jnp.ones(size),)}
    call(**large)
    looks.clear()
    call(**large)
    assert looks


X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = X @ np.array([1.0, -2.0, 3.0], np.float32) + 0.1 * X[:, 0] ** 2


def fit(rows=X, targets=Y, l2=1.0, params=None, **fields):
    objective = jd.LinearRegression(jnp.asarray(rows), jnp.asarray(targets), l2=l2, **fields)
    return jd.minimize(objective, params)


OTHER_DATA = {
    "the same": {},
    "rows": {"rows": X[::-1] + 1},
    "targets": {"targets": Y[::-1]},
}


@pytest.mark.parametrize("change", OTHER_DATA.values(), ids=OTHER_DATA.keys())
def test_a_repeated_regression_is_not_looked_at_again(change, looks):
    fit()
    looks.clear()
    got = fit(**change)
    assert not looks
    X1, y1 = change.get("rows", X), change.get("targets", Y)
    centred = X1 - X1.mean(axis=0)
    weights = np.linalg.solve(centred.T @ centred + np.eye(3), centred.T @ (y1 - y1.mean()))
    np.testing.assert_allclose(got.params["weights"], weights, rtol=1e-5)


OTHER_REGRESSIONS = {
    "penalty": {"l2": 2.0},
    "weights": {"sample_weight": jnp.ones(40)},
    "no intercept": {"intercept": False},
    "a start": {"params": {"weights": jnp.ones(3), "intercept": jnp.array(0.0)}},
    "a row less": {"rows": X[1:], "targets": Y[1:]},
    "outputs": {"targets": np.stack([Y, Y], axis=1)},
}


@pytest.mark.parametrize(
    ("ask", "change"),
    [
        pytest.param(
            *(ask, change),
            id=name,
            marks=() if name in ("penalty", "a start") else pytest.mark.slow,
        )
        for ask, others in ((call, LOOKED_AT), (fit, OTHER_REGRESSIONS))
        for name, change in others.items()
    ],
)
def test_a_call_that_differs_is_looked_at(ask, change, looks):
    ask()
    programs._compiled.cache_clear()  # what another test has called is new again
    gc.collect()
    ask()
    looks.clear()
    ask(**change)
    assert looks


def test_a_regression_whose_numbers_are_bad_is_refused_after_a_good_one():
    fit()
    with pytest.raises(ValueError, match="l2"):
        fit(l2=-1.0)
    fit(sample_weight=jnp.ones(40))
    with pytest.raises(ValueError, match="sample_weight"):
        fit(sample_weight=-jnp.ones(40))
    with pytest.raises(ValueError, match="y must have shape"):
        fit(targets=Y[1:])


def test_data_that_are_one_array_keep_their_places(looks):
    """The start and the targets may be one array: each goes where it went before."""
    square = jnp.asarray(X[:3])
    for _ in range(2):
        start = {"weights": square[0]}
        got = jd.minimize(
            jd.LinearRegression(square, start["weights"], intercept=False, l2=0.5), start
        )
    assert len(looks) == 1
    expected = np.linalg.solve(X[:3].T @ X[:3] + 0.5 * np.eye(3), X[:3].T @ X[0])
    np.testing.assert_allclose(got.params["weights"], expected, rtol=1e-4)
