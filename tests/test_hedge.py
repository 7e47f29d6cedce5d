"""Two methods in one: the answers of either, the price of the first alone where that does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import jaxdescent as jd
from benchmarks.harness.passes import Counted, passes
from benchmarks.problems.classical import rosenbrock
from jaxdescent.calls import programs
from jaxdescent.descent.looks import singular_values
from tests.compilations import compiled_by
from tests.meshes import rows_over
from tests.references import closed_form

ROWS, FEATURES = 400, 20
BUDGET = 15  # one for nearly all: each compiles a program of its own


def data(rng, condition, rows=ROWS, features=FEATURES, outputs=None, spread=None):
    """Float64 numbers with these singular values, rotated, and noisy targets."""
    left = np.linalg.qr(rng.normal(size=(rows, features)))[0]
    right = np.linalg.qr(rng.normal(size=(features, features)))[0]
    values = np.geomspace(1, 1 / condition, features) if spread is None else spread
    X = 10 * left * values @ right
    weights = rng.normal(size=(features,) if outputs is None else (features, outputs))
    y = X @ weights
    return X, y + 0.3 * rng.normal(size=y.shape) * y.std() + 1.0


def as_regression(X, y, dtype=jnp.float32, **options):
    return jd.LinearRegression(jnp.asarray(X, dtype), jnp.asarray(y, dtype), **options)


def counted(X, y):
    """A regression whose passes over X are counted; its programs are those of one size."""
    return jd.LinearRegression(Counted(jnp.asarray(X, jnp.float32)), jnp.asarray(y, jnp.float32))


value_and_gradient = jax.jit(jd.LinearRegression.value_and_gradient)
THENS = {"direct": jd.DerivativeMethod(), "sketch": jd.LSMR(jd.Sketch())}


def assert_is_closed_form(result, X, y):
    weights, intercept, value = closed_form(X, y)
    assert result.converged
    np.testing.assert_allclose(result.value, value, rtol=5e-5)
    np.testing.assert_allclose(X @ result.params["weights"], X @ weights, atol=2e-3)
    np.testing.assert_allclose(result.params["intercept"], intercept, atol=2e-3)
    _, gradient = value_and_gradient(as_regression(X, y), result.params)
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)))
    np.testing.assert_allclose(result.gradient_norm, norm, atol=2e-4)


@pytest.mark.first
@pytest.mark.parametrize(
    ("first", "then"), [(jd.ConjugateGradient(), "direct"), (jd.LSMR(), "sketch")]
)
def test_the_answer_is_the_closed_form_whoever_ends_it(rng, first, then):
    method = jd.Hedge(first, THENS[then], BUDGET)
    for condition, ends in ((2.0, first), (300.0, THENS[then])):
        X, y = data(rng, condition)
        result = jd.minimize(as_regression(X, y), method=method)
        assert result.method == repr(ends)
        if ends is first:
            assert_second_is_zeros(result)
        assert_is_closed_form(result, X, y)


@pytest.mark.slow
def test_several_outputs_and_a_penalty_in_float64_have_their_digits(rng, x64):
    X, y = data(rng, 1e4, outputs=3)
    for l2, ends in ((0.5, "LSMR()"), (1e-4, "DerivativeMethod()")):
        weights, _, value = closed_form(X, y, l2)
        method = jd.Hedge(jd.LSMR(), THENS["direct"], BUDGET)
        result = jd.minimize(as_regression(X, y, jnp.float64, l2=l2), method=method)
        assert result.converged
        assert result.method == ends
        np.testing.assert_allclose(result.value, value, rtol=1e-9)
        np.testing.assert_allclose(result.params["weights"], weights, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_a_quadratic_goes_from_conjugate_gradients_to_its_solve(rng):
    basis = np.linalg.qr(rng.normal(size=(60, 60)))[0]
    hessian = basis * np.geomspace(1, 1e-5, 60) @ basis.T
    linear = hessian @ rng.normal(size=60)
    quadratic = jd.Quadratic(hessian.astype(np.float32), linear.astype(np.float32))
    result = jd.minimize(quadratic, method=jd.Hedge(jd.ConjugateGradient(), THENS["direct"], 10))
    assert result.converged
    assert result.method == "DerivativeMethod()"
    least = -0.5 * linear @ np.linalg.solve(hessian, linear)
    np.testing.assert_allclose(abs(float(result.value)), abs(least), rtol=1e-3)


@pytest.mark.slow
def test_an_indefinite_quadratic_ends_as_its_solve_says():
    hessian = np.diag(np.repeat(np.float32([2.0, 1.0, -1.0]), 20))
    quadratic = jd.Quadratic(hessian, np.ones(60, np.float32))
    result = jd.minimize(quadratic, method=jd.Hedge(jd.ConjugateGradient(), THENS["direct"], 10))
    assert int(result.status) == jd.Status.DIVERGED
    assert result.method == "DerivativeMethod()"
    assert int(result.state.attempt.steps) < 10  # the negative curvature ended it


def tub(x):
    return jnp.sum(jnp.cosh(x - 1))


OF_A_FUNCTION = jd.Hedge(jd.LBFGS(), jd.DerivativeMethod(), 1)


@pytest.mark.slow
@pytest.mark.parametrize("method", [jd.LBFGS(), jd.Hedge(jd.LBFGS(), jd.DerivativeMethod(), 1000)])
def test_an_estimate_that_forgets_older_moves_is_not_said_without_a_claim(method):
    result = jd.minimize(rosenbrock, np.full(60, -1, np.float32), method, max_iterations=60)
    assert result.status == jd.Status.MAX_ITERATIONS
    assert result.evidence == jd.Evidence.NONE
    assert np.isinf(result.suboptimality)


@pytest.mark.slow
def test_the_setup_of_the_second_is_not_paid_where_the_first_does(rng):
    easy, hard = data(rng, 2.0), data(rng, 300.0)
    alone, lsmr = passes(lambda: jd.minimize(counted(*easy), method=jd.LSMR()))

    method = jd.Hedge(jd.LSMR(), THENS["direct"], BUDGET)
    hedged, result = passes(lambda: jd.minimize(counted(*easy), method=method))
    assert result.method == "LSMR()"
    assert int(result.iterations) == int(lsmr.iterations)
    assert hedged == alone + 1  # a claim of an attempt is held against the lengths of the columns
    np.testing.assert_array_equal(result.params["weights"], lsmr.params["weights"])
    assert_second_is_zeros(result)
    assert_is_closed_form(result, *easy)
    hedged, result = passes(lambda: jd.minimize(counted(*hard), method=method))
    assert result.method == "DerivativeMethod()"
    assert hedged > alone
    assert_is_closed_form(result, *hard)


def assert_second_is_zeros(result):
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(result.state.second))


@pytest.mark.slow
def test_the_second_goes_on_from_what_the_first_reached(rng):
    X, y = data(rng, 30.0)
    regression = as_regression(X, y)
    method = jd.Hedge(jd.LSMR(), jd.LSMR(), 3)

    def after(most, start=None, method=method):
        options = {"max_iterations": most, "tolerance": 0}
        return jd.minimize(regression, start, method, **options).params

    start = {"weights": jnp.zeros(FEATURES), "intercept": jnp.zeros(())}
    reached = after(3, start, jd.LSMR())
    np.testing.assert_allclose(after(3)["weights"], reached["weights"], rtol=1e-5)
    further = after(2, reached, jd.LSMR())
    np.testing.assert_allclose(after(5)["weights"], further["weights"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("outliers", "spread", "is_enough"),
    [(0, (1, 2.2), True), (1, (1, 1.6), True), (0, None, False)],
    ids=["even", "an outlier", "a condition of 1e4"],
)
def test_it_is_given_up_where_the_rate_shows_that_the_budget_will_not_do(
    rng, outliers, spread, is_enough
):
    """A few large singular values slow the first iterations and none that follow."""
    if spread is not None:
        spread = np.r_[np.geomspace(12, 6, outliers), np.linspace(*spread, 300 - outliers)]
        spread /= spread.max()
    X, y = data(rng, 1e4, rows=3000, features=300, spread=spread)
    result = jd.minimize(as_regression(X, y), method=jd.Hedge(jd.LSMR(), THENS["direct"], 19))
    assert result.converged
    assert (result.method == "LSMR()") == is_enough
    if is_enough:
        assert 14 <= int(result.iterations) <= 19
        assert_second_is_zeros(result)
    else:
        assert 10 <= int(result.state.attempt.steps) < 17


@pytest.mark.slow
def test_where_the_first_gives_up_the_second_goes_on(rng):
    """Of a condition that float32 cannot iterate away conjugate gradients stagnate."""
    X, y = data(rng, 1e5)
    alone = jd.minimize(as_regression(X, y), method=jd.LSMR(), max_iterations=5000)
    assert int(alone.status) != jd.Status.CONVERGED
    result = jd.minimize(
        as_regression(X, y), method=jd.Hedge(jd.LSMR(), THENS["direct"], 4000), max_iterations=5000
    )
    assert result.converged
    assert result.method == "DerivativeMethod()"
    np.testing.assert_allclose(result.value, closed_form(X, y)[2], rtol=5e-5)


@pytest.mark.slow
def test_the_members_of_a_batch_end_as_single_descents_do():
    starts = np.float32([[2.5, 2.5, 2.5], [1, 1, 1], [1, 4, -2]])

    def solve(start):
        return jd.minimize(tub, start, OF_A_FUNCTION)

    assert int(solve(starts[0]).state.attempt.steps) == 1
    mapped = jax.jit(jax.vmap(solve))(starts)
    batch = jd.minimize_batch(lambda start: (tub, start), (starts,), OF_A_FUNCTION)
    for several in (mapped, batch):
        assert several.method.shape == (3,)
        assert len(set(several.method)) == 2
        assert "of 3 descents" in repr(several)
        assert "ended by" in repr(several)
        for index, start in enumerate(starts):
            one = solve(start)
            np.testing.assert_allclose(one.params, 1, atol=1e-3)
            assert several.method[index] == one.method
            assert int(several.status[index]) == int(one.status)
            np.testing.assert_allclose(several.params[index], one.params, atol=1e-4)


@pytest.mark.slow
def test_sharded_rows_give_the_same(rng):
    X, y = data(rng, 1e3)
    sharded = jax.device_put((X.astype(np.float32), y.astype(np.float32)), rows_over(8))
    method = jd.Hedge(jd.LSMR(), THENS["sketch"], BUDGET)
    whole = jd.minimize(as_regression(X, y), method=method)
    result = jd.minimize(jd.LinearRegression(*sharded), method=method)
    assert result.converged
    assert result.method == whole.method
    np.testing.assert_allclose(X @ result.params["weights"], X @ whole.params["weights"], atol=3e-3)
    assert result.params["weights"].sharding.is_fully_replicated


@pytest.mark.slow
def test_16_bit_params_are_rounded_in_both_phases(rng):
    start = {"weights": jnp.zeros(FEATURES, jnp.bfloat16), "intercept": jnp.zeros((), jnp.bfloat16)}
    for condition, ends in ((2.0, "LSMR()"), (300.0, "DerivativeMethod()")):
        X, y = data(rng, condition)
        method = jd.Hedge(jd.LSMR(), jd.DerivativeMethod(), BUDGET)
        result = jd.minimize(as_regression(X, y), start, method)
        assert result.method == ends
        assert result.params["weights"].dtype == jnp.bfloat16
        np.testing.assert_allclose(
            np.asarray(result.params["weights"], np.float64), closed_form(X, y)[0], atol=0.05
        )


@pytest.mark.slow
def test_the_result_names_what_ended_it(rng):
    X, y = data(rng, 1e3)
    regression = as_regression(X, y)
    result = jd.minimize(regression, method=jd.Hedge(jd.LSMR(), THENS["sketch"], BUDGET))
    assert result.method == "LSMR(Sketch())"
    assert result.message.startswith("CONVERGED (by LSMR(Sketch())): ")
    assert "ended by         LSMR(Sketch())" in repr(result)
    alone = jd.minimize(regression, method=jd.LSMR())
    assert alone.method == "LSMR()"
    assert "ended by" not in repr(alone)

    nested = jd.Hedge(jd.LBFGS(), jd.Hedge(jd.LBFGS(), jd.DerivativeMethod(), 1), 1)
    result = jd.minimize(tub, jnp.full(3, 2.5), nested)
    assert result.ended_by.names == ("LBFGS()", "LBFGS()", "DerivativeMethod()")
    assert result.converged
    assert result.method == "DerivativeMethod()"

    def traced(start):
        with pytest.raises(ValueError, match="read inside jit"):
            _ = jd.minimize(tub, start, nested).method

    jax.eval_shape(traced, jnp.zeros(3))


@pytest.mark.slow
def test_an_attempt_gets_its_budget_and_new_numbers_compile_nothing(rng):
    X, y = data(rng, 1e3)
    method = jd.Hedge(jd.LSMR(), jd.DerivativeMethod(), BUDGET)
    result = jd.minimize(counted(*data(rng, 30.0)), method=method)
    steps = int(result.state.attempt.steps)
    assert BUDGET / 2 <= steps <= BUDGET  # the attempt gets no more
    assert steps < int(result.iterations) <= steps + 3
    before = jax.tree.structure(method)
    programs_before = programs._compiled.cache_info().misses
    with jax.checking_leaks():
        result = jd.minimize(counted(2 * X, y), method=method)
    assert programs._compiled.cache_info().misses == programs_before
    assert result.converged
    assert jax.tree.structure(jd.Hedge(jd.LSMR(), jd.DerivativeMethod(), BUDGET)) == before


@pytest.mark.slow
def test_regressions_of_a_batch_end_by_either_and_have_their_derivatives(rng):
    problems = [data(rng, condition) for condition in (2.0, 300.0)]
    X, y = (np.stack(each).astype(np.float32) for each in zip(*problems, strict=True))
    method = jd.Hedge(jd.ConjugateGradient(), THENS["direct"], BUDGET)

    def total(y, X):
        result = jd.minimize(jd.LinearRegression(X, y), method=method)
        return result.params["weights"].sum(), result

    slopes, results = jax.jit(jax.vmap(jax.grad(total, has_aux=True)))(y, X)
    assert [results.method[index] for index in range(2)] == [
        "ConjugateGradient()",
        "DerivativeMethod()",
    ]
    for (A, targets), slope, weights in zip(
        problems, slopes, results.params["weights"], strict=True
    ):
        np.testing.assert_allclose(A @ weights, A @ closed_form(A, targets)[0], atol=3e-3)
        expected = np.linalg.pinv(A - A.mean(axis=0)).sum(axis=0)
        np.testing.assert_allclose(slope, expected, atol=5e-3 * np.abs(expected).max())


# One jitted call for all cases, which are of one shape: its program is among the largest here.
FROM_CG = jd.Hedge(jd.ConjugateGradient(), jd.DerivativeMethod(), BUDGET + 2)


def solve_from_cg(X, y):
    return jd.minimize(jd.LinearRegression(X, y), method=FROM_CG)


jitted_from_cg = jax.jit(solve_from_cg)


@pytest.mark.parametrize("condition", [2.0, 300.0])
def test_each_method_is_compiled_when_its_turn_comes(condition, rng, monkeypatch):
    """Programs compiled one after another give what one program for all gives."""
    X, y = (jnp.asarray(part, jnp.float32) for part in data(rng, condition))
    found = []
    programs._compiled.cache_clear()  # what another test has called is new again
    names = compiled_by(lambda: found.append(solve_from_cg(X, y)), monkeypatch)
    if condition == 2:
        assert names == ["descend_to_claim", "_confirmed"]
    else:
        assert names == ["descend_to_claim", "_advanced"]
    (eager,), whole = found, jitted_from_cg(X, y)
    for name in ("status", "iterations", "evaluations"):
        assert int(getattr(eager, name)) == int(getattr(whole, name)), name
    assert eager.method == whole.method == repr(FROM_CG.methods[int(condition > 2)])
    np.testing.assert_allclose(eager.params["weights"], whole.params["weights"], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("budget", "every"), [(2, 3), (2, 32)])
def test_a_hedge_that_is_seldom_checked_takes_over_between_two_checks(budget, every, rng):
    # Orthogonal columns of eight lengths, powers of two: a solve is exact on every machine.
    X = scipy.linalg.hadamard(64)[:, 1:31] * 2.0 ** -(np.arange(30) % 8)
    X, y = (part.astype(np.float32) for part in (X, rng.integers(-8, 9, size=64)))
    method = jd.Hedge(jd.LSMR(), jd.DerivativeMethod(), budget)

    def solve(X, y):
        regression = jd.LinearRegression(X, y)
        return jd.minimize(regression, method=method, check_every=every, max_iterations=30)

    eager, whole = solve(X, y), jax.jit(solve)(X, y)
    assert eager.converged
    assert int(eager.iterations) == int(whole.iterations)
    assert eager.method == whole.method == "DerivativeMethod()"


@pytest.mark.slow
def test_the_steps_of_a_subclass_are_its_own():
    seen = []

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True, eq=False)
    class Told(jd.Hedge):
        def blind_step(self, objective, params, state):
            seen.append(type(state).__name__)
            return super().blind_step(objective, params, state)

    X = np.eye(7, 3, dtype=np.float32)
    method = Told(jd.ConjugateGradient(), jd.DerivativeMethod(), 5)
    assert jd.minimize(jd.LinearRegression(X, X[:, 0]), method=method).converged
    assert seen


# At the end: it forgets the programs of the tests before it, which would be compiled again.
@pytest.mark.slow
def test_a_minimum_that_a_measurement_does_not_confirm_is_not_the_end(rng, monkeypatch):
    X, y = data(rng, 2.0)
    regression = as_regression(X, y)
    honest = jd.LSMR.measured
    times = []

    def worse(self, objective, params, state, always):
        truth = honest(self, objective, params, state, always)
        times.append(1)
        return truth._replace(value=2 * truth.value, gradient_norm=truth.gradient_norm + 1.0)

    monkeypatch.setattr(jd.LSMR, "measured", worse)
    monkeypatch.setattr(singular_values, "is_small", lambda *_: False)  # LAPACK would confirm it
    jax.clear_caches()  # traces of looks, some of which are by LAPACK
    result = jd.minimize(regression, method=jd.Hedge(jd.LSMR(conlim=1e7), THENS["direct"], 60))
    assert times
    assert result.converged
    assert result.method == "DerivativeMethod()"
    np.testing.assert_allclose(result.value, closed_form(X, y)[2], rtol=5e-5)
    jax.clear_caches()  # traces of this test
