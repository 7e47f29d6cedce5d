"""Mini-batch descent: full gradients where a batch is all rows, and the noise that theory says."""

import jax
import numpy as np
import optax
import pytest
import scipy.optimize

import jaxdescent as jd
from jaxdescent.designs import row_reader
from tests import references
from tests.references import closed_form
from tests.results import assert_same
from tests.test_recipes import Logistic
from tests.test_streamed import Loader, table_of, written_out

ROWS, FEATURES, NOISE = 4000, 6, 0.5


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    scales = np.geomspace(1, 1000, FEATURES)
    X = (rng.normal(size=(ROWS, FEATURES)) + 5) * scales
    y = X @ (rng.normal(size=FEATURES) / scales) + 3 + NOISE * rng.normal(size=ROWS)
    return X.astype(np.float32), y.astype(np.float32), closed_form(X, y)[2]


def above(result, problem):
    """How far the value is above the minimum, in float64."""
    return references.height(jd.LinearRegression(*problem[:2]), result.params)


def test_a_batch_of_all_rows_is_the_full_gradient(problem):
    X, y, _ = problem
    regression = jd.LinearRegression(X / X.std(axis=0), y, l2=0.5)
    rule = optax.sgd(1e-5, momentum=0.5)
    full = jd.minimize(regression, method=rule, max_iterations=7, tolerance=0)
    for rows in (ROWS, 10 * ROWS):
        method = jd.MiniBatches(rule, rows=rows, averaging=False)
        got = jd.minimize(regression, method=method, max_iterations=7, tolerance=0)
        assert_same((got.params, got.value), (full.params, full.value))


@pytest.mark.slow
def test_an_epoch_uses_every_row_once_and_in_the_scale_of_all(problem):
    X, y, _ = problem
    X = X / X.std(axis=0)
    regression = jd.LinearRegression(X, y, l2=2.0)
    # Steps so small that the gradient stays what it was: batches of any size add up to it.
    rate, rows = 1e-9, 130  # the last batch is shorter
    method = jd.MiniBatches(optax.sgd(rate), rows=rows, averaging=False)
    start = {"weights": np.ones(FEATURES, np.float32), "intercept": np.float32(1)}
    result = jd.minimize(regression, start, method, max_iterations=1, tolerance=0)
    gradient = jax.jit(jd.LinearRegression.gradient)(regression, start)
    for name in start:
        moved = (np.asarray(result.params[name]) - 1) / (rate * ROWS / rows)
        np.testing.assert_allclose(moved, -gradient[name], rtol=0.03)


@pytest.mark.slow
def test_one_epoch_has_the_error_of_the_fit_and_further_ones_have_none(problem):
    X, y, least = problem
    regression = jd.LinearRegression(X, y)
    floor = 0.5 * NOISE**2 * FEATURES  # of one epoch: half of variance times features

    def after(iterations, **options):
        method = jd.MiniBatches(**options)
        return jd.minimize(regression, method=method, max_iterations=iterations, tolerance=0)

    once, last = after(1), after(1, averaging=False)
    assert above(once, problem) < 4 * floor
    assert above(last, problem) > 2 * above(once, problem)  # it hovers about the minimum
    # From then on the noise is that of the way from the last look, which vanishes.
    several = after(5)
    assert above(several, problem) < 1e-3 * floor
    # The value and the estimate are those of all rows.
    assert abs(float(several.value) - least) < 1e-4 * least
    assert above(after(5, averaging=False), problem) < 1e-2 * floor


@pytest.mark.slow
def test_the_default_stops_by_itself_at_the_minimum(problem):
    X, y, _ = problem
    result = jd.minimize(jd.LinearRegression(X, y), method=jd.MiniBatches(), max_iterations=40)
    assert result.converged
    assert int(result.iterations) < 20
    assert above(result, problem) < 1e-3 * NOISE**2 * FEATURES


@pytest.mark.slow
def test_an_iteration_that_goes_up_is_given_up():
    # One row in a thousand has the second column, so that most batches know nothing of it.
    rng = np.random.default_rng(3)
    X = rng.normal(size=(ROWS, 2)).astype(np.float32)
    X[:, 1] *= rng.random(ROWS) < 0.001
    y = X @ np.float32([1.0, 50.0]) + rng.normal(size=ROWS).astype(np.float32)
    regression = jd.LinearRegression(X, y)
    least = references.value(regression, references.least_squares(regression))
    result = jd.minimize(
        regression, method=jd.MiniBatches(), max_iterations=25, tolerance=0, history=25
    )
    values = np.asarray(result.history.value)
    assert np.all(np.diff(values[2:]) <= 1e-4 * values[2:-1])
    assert float(result.value) < 1.02 * least


@pytest.mark.slow
def test_the_same_seed_is_the_same_order_and_a_batch_of_seeds_is_each_of_them(problem):
    X, y, _ = problem
    regression = jd.LinearRegression(X, y)

    def fitted(seed):
        method = jd.MiniBatches(seed=seed)
        return jd.minimize(regression, method=method, max_iterations=2, tolerance=0).params

    one, again, other = fitted(1), fitted(1), fitted(2)
    np.testing.assert_array_equal(one["weights"], again["weights"])
    assert not np.array_equal(one["weights"], other["weights"])
    both = jax.jit(jax.vmap(fitted))(np.array([1, 2]))
    for k, each in enumerate((one, other)):
        np.testing.assert_allclose(both["weights"][k], each["weights"], rtol=1e-4)


@pytest.mark.slow
def test_rows_of_files_are_read_once_for_an_epoch_and_once_for_the_look(monkeypatch):
    monkeypatch.setattr(row_reader, "BLOCK_BYTES", 128 * 16)
    table = table_of(np.random.default_rng(0))
    loader = Loader(table)
    X = jd.Streamed(loader, ["a", "b", "c"], categorical={"k": 4})
    regression = jd.LinearRegression(X, X.column("y"), l2=1.0)
    method = jd.MiniBatches(rows=50, epochs=4)
    dense = jd.LinearRegression(written_out(table), table["y"], l2=1.0)
    least = references.value(dense, references.least_squares(dense))

    def passes(iterations):
        before = X.passes
        result = jd.minimize(regression, method=method, max_iterations=iterations, tolerance=0)
        return result, X.passes - before

    (_, few), (result, many) = passes(1), passes(6)
    assert many - few == 5 * (4 + 1)
    weights = np.concatenate(jax.tree.leaves(result.params["weights"]))
    above = references.height(dense, result.params | {"weights": weights})
    assert above < 0.02 * least
    assert float(result.value) == pytest.approx(least + above, rel=1e-5)


@pytest.mark.slow
def test_badly_scaled_rare_columns_do_not_overshoot():
    rng = np.random.default_rng(2)
    codes = np.where(rng.random(ROWS) < 0.001, rng.integers(1, 4, ROWS), 0)
    y = (codes == 2) * 100.0 + rng.normal(size=ROWS)
    design = jd.Categorical(codes, 4)
    regression = jd.LinearRegression(design, y.astype(np.float32), l2=0.1)
    result = jd.minimize(regression, method=jd.MiniBatches(), max_iterations=30, tolerance=0)
    dense = jd.LinearRegression(np.eye(4)[codes], y, l2=0.1)
    least = references.value(dense, references.least_squares(dense))
    assert least * (1 - 1e-5) < float(result.value) < 1.1 * least


@pytest.mark.slow
def test_any_loss_of_rows_takes_a_transformation(problem, relaxed_promotion):
    X, y, _ = problem
    model = Logistic(X / X.std(axis=0) - 5, (y > np.median(y)).astype(np.float32), l2=1.0)
    columns = np.asarray(model.X, float)

    def loss(p):
        at = columns @ p[1:] + p[0]
        slope = 1 / (1 + np.exp(-at)) - model.y
        value = np.sum(np.logaddexp(0, at) - model.y * at) + 0.5 * p[1:] @ p[1:]
        return value, np.append(np.sum(slope), columns.T @ slope + p[1:])

    least = scipy.optimize.minimize(loss, np.zeros(FEATURES + 1), jac=True, method="BFGS").fun
    schedule = optax.exponential_decay(0.1, 100, 0.5)
    method = jd.MiniBatches(optax.adam(schedule))
    result = jd.minimize(model, method=method, max_iterations=20, tolerance=0)
    assert least * (1 - 1e-5) < float(result.value) < 1.02 * least
    with pytest.raises(TypeError, match=r"for Logistic pass an optax transformation"):
        jd.minimize(model, method=jd.MiniBatches())


def test_how_it_is_written():
    assert str(jd.MiniBatches()) == "MiniBatches()"
    assert str(jd.MiniBatches(optax.sgd(0.1))).startswith("MiniBatches(")
    text = "MiniBatches(rows=64, epochs=2, seed=3, averaging=False)"
    assert str(jd.MiniBatches(rows=64, epochs=2, seed=3, averaging=False)) == text
